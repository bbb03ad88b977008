"""Starts jobs: by a schedule, however slow the service is (open loop), or N at a time (closed loop)."""

import asyncio
import contextlib
import math
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator
from typing import Any, Final, Literal

from pika_balancer.clock import Clock

Job = Callable[[float], Coroutine[Any, Any, None]]
"""Runs one job to its end; gets the intended moment of its start. An exception ends the load."""

Reason = Literal["duration", "jobs", "backlog"]
"""Why no more jobs were started: the time was over, all were started, or too many had not ended."""

MOST_UNDER_WAY: Final = 10_000
"""Jobs under way at which an open loop stops, because the service does not keep up with the rate."""


async def open_loop(
    arrivals: Iterator[float],
    job: Job,
    *,
    seconds: float,
    most: int,
    clock: Clock,
    offered: Callable[[Reason], object],
    most_under_way: int = MOST_UNDER_WAY,
) -> None:
    """Start a job at each moment of a schedule, and return once all have ended.

    A late start is not left out and delays no other.

    Args:
        arrivals: Seconds from now, ascending.
        job: Runs one job.
        seconds: For how long jobs are started.
        most: Most jobs to start.
        clock: Measures the moments.
        offered: Called with the reason when no more jobs will be started.
        most_under_way: Most jobs under way at once.
    """
    begun = clock.now()
    moment = next(arrivals, math.inf)
    under_way: set[asyncio.Task[None]] = set()
    reason: Reason | None = None
    async with together() as group:
        while reason is None:
            await clock.sleep(begun + min(moment, seconds) - clock.now())
            # Read once per round: a loop that is always late would otherwise never yield to other tasks.
            now = clock.now() - begun
            while moment <= now and moment < seconds and most and len(under_way) < most_under_way:
                task = group.create_task(job(begun + moment))
                under_way.add(task)
                task.add_done_callback(under_way.discard)
                most -= 1
                moment = next(arrivals, math.inf)
            if len(under_way) >= most_under_way:
                reason = "backlog"
            elif not most:
                reason = "jobs"
            elif now >= seconds:
                reason = "duration"
        offered(reason)


async def closed_loop(
    workers: int,
    job: Job,
    *,
    seconds: float,
    most: int,
    clock: Clock,
    offered: Callable[[Reason], object],
) -> None:
    """Keep `workers` jobs under way, starting one when one ends; return once all have ended.

    Args:
        workers: Jobs under way at once.
        job: Runs one job. Its intended start is the end of the one before it.
        seconds: For how long jobs are started.
        most: Most jobs to start.
        clock: Measures the time.
        offered: Called with the reason when no more jobs will be started.
    """
    begun = clock.now()
    left = most
    told = False

    def over(reason: Reason) -> None:
        nonlocal told
        if not told:
            told = True
            offered(reason)

    async def work() -> None:
        nonlocal left
        while left and clock.now() < begun + seconds:
            left -= 1
            if not left:
                over("jobs")
            await job(clock.now())

    timer = clock.call_later(seconds, lambda: over("duration"))
    try:
        async with together() as group:
            for _ in range(min(workers, most)):
                group.create_task(work())
    finally:
        timer.cancel()
    over("duration")


@contextlib.asynccontextmanager
async def together() -> AsyncGenerator[asyncio.TaskGroup]:
    """Yield a task group that raises the first error of its tasks, not an exception group."""
    try:
        async with asyncio.TaskGroup() as group:
            yield group
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None
