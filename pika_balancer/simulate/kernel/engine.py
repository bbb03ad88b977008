"""The fast engine: feeds the compiled loop with jobs and outages, and reads its figures into a tally.

Needs NumPy and Numba, the extra `sim`; only `run` sees it, when it is asked for.
"""

import itertools
import math
from array import array
from collections.abc import Iterator
from typing import Any, Final, cast

import numpy as np

from pika_balancer.simulate.collector import CLASSES, EXACT, Collector
from pika_balancer.simulate.kernel import arrays, loop
from pika_balancer.simulate.kernel.arrays import BlockArrays, Counter, Figures, Outages, RecordColumns, Rules
from pika_balancer.simulate.records import Records
from pika_balancer.simulate.scenario import Loss, Queue, Retry, Scenario
from pika_balancer.simulate.streams import DELAY, FAULT, PICK
from pika_balancer.simulate.workload import JobBlock as Jobs
from pika_balancer.simulate.workload import Workload

_POLICIES: Final = {
    "random": arrays.RANDOM,
    "least_loaded": arrays.LEAST_LOADED,
    "two_choices": arrays.TWO_CHOICES,
    "round_robin": arrays.ROUND_ROBIN,
    "weighted": arrays.WEIGHTED,
}
_OUTAGES: Final = 256
_NONE: Final = np.zeros(0)


def rules_of(scenario: Scenario, workload: Workload, tally: Collector) -> Rules:
    """Return what stays as it is during the run."""
    full, faults, slowdown = scenario.when_full, scenario.faults, scenario.slowdown
    frame = tally.frame
    delays, delay, jitter, attempts = arrays.CONSTANT, faults.retry_after, 0.0, 1
    if isinstance(full, Retry):
        delay, jitter, attempts = full.delay, full.jitter, full.attempts
        delays = arrays.EXPONENTIAL if full.exponential else arrays.JITTERED if jitter else arrays.CONSTANT
    kinds: dict[type, int] = {Loss: arrays.LOSS, Queue: arrays.QUEUE, Retry: arrays.RETRY}
    return Rules(
        caps=np.array([account.max_jobs for account in scenario.accounts]),
        speeds=np.array([float(account.speed) for account in scenario.accounts]),
        policy=_POLICIES[cast("str", scenario.policy)],
        full=kinds[type(full)],
        limit=float(full.limit) if isinstance(full, Queue) else math.inf,
        attempts=attempts,
        delays=delays,
        delay=float(delay),
        jitter=float(jitter),
        above=slowdown.above if slowdown is not None else 1 << 40,
        each=float(slowdown.each) if slowdown is not None else 0.0,
        poll=float(scenario.poll_period),
        limited=float(faults.rate_limited),
        faulty=float(faults.rate_limited + faults.accepted),
        pick_key=np.uint64(workload.streams.key(PICK)),
        fault_key=np.uint64(workload.streams.key(FAULT)),
        delay_key=np.uint64(workload.streams.key(DELAY)),
        horizon=float(frame.horizon),
        by_time=frame.by_time,
        edges=np.array(frame.edges),
    )


def run(scenario: Scenario, workload: Workload, tally: Collector, records: Records | None) -> None:
    """Carry every job to its end, or all of them to the horizon."""
    rules = rules_of(scenario, workload, tally)
    books, waiting, figures, counter = arrays.begin(rules, tally.frame.start, tally.frame.piece)
    notices = workload.outages()
    blocks = _marked(workload.blocks())
    block, outages = next(blocks), _taken(notices)
    kept = arrays.record_columns(len(block.arrivals) if records is not None else 0)
    while True:
        if records is not None and block.first + len(block.arrivals) > len(kept.outcome):
            kept = arrays.record_columns(2 * (block.first + len(block.arrivals)), kept)
        status = loop.advance(block, outages, rules, books, waiting, figures, kept, counter)
        if status == arrays.DONE:
            break
        if status == arrays.MORE_JOBS:
            if records is not None:
                records.arrival.frombytes(block.arrivals.tobytes())
            block = next(blocks)
        elif status == arrays.MORE_OUTAGES:
            outages = _taken(notices)
            counter.whole[arrays.OUTAGE] = 0
        else:
            waiting = arrays.roomier(waiting, counter)
    _read(figures, counter, tally)
    if records is not None:
        records.arrival.frombytes(block.arrivals.tobytes())
        _record(kept, records)


def _marked(blocks: Iterator[Jobs]) -> Iterator[BlockArrays]:
    """Yield the blocks as the kernel takes them, numbered, the last one marked."""
    first = 0
    block: Jobs | None = next(blocks)
    while block is not None:
        following = next(blocks, None)
        patience = _NONE if block.patience is None else block.patience
        arrivals, services, patience = (
            np.ascontiguousarray(column) for column in (block.arrivals, block.services, patience)
        )
        yield BlockArrays(arrivals, services, patience, first, final=following is None)
        first += len(block)
        block = following


def _taken(notices: Iterator[tuple[float, int, bool]]) -> Outages:
    """Return the next outages; behind the last one of all stands one that never comes."""
    taken = list(itertools.islice(notices, _OUTAGES))
    if len(taken) < _OUTAGES:
        taken.append((math.inf, 0, False))
    when, row, down = zip(*taken, strict=True)
    return Outages(np.array(when), np.array(row, np.int64), np.array(down, np.int64))


def _read(figures: Figures, counter: Counter, tally: Collector) -> None:
    whole, real = counter.whole, counter.real
    tally.jobs = int(whole[arrays.NEXT])
    tally.completed = int(whole[arrays.COMPLETED])
    tally.refused = int(whole[arrays.REFUSED])
    tally.gave_up = int(whole[arrays.GAVE_UP])
    tally.rejected = int(whole[arrays.REJECTED])
    tally.doubled = int(whole[arrays.DOUBLED])
    tally.longest_wait = float(real[arrays.LONGEST_WAIT])
    tally.longest_stay = float(real[arrays.LONGEST_STAY])
    tally.counts, tally.sums = figures.counts.tolist(), figures.sums.tolist()
    tally.starts, tally.areas = figures.starts.tolist(), figures.areas.tolist()
    tally.waits, tally.stays = _sparse(figures.waits), _sparse(figures.stays)
    if whole[arrays.KEPT] <= EXACT:
        # In order, which NumPy is ten times as quick at as whoever looks for quantiles would be.
        tally.exact_waits = np.sort(figures.exact_waits[: whole[arrays.KEPT]]).tolist()
        tally.exact_stays = np.sort(figures.exact_stays[: whole[arrays.KEPT]]).tolist()
    else:
        tally.exact = False
    tally.series = figures.series[: whole[arrays.PIECE_COUNT]].tolist()
    tally.piece = float(real[arrays.PIECE])
    width = real[arrays.ROW_BEGAN] - (real[arrays.LAST_PIECE] - real[arrays.PIECE])
    if width > 0:
        tally.series.append(float(real[arrays.LAST_AREA] / width))
    tally.elapsed = sum(tally.sums[row][3] for row in tally.batches)


def _sparse(classes: Any) -> list[dict[int, int]]:
    """Return the counts above 0 by class and row; the last class of all is no duration at all."""
    found: list[dict[int, int]] = []
    for row in classes:
        places = np.flatnonzero(row)
        counts = row[places].tolist()
        found.append(
            {-1 if place == CLASSES else place: n for place, n in zip(places.tolist(), counts, strict=True)}
        )
    return found


def _record(kept: RecordColumns, records: Records) -> None:
    count = len(records.arrival)
    columns: tuple[tuple[str, Any, str], ...] = (
        ("account", kept.account, "i"),
        ("start", kept.start, "d"),
        ("end", kept.end, "d"),
        ("attempts", kept.attempts, "i"),
        ("outcome", kept.outcome, "b"),
    )
    for name, column, code in columns:
        setattr(records, name, array(code, column[:count].astype(code).tobytes()))
