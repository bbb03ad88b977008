"""Latencies, kept as a histogram of constant size and with three exact digits; needs the extra `load`."""

import importlib
import math
from collections.abc import Sequence
from typing import Any, Final

MICROSECONDS: Final = 1_000_000
"""In a second; the histogram counts in them."""

_HIGHEST: Final = 24 * 3600 * MICROSECONDS
_DIGITS: Final = 3
_ROUNDING: Final = 1e-6


def histogram(digits: int = _DIGITS) -> Any:
    """Return an empty HdrHistogram of microseconds, up to a day.

    Raises:
        ImportError: The package `hdrhistogram` is not installed.
    """
    try:
        module = importlib.import_module("hdrh.histogram")
    except ImportError as error:
        raise ImportError("measuring needs an extra: pip install 'pika-balancer[load]'") from error
    return module.HdrHistogram(1, _HIGHEST, digits)


class Latencies:
    """Durations in seconds, of which quantiles can be asked.

    A duration above a day counts as a day, one below 0 as 0. Kept in G. Tene's HdrHistogram, so that neither
    a long run nor a long tail costs memory or digits.

    Args:
        digits: Significant decimal digits that quantiles have, 1 to 5.

    Raises:
        ImportError: The extra is missing.
    """

    def __init__(self, digits: int = _DIGITS) -> None:
        self.histogram = histogram(digits)
        self.total = 0.0
        self.max = 0.0

    histogram: Any
    """The HdrHistogram, of microseconds."""
    total: float
    """The exact sum."""
    max: float
    """The longest, exactly; 0 where there is none."""

    @property
    def count(self) -> int:
        """How many there are."""
        return int(self.histogram.total_count)

    @property
    def mean(self) -> float | None:
        """The exact mean; None where there is none."""
        return self.total / self.count if self.count else None

    def record(self, seconds: float) -> None:
        """Count one duration."""
        seconds = max(0.0, seconds)
        # Upwards, so that no quantile comes out below what was measured.
        self.histogram.record_value(min(math.ceil(seconds * MICROSECONDS), _HIGHEST))
        self.total += seconds
        self.max = max(self.max, seconds)

    def quantile(self, share: float) -> float | None:
        """Return the shortest recorded duration that at least a share of all do not exceed; None of none.

        Never below the exact one, and above it by 10 to the minus `digits` at most, or a microsecond.

        Args:
            share: From 0 to 1: 0.99 for the 99th percentile.
        """
        return self.quantiles([share])[0] if self.count else None

    def quantiles(self, shares: Sequence[float]) -> list[float]:
        """Return several quantiles at the price of one; empty where there is no duration."""
        if not self.count:
            return []
        # The library rounds to the nearest rank, which for few values is up to half a rank too low. A little
        # less than the product, since one like 0.07 * 100 comes out a little above 7.
        ranks = [max(1, math.ceil(share * self.count - _ROUNDING)) for share in shares]
        asked = [100 * rank / self.count for rank in ranks]
        found = self.histogram.get_percentile_to_value_dict(asked)
        return [min(float(found[percentile]) / MICROSECONDS, self.max) for percentile in asked]

    def add(self, other: "Latencies") -> None:
        """Count everything that the other one has, too; it must have as many digits."""
        self.histogram.add(other.histogram)
        self.total += other.total
        self.max = max(self.max, other.max)

    def encoded(self) -> str:
        """Return the histogram in the format that all HdrHistogram tools read, compressed, as base64."""
        return str(self.histogram.encode().decode("ascii"))
