"""Two settings against each other: whose turn it is, and what the turns say."""

import statistics
from collections.abc import Callable, Iterator, Sequence
from typing import Final

import attrs

from pika_balancer.loadtest.recorder import Recorder

PAIRS: Final = 6
"""Turns of each. If chance alone decided, all would point the same way in 1 of 32 comparisons."""


def turns(pairs: int = PAIRS) -> Iterator[tuple[int, int]]:
    """Yield the number of each pair of turns, and whose turn it is: 0, 1, then 1, 0, then 0, 1 again.

    So none is always first, and a machine that grows slower, or quicker, all the time favours neither.
    """
    for pair in range(pairs):
        first = pair % 2
        yield pair, first
        yield pair, 1 - first


@attrs.frozen
class Ratio:
    """How the second stands to the first in one figure, over the pairs of turns."""

    figure: str
    """Which."""
    median: float
    """The median of the second's figure divided by the first's, pair by pair."""
    low: float
    """The lowest of these."""
    high: float
    """The highest of these."""
    pairs: int
    """How many there are."""

    @property
    def differs(self) -> bool:
        """Whether all of enough pairs say that the second's is higher, or all that it is lower."""
        return self.pairs >= PAIRS and (self.low > 1 or self.high < 1)


def _rate(tally: Recorder) -> float | None:
    return tally.completed / tally.window if tally.window else None


FIGURES: Final[dict[str, Callable[[Recorder], float | None]]] = {
    "accepted p50": lambda tally: tally.accepted.quantile(0.5),
    "accepted p99": lambda tally: tally.accepted.quantile(0.99),
    "ended p50": lambda tally: tally.ended.quantile(0.5),
    "ended p99": lambda tally: tally.ended.quantile(0.99),
    "completed per second": _rate,
}
"""What is compared: from one turn to a number."""


def ratios(first: Sequence[Recorder], second: Sequence[Recorder]) -> list[Ratio]:
    """Return a ratio for each figure; a turn that is cut short, or measured nothing, counts in none."""
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
