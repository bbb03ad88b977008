"""When jobs come: renewal, on/off, by the hour of the day, or as recorded. Times are float seconds from 0.

Like the laws of durations, each draws in two ways, with NumPy by the block and without it one by one.
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
    """A law of arrivals."""

    @property
    def rate(self) -> float:
        """Jobs per second in the long run."""
        ...

    def times(self, streams: Streams) -> Iterator[float]:
        """Yield the moments of arrival, one by one."""
        ...

    def blocks(self, streams: Streams, size: int) -> "Iterator[Column]":
        """Yield the moments of arrival, `size` at a time; needs NumPy."""
        ...


class _Renewal:
    """Arrivals with independent gaps, all of one law."""

    @property
    def gap(self) -> Distribution:
        """The law of the gaps."""
        raise NotImplementedError

    def times(self, streams: Streams) -> Iterator[float]:
        """Yield the moments of arrival, one by one."""
        gap = self.gap.one(streams.plain("arrivals"))
        return itertools.accumulate(iter(gap, None))

    def blocks(self, streams: Streams, size: int) -> "Iterator[Column]":
        """Yield the moments of arrival, `size` at a time."""
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
    """Jobs come independently of each other, at a steady rate."""

    rate: float = attrs.field(validator=number(above=0))
    """Jobs per second."""

    @property
    def gap(self) -> Distribution:
        """The law of the gaps: exponential."""
        return Exponential(1 / self.rate)


@attrs.frozen
class Bursty(_Renewal):
    """Jobs come with independent gamma gaps: in bursts where `cv` is above 1, evenly where it is below."""

    rate: float = attrs.field(validator=number(above=0))
    """Jobs per second in the long run."""
    cv: float = attrs.field(validator=number(above=0, most=100))
    """Coefficient of variation of the gaps, standard deviation over mean; 1 is Poisson."""

    @property
    def gap(self) -> Distribution:
        """The law of the gaps: gamma."""
        return Gamma(1 / self.rate, self.cv)


@attrs.frozen
class Regular(_Renewal):
    """A job comes every 1/rate seconds, the first after one gap."""

    rate: float = attrs.field(validator=number(above=0))
    """Jobs per second."""

    @property
    def gap(self) -> Distribution:
        """The law of the gaps: constant."""
        return Constant(1 / self.rate)


class _Modulated:
    """Poisson arrivals whose rate changes from piece to piece of time.

    A Poisson process of rate 1 on the scale of expected arrivals becomes one of the wanted rate by the
    inverse of the expected number of arrivals up to a moment (Çinlar 1975).
    """

    def pieces(self, streams: Streams) -> Iterator[tuple[float, float]]:
        """Yield length in seconds and rate of each piece of time, without end."""
        raise NotImplementedError

    def times(self, streams: Streams) -> Iterator[float]:
        """Yield the moments of arrival, one by one."""
        pieces = self.pieces(streams)
        begin = done = 0.0
        length, rate = next(pieces)
        for point in Poisson(1.0).times(streams):
            while point >= done + length * rate:
                begin, done = begin + length, done + length * rate
                length, rate = next(pieces)
            yield begin + (point - done) / rate

    def blocks(self, streams: Streams, size: int) -> "Iterator[Column]":
        """Yield the moments of arrival, `size` at a time."""
        import numpy as np  # noqa: PLC0415 - an extra

        pieces = self.pieces(streams)
        begin, done = 0.0, 0.0  # where the next piece begins, in seconds and in expected arrivals
        begins, dones, rates = [0.0], [0.0], [1.0]
        for points in Poisson(1.0).blocks(streams, size):
            while done <= points[-1]:
                length, rate = next(pieces)
                begins.append(begin)
                dones.append(done)
                rates.append(rate)
                begin, done = begin + length, done + length * rate
            # From the right: a piece of rate 0 begins where the next one does, and no arrival falls into it.
            place = np.searchsorted(dones, points, side="right") - 1
            times: Column = (
                np.array(begins)[place] + (points - np.array(dones)[place]) / np.array(rates)[place]
            )
            yield times
            begins, dones, rates = begins[-1:], dones[-1:], rates[-1:]


@attrs.frozen
class OnOff(_Modulated):
    """Busy and quiet spells take turns, both of exponential length: a Markov-modulated Poisson process."""

    busy_rate: float = attrs.field(validator=number(above=0))
    """Jobs per second while busy."""
    busy: float = attrs.field(validator=number(above=0))
    """Mean length of a busy spell, in seconds."""
    quiet: float = attrs.field(validator=number(above=0))
    """Mean length of a quiet spell, in seconds."""
    quiet_rate: float = attrs.field(default=0.0, validator=number(least=0))
    """Jobs per second while quiet."""

    @property
    def rate(self) -> float:
        """Jobs per second in the long run."""
        expected = self.busy_rate * self.busy + self.quiet_rate * self.quiet
        return expected / (self.busy + self.quiet)

    def pieces(self, streams: Streams) -> Iterator[tuple[float, float]]:
        """Yield length in seconds and rate of each spell, without end."""
        rng = streams.plain("spells")
        # Which spell it begins in is drawn too, so that it is in its long-run state from the start.
        busy = rng.random() * (self.busy + self.quiet) < self.busy
        while True:
            yield (
                rng.expovariate(1 / (self.busy if busy else self.quiet)),
                (self.busy_rate if busy else self.quiet_rate),
            )
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
                f"hourly must have 24 numbers, not all 0; it has {len(self.hourly)}", field="hourly"
            )

    @property
    def rate(self) -> float:
        """Jobs per second over the whole day."""
        return sum(self.hourly) / DAY

    def pieces(self, streams: Streams) -> Iterator[tuple[float, float]]:
        """Yield length in seconds and rate of each hour, without end."""
        del streams
        return ((HOUR, jobs / HOUR) for jobs in itertools.cycle(self.hourly))


def _moments(values: Iterable[float]) -> "array[float]":
    return seconds(values, "arrivals")


@attrs.frozen
class Trace:
    """Jobs come when a log says they came."""

    arrivals: "array[float]" = attrs.field(converter=_moments, repr=length, hash=False)
    """The moments of arrival in seconds, never going back."""
    time_scale: float = attrs.field(default=1.0, validator=number(above=0))
    """Multiplies the moments of arrival and leaves durations alone: at 0.1 jobs come 10 times as fast."""

    def __attrs_post_init__(self) -> None:
        ordered = all(map(operator.le, self.arrivals, itertools.islice(self.arrivals, 1, None)))
        if not ordered:
            gaps = enumerate(itertools.pairwise(self.arrivals), 2)
            place = next(place for place, (one, other) in gaps if other < one)
            raise InvalidArgument(
                f"arrivals must not go back; number {place} does. Sort them", field="arrivals"
            )
        if not math.isfinite(self.arrivals[-1] * self.time_scale):
            raise InvalidArgument(
                f"time_scale {self.time_scale:g} puts the last arrival beyond all time", field="time_scale"
            )

    def __len__(self) -> int:
        """Return the number of jobs."""
        return len(self.arrivals)

    @property
    def rate(self) -> float:
        """Jobs per second from the first arrival to the last; infinite where all come at once."""
        span = (self.arrivals[-1] - self.arrivals[0]) * self.time_scale
        return (len(self.arrivals) - 1 or 1) / span if span else math.inf

    @property
    def start(self) -> float:
        """When the first job comes, in seconds."""
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
        # Only windows in which a job comes: in a log of years memory has no room for the others.
        # Each takes in its end and not its beginning, so that the first job of all is in none.
        places = (math.ceil((moment * self.time_scale - first) / window) for moment in self.arrivals)
        counts = Counter(place for place in places if 0 < place <= windows)
        mean = counts.total() / windows
        squares = math.fsum((count - mean) ** 2 for count in counts.values())
        squares += (windows - len(counts)) * mean**2
        return squares / (windows - 1) / mean if mean else 1.0

    def times(self, streams: Streams) -> Iterator[float]:
        """Yield the moments of arrival, one by one."""
        del streams
        return (moment * self.time_scale for moment in self.arrivals)

    def blocks(self, streams: Streams, size: int) -> "Iterator[Column]":
        """Yield the moments of arrival, `size` at a time."""
        import numpy as np  # noqa: PLC0415 - an extra

        del streams
        column: np.ndarray[tuple[int], np.dtype[np.float64]] = np.frombuffer(self.arrivals)
        for first in range(0, len(column), size):
            yield column[first : first + size] * self.time_scale
