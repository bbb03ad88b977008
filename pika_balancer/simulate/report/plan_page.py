"""The report of a plan: how many it takes, what surrounds the answer, and what becomes of it in trouble."""

import math
from collections.abc import Iterator, Sequence
from typing import Final

from pika_balancer.simulate.notation import format_target
from pika_balancer.simulate.report import numbers, simulation_page, words
from pika_balancer.simulate.report.canvas import Axes, Palette
from pika_balancer.simulate.report.numbers import Kind, count, exactly, unit_of, with_interval
from pika_balancer.simulate.report.page import Page, Picture, Table
from pika_balancer.simulate.result import Result
from pika_balancer.simulate.scenario import Scenario
from pika_balancer.simulate.sizing import Plan, SizePoint
from pika_balancer.simulate.targets import Target

_VERDICTS: Final = {"holds": "yes", "fails": "no", "undecided": "undecided"}
_TITLES: Final = {"accounts": "How many accounts?", "slots": "How many slots?", "rate": "How many jobs?"}
_DECADES: Final = 30.0
"""From this ratio of the largest to the smallest on, figures are drawn on a logarithmic scale."""


def report_of_plan(plan: Plan, scenario: Scenario, chosen: Result | None = None) -> Page:
    """Return the report of a plan.

    Args:
        plan: The plan.
        scenario: What it was made for.
        chosen: A simulation of the size that was chosen, if one was.
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
    """Yield what was asked, as pairs of a heading and what stands below it."""
    yield "targets", " and ".join(map(format_target, plan.targets))
    for heading, text in words.question(scenario):
        if heading == "accounts" and plan.find != "rate":
            yield heading, f"so many as it takes, with cap {scenario.accounts[-1].max_jobs}"
        elif heading == "arrivals" and plan.find == "rate":
            yield heading, f"faster or slower than {text}"
        elif heading != "load":
            yield heading, text


def answer(plan: Plan) -> str:
    """Return the answer in sentences."""
    wanted = " and ".join(map(format_target, plan.targets))
    if plan.answer is None:
        tried = size(plan, plan.points[-1].size) if plan.points else "nothing"
        return f"Nothing that was tried, up to {tried}, meets {wanted}."
    best = size(plan, plan.answer)
    extreme = "the most" if plan.find == "rate" else "the fewest"
    if plan.undecided is not None:
        low, high = (size(plan, end) for end in plan.undecided)
        return (
            f"Undecided between {low} and {high} for {wanted}: {best} will do, at 95% confidence; "
            "whether less does takes more jobs to tell."
        )
    slots = next((f" ({count(p.slots, 'slot')})" for p in plan.points if p.size == plan.answer), "")
    slots = "" if plan.find == "slots" else slots
    sure = "exactly" if _exact(plan) else "at 95% confidence"
    verb = "is" if plan.answer == 1 and plan.find != "rate" else "are"
    return f"{best}{slots} {verb} {extreme} for {wanted}, {sure}."


def neighbours(plan: Plan) -> Table:
    """Return what a little less and a little more do."""
    rows = [_row(plan, size(plan, point.size), point) for point in plan.neighbours]
    chosen = next((k for k, point in enumerate(plan.neighbours) if point.size == plan.answer), None)
    return Table("One more, one less", _header(plan), rows, chosen)


def sensitivity(plan: Plan) -> Table:
    """Return what becomes of the answer if something goes wrong."""
    rows = [_row(plan, case, point) for case, point in plan.sensitivity]
    return Table(f"If something goes wrong with {size(plan, plan.answer or 0)}", _header(plan), rows)


def tried(plan: Plan) -> Table:
    """Return every size that was tried."""
    return Table("Sizes tried", _header(plan), [_row(plan, size(plan, p.size), p) for p in plan.points])


def footer(plan: Plan) -> str:
    """Return how the plan came about."""
    return (
        f"pika_balancer; {count(len(plan.points), 'size')} tried, {count(plan.jobs, 'job')} simulated in all."
    )


def size(plan: Plan, value: float) -> str:
    """Return a size in words: `7 accounts`, `500 jobs/h`."""
    if plan.find == "rate":
        return f"{numbers.figure(3600 * value)} jobs/h"
    return count(int(value), plan.find.removesuffix("s"))


def curves(plan: Plan) -> Iterator[Picture]:
    """Yield the sizing curve for each target."""
    if len(plan.points) < 2:  # noqa: PLR2004 - one point is no curve
        return
    for place, target in enumerate(plan.targets):

        def draw(axes: Axes, palette: Palette, target: Target = target) -> None:
            _draw_curve(axes, plan, target, palette)

        yield Picture(f"sizing{place}", draw, _say_curve(plan, target))


def _draw_curve(axes: Axes, plan: Plan, target: Target, palette: Palette) -> None:
    label, kind = words.FIGURES[target.figure]
    scale, unit = _scale(kind, target.limit)
    axis = 3600.0 if plan.find == "rate" else 1.0
    known = [point for point in plan.points if math.isfinite(point.figures[target.figure].value)]
    known.sort(key=lambda point: point.size)
    places = [point.size * axis for point in known]
    found = [point.figures[target.figure] for point in known]
    values = [one.value / scale for one in found]
    limit = target.limit / scale
    positive = [value for value in (*values, limit) if value > 0]
    logarithmic = max(positive) > _DECADES * min(positive)
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
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(_tick)
        axes.yaxis.set_minor_formatter(_no_tick)
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
        f"{numbers.plain(point.figures[target.figure].value, kind)} with {size(plan, point.size)}"
        for point in (ordered[0], ordered[-1])
    )
    chosen = "" if plan.answer is None else f"; chosen: {size(plan, plan.answer)}"
    what = f"{label[0].upper()}{label[1:]} by size, with 95% intervals"
    return f"{what}: {ends}; target {format_target(target)}{chosen}."


def _header(plan: Plan) -> Sequence[str]:
    columns = [""] if plan.find == "slots" else ["", "slots"]
    for target in plan.targets:
        columns += [words.FIGURES[target.figure][0], "95% interval"]
        columns += ["exact"] if _has_theory(plan, target) else []
    return [*columns, "meets the targets"]


def _row(plan: Plan, label: str, point: SizePoint) -> Sequence[str]:
    cells = [label] if plan.find == "slots" else [label, f"{point.slots:,}"]
    for target in plan.targets:
        kind = words.FIGURES[target.figure][1]
        cells += with_interval(point.figures[target.figure], kind)
        if _has_theory(plan, target):
            exact = point.theory.get(target.figure)
            cells.append(numbers.UNKNOWN if exact is None else exactly(exact, kind))
    return [*cells, _VERDICTS[point.verdict]]


def _has_theory(plan: Plan, target: Target) -> bool:
    points = (*plan.points, *(point for _, point in plan.sensitivity))
    return any(target.figure in point.theory for point in points)


def _exact(plan: Plan) -> bool:
    return any(point.size == plan.answer and point.decided_by != "simulation" for point in plan.points)


def _scale(kind: Kind, limit: float) -> tuple[float, str]:
    if kind == "share":
        return 0.01, "%"
    return unit_of(limit) if kind == "time" else (1.0, "")


def _tick(value: float, _place: int) -> str:
    return numbers.figure(value)


def _no_tick(_value: float, _place: int) -> str:
    return ""
