"""The demo's work: a number of jobs, and workers that carry them one at a time."""

import asyncio
from collections import Counter, deque
from typing import Final

from pika_balancer.balancer.balancer import Balancer
from pika_balancer.cli.demo_view import DemoFrame, DemoView, Row
from pika_balancer.client.client import PikaClient
from pika_balancer.clock import Clock
from pika_balancer.dispatch import Dispatcher
from pika_balancer.errors import ApiError, Closed
from pika_balancer.models import Job, JobStatus

_PATIENCE: Final = 4.0
_RATE_OVER: Final = 3.0


class Workers:
    """So many jobs, done by so many workers.

    Args:
        client: Submits the jobs and follows them.
        balancer: Gives the slots.
        clock: Measures everything.
        jobs: How many jobs there are to do.
        workers: How many workers do them, each one job at a time.
        every: Seconds between two looks at a job.
        stagger: Seconds over which the workers start, one after the other.
    """

    def __init__(
        self,
        client: PikaClient,
        balancer: Balancer,
        *,
        clock: Clock,
        jobs: int,
        workers: int,
        every: float,
        stagger: float,
    ) -> None:
        self._balancer = balancer
        self._dispatcher = Dispatcher(client, balancer, poll_every=every, reconcile=False, clock=clock)
        self._clock = clock
        self._jobs = jobs
        self._left = jobs
        self._workers = workers
        self._stagger = stagger
        self._begun = clock.now()
        self._ended: float | None = None
        self._stopping = False
        self._done: Counter[str] = Counter()
        self._recent: deque[float] = deque()
        self.completed = 0
        """Jobs that have ended as completed."""

    @property
    def elapsed(self) -> float:
        """Seconds from the first worker's start to the last one's end, or until now."""
        return (self._clock.now() if self._ended is None else self._ended) - self._begun

    async def run(self, view: DemoView) -> None:
        """Do the jobs, showing how they stand.

        If cancelled, submit nothing more, wait a few seconds at most for what runs, and let the cancellation
        pass then. No worker is left when it returns or raises.

        Raises:
            PikaError: The service cannot be reached or understood.
        """
        self._begun = self._clock.now()
        tasks: set[asyncio.Task[object]] = {
            asyncio.create_task(self._work(self._stagger * number / self._workers))
            for number in range(self._workers)
        }
        try:
            try:
                await self._watch(tasks, view)
            except asyncio.CancelledError:
                self._stopping = True
                drain: asyncio.Task[object] = asyncio.create_task(self._dispatcher.drain(_PATIENCE))
                tasks.add(drain)
                await self._watch({drain}, view)
                raise
        finally:
            self._ended = self._clock.now()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self._dispatcher.close()

    def frame(self) -> DemoFrame:
        """Return how it stands now."""
        now = self._clock.now()
        while self._recent and self._recent[0] < now - _RATE_OVER:
            self._recent.popleft()
        statistics = self._balancer.statistics()
        return DemoFrame(
            elapsed=self.elapsed,
            jobs=self._jobs,
            completed=self.completed,
            waiting=len(statistics.waiters),
            rate=len(self._recent) / max(0.1, min(_RATE_OVER, now - self._begun)),
            rows=tuple(
                Row(account.channel, account.max_jobs, account.in_flight, self._done[account.channel])
                for account in statistics.snapshot.accounts
            ),
            stopping=self._stopping,
        )

    async def _watch(self, tasks: set[asyncio.Task[object]], view: DemoView) -> None:
        running = tasks
        while running:
            view.show(self.frame())
            ended, running = await asyncio.wait(
                running, timeout=view.interval, return_when=asyncio.FIRST_EXCEPTION
            )
            for task in ended:
                task.result()
        view.show(self.frame())

    async def _work(self, delay: float) -> None:
        await self._clock.sleep(delay)
        while self._left > 0 and not self._stopping:
            self._left -= 1
            try:
                job = await self._dispatcher.run("create", prompt="a demo of a job")
            except ApiError:
                continue
            except Closed:
                return
            else:
                self._count(job)

    def _count(self, job: Job) -> None:
        self._done[job.channel or ""] += 1
        if job.status == JobStatus.COMPLETED:
            self.completed += 1
            self._recent.append(self._clock.now())
