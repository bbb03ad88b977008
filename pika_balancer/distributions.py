"""Distributions of durations: how long a job runs, or how long it waits at most. Durations are float seconds.

Each distribution knows its mean and variance, and draws in two ways: an array at a time with NumPy, one at a
time without. The two give different numbers for the same seed, with the same distribution. As texts:

    fixed:10s   exp:30s   uniform:10s,60s   lognormal:mean=180s,cv=0.7   gamma:…   weibull:mean=180s,shape=0.8
"""

import math
import random
from array import array
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Final, Protocol, cast, runtime_checkable

import attrs

from pika_balancer._util.grammar import DURATION, NUMBER, Field, Kind, format_kind, parse_kind
from pika_balancer._util.validators import length, number, seconds
from pika_balancer.errors import InvalidArgument

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Column = npt.NDArray[np.float64]


@runtime_checkable
class Distribution(Protocol):
    """A distribution of durations; any class with these members will do."""

    @property
    def mean(self) -> float:
        """Mean, in seconds."""
        ...

    @property
    def variance(self) -> float:
        """Variance, in seconds squared."""
        ...

    def one(self, rng: random.Random, /) -> Callable[[], float]:
        """Return a function that draws one duration at a time."""
        ...

    def block(self, generator: "np.random.Generator", first: int, count: int, /) -> "Column":
        """Return the durations of `count` jobs, the first of them being job number `first`."""
        ...


@attrs.frozen
class Exponential:
    """Exponential durations."""

    mean: float = attrs.field(validator=number(above=0))
    """Mean, in seconds."""

    @property
    def variance(self) -> float:
        return self.mean**2

    def one(self, rng: random.Random, /) -> Callable[[], float]:
        rate = 1 / self.mean
        return lambda: rng.expovariate(rate)

    def block(self, generator: "np.random.Generator", _first: int, count: int, /) -> "Column":
        return generator.exponential(self.mean, count)


@attrs.frozen
class Constant:
    """The same duration for every job."""

    mean: float = attrs.field(validator=number(least=0))
    """The duration, in seconds."""

    @property
    def variance(self) -> float:
        return 0.0

    def one(self, _rng: random.Random, /) -> Callable[[], float]:
        return lambda: float(self.mean)

    def block(self, _generator: "np.random.Generator", _first: int, count: int, /) -> "Column":
        import numpy as np  # noqa: PLC0415 - an extra

        return np.full(count, float(self.mean))


@attrs.frozen
class UniformDistribution:
    """Durations between two bounds, all equally likely."""

    low: float = attrs.field(validator=number(least=0))
    """The shortest, in seconds."""
    high: float = attrs.field(validator=number(least=0))
    """The longest, in seconds."""

    def __attrs_post_init__(self) -> None:
        if self.low > self.high:
            raise InvalidArgument(f"high must be at least low, {self.low:g} s", field="high")

    @property
    def mean(self) -> float:
        return (self.low + self.high) / 2

    @property
    def variance(self) -> float:
        return (self.high - self.low) ** 2 / 12

    def one(self, rng: random.Random, /) -> Callable[[], float]:
        return lambda: rng.uniform(self.low, self.high)

    def block(self, generator: "np.random.Generator", _first: int, count: int, /) -> "Column":
        return generator.uniform(self.low, self.high, count)


@attrs.frozen
class Lognormal:
    """Lognormal durations: most are short, a few are long."""

    mean: float = attrs.field(validator=number(above=0))
    """Mean, in seconds."""
    cv: float = attrs.field(validator=number(least=0))
    """Coefficient of variation: standard deviation over mean."""

    @property
    def variance(self) -> float:
        return (self.cv * self.mean) ** 2

    @property
    def _normal(self) -> tuple[float, float]:
        # Moments of the lognormal distribution: cv² = exp(σ²) − 1, mean = exp(μ + σ²/2).
        spread = math.log1p(self.cv * self.cv)
        return math.log(self.mean) - spread / 2, math.sqrt(spread)

    def one(self, rng: random.Random, /) -> Callable[[], float]:
        mu, sigma = self._normal
        return lambda: rng.lognormvariate(mu, sigma)

    def block(self, generator: "np.random.Generator", _first: int, count: int, /) -> "Column":
        return generator.lognormal(*self._normal, count)


@attrs.frozen
class Gamma:
    """Gamma durations: Erlang's distribution for cv² = 1/k, exponential for cv = 1."""

    mean: float = attrs.field(validator=number(above=0))
    """Mean, in seconds."""
    cv: float = attrs.field(validator=number(above=0))
    """Coefficient of variation: standard deviation over mean."""

    @property
    def variance(self) -> float:
        return (self.cv * self.mean) ** 2

    def one(self, rng: random.Random, /) -> Callable[[], float]:
        shape = self.cv**-2
        return lambda: rng.gammavariate(shape, self.mean / shape)

    def block(self, generator: "np.random.Generator", _first: int, count: int, /) -> "Column":
        shape = self.cv**-2
        return generator.gamma(shape, self.mean / shape, count)


@attrs.frozen
class Weibull:
    """Weibull durations: exponential for shape 1, with a heavier tail below, a lighter one above."""

    mean: float = attrs.field(validator=number(above=0))
    """Mean, in seconds."""
    shape: float = attrs.field(validator=number(least=0.1))
    """The shape k of 1 − exp(−(t/scale)ᵏ)."""

    @property
    def scale(self) -> float:
        """The scale, in seconds: mean / Γ(1 + 1/shape)."""
        return self.mean / math.gamma(1 + 1 / self.shape)

    @property
    def variance(self) -> float:
        return self.scale**2 * math.gamma(1 + 2 / self.shape) - self.mean**2

    def one(self, rng: random.Random, /) -> Callable[[], float]:
        scale = self.scale
        return lambda: rng.weibullvariate(scale, self.shape)

    def block(self, generator: "np.random.Generator", _first: int, count: int, /) -> "Column":
        column = generator.weibull(self.shape, count)
        column *= self.scale
        return column


def _column(values: Iterable[float]) -> "array[float]":
    return seconds(values, "values")


@attrs.frozen
class Empirical:
    """Durations drawn with replacement from recorded ones."""

    values: "array[float]" = attrs.field(converter=_column, repr=length, hash=False)
    """The recorded durations, in seconds."""

    @property
    def mean(self) -> float:
        return math.fsum(self.values) / len(self.values)

    @property
    def variance(self) -> float:
        mean = self.mean
        return math.fsum((value - mean) ** 2 for value in self.values) / len(self.values)

    def one(self, rng: random.Random, /) -> Callable[[], float]:
        return lambda: rng.choice(self.values)

    def block(self, generator: "np.random.Generator", _first: int, count: int, /) -> "Column":
        import numpy as np  # noqa: PLC0415 - an extra

        column: Column = np.frombuffer(self.values)[generator.integers(0, len(self.values), count)]
        return column


@attrs.frozen
class Recorded(Empirical):
    """The recorded durations in their order, one for each job of a trace."""

    def one(self, _rng: random.Random, /) -> Callable[[], float]:
        return iter(self.values).__next__

    def block(self, _generator: "np.random.Generator", first: int, count: int, /) -> "Column":
        import numpy as np  # noqa: PLC0415 - an extra

        return np.frombuffer(self.values)[first : first + count]


_CV: Final = (Field("mean", DURATION), Field("cv", NUMBER))
_PLACED_MEAN: Final = (Field("mean", DURATION, placed=True),)
_KINDS: Final = (
    Kind("fixed", Constant, _PLACED_MEAN, "fixed:10s", ("constant", "deterministic")),
    Kind("exp", Exponential, _PLACED_MEAN, "exp:30s", ("exponential",)),
    Kind(
        "uniform",
        UniformDistribution,
        (Field("low", DURATION, placed=True), Field("high", DURATION, placed=True)),
        "uniform:10s,60s",
    ),
    Kind("lognormal", Lognormal, _CV, "lognormal:mean=180s,cv=0.7"),
    Kind("gamma", Gamma, _CV, "gamma:mean=180s,cv=0.7"),
    Kind("weibull", Weibull, (_CV[0], Field("shape", NUMBER)), "weibull:mean=180s,shape=0.8"),
)
DISTRIBUTION_FORMS: Final = ", ".join(kind.example for kind in _KINDS)
"""One example of each distribution, for help texts."""


def parse_distribution(text: str, *, field: str = "service") -> Distribution:
    """Return the distribution of durations that the text describes.

    Raises:
        InvalidArgument: It describes none; names `field` and the nearest right form.
    """
    return cast("Distribution", parse_kind(text, _KINDS, "distribution", field))


def format_distribution(distribution: Distribution) -> str:
    """Return the text that `parse_distribution` reads as the same distribution.

    Raises:
        InvalidArgument: There is none, as for recorded durations.
    """
    return format_kind(distribution, _KINDS)
