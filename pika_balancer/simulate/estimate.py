"""From a collector to estimates, each with a 95 % confidence interval by the method of batch means.

A run after its warm-up is cut into up to 30 batches. An estimate is a ratio of sums over all of them (refused
per arrival, waiting per job, time in use per time); its interval comes from the scatter of the batches around
it (Law 2015, section 9.5.3, and section 4.4 for ratios), with Student's t for that number of batches.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import NormalDist
from typing import Final

import attrs

from pika_balancer.simulate.collector import Collector, class_bounds

_THINNED: Final = 0.96
"""The tail keeps a point if its share is below this part of the previous one's."""
LEVELS: Final = {"p50": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99}
"""The quantiles that are estimated."""
_UNSEEN: Final = -math.log(0.025)
"""An event not seen in n independent cases has a probability below this over n, at 97.5 %."""


@attrs.frozen
class Estimate:
    """An estimate and its 95 % confidence interval; an unknown value is NaN, which equals NaN here."""

    value: float = attrs.field(eq=repr)
    """The estimate; NaN if there was nothing to estimate it from."""
    low: float = attrs.field(default=math.nan, eq=repr)
    """Lower end; NaN if the run is too short for an interval."""
    high: float = attrs.field(default=math.nan, eq=repr)
    """Upper end; NaN if the run is too short for an interval."""

    def __float__(self) -> float:
        return self.value

    @property
    def half_width(self) -> float:
        """Half the width of the interval."""
        return (self.high - self.low) / 2

    def to_list(self) -> list[float | None]:
        """Return value, low and high as plain JSON: null where not finite."""
        return [finite(self.value), finite(self.low), finite(self.high)]


@attrs.frozen
class Durations:
    """The distribution of durations that a run has seen, in seconds."""

    mean: Estimate
    p50: Estimate
    """Median."""
    p90: Estimate
    p95: Estimate
    p99: Estimate
    max: float = attrs.field(eq=repr)
    """The longest one; NaN if there was none."""
    tail: tuple[tuple[float, float], ...] = attrs.field(default=(), repr=False)
    """Pairs of a duration, in seconds, and the share that lasted longer. Thinned out where neighbours hardly
    differ; ends with a share of 0."""


def finite(value: float) -> float | None:
    """Return the value, None if it is not finite."""
    return value if math.isfinite(value) else None


def student(freedom: int) -> float:
    """Return the 97.5 % quantile of Student's t, right to 0.1 % from 3 degrees of freedom on.

    The expansion of Cornish and Fisher around the normal law (Abramowitz and Stegun 1964, 26.7.5).
    """
    exact = {1: 12.7062, 2: 4.30265}
    if freedom in exact:
        return exact[freedom]
    x = NormalDist().inv_cdf(0.975)
    terms: tuple[float, ...] = (
        (x**3 + x) / 4,
        (5 * x**5 + 16 * x**3 + 3 * x) / 96,
        (3 * x**7 + 19 * x**5 + 17 * x**3 - 15 * x) / 384,
        (79 * x**9 + 776 * x**7 + 1482 * x**5 - 1920 * x**3 - 945 * x) / 92160,
    )
    return x + math.fsum(term / math.pow(freedom, power) for power, term in enumerate(terms, 1))


def ratio(
    above: Sequence[float], below: Sequence[float], *, most: float = math.inf, cases: bool = False
) -> Estimate:
    """Return the estimate of a ratio of sums from its batches.

    Args:
        above: Numerators by batch, at least 0.
        below: Denominators by batch, at least 0.
        most: The largest possible ratio.
        cases: Whether the numerators count cases among the denominators: then there is an interval even if
            none was seen.
    """
    total = math.fsum(below)
    if total <= 0:
        return Estimate(math.nan)
    value = math.fsum(above) / total
    batches = len(below)
    if batches < 2:  # noqa: PLR2004 - a scatter needs two
        return Estimate(value)
    if cases and value == 0:
        return Estimate(0.0, 0.0, min(most, _UNSEEN / total))
    scatter = math.fsum((a - value * b) ** 2 for a, b in zip(above, below, strict=True))
    half = student(batches - 1) * math.sqrt(scatter * batches / (batches - 1)) / total
    return Estimate(value, max(0.0, value - half), min(most, value + half))


def around(value: float, samples: Sequence[float]) -> Estimate:
    """Return a value with the interval of the mean of independent samples."""
    count = len(samples)
    if count < 2:  # noqa: PLR2004 - a scatter needs two
        return Estimate(value)
    mean = math.fsum(samples) / count
    scatter = math.fsum((one - mean) ** 2 for one in samples) / (count - 1)
    half = student(count - 1) * math.sqrt(scatter / count)
    return Estimate(value, max(0.0, value - half), value + half)


def wait_of(collector: Collector) -> Durations:
    """Return the waits, from arrival to start."""
    return _durations(collector, 0, collector.waits, collector.exact_waits, collector.longest_wait)


def time_in_system_of(collector: Collector) -> Durations:
    """Return the times in system, from arrival to end."""
    return _durations(collector, 1, collector.sojourns, collector.exact_sojourns, collector.longest_sojourn)


def _durations(
    collector: Collector,
    column: int,
    classes: Sequence[Mapping[int, int]],
    exact: Sequence[float],
    longest: float,
) -> Durations:
    started = collector.by_batch(collector.counts, 3)
    mean = ratio(collector.by_batch(collector.sums, column), started)
    if not sum(started):
        return Durations(mean, mean, mean, mean, mean, math.nan)
    batches = [classes[phase] for phase in collector.batches]
    pooled: Counter[int] = Counter()
    for counts in batches:
        pooled.update(counts)
    levels = tuple(LEVELS.values())
    values = from_classes(pooled, levels)
    if collector.exact and exact:
        ordered = sorted(exact)
        values = [_from_sorted(ordered, level) for level in levels]
    by_batch = zip(*(from_classes(counts, levels) for counts in batches if counts), strict=True)
    p50, p90, p95, p99 = map(around, values, by_batch)
    if not collector.batches.start:  # all of it was warm-up, which collects no longest
        longest = class_bounds(max(pooled))[1] if max(pooled) >= 0 else 0.0
    return Durations(mean, p50, p90, p95, p99, longest, _tail(pooled))


def _tail(classes: Mapping[int, int]) -> tuple[tuple[float, float], ...]:
    """Return pairs of a duration and the share that lasted longer, from counts by class."""
    total = left = sum(classes.values())
    points: list[tuple[float, float]] = []
    for place in sorted(classes):
        if not points and place >= 0:
            points.append((0.0, 1.0))
        left -= classes[place]
        share = left / total
        if not points or not left or share < _THINNED * points[-1][1]:
            points.append((class_bounds(place)[1] if place >= 0 else 0.0, share))
    return tuple(points)


def _from_sorted(values: Sequence[float], level: float) -> float:
    """Return the quantile, linear between neighbours, as NumPy's default."""
    place = level * (len(values) - 1)
    low = int(place)
    high = min(low + 1, len(values) - 1)
    return values[low] + (values[high] - values[low]) * (place - low)


def from_classes(classes: Mapping[int, int], levels: Sequence[float]) -> list[float]:
    """Return quantiles of rising levels from counts by class, linear within a class; class -1 is 0 itself."""
    total = sum(classes.values())
    found: list[float] = []
    places = iter(sorted(classes))
    before = seen = 0
    place = -1
    for level in levels:
        wanted = level * total
        while seen < wanted:
            place = next(places)
            before, seen = seen, seen + classes[place]
        low, high = class_bounds(place) if place >= 0 else (0.0, 0.0)
        found.append(low + (high - low) * (wanted - before) / (seen - before))
    return found
