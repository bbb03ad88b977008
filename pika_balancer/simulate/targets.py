"""What a plan must reach: a figure of a result, and what it must stay below."""

import math
from collections.abc import Mapping
from statistics import NormalDist
from typing import Final, Literal

import attrs

from pika_balancer.errors import InvalidArgument
from pika_balancer.simulate.estimate import Estimate
from pika_balancer.simulate.result import Result

FRACTIONS: Final = ("refused_fraction", "gave_up_fraction", "utilisation")
"""Figures that are shares, from 0 to 1."""
DURATIONS: Final = tuple(
    f"{law}.{level}" for law in ("wait", "time_in_system") for level in ("mean", "p50", "p90", "p95", "p99")
)
"""Figures that are seconds."""
NUMBERS: Final = ("attempts", "in_flight", "imbalance")
"""Figures that are plain numbers."""
FIGURES: Final = (*FRACTIONS, *DURATIONS, *NUMBERS)
"""What a target can be about: estimates of a result that have a confidence interval."""

SubmitOutcome = Literal["holds", "fails", "undecided"]


def _one_of_the_figures(_target: "Target", _attribute: object, value: str) -> None:
    if value not in FIGURES:
        raise InvalidArgument(
            f"there is no target for {value!r}; take one of {', '.join(FIGURES)}", field="figure"
        )


def _below(_target: "Target", _attribute: object, value: str) -> None:
    if value != "<":
        raise InvalidArgument(f"a target takes '<', not {value!r}", field="relation")


def _within_reach(target: "Target", _attribute: object, value: float) -> None:
    most = 1.0 if target.figure in FRACTIONS else math.inf
    number = type(value) in {int, float} and 0 < value <= most and value < math.inf
    if not number:
        bound = "and at most 1" if most == 1 else "and finite"
        raise InvalidArgument(f"limit must be above 0 {bound}, not {value!r}", field="limit")


@attrs.frozen
class Target:
    """A figure must stay below a limit."""

    figure: str = attrs.field(validator=_one_of_the_figures)
    """One of `FIGURES`: the name of an estimate, such as `wait.p95`."""
    relation: Literal["<"] = attrs.field(validator=_below)
    """Below: an estimate can never show that a figure equals its limit."""
    limit: float = attrs.field(validator=_within_reach)
    """The limit: a share from 0 to 1, seconds, or a number; above 0."""

    def __str__(self) -> str:
        return f"{self.figure} < {self.limit:g}"

    def evaluate(self, estimate: Estimate, confidence_factor: float = 1.0) -> SubmitOutcome:
        """Return on which side of the limit the whole interval is, its half-widths times the factor."""
        value, low, high = estimate.value, estimate.low, estimate.high
        if math.isnan(value):
            return "undecided"
        if math.isnan(low) or math.isnan(high):
            return "undecided"
        if value + (high - value) * confidence_factor < self.limit:
            return "holds"
        return "fails" if value - (value - low) * confidence_factor >= self.limit else "undecided"


def together(verdicts: Mapping[Target, SubmitOutcome]) -> SubmitOutcome:
    """Return the verdict on all targets: they hold if each does, and fail if any does."""
    if "fails" in verdicts.values():
        return "fails"
    return "undecided" if "undecided" in verdicts.values() else "holds"


def factor(looks: int) -> float:
    """Return by how much to widen 95 % intervals so that all of `looks` of them mislead in 5 %.

    That a target holds is a claim about one side, to which the two-sided interval grants 2.5 % already; the
    looks share 5 % evenly (Bonferroni).
    """
    normal = NormalDist()
    return max(1.0, normal.inv_cdf(1 - 0.05 / looks) / normal.inv_cdf(0.975))


def figures_of(result: Result) -> dict[str, Estimate]:
    """Return the figures that targets can be about."""
    return {name: estimate for name, estimate in result.estimates() if name in FIGURES}
