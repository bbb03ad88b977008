"""Latencies as a histogram of constant size, exact to three digits; needs the extra `load`."""

import importlib
import math
from collections.abc import Sequence
from typing import Any, Final

import attrs

_MICROSECONDS: Final = 1_000_000
"""Microseconds per second; the histogram counts in microseconds."""

_HIGHEST: Final = 24 * 3600 * _MICROSECONDS
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


@attrs.define(eq=False)
class Latencies:
    """Quantiles of durations in seconds, in G. Tene's HdrHistogram.

    A duration above a day counts as a day, one below 0 as 0.

    Raises:
        ImportError: The extra is missing.
    """

    digits: int = _DIGITS
    """Significant decimal digits of quantiles, 1 to 5."""
    histogram: Any = attrs.field(init=False)
    """The HdrHistogram, of microseconds."""
    total: float = attrs.field(default=0.0, init=False)
    """The exact sum of all durations."""
    max: float = attrs.field(default=0.0, init=False)
    """The longest duration, exactly; 0 without any."""

    @histogram.default
    def _empty(self) -> Any:
        return histogram(self.digits)

    @property
    def count(self) -> int:
        """Number of durations."""
        return int(self.histogram.total_count)

    @property
    def mean(self) -> float | None:
        """The exact mean; None without any."""
        return self.total / self.count if self.count else None

    def record(self, seconds: float) -> None:
        """Count one duration."""
        seconds = max(0.0, seconds)
        # Rounded up, so that no quantile is below the exact one.
        self.histogram.record_value(min(math.ceil(seconds * _MICROSECONDS), _HIGHEST))
        self.total += seconds
        self.max = max(self.max, seconds)

    def quantile(self, share: float) -> float | None:
        """Return the shortest recorded duration that at least this share does not exceed; None without any.

        Never below the exact quantile, and above it by at most 10 to the minus `digits`, or a microsecond.

        Args:
            share: From 0 to 1: 0.99 for the 99th percentile.
        """
        return self.quantiles([share])[0] if self.count else None

    def quantiles(self, shares: Sequence[float]) -> list[float]:
        """Return several quantiles in one pass over the histogram; empty without durations."""
        if not self.count:
            return []
        # The library rounds to the nearest rank, up to half a rank too low. The product is lowered a little,
        # because one like 0.07 * 100 is slightly above 7.
        ranks = [max(1, math.ceil(share * self.count - _ROUNDING)) for share in shares]
        asked = [100 * rank / self.count for rank in ranks]
        found = self.histogram.get_percentile_to_value_dict(asked)
        return [min(float(found[percentile]) / _MICROSECONDS, self.max) for percentile in asked]

    def add(self, other: "Latencies") -> None:
        """Add all durations of another object with the same number of digits."""
        self.histogram.add(other.histogram)
        self.total += other.total
        self.max = max(self.max, other.max)

    def encoded(self) -> str:
        """Return the histogram in the compressed base64 format of all HdrHistogram tools."""
        return str(self.histogram.encode().decode("ascii"))
