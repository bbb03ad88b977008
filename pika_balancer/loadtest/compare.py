"""Compares two settings that are loaded in alternating turns."""

import statistics
from collections.abc import Callable, Iterator, Sequence
from typing import Final

import attrs

from pika_balancer.loadtest.recorder import Recorder

PAIRS: Final = 6
"""Turns of each setting. By chance alone, all pairs differ in the same direction in 1 of 32 comparisons."""


def turns(pairs: int = PAIRS) -> Iterator[tuple[int, int]]:
    """Yield the number of each pair and the setting to load: 0, 1, then 1, 0, then 0, 1 again.

    The order alternates so that a machine that becomes slower over time favours neither.
    """
    for pair in range(pairs):
        first = pair % 2
        yield pair, first
        yield pair, 1 - first


@attrs.frozen
class Ratio:
    """One figure of the second setting divided by that of the first, over all pairs of turns."""

    figure: str
    """A key of `FIGURES`."""
    median: float
    low: float
    high: float
    pairs: int

    @property
    def differs(self) -> bool:
        """Whether there are enough pairs, and all ratios are above 1 or all below."""
        return self.pairs >= PAIRS and (self.low > 1 or self.high < 1)


FIGURES: Final[dict[str, Callable[[Recorder], float | None]]] = {
    "accepted p50": lambda turn: turn.accepted.quantile(0.5),
    "accepted p99": lambda turn: turn.accepted.quantile(0.99),
    "ended p50": lambda turn: turn.ended.quantile(0.5),
    "ended p99": lambda turn: turn.ended.quantile(0.99),
    "completed per second": lambda turn: turn.per_second(turn.completed),
}
"""The figures that are compared."""


def ratios(first: Sequence[Recorder], second: Sequence[Recorder]) -> list[Ratio]:
    """Return the ratio of each figure; pairs in which one turn measured nothing are left out."""
    found: list[Ratio] = []
    for name, figure in FIGURES.items():
        quotients: list[float] = []
        for one, other in zip(first, second, strict=False):
            below, above = figure(one), figure(other)
            if below and above is not None:
                quotients.append(above / below)
        if quotients:
            low, high = min(quotients), max(quotients)
            found.append(Ratio(name, statistics.median(quotients), low, high, len(quotients)))
    return found
