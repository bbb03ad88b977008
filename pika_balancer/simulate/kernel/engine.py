"""The fast engine: feeds the compiled loop with jobs and outages, and copies its figures into a collector.

Needs NumPy and Numba, the extra `sim`; `run` imports it on demand.
"""

import itertools
import math
from array import array
from collections.abc import Iterator
from typing import Any, Final, cast

import numpy as np

from pika_balancer.simulate.collector import CLASSES, EXACT, Collector, Records
from pika_balancer.simulate.kernel import arrays, loop
from pika_balancer.simulate.kernel.arrays import BlockArrays, Figures, Outages, Rules, State
from pika_balancer.simulate.scenario import Queue, Retry, Scenario
from pika_balancer.simulate.streams import DELAY, FAULT, PICK
from pika_balancer.simulate.workload import JobBlock, Workload

_OUTAGES: Final = 256


def rules_of(scenario: Scenario, workload: Workload, collector: Collector) -> Rules:
    """Return what stays constant during the run."""
    full, faults, slowdown = scenario.when_full, scenario.faults, scenario.slowdown
    frame = collector.frame
    delays, delay, jitter, attempts = arrays.CONSTANT, faults.retry_after, 0.0, 1
    if isinstance(full, Retry):
        delay, jitter, attempts = full.delay, full.jitter, full.attempts
        delays = arrays.EXPONENTIAL if full.exponential else arrays.JITTERED if jitter else arrays.CONSTANT
    return Rules(
        caps=np.array([account.max_jobs for account in scenario.accounts]),
        speeds=np.array([float(account.speed) for account in scenario.accounts]),
        policy=getattr(arrays, cast("str", scenario.policy).upper()),
        when_full=getattr(arrays, type(full).__name__.upper()),
        limit=float(full.limit) if isinstance(full, Queue) else math.inf,
        attempts=attempts,
        delays=delays,
        delay=float(delay),
        jitter=float(jitter),
        above=slowdown.above if slowdown is not None else 1 << 40,
        each=float(slowdown.each) if slowdown is not None else 0.0,
        poll=float(scenario.poll_period),
        rate_limited=float(faults.rate_limited),
        any_fault=float(faults.rate_limited + faults.accepted),
        pick_key=np.uint64(workload.streams.key(PICK)),
        fault_key=np.uint64(workload.streams.key(FAULT)),
        delay_key=np.uint64(workload.streams.key(DELAY)),
        horizon=float(frame.horizon),
        by_time=frame.by_time,
        edges=np.array(frame.edges),
    )


def run(scenario: Scenario, workload: Workload, collector: Collector, records: Records | None) -> None:
    """Run every job to its end, or all of them to the horizon."""
    rules = rules_of(scenario, workload, collector)
    accounts, pool, figures, state = arrays.begin(rules, collector.frame.start, collector.frame.bin_width)
    changes = workload.outages()
    blocks = _numbered(workload.blocks())
    block, outages = next(blocks), _next_outages(changes)
    written = arrays.record_arrays(len(block.arrivals) if records is not None else 0)
    while True:
        if records is not None and block.first + len(block.arrivals) > len(written.outcome):
            written = arrays.record_arrays(2 * (block.first + len(block.arrivals)), written)
        status = loop.advance(block, outages, rules, accounts, pool, figures, written, state)
        if status == arrays.MORE_OUTAGES:
            outages = _next_outages(changes)
            state.next_outage = 0
        elif status == arrays.MORE_ROOM:
            pool = arrays.larger_pool(pool, state)
        else:
            if records is not None:
                records.arrival.frombytes(block.arrivals.tobytes())
            if status == arrays.DONE:
                break
            block = next(blocks)
    _collect(figures, state, collector)
    if records is not None:
        for name, column in written._asdict().items():
            code: str = getattr(records, name).typecode
            setattr(records, name, array(code, column[: len(records)].astype(code).tobytes()))


def _numbered(blocks: Iterator[JobBlock]) -> Iterator[BlockArrays]:
    """Yield the blocks as the kernel takes them: numbered, and the last one marked."""
    first = 0
    block: JobBlock | None = next(blocks)
    while block is not None:
        following = next(blocks, None)
        patience = np.zeros(0) if block.patience is None else block.patience
        arrivals, services, patience = map(np.ascontiguousarray, (block.arrivals, block.services, patience))
        yield BlockArrays(arrivals, services, patience, first, final=following is None)
        first += len(block)
        block = following


def _next_outages(changes: Iterator[tuple[float, int, bool]]) -> Outages:
    """Return the next outages; the last one of all is followed by one that never comes."""
    taken = list(itertools.islice(changes, _OUTAGES))
    if len(taken) < _OUTAGES:
        taken.append((math.inf, 0, False))
    when, account, down = zip(*taken, strict=True)
    return Outages(np.array(when), np.array(account, np.int64), np.array(down, np.int64))


def _collect(figures: Figures, state: State, collector: Collector) -> None:
    for name in ("completed", "refused", "gave_up", "rejected", "doubled"):
        setattr(collector, name, int(state[name]))
    collector.jobs = int(state.next_job)
    collector.longest_wait, collector.longest_sojourn = (
        float(state.longest_wait),
        float(state.longest_sojourn),
    )
    collector.counts, collector.sums = figures.counts.tolist(), figures.sums.tolist()
    collector.starts, collector.areas = figures.starts.tolist(), figures.areas.tolist()
    collector.waits, collector.sojourns = _sparse(figures.waits), _sparse(figures.sojourns)
    if state.durations <= EXACT:
        # Sorted here, because NumPy is ten times as fast at it.
        collector.exact_waits = np.sort(figures.exact_waits[: state.durations]).tolist()
        collector.exact_sojourns = np.sort(figures.exact_sojourns[: state.durations]).tolist()
    else:
        collector.exact = False
    collector.series = figures.series[: state.bins].tolist()
    collector.bin_width = float(state.bin_width)
    width = state.phase_start - (state.last_bin_end - state.bin_width)
    if width > 0:
        collector.series.append(float(state.last_bin_area / width))
    collector.elapsed = sum(collector.sums[phase][3] for phase in collector.batches)


def _sparse(classes: Any) -> list[dict[int, int]]:
    """Return the counts above 0 by phase and class; the last class stands for a duration of 0."""
    found: list[dict[int, int]] = []
    for phase in classes:
        places = np.flatnonzero(phase)
        counts = zip(places.tolist(), phase[places].tolist(), strict=True)
        found.append({-1 if place == CLASSES else place: count for place, count in counts})
    return found
