"""The processes of a demo that share the accounts, as the one that started them sees them."""

import asyncio
from collections import Counter, deque
from collections.abc import Iterable, Sequence
from typing import Final

import attrs

from pika_balancer._util.child_process import Apart
from pika_balancer.cli.crew_member import Share, Standing
from pika_balancer.cli.demo_view import DemoFrame, DemoView, Row
from pika_balancer.cli.exit_codes import INTERRUPTED, OK
from pika_balancer.cli.fetch_jobs import ask
from pika_balancer.cli.store import Findings
from pika_balancer.client.client import PikaClient
from pika_balancer.clock import Clock
from pika_balancer.errors import PikaError, StoreUnavailable
from pika_balancer.server import LocalServer
from pika_balancer.store.redis.store import RedisStore

_MEMBER: Final = "pika_balancer.cli.crew_member"
_RATE_OVER: Final = 3.0
_HEAL_EVERY: Final = 0.5
_LOOK_AGAIN: Final = 0.1
_HURRIED: Final = 3.0


class Member:
    """One process."""

    def __init__(self, share: Share, apart: Apart) -> None:
        self.share = share
        self.standing: Standing | None = None
        """What it told last; None before it is ready."""
        self._apart = apart

    @classmethod
    async def start(cls, share: Share) -> "Member":
        """Start a process and tell it what to do."""
        apart = await Apart.start(_MEMBER)
        apart.stdin.write(f"{share.wire()}\n".encode())
        return cls(share, apart)

    @property
    def completed(self) -> int:
        """How many jobs it has seen completed."""
        return 0 if self.standing is None else self.standing.completed

    @property
    def exit_code(self) -> int | None:
        """How it ended, minus the signal if one ended it; None while it lives."""
        return self._apart.process.returncode

    @property
    def died(self) -> bool:
        """Whether it has ended otherwise than it should."""
        return self.exit_code not in (None, OK, INTERRUPTED)

    async def follow(self) -> None:
        """Take note of what it tells until it has ended."""
        async for line in self._apart.stdout:
            if line.endswith(b"\n"):  # else it was cut off by its death
                self.standing = Standing.read(line)
        await self._apart.process.wait()
        if self.died and self.standing is not None:
            self.standing = attrs.evolve(self.standing, waiting=0)

    def begin(self) -> None:
        """Let it do its share."""
        if self.exit_code is None:
            self._apart.stdin.write(b"begin\n")

    def stop(self) -> None:
        """Let it wait for what runs, and end."""
        self._apart.stdin.close()

    def hurry(self) -> None:
        """Let it end without waiting for what runs."""
        if self.exit_code is None:
            self._apart.process.terminate()

    async def end(self) -> None:
        """End it if it still lives."""
        if self.exit_code is None:
            self._apart.process.kill()
        await self._apart.end()


class Crew:
    """Some processes, each with its share of the jobs, on one server and one pool.

    Args:
        server: Runs the jobs; its counts are what is shown.
        client: Asks it, as anybody would, what still runs.
        store: Looks at the pool that the processes share, and takes no part in it.
        clock: Measures everything.
    """

    def __init__(self, server: LocalServer, client: PikaClient, store: RedisStore, *, clock: Clock) -> None:
        self._server = server
        self._client = client
        self._store = store
        self._clock = clock
        self._begun: float | None = None
        self._ended: float | None = None
        self._stopping = False
        self._jobs = 0
        self._history: deque[tuple[float, int]] = deque()
        self.members: tuple[Member, ...] = ()
        """The processes, in their order."""

    @property
    def elapsed(self) -> float:
        """Seconds from the first one's beginning to the last one's end, or until now; 0 before."""
        if self._begun is None:
            return 0.0
        return (self._clock.now() if self._ended is None else self._ended) - self._begun

    async def start(self, shares: Iterable[Share]) -> None:
        """Start a process for each share; `end` has to follow, whatever happens."""
        for share in shares:
            self._jobs += share.jobs
            self.members += (await Member.start(share),)

    async def run(self, view: DemoView) -> None:
        """Show how they stand until all have ended.

        If one dies the others go on, and its slots come back once its jobs are over. If cancelled, let all
        wait a few seconds for what runs, and let the cancellation pass then; a second one lets none wait.
        """
        following = [asyncio.create_task(member.follow()) for member in self.members]
        healing = asyncio.create_task(self._heal())
        try:
            try:
                await self._watch(following, view)
            except asyncio.CancelledError:
                self._stopping = True
                for member in self.members:
                    member.stop()
                await self._watch(following, view)
                raise
        except asyncio.CancelledError:
            for member in self.members:
                member.hurry()
            await asyncio.wait(following, timeout=_HURRIED)
            raise
        finally:
            self._ended = self._clock.now()
            await _cancelled([healing, *following])

    async def end(self) -> None:
        """End every process that is still there."""
        for member in self.members:
            await member.end()

    async def clear(self, within: float) -> int | None:
        """Give up what dead processes hold in the pool, and return how many slots are counted then.

        For the end: the jobs may still run, but nobody needs to know any more.

        Args:
            within: Seconds until all that have died count as dead.

        Returns:
            None if the store cannot be reached.
        """
        deadline = self._clock.now() + within
        try:
            while True:
                fleet = await self._store.pool_status()
                await self._store.repair(fleet.orphans)
                left = fleet.snapshot.in_flight - len(fleet.orphans)
                if left <= 0 or self._clock.now() >= deadline:
                    return max(0, left)
                await self._clock.sleep(_LOOK_AGAIN)
        except StoreUnavailable:
            return None

    def frame(self) -> DemoFrame:
        """Return how it stands now, by the server's count."""
        now = self._clock.now()
        statistics = self._server.statistics()
        standings = [member.standing for member in self.members if member.standing is not None]
        done = sum((standing.done for standing in standings), Counter[str]())
        self._history.append((now, statistics.completed))
        while len(self._history) > 1 and self._history[0][0] < now - _RATE_OVER:
            self._history.popleft()
        since, before = self._history[0]
        return DemoFrame(
            elapsed=self.elapsed,
            jobs=self._jobs,
            completed=sum(member.completed for member in self.members),
            waiting=sum(standing.waiting for standing in standings),
            rate=(statistics.completed - before) / max(0.1, now - since),
            rows=tuple(
                Row(seen.channel, seen.max_jobs or 0, seen.in_flight, done[seen.channel])
                for seen in statistics.channels.values()
            ),
            stopping=self._stopping,
            processes=tuple(f"{member.completed}{' (died)' * member.died}" for member in self.members),
        )

    async def _watch(self, following: Sequence[asyncio.Task[None]], view: DemoView) -> None:
        running = set(following)
        while running:
            self._begin_together()
            # Before, there is nothing to see: processes take a moment to start.
            if self._begun is not None or self._stopping:
                view.show(self.frame())
                patience = view.interval
            else:
                patience = _LOOK_AGAIN
            ended, running = await asyncio.wait(
                running, timeout=patience, return_when=asyncio.FIRST_COMPLETED
            )
            for task in ended:
                task.result()
        view.show(self.frame())

    def _begin_together(self) -> None:
        """Let all begin once the last of them is ready, so that none has done its share before."""
        ready = all(member.standing is not None or member.exit_code is not None for member in self.members)
        if ready and self._begun is None and not self._stopping:
            self._begun = self._clock.now()
            for member in self.members:
                member.begin()

    async def _heal(self) -> None:
        """Do as `store doctor --repair` does, again and again, once one has died.

        Else the others might wait for its slots until the pool gives it up, half an hour later.
        """
        while True:
            await self._clock.sleep(_HEAL_EVERY)
            if any(member.died for member in self.members):
                try:
                    fleet = await self._store.pool_status()
                    running = await ask(self._client, dict.fromkeys(await self._client.jobs()))
                    await self._store.repair(Findings.of(fleet, running, all_orphans=False).over)
                except PikaError:
                    continue


async def _cancelled(tasks: Iterable[asyncio.Task[None]]) -> None:
    tasks = list(tasks)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


@attrs.frozen
class CrewEnd:
    """How a process ended."""

    process: int
    """Which one, from 1."""
    jobs: int
    """Its share of the jobs."""
    completed: int
    """How many of them it has seen completed."""
    exit_code: int | None
    """0 if all went well, 130 if it was stopped; minus the signal if one ended it."""

    @classmethod
    def of(cls, member: Member) -> "CrewEnd":
        """Return how a process has ended."""
        return cls(member.share.number, member.share.jobs, member.completed, member.exit_code)
