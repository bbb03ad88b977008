"""When jobs arrive: renewal, on/off, by the hour of the day, or as recorded. Times are float seconds from 0.

Like the distributions of durations, each draws in two ways: with NumPy by the block, without it one by one.
"""

import itertools
import math
import operator
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import attrs

from pika_balancer._util.validators import length, number, seconds
from pika_balancer.distributions import Constant, Distribution, Exponential, Gamma
from pika_balancer.errors import InvalidArgument
from pika_balancer.simulate.streams import Streams

if TYPE_CHECKING:
    from pika_balancer.distributions import Column

HOUR = 3600.0
DAY = 24 * HOUR


@runtime_checkable
class Arrivals(Protocol):
    """When jobs arrive; any class with these members will do."""

    @property
    def rate(self) -> float:
        """Jobs per second in the long run."""
        ...

    def times(self, streams: Streams, /) -> Iterator[float]:
        """Yield the moments of arrival, one by one."""
        ...

    def blocks(self, streams: Streams, size: int, /) -> "Iterator[Column]":
        """Yield the moments of arrival, `size` at a time; needs NumPy."""
        ...


@attrs.frozen
class _Renewal:
    """Arrivals with independent gaps of one distribution."""

    rate: float = attrs.field(validator=number(above=0))
    """Jobs per second in the long run."""

    @property
    def gap(self) -> Distribution:
        raise NotImplementedError

    def times(self, streams: Streams, /) -> Iterator[float]:
        gap = self.gap.one(streams.plain("arrivals"))
        return itertools.accumulate(iter(gap, None))

    def blocks(self, streams: Streams, size: int, /) -> "Iterator[Column]":
        generator = streams.vector("arrivals")
        last = 0.0
        while True:
            times = self.gap.block(generator, 0, size)
            times[0] += last
            times.cumsum(out=times)
            last = float(times[-1])
            yield times


@attrs.frozen
class Poisson(_Renewal):
    """Jobs arrive independently of each other, at a steady rate."""

    @property
    def gap(self) -> Distribution:
        return Exponential(1 / self.rate)


@attrs.frozen
class Bursty(_Renewal):
    """Jobs arrive with independent gamma gaps: in bursts where `cv` is above 1, evenly where it is below."""

    cv: float = attrs.field(validator=number(above=0, most=100))
    """Coefficient of variation of the gaps, standard deviation over mean; 1 is Poisson."""

    @property
    def gap(self) -> Distribution:
        return Gamma(1 / self.rate, self.cv)


@attrs.frozen
class Regular(_Renewal):
    """A job arrives every 1/rate seconds, the first after one gap."""

    @property
    def gap(self) -> Distribution:
        return Constant(1 / self.rate)


class _Modulated:
    """Poisson arrivals whose rate changes from period to period.

    A Poisson process of rate 1 on the scale of expected arrivals becomes one of the wanted rate by the
    inverse of the expected number of arrivals up to a moment (Çinlar 1975).
    """

    def periods(self, streams: Streams, /) -> Iterator[tuple[float, float]]:
        """Yield length in seconds and rate of each period, without end."""
        raise NotImplementedError

    def times(self, streams: Streams, /) -> Iterator[float]:
        periods = self.periods(streams)
        begin = done = 0.0
        length, rate = next(periods)
        for point in Poisson(1.0).times(streams):
            while point >= done + length * rate:
                begin, done = begin + length, done + length * rate
                length, rate = next(periods)
            yield begin + (point - done) / rate

    def blocks(self, streams: Streams, size: int, /) -> "Iterator[Column]":
        import numpy as np  # noqa: PLC0415 - an extra

        periods = self.periods(streams)
        begin, done = 0.0, 0.0  # where the next period begins, in seconds and in expected arrivals
        begun = [(0.0, 0.0, 1.0)]
        for points in Poisson(1.0).blocks(streams, size):
            while done <= points[-1]:
                length, rate = next(periods)
                begun.append((begin, done, rate))
                begin, done = begin + length, done + length * rate
            begins, dones, rates = np.array(begun).T
            # From the right: a period of rate 0 begins where the next one does, and no arrival falls into it.
            place = np.searchsorted(dones, points, side="right") - 1
            yield begins[place] + (points - dones[place]) / rates[place]
            begun = begun[-1:]


@attrs.frozen
class OnOff(_Modulated):
    """Busy and quiet periods alternate, both of exponential length: a Markov-modulated Poisson process."""

    busy_rate: float = attrs.field(validator=number(above=0))
    """Jobs per second while busy."""
    busy: float = attrs.field(validator=number(above=0))
    """Mean length of a busy period, in seconds."""
    quiet: float = attrs.field(validator=number(above=0))
    """Mean length of a quiet period, in seconds."""
    quiet_rate: float = attrs.field(default=0.0, validator=number(least=0))
    """Jobs per second while quiet."""

    @property
    def rate(self) -> float:
        expected = self.busy_rate * self.busy + self.quiet_rate * self.quiet
        return expected / (self.busy + self.quiet)

    def periods(self, streams: Streams, /) -> Iterator[tuple[float, float]]:
        rng = streams.plain("spells")
        # Which period comes first is drawn, too: so the rate has its long-run distribution from the start.
        busy = rng.random() * (self.busy + self.quiet) < self.busy
        while True:
            mean, rate = (self.busy, self.busy_rate) if busy else (self.quiet, self.quiet_rate)
            yield rng.expovariate(1 / mean), rate
            busy = not busy


def _hours(values: Iterable[float]) -> tuple[float, ...]:
    return tuple(seconds(values, "hourly"))


@attrs.frozen
class Daily(_Modulated):
    """The rate depends on the hour of the day; the simulation begins at midnight."""

    hourly: tuple[float, ...] = attrs.field(converter=_hours)
    """Jobs expected in each of the 24 hours of the day."""

    def __attrs_post_init__(self) -> None:
        if len(self.hourly) != 24 or not sum(self.hourly):  # noqa: PLR2004 - the hours of a day
            raise InvalidArgument(
                "hourly must have 24 numbers, the jobs in each hour from midnight on, not all 0; it has "
                f"{len(self.hourly)}",
                field="hourly",
            )

    @property
    def rate(self) -> float:
        return sum(self.hourly) / DAY

    def periods(self, _streams: Streams, /) -> Iterator[tuple[float, float]]:
        return ((HOUR, jobs / HOUR) for jobs in itertools.cycle(self.hourly))


def _moments(values: Iterable[float]) -> "array[float]":
    return seconds(values, "arrivals")


@attrs.frozen
class Trace:
    """Jobs arrive at recorded moments."""

    arrivals: "array[float]" = attrs.field(converter=_moments, repr=length, hash=False)
    """The moments of arrival in seconds, in ascending order."""
    time_scale: float = attrs.field(default=1.0, validator=number(above=0))
    """Multiplies the moments of arrival, not the durations: at 0.1 jobs arrive 10 times as fast."""

    def __attrs_post_init__(self) -> None:
        descents = map(operator.gt, self.arrivals, itertools.islice(self.arrivals, 1, None))
        place = next((place for place, descends in enumerate(descents, 2) if descends), None)
        if place is not None:
            raise InvalidArgument(
                f"arrivals must ascend, and number {place} is before the one ahead of it: sort them",
                field="arrivals",
            )
        if not math.isfinite(self.arrivals[-1] * self.time_scale):
            raise InvalidArgument(
                f"time_scale {self.time_scale:g} is too large: the last arrival would be infinite",
                field="time_scale",
            )

    def __len__(self) -> int:
        return len(self.arrivals)

    @property
    def rate(self) -> float:
        """Jobs per second from the first arrival to the last; infinite if all arrive at once."""
        span = (self.arrivals[-1] - self.arrivals[0]) * self.time_scale
        return (len(self.arrivals) - 1 or 1) / span if span else math.inf

    @property
    def start(self) -> float:
        """When the first job arrives, in seconds."""
        return self.arrivals[0] * self.time_scale

    def dispersion(self, window: float) -> float:
        """Return variance over mean of the arrivals per `window` seconds: about 1 if Poisson, more in bursts.

        Raises:
            InvalidArgument: The trace is shorter than two windows.
        """
        first, last = self.start, self.arrivals[-1] * self.time_scale
        windows = int((last - first) / window) if window > 0 else 0
        if windows < 2:  # noqa: PLR2004 - a variance needs two
            raise InvalidArgument(
                "window must be at most half as long as the trace, in seconds", field="window"
            )
        # Only windows with a job are stored: in a log of years the others would fill the memory.
        # Each contains its end and not its beginning, so that the first job of all is in none.
        places = (math.ceil((moment * self.time_scale - first) / window) for moment in self.arrivals)
        counts = Counter(place for place in places if 0 < place <= windows)
        mean = counts.total() / windows
        squares = math.fsum((count - mean) ** 2 for count in counts.values())
        squares += (windows - len(counts)) * mean**2
        return squares / (windows - 1) / mean if mean else 1.0

    def times(self, _streams: Streams, /) -> Iterator[float]:
        return (moment * self.time_scale for moment in self.arrivals)

    def blocks(self, _streams: Streams, size: int, /) -> "Iterator[Column]":
        import numpy as np  # noqa: PLC0415 - an extra

        column: np.ndarray[tuple[int], np.dtype[np.float64]] = np.frombuffer(self.arrivals)
        for first in range(0, len(column), size):
            yield column[first : first + size] * self.time_scale
