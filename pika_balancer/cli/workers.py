"""The workers of a demo: in this process, or in processes that share the accounts through a store."""

import asyncio
import contextlib
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from pika_balancer.balancer.balancer import Balancer
from pika_balancer.client.client import PikaClient
from pika_balancer.clock import Clock, SystemClock
from pika_balancer.dispatch import Dispatcher
from pika_balancer.errors import ApiError, Closed, StoreUnavailable
from pika_balancer.store.redis.store import RedisStore

_DRAIN: Final = 4.0
_TERMINATE: Final = 3.0
_RETRY: Final = 0.1
_SEARCH_FOR: Final = 2.0


class Workers:
    """Tasks that run jobs one at a time until all jobs are done.

    Args:
        client: Submits the jobs and polls them.
        balancer: Grants the slots.
        jobs: How many jobs there are to do.
        workers: How many tasks do them.
        poll: Seconds between two polls of a job.
        stagger: Seconds over which the workers start, one after the other.
        clock: Measures everything.
    """

    def __init__(
        self,
        client: PikaClient,
        balancer: Balancer,
        *,
        jobs: int,
        workers: int,
        poll: float,
        stagger: float = 0.0,
        clock: Clock | None = None,
    ) -> None:
        self._clock = clock = clock or SystemClock()
        self._balancer = balancer
        self._dispatcher = Dispatcher(
            client, balancer, poll_every=poll, search_for=_SEARCH_FOR, reconcile=False, clock=clock
        )
        self._left = jobs
        self._delays = [stagger * number / workers for number in range(workers)]
        self._drain: asyncio.Task[object] | None = None

    async def run(self) -> None:
        """Do the jobs; a cancellation drops the running ones, and no task is left.

        Raises:
            PikaError: The service cannot be reached or understood.
        """
        async with self._dispatcher:
            tasks: list[asyncio.Task[object]] = [
                asyncio.create_task(self._work(delay)) for delay in self._delays
            ]
            try:
                await asyncio.gather(*tasks)
            finally:
                if self._drain is not None:
                    tasks.append(self._drain)
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

    def stop(self) -> None:
        """Submit nothing more; `run` returns once the running jobs have ended, after 4 s at most."""
        self._drain = asyncio.create_task(self._dispatcher.drain(_DRAIN))

    async def waiting(self) -> int:
        """Return how many workers wait for a slot."""
        return len(self._balancer.statistics().waiters)

    async def _work(self, delay: float) -> None:
        await self._clock.sleep(delay)
        while self._left > 0:
            self._left -= 1
            try:
                await self._dispatcher.run("create", prompt="a demo of a job")
            except ApiError:  # this job is not done, and the server's counts show that
                continue
            except Closed:
                return


class Processes:
    """Child processes, each with workers of its own, on one service and one pool.

    Args:
        arguments: The command line of each, without the program's name.
        environment: Variables in which they find service, token and store.
        store: Observes the pool that they share, and takes no part in it.
    """

    def __init__(
        self,
        arguments: Iterable[Sequence[str]],
        environment: Mapping[str, str],
        store: RedisStore,
    ) -> None:
        self._arguments = arguments
        self._environment = environment
        self._store = store
        self._processes: list[asyncio.subprocess.Process] = []
        self._stopping = False

    @property
    def exit_codes(self) -> tuple[int | None, ...]:
        """How they ended, minus the signal if one ended it."""
        return tuple(process.returncode for process in self._processes)

    async def run(self) -> None:
        """Run them until all have ended; a cancellation terminates them, and none is left."""
        try:
            for arguments in self._arguments:
                process = await asyncio.create_subprocess_exec(
                    *(sys.executable, "-m", "pika_balancer", *arguments),
                    # Each ends when this pipe closes, even if this process is killed.
                    stdin=asyncio.subprocess.PIPE,
                    stdout=asyncio.subprocess.DEVNULL,
                    env={**os.environ, **self._environment},
                    # Ctrl-C reaches only this process, which stops them in its own way.
                    start_new_session=True,
                )
                self._processes.append(process)
                if self._stopping:
                    self.stop()
            await self._ended()
        finally:
            self._signal("terminate")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_TERMINATE):
                    await self._ended()
            self._signal("kill")
            await self._ended()

    def stop(self) -> None:
        """Let them submit nothing more; `run` returns once the running jobs have ended, after 4 s at most."""
        self._stopping = True
        for process in self._processes:
            if process.stdin is not None:
                process.stdin.close()

    async def waiting(self) -> int:
        """Return how many of their workers wait for a slot; 0 while the store is unreachable."""
        try:
            return len((await self._store.pool_status()).waiters)
        except StoreUnavailable:
            return 0

    async def free_slots(self, within: float) -> int | None:
        """Give up the leases of dead processes, and return how many slots are counted then.

        Args:
            within: Seconds until all that died count as dead.

        Returns:
            None if the store cannot be reached.
        """
        clock = asyncio.get_running_loop().time
        deadline = clock() + within
        try:
            while True:
                pool = await self._store.pool_status()
                await self._store.repair(pool.orphans)
                left = pool.snapshot.in_flight - len(pool.orphans)
                if left <= 0 or clock() >= deadline:
                    return max(0, left)
                await asyncio.sleep(_RETRY)
        except StoreUnavailable:
            return None

    async def _ended(self) -> None:
        await asyncio.gather(*(process.wait() for process in self._processes))

    def _signal(self, how: str) -> None:
        for process in self._processes:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):  # it has ended in this moment
                    getattr(process, how)()
