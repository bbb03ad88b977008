"""Starting jobs: at their moments, whatever the service does (open loop), or so many at a time (closed)."""

import asyncio
import contextlib
import math
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator
from typing import Any, Final, Literal

from pika_balancer.clock import Clock

Job = Callable[[float], Coroutine[Any, Any, None]]
"""Carries one job to its end; is told when it was meant to start. What it raises ends the load."""

Reason = Literal["duration", "jobs", "backlog"]
"""Why no more jobs were started: time was up, all were started, or too many were under way at once."""

MOST_UNDER_WAY: Final = 10_000
"""Jobs under way at once with which an open loop gives up: the service does not keep up with the rate."""


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

    A start that comes late is not left out and moves no other.

    Args:
        arrivals: Seconds from now, ascending.
        job: Carries one.
        seconds: For how long jobs are started.
        most: How many are started at most.
        clock: Measures the moments.
        offered: Called once the last has been started, with the reason for which it was the last.
        most_under_way: How many may be under way at once.
    """
    begun = clock.now()
    moment = next(arrivals, math.inf)
    under_way: set[asyncio.Task[None]] = set()
    reason: Reason | None = None
    async with together() as group:
        while reason is None:
            await clock.sleep(begun + min(moment, seconds) - clock.now())
            # Read once: whoever looks again and again, and is late for ever, lets nobody else run.
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
    """Keep so many jobs under way, starting one whenever one ends; return once all have ended.

    Args:
        workers: How many.
        job: Carries one. It is meant to start in the moment in which the one before it has ended.
        seconds: For how long jobs are started.
        most: How many are started at most.
        clock: Measures that.
        offered: Called once no more will be started, with the reason.
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
    """Yield a task group that raises the first error of its tasks as it is, and not a group of one."""
    try:
        async with asyncio.TaskGroup() as group:
            yield group
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None
