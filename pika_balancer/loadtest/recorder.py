"""What is measured of each job, and what it adds up to. Moments are readings of one clock, in seconds."""

from collections import Counter
from statistics import fmean
from typing import Final

import attrs

from pika_balancer.loadtest.latency import Latencies

COMPLETED: Final = "completed"
"""The outcome of a job that went well."""

BINS: Final = 30
"""Into how many parts the time of the load is cut, to see how latencies change."""

_COARSE: Final = 2


@attrs.frozen(kw_only=True)
class TimePoint:
    """A part of the time of the load."""

    at_s: float
    """Its middle, in seconds from the beginning."""
    jobs: int
    """Measured jobs that were meant to start in it."""
    p50_s: float | None
    """The median of their times to the end; None where there are none."""
    p99_s: float | None
    """The 99th percentile of these."""
    in_flight: float | None
    """Jobs with a slot, on average; None where nobody looked."""
    waiting: float | None
    """Jobs without one, on average."""


class JobTiming:
    """One job under measurement, from the moment at which it was meant to start.

    Args:
        tally: Counts it.
        intended: When it was meant to start. All its durations are measured from here: measured from when it
            did start, the wait that a slow server imposes on those behind would count nowhere
            (coordinated omission).
        now: When it starts.
    """

    __slots__ = ("_accepted", "_channel", "_intended", "_measured", "_tally")

    def __init__(self, tally: "Recorder", intended: float, now: float) -> None:
        self._tally = tally
        self._intended = intended
        self._measured = intended - tally.begun >= tally.warm_up
        self._accepted = False
        self._channel: str | None = None
        tally.jobs += 1
        tally.waiting += 1
        tally.offered += self._measured
        if self._measured:
            tally.lag.record(now - intended)

    def sent(self, channel: str) -> None:
        """Take note that it has a slot of that channel, and is on its way to the service."""
        self.back()
        self._channel = channel
        tally = self._tally
        tally.waiting -= 1
        tally.running += 1
        tally.on[channel] += 1
        tally.sent[channel] += 1
        tally.peaks[channel] = max(tally.peaks[channel], tally.on[channel])
        tally.peak = max(tally.peak, tally.running)

    def back(self) -> None:
        """Take note that the service would not have it, and it is in line again."""
        if self._channel is not None:
            self._tally.on[self._channel] -= 1
            self._tally.running -= 1
            self._tally.waiting += 1
            self._channel = None

    def accepted(self, now: float) -> None:
        """Take note that the service has it."""
        self._accepted = True
        if self._measured:
            self._tally.accepted.record(now - self._intended)

    def ended(self, now: float, status: str) -> None:
        """Take note of its end, `completed` or other."""
        tally = self._tally
        taken = now - self._intended
        self._over()
        tally.statuses[status] += 1
        if status == COMPLETED:
            tally.recent = taken
            tally.completed += tally.window_from <= now <= tally.window_to
        if self._measured:
            tally.ended.record(taken)
            tally.over_time(self._intended).record(taken)

    def failed(self, error: str) -> None:
        """Take note that it was given up with an error of that class; it counts in no latency."""
        self._over()
        self._tally.failures[error] += 1

    def cut(self, now: float) -> None:
        """Take note that it is followed no more; its time so far counts, as the least that it took.

        To leave it out would make a server look quick that does not answer at all.
        """
        tally = self._tally
        self._over()
        tally.unfinished += 1
        if self._measured:
            if not self._accepted:
                tally.accepted.record(now - self._intended)
            tally.ended.record(now - self._intended)
            tally.over_time(self._intended).record(now - self._intended)

    def _over(self) -> None:
        self.back()
        self._tally.waiting -= 1


class Recorder:
    """What one stretch of load came to. Several of the same length add up to one.

    Args:
        seconds: For how long jobs are offered, at most.
        warm_up: Seconds from the beginning within which jobs are not measured, but counted.
    """

    def __init__(self, *, seconds: float, warm_up: float = 0.0) -> None:
        self.seconds = seconds
        self.warm_up = warm_up
        self.begin(0.0)
        self.window = 0.0
        self._closed = False
        self.lag = Latencies()
        self.accepted = Latencies()
        self.ended = Latencies()
        self.bins: dict[int, Latencies] = {}
        self.looks: list[tuple[float, int, int]] = []
        self.jobs = 0
        self.offered = 0
        self.completed = 0
        self.unfinished = 0
        self.statuses: Counter[str] = Counter()
        self.failures: Counter[str] = Counter()
        self.answers: Counter[str] = Counter()
        self.refused = 0
        self.waiting = 0
        self.running = 0
        self.peak = 0
        self.on: Counter[str] = Counter()
        self.sent: Counter[str] = Counter()
        self.peaks: Counter[str] = Counter()
        self.recent: float | None = None

    window: float
    """Seconds in which jobs were measured and offered; 0 while it goes on."""
    lag: Latencies
    """How late measured jobs were started: what the load itself adds, or a machine that is too busy."""
    accepted: Latencies
    """From the intended start to the service's acceptance: the wait in line and the submit."""
    ended: Latencies
    """From the intended start to the end."""
    bins: dict[int, Latencies]
    """The same, by the part of the time into which the intended start falls."""
    looks: list[tuple[float, int, int]]
    """Seconds from the beginning, jobs with a slot, jobs without one."""
    jobs: int
    """Jobs started, those of the warm-up among them; so in all counts but the next two."""
    offered: int
    """Jobs meant to start within the window."""
    completed: int
    """Jobs that ended well within the window, whenever they were started."""
    unfinished: int
    """Jobs that were followed no more. With any, quantiles are lower bounds."""
    statuses: Counter[str]
    """Jobs that ended, by status."""
    failures: Counter[str]
    """Jobs that were given up, by the class of the error."""
    answers: Counter[str]
    """Submits that were not answered with a job, by the class of the error, whether sent again or not."""
    refused: int
    """Submits answered with 429."""
    waiting: int
    """Jobs without a slot, now."""
    running: int
    """Jobs with one, now."""
    peak: int
    """Most jobs with a slot at once."""
    on: Counter[str]
    """Jobs with a slot now, by channel, as seen from here."""
    sent: Counter[str]
    """Submits sent, by channel."""
    peaks: Counter[str]
    """Most jobs with a slot at once, by channel, as seen from here."""
    recent: float | None
    """The duration of the job that completed last."""

    @property
    def under_way(self) -> int:
        """Jobs that have started and not ended."""
        return self.waiting + self.running

    @property
    def failed(self) -> int:
        """Jobs that were given up."""
        return self.failures.total()

    def begin(self, now: float) -> None:
        """Begin now, before anything is measured."""
        self.begun = now
        self.window_from = now + self.warm_up
        self.window_to = now + self.seconds

    def start(self, intended: float, now: float) -> JobTiming:
        """Begin to measure a job."""
        return JobTiming(self, intended, now)

    def answered(self, error: str, status: int | None) -> None:
        """Count a submit that was answered with an error of that class and HTTP status."""
        self.answers[error] += 1
        self.refused += status == 429  # noqa: PLR2004 - the status of refusals

    def look(self, now: float) -> None:
        """Note how many jobs are under way now."""
        self.looks.append((now - self.begun, self.running, self.waiting))

    def close(self, now: float) -> None:
        """Note that no job is offered from now on, which ends the window; a second time does nothing."""
        if not self._closed:
            self._closed = True
            self.window_to = now
            self.window = max(0.0, now - self.window_from)

    def over_time(self, intended: float) -> Latencies:
        """Return the latencies of the jobs that were meant to start in the same part of the time."""
        place = min(BINS - 1, int(BINS * (intended - self.begun) / self.seconds))
        if place not in self.bins:
            self.bins[place] = Latencies(_COARSE)
        return self.bins[place]

    def series(self) -> list["TimePoint"]:
        """Return how latencies and jobs under way changed over the time of the load, in order."""
        looks: dict[int, list[tuple[int, int]]] = {}
        for at, running, waiting in self.looks:
            looks.setdefault(int(BINS * at / self.seconds), []).append((running, waiting))
        points: list[TimePoint] = []
        # The time after the load only as long as the load: what is of interest is over by then.
        for place in sorted(place for place in self.bins.keys() | looks.keys() if place < 2 * BINS):
            latencies, seen = self.bins.get(place), looks.get(place)
            points.append(
                TimePoint(
                    at_s=(place + 0.5) * self.seconds / BINS,
                    jobs=latencies.count if latencies else 0,
                    p50_s=latencies.quantile(0.5) if latencies else None,
                    p99_s=latencies.quantile(0.99) if latencies else None,
                    in_flight=fmean(look[0] for look in seen) if seen else None,
                    waiting=fmean(look[1] for look in seen) if seen else None,
                )
            )
        return points

    def add(self, other: "Recorder") -> None:
        """Add another stretch, as if both had run at the same time of day; both must be over."""
        for mine, its in ((self.lag, other.lag), (self.accepted, other.accepted), (self.ended, other.ended)):
            mine.add(its)
        for place, latencies in other.bins.items():
            self.bins.setdefault(place, Latencies(_COARSE)).add(latencies)
        self.looks += other.looks
        for name in ("window", "jobs", "offered", "completed", "unfinished", "refused"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for name in ("statuses", "failures", "answers", "sent"):
            getattr(self, name).update(getattr(other, name))
        self.peak = max(self.peak, other.peak)
        self.peaks |= other.peaks
