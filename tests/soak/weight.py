"""What a soak weighs as it goes on, and whether that is flat."""

import asyncio
import gc
import os
import statistics
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import attrs

from pika_balancer import Dispatcher, Job, JobHandle, Lease

SETTLED: Final = 0.3
"""The share of the way after which nothing should grow any more."""
WEIGHED: Final = 14
"""How often a soak is weighed on its way."""
ENOUGH: Final = 4
"""Weights on each side without which growth cannot be told from chance."""
OBJECTS_AT_MOST: Final = 400
"""Objects of one kind at any time: a few for each of 42 callers, 27 slots and 3 dispatchers."""
KEYS_AT_MOST: Final = 10
"""Keys of a pool in the shared store, all kinds together."""
KINDS: Final = (JobHandle, Job, Lease, Dispatcher, asyncio.Task, asyncio.Future, asyncio.TimerHandle)
"""What comes and goes with jobs."""
PER_JOB: Final = {"memory": 100.0, "server": 400.0, "blocks": 0.25}
"""By how much a measure may grow for each job: less than the smallest thing that could be forgotten.

An object of Python is a block of 16 bytes or more, and whatever is kept is kept by an object. The server's
process remembers a hash of every reference, to tell a job that is sent twice.
"""
SLACK: Final = {
    "memory": 4 * 2**20,
    "server": 6 * 2**20,
    "blocks": 4000,
    "files": 16,
    "tasks": 150,
    "entries": 400,
}
"""What a measure may differ by whatever the number of jobs: callers and slots are elsewhere each time."""
BALANCED_AFTER: Final = {"entries": 35.0}
"""Seconds until a measure is in balance: the store keeps word of what was given back for 3 `lease_ttl`."""


@attrs.frozen
class Weight:
    """How much there was at one moment."""

    share: float
    """Of the way, what lies behind."""
    seconds: float
    """Since the beginning."""
    jobs: int
    """Jobs begun."""
    memory: int
    """Bytes of this process in memory."""
    server: int
    """Bytes of the server's process in memory."""
    blocks: int
    """Blocks that Python's allocator has given out, of whatever size, after a collection."""
    files: int
    """Open file descriptors."""
    tasks: int
    """Tasks of the loop."""
    keys: int
    """Keys in the shared store, 0 without one."""
    entries: int
    """What is in those keys."""
    census: Counter[str]
    """Objects of the kinds that come and go with jobs, more than before the soak."""


def weigh(
    share: float, seconds: float, jobs: int, *, server: int, keys: tuple[int, int], before: Counter[str]
) -> Weight:
    """Return the weight now.

    Args:
        share: Of the way, what lies behind.
        seconds: Since the beginning.
        jobs: Jobs begun.
        server: The server's process.
        keys: Number of keys in the shared store, and of entries in them.
        before: The census before the soak: earlier tests of the process may have left objects.
    """
    census = take_census()
    census.subtract(before)
    return Weight(
        share=share,
        seconds=seconds,
        jobs=jobs,
        memory=_memory("self"),
        server=_memory(str(server)),
        blocks=sys.getallocatedblocks(),
        files=open_files(),
        tasks=len(asyncio.all_tasks()),
        keys=keys[0],
        entries=keys[1],
        census=census,
    )


def take_census() -> Counter[str]:
    """Return how many objects there are of the kinds that come and go with jobs."""
    gc.collect()
    counts = Counter(type(thing) for thing in gc.get_objects())
    return Counter({kind.__name__: counts[kind] for kind in KINDS})


def open_files() -> int:
    """Return how many file descriptors are open."""
    return len(list(Path("/proc/self/fd").iterdir()))


def _memory(process: str) -> int:
    pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def growth(weights: Sequence[Weight], measure: str) -> tuple[float, int] | None:
    """Return by how much a measure grew between the halves of the settled way, and over how many jobs.

    Medians, since a single weight has the accidents of its moment; None if there are too few weights.
    """
    from_then_on = BALANCED_AFTER.get(measure, 0.0)
    settled = [weight for weight in weights if weight.share >= SETTLED and weight.seconds >= from_then_on]
    half = len(settled) // 2
    if half < ENOUGH:
        return None
    early, late = settled[:half], settled[-half:]
    jobs = statistics.median(w.jobs for w in late) - statistics.median(w.jobs for w in early)
    grown = statistics.median(getattr(w, measure) for w in late) - statistics.median(
        getattr(w, measure) for w in early
    )
    return grown, round(jobs)


def too_heavy(weights: Sequence[Weight]) -> Iterator[str]:
    """Yield what grows with the number of jobs."""
    for measure, slack in SLACK.items():
        grown = growth(weights, measure)
        if grown is not None and grown[0] > slack + PER_JOB.get(measure, 0.0) * grown[1]:
            figures = [getattr(weight, measure) for weight in weights]
            yield f"{measure} grew by {grown[0]:,.0f} over {grown[1]} jobs: {figures}"
    settled = [weight for weight in weights if weight.share >= SETTLED]
    if max((weight.keys for weight in weights), default=0) > KEYS_AT_MOST:
        yield f"more keys than a pool has: {[weight.keys for weight in weights]}"
    for kind in KINDS:
        most = max((weight.census[kind.__name__] for weight in settled), default=0)
        if most > OBJECTS_AT_MOST:
            # What comes and goes with jobs is bounded by callers and slots, however long it goes on.
            yield f"ever more {kind.__name__}: {[weight.census[kind.__name__] for weight in weights]}"
