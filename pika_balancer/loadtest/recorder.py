"""Measures jobs and adds up the measurements. Moments are readings of one clock, in seconds."""

from collections import Counter, defaultdict
from statistics import fmean
from typing import Final

import attrs

from pika_balancer.loadtest.latency import Latencies

COMPLETED: Final = "completed"
"""The status of a job that succeeded."""

BINS: Final = 30
"""Number of intervals of the load for which `series` shows latencies."""

_COARSE: Final = 2


@attrs.frozen(kw_only=True)
class TimePoint:
    """Figures of one interval of the load; None where there are none."""

    at_s: float
    """Its middle, in seconds from the beginning."""
    jobs: int
    """Measured jobs with their intended start in it."""
    p50_s: float | None
    """The median of their times to the end."""
    p99_s: float | None
    """The 99th percentile of these."""
    in_flight: float | None
    """Jobs with a slot, on average."""
    waiting: float | None
    """Jobs without one, on average."""


@attrs.define(eq=False)
class JobTiming:
    """One job under measurement; `Recorder` changes it."""

    intended: float
    """When it was to start. All durations are measured from here: from the actual start, the delay that a
    slow server causes for later jobs would count nowhere (coordinated omission)."""
    measured: bool
    """Whether it counts in the latencies, as it was to start after the warm-up."""
    accepted: bool = False
    channel: str | None = None
    """The channel on which it has a slot."""


@attrs.define(kw_only=True, eq=False)
class Recorder:
    """The measurements of one turn of load. Several of the same length can be added up."""

    seconds: float
    """Longest time for which jobs are started."""
    warm_up: float = 0.0
    """Seconds from the beginning in which jobs are counted, but not measured."""
    begun: float = attrs.field(default=0, init=False)
    """The beginning of the load."""
    window: float = attrs.field(default=0, init=False)
    """Seconds in which jobs were started and measured; 0 before `close`."""
    lag: Latencies = attrs.field(factory=Latencies, init=False)
    """How late measured jobs were started, because this process or machine was busy."""
    accepted: Latencies = attrs.field(factory=Latencies, init=False)
    """From the intended start to the acceptance by the service."""
    ended: Latencies = attrs.field(factory=Latencies, init=False)
    """From the intended start to the end."""
    bins: defaultdict[int, Latencies] = attrs.field(
        factory=lambda: defaultdict(lambda: Latencies(_COARSE)), init=False
    )
    """The same, by the interval of the load with the intended start."""
    samples: list[tuple[float, int, int]] = attrs.field(factory=list[tuple[float, int, int]], init=False)
    """Seconds from the beginning, jobs with a slot, jobs without one."""
    jobs: int = attrs.field(default=0, init=False)
    """Jobs started, including the warm-up, as in all counts but the next two."""
    offered: int = attrs.field(default=0, init=False)
    """Jobs with their intended start in the window."""
    completed: int = attrs.field(default=0, init=False)
    """Jobs that completed within the window, whenever they started."""
    unfinished: int = attrs.field(default=0, init=False)
    """Jobs that had not ended when the load was over. With any, quantiles are lower bounds."""
    statuses: Counter[str] = attrs.field(factory=Counter[str], init=False)
    """Jobs that ended, by status."""
    failures: Counter[str] = attrs.field(factory=Counter[str], init=False)
    """Jobs that failed without a status, by the class of the error."""
    submit_errors: Counter[str] = attrs.field(factory=Counter[str], init=False)
    """Submits that were not answered with a job, by the class of the error, whether retried or not."""
    refused: int = attrs.field(default=0, init=False)
    """Submits answered with 429."""
    waiting: int = attrs.field(default=0, init=False)
    """Jobs without a slot, now."""
    in_flight: int = attrs.field(default=0, init=False)
    """Jobs with a slot, now."""
    peak: int = attrs.field(default=0, init=False)
    """Most jobs with a slot at once."""
    on_channel: Counter[str] = attrs.field(factory=Counter[str], init=False)
    """Jobs with a slot now, by channel, as counted by the client."""
    sent_to: Counter[str] = attrs.field(factory=Counter[str], init=False)
    """Submits sent, by channel."""
    peaks: Counter[str] = attrs.field(factory=Counter[str], init=False)
    """Most jobs with a slot at once, by channel, as counted by the client."""
    last: float | None = attrs.field(default=None, init=False)
    """The duration of the job that completed last."""
    _closed: float | None = attrs.field(default=None, init=False)

    @property
    def _window_ends(self) -> float:
        return self.begun + self.seconds if self._closed is None else self._closed

    def begin(self, now: float) -> None:
        """Set the beginning of the load; call it before anything is measured."""
        self.begun = now

    def close(self, now: float) -> None:
        """End the window: no more jobs are started. Later calls do nothing."""
        if self._closed is None:
            self._closed = now
            self.window = max(0.0, now - self.begun - self.warm_up)

    def start(self, intended: float, now: float) -> JobTiming:
        """Count and return a job that was to start at `intended` and starts now."""
        job = JobTiming(intended, measured=intended - self.begun >= self.warm_up)
        self.jobs += 1
        self.waiting += 1
        self.offered += job.measured
        if job.measured:
            self.lag.record(now - intended)
        return job

    def sent(self, job: JobTiming, channel: str) -> None:
        """Record that the job has a slot and its submit is being sent."""
        self.returned(job)
        job.channel = channel
        self.waiting -= 1
        self.in_flight += 1
        self.on_channel[channel] += 1
        self.sent_to[channel] += 1
        self.peaks[channel] = max(self.peaks[channel], self.on_channel[channel])
        self.peak = max(self.peak, self.in_flight)

    def returned(self, job: JobTiming) -> None:
        """Record that the submit was refused, and the job is waiting again."""
        if job.channel is not None:
            self.on_channel[job.channel] -= 1
            self.in_flight -= 1
            self.waiting += 1
            job.channel = None

    def job_accepted(self, job: JobTiming, now: float) -> None:
        job.accepted = True
        if job.measured:
            self.accepted.record(now - job.intended)

    def job_ended(self, job: JobTiming, now: float, status: str) -> None:
        self._over(job)
        self.statuses[status] += 1
        if status == COMPLETED:
            self.last = now - job.intended
            self.completed += self.begun + self.warm_up <= now <= self._window_ends
        self._record_end(job, now)

    def job_failed(self, job: JobTiming, error: str) -> None:
        """Count a job that failed with an error of that class; it is in no latency."""
        self._over(job)
        self.failures[error] += 1

    def job_cut(self, job: JobTiming, now: float) -> None:
        """Count a job that had not ended when the load was over, with its time so far as a lower bound.

        Without these a server that does not answer at all would look fast.
        """
        self._over(job)
        self.unfinished += 1
        if job.measured and not job.accepted:
            self.accepted.record(now - job.intended)
        self._record_end(job, now)

    def submit_failed(self, error: str, status: int | None) -> None:
        """Count a submit that was answered with an error of that class and HTTP status."""
        self.submit_errors[error] += 1
        self.refused += status == 429  # noqa: PLR2004 - the status of refusals

    def sample(self, now: float) -> None:
        """Record how many jobs have a slot or wait for one now."""
        self.samples.append((now - self.begun, self.in_flight, self.waiting))

    def per_second(self, count: int) -> float | None:
        """Return a count per second of the window; None without a window."""
        return count / self.window if self.window else None

    def series(self) -> list[TimePoint]:
        """Return latencies and jobs over the time of the load and as long again, in order."""
        samples: defaultdict[int, list[tuple[int, int]]] = defaultdict(list)
        for at, in_flight, waiting in self.samples:
            samples[int(BINS * at / self.seconds)].append((in_flight, waiting))
        points: list[TimePoint] = []
        for place in sorted(place for place in self.bins.keys() | samples.keys() if place < 2 * BINS):
            latencies, seen = self.bins.get(place), samples.get(place)
            points.append(
                TimePoint(
                    at_s=(place + 0.5) * self.seconds / BINS,
                    jobs=latencies.count if latencies else 0,
                    p50_s=latencies.quantile(0.5) if latencies else None,
                    p99_s=latencies.quantile(0.99) if latencies else None,
                    in_flight=fmean(sample[0] for sample in seen) if seen else None,
                    waiting=fmean(sample[1] for sample in seen) if seen else None,
                )
            )
        return points

    def add(self, other: "Recorder") -> None:
        """Add the measurements of another turn as if both had begun at once; both must be over."""
        for mine, its in ((self.lag, other.lag), (self.accepted, other.accepted), (self.ended, other.ended)):
            mine.add(its)
        for place, latencies in other.bins.items():
            self.bins[place].add(latencies)
        self.samples += other.samples
        for name in ("window", "jobs", "offered", "completed", "unfinished", "refused"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for name in ("statuses", "failures", "submit_errors", "sent_to"):
            getattr(self, name).update(getattr(other, name))
        self.peak = max(self.peak, other.peak)
        self.peaks |= other.peaks

    def _record_end(self, job: JobTiming, now: float) -> None:
        if job.measured:
            place = min(BINS - 1, int(BINS * (job.intended - self.begun) / self.seconds))
            for latencies in (self.ended, self.bins[place]):
                latencies.record(now - job.intended)

    def _over(self, job: JobTiming) -> None:
        self.returned(job)
        self.waiting -= 1
