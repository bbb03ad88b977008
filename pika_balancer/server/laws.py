"""Service-time laws: how long a job runs, as a text such as `exp:30s` and as something to draw from."""

import math
import random
import re
from collections.abc import Callable
from typing import Final

import attrs

from pika_balancer.server.errors import ConfigError

_UNITS: Final = {"": 1.0, "ms": 0.001, "s": 1.0, "min": 60.0, "h": 3600.0}
_DURATION: Final = re.compile(r"([0-9]+(?:\.[0-9]+)?|\.[0-9]+)(ms|s|min|h)?")

LAW_FORMS: Final = "fixed:10s, exp:30s, uniform:10s,60s or lognormal:mean=180s,cv=0.7"
"""One example of each law, for help texts and errors."""


@attrs.frozen
class Distribution:
    """A law of service times."""

    text: str
    """The law as it was written."""
    mean: float
    """Its mean, in seconds."""
    sample: Callable[[random.Random], float] = attrs.field(repr=False, eq=False)
    """Draws one service time, in seconds, never negative."""


def parse_duration(text: str, *, field: str = "duration") -> float:
    """Return the seconds that `text` means: a number, bare or followed by `ms`, `s`, `min` or `h`.

    Raises:
        ConfigError: `text` is no such duration; `field` is named.
    """
    match = _DURATION.fullmatch(text.strip())
    seconds = float(match[1]) * _UNITS[match[2] or ""] if match else math.inf
    if not math.isfinite(seconds):
        raise ConfigError(
            f"{field}: {text!r:.60} is no duration; write it as 30, 30s, 500ms, 3min or 1h", field=field
        )
    return seconds


def parse_distribution(text: str) -> Distribution:
    """Return the law that `text` describes; durations are read by `parse_duration`.

    Forms: `fixed:T`, `exp:MEAN`, `uniform:LOW,HIGH`, `lognormal:mean=T,cv=C` (`cv` is the coefficient of
    variation, standard deviation over mean).

    Raises:
        ConfigError: `text` is none of the forms, or its figures make no law; names the field `service`.
    """
    kind, _, rest = text.strip().partition(":")
    maker = _MAKERS.get(kind)
    if maker is None or not rest:
        raise _bad(text, f"known laws are {LAW_FORMS}")
    return maker(text, rest)


def _bad(text: str, problem: str) -> ConfigError:
    return ConfigError(f"service: {text!r:.60} is no law of service times: {problem}", field="service")


def _duration(text: str) -> float:
    return parse_duration(text, field="service")


def _fixed(text: str, rest: str) -> Distribution:
    seconds = _duration(rest)
    return Distribution(text, seconds, lambda _rng: seconds)


def _exponential(text: str, rest: str) -> Distribution:
    mean = _duration(rest)
    if mean == 0:
        return Distribution(text, 0.0, lambda _rng: 0.0)
    return Distribution(text, mean, lambda rng: rng.expovariate(1 / mean))


def _uniform(text: str, rest: str) -> Distribution:
    low_text, comma, high_text = rest.partition(",")
    if not comma:
        raise _bad(text, "uniform needs two durations, as in uniform:10s,60s")
    low, high = _duration(low_text), _duration(high_text)
    if low > high:
        raise _bad(text, "the first duration of uniform is the shorter one")
    return Distribution(text, (low + high) / 2, lambda rng: rng.uniform(low, high))


def _lognormal(text: str, rest: str) -> Distribution:
    given: dict[str, str] = {}
    for part in rest.split(","):
        name, _, value = part.partition("=")
        given[name.strip()] = value
    if given.keys() != {"mean", "cv"}:
        raise _bad(text, "lognormal needs mean and cv, as in lognormal:mean=180s,cv=0.7")
    mean = _duration(given["mean"])
    try:
        cv = float(given["cv"])
    except ValueError:
        cv = math.nan
    if not (mean > 0 and 0 <= cv < math.inf):
        raise _bad(text, "mean is more than zero, and cv a number of at least zero")
    # Moments of the lognormal law: cv^2 = exp(sigma^2) - 1, mean = exp(mu + sigma^2 / 2).
    variance = math.log1p(cv * cv)
    mu, sigma = math.log(mean) - variance / 2, math.sqrt(variance)
    return Distribution(text, mean, lambda rng: rng.lognormvariate(mu, sigma))


_MAKERS: Final[dict[str, Callable[[str, str], Distribution]]] = {
    "fixed": _fixed,
    "exp": _exponential,
    "uniform": _uniform,
    "lognormal": _lognormal,
}
