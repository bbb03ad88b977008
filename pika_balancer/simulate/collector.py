"""What is counted while a simulation runs, in memory that does not grow with the number of jobs.

A run is divided into phases: phase 0 is the warm-up, which counts in no estimate; phases 1 to n are the
batches that confidence intervals come from; the last phase follows the last arrival, when accounts run empty.

Records, one entry per job, are optional and do grow with the number of jobs.
"""

import math
from array import array
from collections import Counter
from enum import IntEnum
from typing import Any, Final

import attrs

BATCHES: Final = 30
"""Batches of a run that has enough jobs for them."""
_SMALLEST: Final = 100
"""Minimum number of jobs in a batch."""
FINE: Final = 128
"""Classes of durations per octave: a quantile is right to within 1/128 of itself."""
LOWEST: Final = -20
_OCTAVES: Final = 52
CLASSES: Final = _OCTAVES * FINE
"""Classes of durations, from 2⁻²⁰ s (1 µs) to 2³² s (136 years)."""
EXACT: Final = 100_000
"""Up to this many jobs, quantiles come from the durations themselves."""
BINS: Final = 240
"""Maximum number of time bins for the jobs in flight."""

COUNTED: Final = 5
"""Counts of a phase, in order: arrived, refused, gave up, started, tries."""
SUMMED: Final = 4
"""Sums of a phase, in order: wait, time in system, max − min in flight as jobs start, time."""


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
    """How a run is divided into phases; fixed before it begins."""

    start: float
    """When the run begins, in seconds."""
    horizon: float
    """When it is cut off, in seconds; infinite if the number of jobs ends it."""
    by_time: bool
    """Whether phases begin at moments rather than at job numbers."""
    edges: tuple[float, ...]
    """Where each batch begins: a moment in seconds, or a job number."""
    bin_width: float
    """Width of the first time bins, in seconds; doubled as often as needed."""
    warm_up: float
    """The share of the run that is warm-up."""

    @classmethod
    def make(
        cls, *, start: float, duration: float | None, jobs: int | None, rate: float, warm_up: float
    ) -> "Frame":
        """Return the phases of a run that ends by number of jobs, or after `duration` seconds."""
        by_time = duration is not None
        whole = float(jobs or 0) if duration is None else duration
        expected = rate * whole if by_time else whole
        batches = int(max(1, min(BATCHES, expected * (1 - warm_up) // _SMALLEST)))
        first = warm_up * whole if by_time else float(int(warm_up * whole))
        step = (whole - first) / batches
        origin = start if by_time else 0.0
        span = whole if by_time else expected / rate
        return cls(
            start=start,
            horizon=start + whole if by_time else math.inf,
            by_time=by_time,
            edges=tuple(origin + first + step * k for k in range(batches)),
            bin_width=span / BINS or 1.0,
            warm_up=warm_up,
        )


class JobFate(IntEnum):
    """How a job ended."""

    UNFINISHED = 0
    COMPLETED = 1
    GAVE_UP = 2


@attrs.define
class Records:
    """What became of each job: one column per fact, one entry per job, in order of arrival."""

    arrival: "array[float]" = attrs.field(factory=lambda: array("d"), eq=bytes)
    """When it arrived, in seconds."""
    account: "array[int]" = attrs.field(factory=lambda: array("i"), eq=bytes)
    """Index of its account in the scenario, from 0; -1 if it never started."""
    start: "array[float]" = attrs.field(factory=lambda: array("d"), eq=bytes)
    """When it started; NaN if it never did."""
    end: "array[float]" = attrs.field(factory=lambda: array("d"), eq=bytes)
    """When its slot became free; may be after the end of the run; NaN if it never started."""
    attempts: "array[int]" = attrs.field(factory=lambda: array("i"), eq=bytes)
    """How often it was submitted; 0 if it was still waiting or retrying."""
    outcome: "array[int]" = attrs.field(factory=lambda: array("b"), eq=bytes)
    """A `JobFate`."""

    def __len__(self) -> int:
        """Return the number of jobs."""
        return len(self.arrival)

    def arrive(self, arrival: float) -> None:
        self.arrival.append(arrival)
        self.account.append(-1)
        self.start.append(math.nan)
        self.end.append(math.nan)
        self.attempts.append(0)
        self.outcome.append(JobFate.UNFINISHED)

    def begin(self, job: int, account: int, now: float, end: float, tries: int) -> None:
        self.account[job] = account
        self.start[job] = now
        self.end[job] = end
        self.attempts[job] = tries

    def give_up(self, job: int, tries: int) -> None:
        self.attempts[job] = tries
        self.outcome[job] = JobFate.GAVE_UP


@attrs.define
class Collector:
    """The figures of one run; both engines fill the same ones."""

    frame: Frame
    accounts: int
    """Number of accounts."""
    jobs: int = 0
    completed: int = 0
    refused: int = 0
    """First tries that found every account full."""
    gave_up: int = 0
    rejected: int = 0
    """Submits answered 429 although the account had a free slot."""
    doubled: int = 0
    """Runs that the service started although it answered 5xx; their worker submitted the job again."""
    longest_wait: float = 0.0
    longest_sojourn: float = 0.0
    counts: list[list[int]] = attrs.field(init=False)
    """By phase."""
    sums: list[list[float]] = attrs.field(init=False)
    """By phase."""
    starts: list[list[int]] = attrs.field(init=False)
    """By phase and account: jobs started."""
    areas: list[list[float]] = attrs.field(init=False)
    """By phase and account: jobs in flight, integrated over time."""
    waits: list[dict[int, int]] = attrs.field(init=False)
    """By phase: the number of waits in each class; class -1 is no wait."""
    sojourns: list[dict[int, int]] = attrs.field(init=False)
    """By phase: the number of times in system in each class."""
    exact: bool = True
    """Whether `exact_waits` and `exact_sojourns` hold all durations."""
    exact_waits: list[float] = attrs.field(factory=list[float])
    exact_sojourns: list[float] = attrs.field(factory=list[float])
    bin_width: float = attrs.field(init=False)
    """Width of the time bins, in seconds."""
    series: list[float] = attrs.field(factory=list[float])
    """Mean jobs in flight in each time bin, from the start to the last arrival."""
    elapsed: float = 0.0
    """Length of the simulated time behind the estimates, in seconds."""

    def __attrs_post_init__(self) -> None:
        phases = len(self.frame.edges) + 2
        self.counts = [[0] * COUNTED for _ in range(phases)]
        self.sums = [[0.0] * SUMMED for _ in range(phases)]
        self.starts = [[0] * self.accounts for _ in range(phases)]
        self.areas = [[0.0] * self.accounts for _ in range(phases)]
        self.waits = [Counter[int]() for _ in range(phases)]
        self.sojourns = [Counter[int]() for _ in range(phases)]
        self.bin_width = self.frame.bin_width

    @property
    def batches(self) -> range:
        """The phases that the estimates come from: the batches reached, or the warm-up if none was."""
        last = len(self.counts) - 2
        while last > 0 and not (self.sums[last][3] or self.counts[last][0]):
            last -= 1
        return range(min(1, last), last + 1)

    def by_batch(self, table: list[list[Any]], column: int) -> list[float]:
        """Return a column of `counts`, `sums`, `starts` or `areas`, by batch."""
        return [float(table[phase][column]) for phase in self.batches]


class Counting:
    """Fills a collector from the events of a run, in order of time. The plain twin of the compiled loop."""

    def __init__(self, collector: Collector) -> None:
        frame = collector.frame
        self._collector = collector
        self._frame = frame
        self.in_flight = [0] * collector.accounts
        """Jobs in flight by account."""
        self._since = [frame.start] * collector.accounts
        self._levels = [collector.accounts]
        self._most = self._least = 0
        self._now = self._phase_start = frame.start
        self._batch = int(frame.edges[0] <= (frame.start if frame.by_time else 0))
        self._phase = self._batch
        self._bin_area = 0.0
        self._bin_end = frame.start + frame.bin_width

    def _phase_of(self, job: int, arrival: float) -> int:
        """Return the phase in which an event of this job counts now."""
        key = arrival if self._frame.by_time else job
        return self._batch if key >= self._frame.edges[0] else 0

    def arrive(self, job: int, now: float) -> None:
        key = now if self._frame.by_time else job
        edges = self._frame.edges
        while self._batch < len(edges) and key >= edges[self._batch]:
            self._batch += 1
            self._change_phase(now, self._batch)
        self._collector.jobs += 1
        self._collector.counts[self._phase_of(job, now)][0] += 1

    def refuse(self, job: int, arrival: float) -> None:
        """Count a first try that found every account full."""
        self._collector.refused += 1
        self._collector.counts[self._phase_of(job, arrival)][1] += 1

    def give_up(self, job: int, arrival: float, tries: int) -> None:
        """Count a job that leaves unserved."""
        self._collector.gave_up += 1
        counts = self._collector.counts[self._phase_of(job, arrival)]
        counts[2] += 1
        counts[4] += tries

    @property
    def spread(self) -> int:
        """Difference in jobs in flight between the fullest and the emptiest account."""
        return self._most - self._least

    def start(  # noqa: PLR0917 - once per job, and keywords cost
        self, job: int, arrival: float, account: int, now: float, end: float, tries: int, spread: int
    ) -> None:
        """Count a job that starts now and will end at `end`; `spread` is what it found."""
        collector, phase = self._collector, self._phase_of(job, arrival)
        counts, sums = collector.counts[phase], collector.sums[phase]
        wait, sojourn = now - arrival, end - arrival
        counts[3] += 1
        counts[4] += tries
        sums[0] += wait
        sums[1] += sojourn
        sums[2] += spread
        collector.starts[phase][account] += 1
        collector.waits[phase][class_of(wait) if wait > 0 else -1] += 1
        collector.sojourns[phase][class_of(sojourn) if sojourn > 0 else -1] += 1
        if phase:
            collector.longest_wait = max(collector.longest_wait, wait)
            collector.longest_sojourn = max(collector.longest_sojourn, sojourn)
            if collector.exact and len(collector.exact_waits) == EXACT:
                collector.exact = False
                collector.exact_waits, collector.exact_sojourns = [], []
            if collector.exact:
                collector.exact_waits.append(wait)
                collector.exact_sojourns.append(sojourn)

    def change(self, account: int, step: int, now: float) -> None:
        """Count one job more (`step` 1) or fewer (-1) in flight on an account."""
        self._integrate(now)
        self._settle(account, now)
        before = self.in_flight[account]
        after = self.in_flight[account] = before + step
        levels = self._levels
        if after == len(levels):
            levels.append(0)
        levels[before] -= 1
        levels[after] += 1
        if step > 0:
            self._most = max(self._most, after)
            if before == self._least and not levels[before]:
                self._least = after
        else:
            self._least = min(self._least, after)
            if before == self._most and not levels[before]:
                self._most = after

    def end_measuring(self, now: float) -> None:
        """End the measured time; does nothing the second time."""
        collector = self._collector
        if self._phase == len(collector.areas) - 1:
            return
        self._change_phase(now, len(collector.areas) - 1)
        width = now - (self._bin_end - collector.bin_width)
        if width > 0:
            collector.series.append(self._bin_area / width)
        collector.elapsed = sum(collector.sums[phase][3] for phase in collector.batches)

    def _change_phase(self, now: float, phase: int) -> None:
        self._integrate(now)
        for account in range(self._collector.accounts):
            self._settle(account, now)
        self._collector.sums[self._phase][3] += now - self._phase_start
        self._phase_start = now
        self._phase = phase

    def _settle(self, account: int, now: float) -> None:
        jobs_time = self.in_flight[account] * (now - self._since[account])
        self._collector.areas[self._phase][account] += jobs_time
        self._since[account] = now

    def _integrate(self, now: float) -> None:
        """Integrate the jobs in flight up to `now`, by time bin."""
        collector = self._collector
        if self._phase < len(collector.areas) - 1:
            total = sum(self.in_flight)
            while now >= self._bin_end:
                self._bin_area += total * (self._bin_end - self._now)
                collector.series.append(self._bin_area / collector.bin_width)
                self._bin_area = 0.0
                self._now = self._bin_end
                if len(collector.series) == BINS:
                    pairs = zip(collector.series[::2], collector.series[1::2], strict=True)
                    collector.series = [(one + other) / 2 for one, other in pairs]
                    collector.bin_width *= 2
                self._bin_end += collector.bin_width
            self._bin_area += total * (now - self._now)
        self._now = now
