"""The report of a plan: the answer, sizes around it, and what it does if something goes wrong."""

import math
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Final

from pika_balancer.simulate.notation import format_target
from pika_balancer.simulate.report import numbers, simulation_page, words
from pika_balancer.simulate.report.canvas import Axes, Palette, log_scale
from pika_balancer.simulate.report.numbers import count, exactly, unit_of, with_interval
from pika_balancer.simulate.report.page import Page, Picture, Table
from pika_balancer.simulate.result import Result
from pika_balancer.simulate.scenario import Scenario
from pika_balancer.simulate.sizing import Plan, SizePoint, size_text
from pika_balancer.simulate.targets import Target

_VERDICTS: Final = {"holds": "yes", "fails": "no", "undecided": "undecided"}
_TITLES: Final = {"accounts": "How many accounts?", "slots": "How many slots?", "rate": "How many jobs?"}
_LOGARITHMIC: Final = 30.0
"""With a ratio of the largest to the smallest figure above this, the scale is logarithmic."""


def report_of_plan(plan: Plan, scenario: Scenario, chosen: Result | None = None) -> Page:
    """Return the report of a plan.

    Args:
        plan: The plan.
        scenario: Its scenario.
        chosen: A simulation of the answer, if there is one.
    """
    tables = [neighbours(plan), sensitivity(plan)] if plan.neighbours else []
    return Page(
        title=_TITLES[plan.find],
        answer=answer(plan),
        question=tuple(question(plan, scenario)),
        notes=plan.warnings,
        parts=(
            *tables[:1],
            *curves(plan),
            *tables[1:],
            *(simulation_page.pictures(chosen) if chosen is not None else ()),
        ),
        footer=footer(plan),
    )


def question(plan: Plan, scenario: Scenario) -> Iterator[tuple[str, str]]:
    """Yield the question as pairs of a heading and its text."""
    yield "targets", " and ".join(map(format_target, plan.targets))
    for heading, text in words.question(scenario):
        if heading == "accounts" and plan.find != "rate":
            yield heading, f"as many as needed, with cap {scenario.accounts[-1].max_jobs}"
        elif heading == "arrivals" and plan.find == "rate":
            yield heading, f"faster or slower than {text}"
        elif heading != "load":
            yield heading, text


def answer(plan: Plan) -> str:
    """Return the answer as a sentence with a full stop."""
    return f"{plan.summary[0].upper()}{plan.summary[1:]}."


def neighbours(plan: Plan) -> Table:
    """Return the answer and the sizes around it."""
    chosen = next((k for k, point in enumerate(plan.neighbours) if point.size == plan.answer), None)
    return _table(plan, "Sizes around the answer", _sizes(plan, plan.neighbours), chosen)


def sensitivity(plan: Plan) -> Table:
    """Return what the answer does if something goes wrong."""
    title = f"If something goes wrong with {size_text(plan.find, plan.answer or 0)}"
    return _table(plan, title, plan.sensitivity)


def tried(plan: Plan) -> Table:
    """Return every size that was tried."""
    return _table(plan, "Sizes tried", _sizes(plan, plan.points))


def footer(plan: Plan) -> str:
    """Return how the plan was made."""
    return (
        f"pika_balancer; {count(len(plan.points), 'size')} tried, {count(plan.jobs, 'job')} simulated in all."
    )


def curves(plan: Plan) -> Iterator[Picture]:
    """Yield the sizing curve for each target."""
    if len(plan.points) < 2:  # noqa: PLR2004 - one point makes no curve
        return
    for place, target in enumerate(plan.targets):
        yield Picture(f"sizing{place}", partial(_draw_curve, plan, target), _say_curve(plan, target))


def _draw_curve(plan: Plan, target: Target, axes: Axes, palette: Palette) -> None:
    label, kind = words.FIGURES[target.figure]
    scale, unit = {"share": (0.01, "%"), "number": (1.0, "")}.get(kind) or unit_of(target.limit)
    axis = 3600.0 if plan.find == "rate" else 1.0
    known = [point for point in plan.points if math.isfinite(point.figures[target.figure].value)]
    known.sort(key=lambda point: point.size)
    places = [point.size * axis for point in known]
    found = [point.figures[target.figure] for point in known]
    values = [one.value / scale for one in found]
    limit = target.limit / scale
    positive = [value for value in (*values, limit) if value > 0]
    logarithmic = max(positive) > _LOGARITHMIC * min(positive)
    floor = min(positive) / 3 if logarithmic else 0.0
    lows = [max(floor, (one.value if math.isnan(one.low) else one.low) / scale) for one in found]
    highs = [max(floor, (one.value if math.isnan(one.high) else one.high) / scale) for one in found]
    values = [max(floor, value) for value in values]
    axes.set_title(f"{label[0].upper()}{label[1:]}, by size")
    axes.fill_between(places, lows, highs, color=palette.accent, alpha=0.22, linewidth=0)
    axes.plot(
        places, values, color=palette.accent, marker="o", markersize=4, linewidth=1.4, label="simulated"
    )
    exact = [(p.size * axis, p.theory[target.figure] / scale) for p in known if target.figure in p.theory]
    if exact:
        axes.plot(
            *zip(*exact, strict=True),
            color=palette.exact,
            linestyle=(0, (1, 1.5)),
            linewidth=2,
            label="exact",
        )
    axes.axhline(
        limit, color=palette.limit, linestyle=(0, (5, 3)), linewidth=1.4, label=format_target(target)
    )
    if plan.answer is not None:
        chosen = [k for k, point in enumerate(known) if point.size == plan.answer]
        ring = {"markersize": 11, "markerfacecolor": "none", "markeredgecolor": palette.ink}
        axes.plot([places[k] for k in chosen], [values[k] for k in chosen], "o", label="chosen", **ring)
    if logarithmic:
        log_scale(axes, numbers.figure)
        axes.set_ylim(bottom=floor)
    else:
        axes.set_ylim(bottom=0)
    if plan.find != "rate":
        axes.locator_params(axis="x", integer=True)
    axes.set_xlabel("jobs per hour" if plan.find == "rate" else plan.find)
    axes.set_ylabel(f"{label} ({unit})" if unit else label)
    axes.legend()


def _say_curve(plan: Plan, target: Target) -> str:
    label, kind = words.FIGURES[target.figure]
    ordered = sorted(plan.points, key=lambda point: point.size)
    ends = ", ".join(
        f"{numbers.plain(point.figures[target.figure].value, kind)} with {size_text(plan.find, point.size)}"
        for point in (ordered[0], ordered[-1])
    )
    chosen = "" if plan.answer is None else f"; chosen: {size_text(plan.find, plan.answer)}"
    what = f"{label[0].upper()}{label[1:]} by size, with 95% intervals"
    return f"{what}: {ends}; target {format_target(target)}{chosen}."


def _sizes(plan: Plan, points: Sequence[SizePoint]) -> Sequence[tuple[str, SizePoint]]:
    return [(size_text(plan.find, point.size), point) for point in points]


def _table(
    plan: Plan, title: str, points: Sequence[tuple[str, SizePoint]], chosen: int | None = None
) -> Table:
    """Return a table with a row for each label and point."""
    header = ["", "slots"]
    rows = [[label, f"{point.slots:,}"] for label, point in points]
    if plan.find == "slots":  # the label says it
        header, rows = header[:1], [row[:1] for row in rows]
    for target in plan.targets:
        label, kind = words.FIGURES[target.figure]
        exact = any(target.figure in point.theory for _, point in points)
        header += [label, "95% interval", *(["exact"] if exact else [])]
        for row, (_, point) in zip(rows, points, strict=True):
            row.extend(with_interval(point.figures[target.figure], kind))
            if exact:
                row.append(exactly(point.theory.get(target.figure, math.nan), kind))
    rows = [[*row, _VERDICTS[point.verdict]] for row, (_, point) in zip(rows, points, strict=True)]
    return Table(title, [*header, "meets the targets"], rows, chosen)
