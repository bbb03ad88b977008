"""One run of a scenario in which a coroutine is cancelled at one of its awaits, and the checks after it."""

import asyncio
import contextlib
import gc
import itertools
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, Literal, get_args

from pika_balancer.testing import settle, wait_until
from tests.redis_servers import Server

How = Literal["at once", "same tick", "twice", "time limit", "sibling"]
"""Ways to cancel at an await.

at once      when it begins to wait
same tick    in the tick in which the awaited future is done and the coroutine would continue
twice        at once, and again at the next await of its cleanup
time limit   by an `asyncio.timeout` around it that expires
sibling      by a task group in which another task fails
"""

HOWS: Final = get_args(How)
IN_SHORT: Final = HOWS[:3]
"""The ways that differ in the result; the others differ in the origin of the cancellation."""

LIMIT: Final = 60.0
"""Seconds after which a condition that does not hold is a failure."""
DESCRIPTORS: Final = Path("/proc/self/fd")
SCENARIOS: Final[dict[str, list["Scenario"]]] = {}
"""The scenarios of each coroutine, by its name."""


class CancelledRun:
    """A run of a scenario that cancels a coroutine, passed to `begin` or `through`, at one of its awaits.

    Args:
        point: Number of the await, from 1; 0 cancels before the start.
        how: Way to cancel.
        server: A server for shared stores.

    Attributes:
        awaits: Number of awaits so far.
        struck: Whether the cancellation was sent.
        result: The coroutine's result.
    """

    def __init__(self, point: int, how: How, server: Server) -> None:
        self.point = point
        self.how = how
        self.server = server
        self.result: Any = None
        self.awaits = 0
        self.struck = False
        self._task: asyncio.Task[Any] | None = None
        self._window: asyncio.Timeout | None = None
        self._alarm = asyncio.Event()
        self._completed = False
        self._before = asyncio.all_tasks()

    @property
    def is_over(self) -> bool:
        """Whether the coroutine has ended."""
        return self._task is not None and self._task.done()

    def begin(self, work: Awaitable[Any]) -> "asyncio.Task[Any]":
        """Start the coroutine as a task; call `end` afterwards."""
        assert self._task is None, "a run takes one coroutine"
        # Before the start only the coroutine itself can be cancelled.
        bare = work if self.point == 0 and isinstance(work, Coroutine) else self._surrounded(work)
        self._task = asyncio.get_running_loop().create_task(bare)
        if self.point == 0:
            self.struck = self._task.cancel()
        return self._task

    async def end(self) -> bool:
        """Wait for the coroutine; return True if it completed, False if it was cancelled."""
        assert self._task is not None
        await asyncio.wait([self._task], timeout=LIMIT)
        assert self._task.done(), f"does not end: {self._task!r}"
        if self._completed or not self.struck:
            # A time limit or a sibling may have cancelled it too late.
            assert self.how not in ("at once", "same tick", "twice") or not self.struck, "swallowed"
            if not self.struck or not self._task.exception():
                await self._task
            return True
        if self.how == "time limit":
            assert not self._task.cancelled()
            assert type(self._task.exception()) is TimeoutError, repr(self._task.exception())
        elif self.how == "sibling":
            failures = self._task.exception()
            assert isinstance(failures, ExceptionGroup)
            assert [type(failure) for failure in failures.exceptions] == [ZeroDivisionError]
        else:
            assert self._task.cancelled(), f"not cancelled: {self._task!r}"
        return False

    async def through(self, work: Awaitable[Any]) -> bool:
        """Run the coroutine as `begin` and `end` do."""
        self.begin(work)
        return await self.end()

    async def _surrounded(self, work: Awaitable[Any]) -> None:
        if self.how == "time limit":
            async with asyncio.timeout(None) as self._window:
                await self._counted(work)
        elif self.how == "sibling":
            async with asyncio.TaskGroup() as group:
                sibling = group.create_task(self._fail())
                group.create_task(self._counted(work)).add_done_callback(lambda _: sibling.cancel())
        else:
            await self._counted(work)

    async def _counted(self, work: Awaitable[Any]) -> None:
        self.result = await _Counted(work, self._awaiting)
        self._completed = True

    async def nothing_runs(self) -> None:
        """Assert that no task of the scenario is left."""
        await until(lambda: asyncio.all_tasks() <= self._before)
        left = asyncio.all_tasks() - self._before
        assert not left, left

    async def _fail(self) -> None:
        await self._alarm.wait()
        raise ZeroDivisionError

    def _awaiting(self, awaited: "asyncio.Future[Any] | None") -> None:
        self.awaits += 1
        again = self.how == "twice" and self.struck and self.awaits == self.point + 1
        if self.awaits != self.point and not again:
            return
        task = asyncio.current_task()
        assert task is not None
        if self.how == "time limit":
            assert self._window is not None
            self._window.reschedule(asyncio.get_running_loop().time())
            self.struck = True
        elif self.how == "sibling":
            self._alarm.set()
            self.struck = True
        elif self.how == "same tick" and awaited is not None:
            awaited.add_done_callback(lambda _: self._strike(task))
        else:
            self._strike(task)

    def _strike(self, task: "asyncio.Task[Any]") -> None:
        self.struck = task.cancel() or self.struck


class _Counted:
    """Awaits something; before each await calls `awaiting` with the awaited future."""

    def __init__(
        self, work: Awaitable[Any], awaiting: "Callable[[asyncio.Future[Any] | None], None]"
    ) -> None:
        self._work = work
        self._awaiting = awaiting

    def __await__(self) -> Generator[Any, Any, Any]:
        steps = self._work if isinstance(self._work, Coroutine) else self._work.__await__()
        thrown: BaseException | None = None
        while True:
            try:
                awaited = steps.send(None) if thrown is None else steps.throw(thrown)
            except StopIteration as stop:
                return stop.value
            thrown = None
            self._awaiting(awaited)
            try:
                yield awaited
            except BaseException as error:  # noqa: BLE001 - passed on to the coroutine
                thrown = error


Scenario = Callable[[CancelledRun], Awaitable[None]]
"""Runs a coroutine through the run and asserts what must hold after it."""

AGAIN: Final[set[Scenario]] = set()
"""Scenarios that differ from another one only by the store; the short tests cancel them `IN_SHORT`."""


def about(*names: str, again: bool = False) -> Callable[[Scenario], Scenario]:
    """Register a scenario of these coroutines.

    Args:
        names: Their qualified names.
        again: Whether it is registered already, with the other store.
    """

    def register(scenario: Scenario) -> Scenario:
        if again:
            AGAIN.add(scenario)
        for name in names:
            SCENARIOS.setdefault(name, []).append(scenario)
        return scenario

    return register


def every_way(hows: Sequence[How]) -> Iterator[Iterator[tuple[int, How]]]:
    """Yield for each way an endless iterator of awaits to cancel at."""
    for how in hows:
        # Before the start there is only one way.
        yield ((point, how) for point in itertools.count(0 if how == HOWS[0] else 1))


def one_way_each(hows: Sequence[How], shift: int = 0) -> Iterator[Iterator[tuple[int, How]]]:
    """Yield one endless iterator of all awaits, each with the next way: a diagonal of `every_way`.

    Args:
        hows: The ways.
        shift: Index of the way of the first await.
    """
    ways = itertools.chain(HOWS[:1], (hows[(place + shift) % len(hows)] for place in itertools.count()))
    yield iter(enumerate(ways))


async def at_every_await(
    scenario: Scenario, server: Server, runs: Iterable[Iterable[tuple[int, How]]]
) -> Counter[How]:
    """Run the scenario once for each await; return the number of cancellations of each way.

    After each run there must be no new task or file descriptor, and no error in the loop's exception handler.

    Args:
        scenario: The scenario.
        server: A server for shared stores.
        runs: Iterators of awaits, in order, and ways; each ends at the first await that the scenario does
            not have.
    """
    loop = asyncio.get_running_loop()
    complaints: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda _, context: complaints.append(context))
    struck: Counter[How] = Counter()
    try:
        for part in runs:
            for point, how in part:
                run = CancelledRun(point, how, server)
                await _one(scenario, run)
                assert not complaints, (how, point, complaints)
                struck[how] += run.struck
                if run.awaits < run.point or (point == 0 and not run.struck):
                    break
        gc.collect()
        await settle(2)
        assert not complaints, complaints
    finally:
        loop.set_exception_handler(None)
    return struck


async def _one(scenario: Scenario, run: CancelledRun) -> None:
    files = _files()
    try:
        await scenario(run)
        await run.nothing_runs()
        await until(lambda: _files() <= files)
        assert not _files() - files, _files() - files
    except BaseException as error:
        error.add_note(f"await {run.point}, {run.how}")
        raise


async def eventually(condition: Callable[[], bool]) -> None:
    """Return once the condition holds."""
    await wait_until(condition, timeout=LIMIT)


async def until(condition: Callable[[], bool]) -> None:
    """Wait until the condition holds or the limit is over; an assertion must follow."""
    for _ in range(5):
        if condition():
            return
        await asyncio.sleep(0)
    with contextlib.suppress(TimeoutError):
        await wait_until(condition, timeout=LIMIT)


def _files() -> set[str]:
    """Return the open file descriptors with their targets, on systems that list them."""
    found: set[str] = set()
    for descriptor in DESCRIPTORS.iterdir() if DESCRIPTORS.exists() else ():
        with contextlib.suppress(OSError):  # the descriptor that reads the folder
            found.add(f"{descriptor.name} {descriptor.readlink()}")
    # uvloop keeps one in reserve.
    return {name for name in found if not name.endswith("/dev/null")}
