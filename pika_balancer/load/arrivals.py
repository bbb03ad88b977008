"""When jobs are to start, whatever became of those before: the schedule of an open loop."""

import itertools
import random
from collections.abc import Callable, Iterator
from typing import Final


def even(rate: float, _rng: random.Random) -> Iterator[float]:
    """Yield moments at equal distances, from 0 on, without end; `rate` per second."""
    # By multiplication: a sum of distances would drift.
    return (number / rate for number in itertools.count())


def poisson(rate: float, rng: random.Random) -> Iterator[float]:
    """Yield the moments of a Poisson process after 0, without end; `rate` per second on average."""
    moment = 0.0
    while True:
        moment += rng.expovariate(rate)
        yield moment


ARRIVALS: Final[dict[str, Callable[[float, random.Random], Iterator[float]]]] = {
    "poisson": poisson,
    "even": even,
}
"""By name: from a rate above 0, per second, and a source of chance to seconds from the start, ascending."""
