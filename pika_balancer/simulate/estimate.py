"""From a tally to estimates, each with a 95 % confidence interval by the method of batch means.

A run after its warm-up is cut into up to 30 batches. An estimate is a ratio of sums over all of them (refused
per arrival, waiting per job, time in use per time); its interval comes from how the batches scatter around it
(Law 2015, section 9.5.3, and section 4.4 for ratios), with Student's t for so many batches.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import NormalDist
from typing import Final

import attrs

from pika_balancer.simulate.collector import Collector, class_bounds

_THINNED: Final = 0.96
"""Points of a law are kept where its share is below this part of the last one's."""
LEVELS: Final = {"p50": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99}
"""The quantiles that are estimated."""

_UNSEEN: Final = -math.log(0.025)
"""What did not happen in n independent cases is below this over n, at 97.5 %."""


@attrs.frozen
class Estimate:
    """An estimate and its 95 % confidence interval; NaN, which is unknown, equals NaN here."""

    value: float = attrs.field(eq=repr)
    """The estimate; NaN where nothing was seen that it could come from."""
    low: float = attrs.field(default=math.nan, eq=repr)
    """Lower end; NaN where the run is too short to tell."""
    high: float = attrs.field(default=math.nan, eq=repr)
    """Upper end; NaN where the run is too short to tell."""

    def __float__(self) -> float:
        return self.value

    @property
    def half_width(self) -> float:
        """Half the width of the interval."""
        return (self.high - self.low) / 2


@attrs.frozen
class Durations:
    """A law of durations as it was seen, in seconds."""

    mean: Estimate
    p50: Estimate
    """Median."""
    p90: Estimate
    p95: Estimate
    p99: Estimate
    max: float = attrs.field(eq=repr)
    """The longest one seen; NaN if there was none."""
    tail: tuple[tuple[float, float], ...] = attrs.field(default=(), repr=False)
    """The whole law: from each of these durations on, in seconds, which share lasted longer. Thinned out
    where neighbours hardly differ; ends with a share of 0."""


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
        most: What the ratio cannot exceed.
        cases: Whether numerators count how many of the denominators' cases were so: none seen is then not
            taken for proof that there are none.
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


def durations(
    tally: Collector, classes: Sequence[Mapping[int, int]], column: int, exact: Sequence[float]
) -> Durations:
    """Return what is known of the waits (column 0 of the sums) or the times in system (column 1)."""
    started = [float(tally.counts[row][3]) for row in tally.batches]
    mean = ratio([tally.sums[row][column] for row in tally.batches], started)
    if not sum(started):
        nothing = Estimate(math.nan)
        return Durations(nothing, nothing, nothing, nothing, nothing, math.nan)
    pooled: Counter[int] = Counter()
    for row in tally.batches:
        pooled.update(classes[row])
    levels = tuple(LEVELS.values())
    if tally.exact and exact:
        ordered = sorted(exact)
        values = [_from_sorted(ordered, level) for level in levels]
    else:
        values = from_classes(pooled, levels)
    by_batch = [from_classes(classes[row], levels) for row in tally.batches if classes[row]]
    found = [
        _around(value, batches) for value, batches in zip(values, zip(*by_batch, strict=True), strict=True)
    ]
    longest = tally.longest_stay if column else tally.longest_wait
    if not tally.batches.start:  # nothing but the warm-up, of which no more is known
        longest = class_bounds(max(pooled))[1] if max(pooled) >= 0 else 0.0
    p50, p90, p95, p99 = found
    return Durations(mean, p50, p90, p95, p99, longest, _tail(pooled))


def _around(value: float, batches: Sequence[float]) -> Estimate:
    """Return the estimate with an interval from the same estimate by batch."""
    count = len(batches)
    if count < 2:  # noqa: PLR2004 - a scatter needs two
        return Estimate(value)
    mean = math.fsum(batches) / count
    scatter = math.fsum((one - mean) ** 2 for one in batches) / (count - 1)
    half = student(count - 1) * math.sqrt(scatter / count)
    return Estimate(value, max(0.0, value - half), value + half)


def _tail(classes: Mapping[int, int]) -> tuple[tuple[float, float], ...]:
    """Return from which duration on which share lasted longer, from counts by class."""
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
    """Return the quantile, linear between neighbours, as NumPy has it by default."""
    place = level * (len(values) - 1)
    low = int(place)
    high = min(low + 1, len(values) - 1)
    return values[low] + (values[high] - values[low]) * (place - low)


def from_classes(classes: Mapping[int, int], levels: Sequence[float]) -> list[float]:
    """Return quantiles of rising levels from counts by class, linear within a class; -1 is zero itself."""
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
