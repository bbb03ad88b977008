"""What is counted while a simulation runs, in memory that does not grow with the number of jobs.

A run is divided into rows: row 0 is the warm-up, which counts in no estimate; rows 1 to n are the batches
that confidence intervals are made from; the last row is what follows the last arrival, where accounts run
empty.
"""

import math
from collections import Counter
from typing import Any, Final

import attrs

BATCHES: Final = 30
"""How many batches a run is divided into, if it has jobs enough."""
_SMALLEST: Final = 100
"""Jobs in a batch, at least."""
FINE: Final = 128
"""Classes of durations per octave: a quantile is right to within 1/128 of itself."""
LOWEST: Final = -20
_OCTAVES: Final = 52
CLASSES: Final = _OCTAVES * FINE
"""Classes of durations, from 2⁻²⁰ s (1 µs) to 2³² s (136 years)."""
EXACT: Final = 100_000
"""Up to so many jobs, quantiles come from all durations themselves."""
PIECES: Final = 240
"""Pieces of time for which the jobs in flight are told, at most."""

COUNTED: Final = 5
"""What is counted per row, in order: arrived, refused, gave up, started, tries."""
SUMMED: Final = 4
"""What is summed per row, in order: wait, time in system, max − min in flight as jobs start, time."""


def class_of(duration: float) -> int:
    """Return the class of a duration above 0, in seconds: 128 equal parts of each power of 2."""
    fraction, exponent = math.frexp(duration)
    place = (exponent - 1 - LOWEST) * FINE + int((2 * fraction - 1) * FINE)
    return min(max(place, 0), CLASSES - 1)


def class_bounds(place: int) -> tuple[float, float]:
    """Return where a class begins and ends, in seconds."""
    octave, part = divmod(place, FINE)
    scale = 2.0 ** (octave + LOWEST)
    return (scale * (1 + part / FINE) if place else 0.0), scale * (1 + (part + 1) / FINE)


@attrs.frozen
class Frame:
    """How a run is divided into rows, known before it begins."""

    start: float
    """When the run begins, in seconds."""
    horizon: float
    """When it is cut off, in seconds; infinite where the number of jobs ends it."""
    by_time: bool
    """Whether rows begin at moments rather than at jobs' numbers."""
    edges: tuple[float, ...]
    """Where each batch begins: a moment in seconds, or a job's number."""
    piece: float
    """Width of the first pieces of time, in seconds; doubled as often as needed."""
    warm_up: float
    """The share of the run that is warm-up."""

    @classmethod
    def make(
        cls, *, start: float, duration: float | None, jobs: int | None, rate: float, warm_up: float
    ) -> "Frame":
        """Return the rows of a run that ends by number of jobs, or after `duration` seconds."""
        if duration is not None:
            expected, whole = rate * duration, duration
        else:
            expected = whole = float(jobs or 0)
        batches = int(max(1, min(BATCHES, expected * (1 - warm_up) // _SMALLEST)))
        first = warm_up * whole if duration is not None else float(int(warm_up * whole))
        step = (whole - first) / batches
        origin = start if duration is not None else 0.0
        span = duration if duration is not None else expected / rate
        return cls(
            start=start,
            horizon=math.inf if duration is None else start + duration,
            by_time=duration is not None,
            edges=tuple(origin + first + step * k for k in range(batches)),
            piece=span / PIECES or 1.0,
            warm_up=warm_up,
        )


@attrs.define
class Collector:
    """The figures of one run; both engines fill the same."""

    frame: Frame
    accounts: int
    """How many accounts there are."""
    jobs: int = 0
    completed: int = 0
    refused: int = 0
    """First tries that found every account full."""
    gave_up: int = 0
    rejected: int = 0
    """429s that were not our doing."""
    doubled: int = 0
    """Runs for nobody, of jobs that the service took and answered 5xx to."""
    longest_wait: float = 0.0
    longest_stay: float = 0.0
    counts: list[list[int]] = attrs.field(init=False)
    """By row: what is counted."""
    sums: list[list[float]] = attrs.field(init=False)
    """By row: what is summed."""
    starts: list[list[int]] = attrs.field(init=False)
    """By row and account: jobs started."""
    areas: list[list[float]] = attrs.field(init=False)
    """By row and account: jobs in flight, summed over time."""
    waits: list[dict[int, int]] = attrs.field(init=False)
    """By row: how many waits of each class; -1 is no wait at all."""
    stays: list[dict[int, int]] = attrs.field(init=False)
    """By row: how many times in system of each class."""
    exact: bool = True
    """Whether all durations themselves are known."""
    exact_waits: list[float] = attrs.field(factory=list[float])
    """All waits, if they are."""
    exact_stays: list[float] = attrs.field(factory=list[float])
    """The same for times in system."""
    piece: float = attrs.field(init=False)
    """Width of the pieces of time, in seconds."""
    series: list[float] = attrs.field(factory=list[float])
    """Mean jobs in flight in each piece of time, from the start to the last arrival."""
    elapsed: float = 0.0
    """Length of the simulated time that the estimates are about, in seconds."""

    def __attrs_post_init__(self) -> None:
        rows = len(self.frame.edges) + 2
        self.counts = [[0] * COUNTED for _ in range(rows)]
        self.sums = [[0.0] * SUMMED for _ in range(rows)]
        self.starts = [[0] * self.accounts for _ in range(rows)]
        self.areas = [[0.0] * self.accounts for _ in range(rows)]
        self.waits = [Counter[int]() for _ in range(rows)]
        self.stays = [Counter[int]() for _ in range(rows)]
        self.piece = self.frame.piece

    @property
    def batches(self) -> range:
        """The rows that count: those that the run came to; the warm-up where it came to no other."""
        last = len(self.counts) - 2
        while last > 0 and not (self.sums[last][3] or self.counts[last][0]):
            last -= 1
        return range(min(1, last), last + 1)

    def total(self, rows: list[list[Any]], column: int) -> Any:
        """Return the sum of a column over the rows that count."""
        return sum(rows[row][column] for row in self.batches)


class Counting:
    """Fills a tally from the events of a run, in order of time. The plain twin of what the kernel does."""

    def __init__(self, tally: Collector) -> None:
        frame = tally.frame
        self.tally = tally
        self.frame = frame
        self.flying = [0] * tally.accounts
        """Jobs in flight by account."""
        self._since = [frame.start] * tally.accounts
        self._levels = [tally.accounts, *[0]]
        self._most = self._least = 0
        self._now = self._row_began = frame.start
        self._row = int(frame.edges[0] <= (frame.start if frame.by_time else 0))
        self._area_row = self._row
        self._piece_area = 0.0
        self._piece_ends = frame.start + frame.piece

    def row_of(self, job: int, arrival: float) -> int:
        """Return the row in which something that happens now to that job counts."""
        key = arrival if self.frame.by_time else job
        return self._row if key >= self.frame.edges[0] else 0

    def arrive(self, job: int, now: float) -> None:
        """Count an arrival."""
        key = now if self.frame.by_time else job
        edges = self.frame.edges
        while self._row < len(edges) and key >= edges[self._row]:
            self._turn(now, self._row + 1)
            self._row += 1
        self.tally.jobs += 1
        self.tally.counts[self.row_of(job, now)][0] += 1

    def refuse(self, job: int, arrival: float) -> None:
        """Count a first try that found every account full."""
        self.tally.refused += 1
        self.tally.counts[self.row_of(job, arrival)][1] += 1

    def give_up(self, job: int, arrival: float, tries: int) -> None:
        """Count a job that will not be run."""
        self.tally.gave_up += 1
        counts = self.tally.counts[self.row_of(job, arrival)]
        counts[2] += 1
        counts[4] += tries

    @property
    def spread(self) -> int:
        """Jobs in flight on the fullest account less those on the emptiest."""
        return self._most - self._least

    def start(  # noqa: PLR0917 - once per job, and keywords cost
        self, job: int, arrival: float, account: int, now: float, end: float, tries: int, spread: int
    ) -> None:
        """Count a job that starts on an account, after it found that spread, and will end at that moment."""
        tally, row = self.tally, self.row_of(job, arrival)
        counts, sums = tally.counts[row], tally.sums[row]
        wait, stay = now - arrival, end - arrival
        counts[3] += 1
        counts[4] += tries
        sums[0] += wait
        sums[1] += stay
        sums[2] += spread
        tally.starts[row][account] += 1
        tally.waits[row][class_of(wait) if wait > 0 else -1] += 1
        tally.stays[row][class_of(stay) if stay > 0 else -1] += 1
        if row:
            tally.longest_wait = max(tally.longest_wait, wait)
            tally.longest_stay = max(tally.longest_stay, stay)
            if tally.exact and len(tally.exact_waits) == EXACT:
                tally.exact = False
                tally.exact_waits, tally.exact_stays = [], []
            if tally.exact:
                tally.exact_waits.append(wait)
                tally.exact_stays.append(stay)

    def fly(self, account: int, change: int, now: float) -> None:
        """Count that an account has one job more (`change` 1) or fewer (-1) in flight."""
        self._pass(now)
        self._settle(account, now)
        before = self.flying[account]
        after = self.flying[account] = before + change
        levels = self._levels
        if after == len(levels):
            levels.append(0)
        levels[before] -= 1
        levels[after] += 1
        if change > 0:
            self._most = max(self._most, after)
            if before == self._least and not levels[before]:
                self._least = after
        else:
            self._least = min(self._least, after)
            if before == self._most and not levels[before]:
                self._most = after

    def close(self, now: float) -> None:
        """End the time that the estimates are about."""
        if self._area_row == len(self.tally.areas) - 1:
            return
        self._turn(now, len(self.tally.areas) - 1)
        tally = self.tally
        width = now - (self._piece_ends - tally.piece)
        if width > 0:
            tally.series.append(self._piece_area / width)
        tally.elapsed = sum(tally.sums[row][3] for row in tally.batches)

    def _turn(self, now: float, row: int) -> None:
        self._pass(now)
        for account in range(self.tally.accounts):
            self._settle(account, now)
        self.tally.sums[self._area_row][3] += now - self._row_began
        self._row_began = now
        self._area_row = row

    def _settle(self, account: int, now: float) -> None:
        self.tally.areas[self._area_row][account] += self.flying[account] * (now - self._since[account])
        self._since[account] = now

    def _pass(self, now: float) -> None:
        """Let time pass with as many jobs in flight as there are."""
        tally = self.tally
        if self._area_row < len(tally.areas) - 1:
            total = sum(self.flying)
            while now >= self._piece_ends:
                self._piece_area += total * (self._piece_ends - self._now)
                tally.series.append(self._piece_area / tally.piece)
                self._piece_area = 0.0
                self._now = self._piece_ends
                if len(tally.series) == PIECES:
                    pairs = zip(tally.series[::2], tally.series[1::2], strict=True)
                    tally.series = [(one + other) / 2 for one, other in pairs]
                    tally.piece *= 2
                self._piece_ends += tally.piece
            self._piece_area += total * (now - self._now)
        self._now = now
