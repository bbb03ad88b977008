"""Targets of a plan: figures of a result, and the limits that they must stay below."""

import math
from collections.abc import Iterable
from statistics import NormalDist
from typing import Final, Literal

import attrs

from pika_balancer.errors import InvalidArgument
from pika_balancer.simulate.estimate import LEVELS, Estimate

FRACTIONS: Final = ("refused_fraction", "gave_up_fraction", "utilisation")
"""Figures that are shares, from 0 to 1."""
DURATIONS: Final = tuple(
    f"{name}.{level}" for name in ("wait", "time_in_system") for level in ("mean", *LEVELS)
)
"""Figures in seconds."""
FIGURES: Final = (*FRACTIONS, *DURATIONS, "attempts", "in_flight", "imbalance")
"""Figures that a target can limit: estimates that have a confidence interval."""

Verdict = Literal["holds", "fails", "undecided"]


def _check_figure(_target: "Target", _attribute: object, value: str) -> None:
    if value not in FIGURES:
        raise InvalidArgument(
            f"there is no target for {value!r}; use one of {', '.join(FIGURES)}", field="figure"
        )


def _check_relation(_target: "Target", _attribute: object, value: str) -> None:
    if value != "<":
        raise InvalidArgument(f"relation must be '<', not {value!r}", field="relation")


def _check_limit(target: "Target", _attribute: object, value: float) -> None:
    most = 1.0 if target.figure in FRACTIONS else math.inf
    if not (type(value) in {int, float} and 0 < value <= most and value < math.inf):
        bound = "and at most 1" if most == 1 else "and finite"
        raise InvalidArgument(f"limit must be above 0 {bound}, not {value!r}", field="limit")


@attrs.frozen
class Target:
    """A figure must stay below a limit."""

    figure: str = attrs.field(validator=_check_figure)
    """One of `FIGURES`: the name of an estimate, such as `wait.p95`."""
    relation: Literal["<"] = attrs.field(validator=_check_relation)
    """Only `<`: an estimate can never show that a figure equals its limit."""
    limit: float = attrs.field(validator=_check_limit)
    """The limit: a share from 0 to 1, seconds, or a number; above 0."""

    def __str__(self) -> str:
        return f"{self.figure} < {self.limit:g}"

    def evaluate(self, estimate: Estimate, factor: float = 1.0) -> Verdict:
        """Return on which side of the limit the interval lies, its half-widths multiplied by `factor`."""
        value, low, high = estimate.value, estimate.low, estimate.high
        if math.isnan(value + low + high):
            return "undecided"
        if value + (high - value) * factor < self.limit:
            return "holds"
        return "fails" if value - (value - low) * factor >= self.limit else "undecided"


def combined(verdicts: Iterable[Verdict]) -> Verdict:
    """Return the verdict on all targets: they hold if each does, and fail if any does."""
    found = set(verdicts)
    return "fails" if "fails" in found else "undecided" if "undecided" in found else "holds"


def widening(rounds: int) -> float:
    """Return the factor by which to widen 95 % intervals so that `rounds` of them together err in 5 %.

    That a target holds is a one-sided claim, for which the two-sided interval errs in 2.5 % already; the
    rounds share 5 % evenly (Bonferroni).
    """
    normal = NormalDist()
    return max(1.0, normal.inv_cdf(1 - 0.05 / rounds) / normal.inv_cdf(0.975))
