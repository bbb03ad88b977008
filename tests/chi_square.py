"""How surprising counts are, given what they should be."""

import math
from collections.abc import Sequence
from statistics import NormalDist


def p_value(observed: Sequence[int], expected: Sequence[float]) -> float:
    """Return the probability of counts at least as far off, if the expectation is true.

    Pearson's statistic with the Wilson-Hilferty approximation (PNAS 17, 1931) of its law; cells that are
    expected to be empty must be empty.
    """
    cells = [(o, e) for o, e in zip(observed, expected, strict=True) if e > 0]
    if any(o for o, e in zip(observed, expected, strict=True) if e == 0):
        return 0.0
    freedom = len(cells) - 1
    if freedom == 0:
        return 1.0
    statistic = sum((o - e) ** 2 / e for o, e in cells)
    spread = 2 / (9 * freedom)
    return 1 - NormalDist().cdf(((statistic / freedom) ** (1 / 3) - (1 - spread)) / math.sqrt(spread))
