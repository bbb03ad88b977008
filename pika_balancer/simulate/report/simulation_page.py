"""The report of a simulation."""

from collections.abc import Iterator

from pika_balancer.simulate.report import panels, words
from pika_balancer.simulate.report.canvas import Axes, Palette
from pika_balancer.simulate.report.numbers import UNKNOWN, duration, with_interval
from pika_balancer.simulate.report.page import Page, Picture, Table
from pika_balancer.simulate.result import Result


def report_of(result: Result) -> Page:
    """Return the report of a simulation."""
    return Page(
        title="What the accounts will do",
        answer=words.answer(result),
        question=tuple(words.question(result.scenario)),
        notes=result.notes,
        parts=(figures(result), *pictures(result), accounts(result)),
        footer=footer(result),
    )


def figures(result: Result) -> Table:
    """Return the figures with their intervals, and the closed forms that apply."""
    lines = words.lines(result)
    theory = any(line.exact for line in lines)
    header = ("", "estimate", "95% interval", *(["exact"] if theory else []))
    rows = [
        (line.label, line.value, line.interval, *([line.exact or UNKNOWN] if theory else []))
        for line in lines
    ]
    return Table("The figures", header, rows)


def pictures(result: Result) -> Iterator[Picture]:
    """Yield the pictures of a simulation."""

    def flying(axes: Axes, palette: Palette) -> None:
        panels.draw_in_flight(axes, result, palette)

    def waits(axes: Axes, palette: Palette) -> None:
        panels.draw_waits(axes, result, palette)

    def busy(axes: Axes, palette: Palette) -> None:
        panels.draw_accounts(axes, result, palette)

    yield Picture("flight", flying, panels.say_in_flight(result))
    if panels.somebody_waited(result):
        yield Picture("waits", waits, panels.say_waits(result))
    yield Picture("accounts", busy, panels.say_accounts(result), panels.accounts_height(result))


def accounts(result: Result) -> Table:
    """Return what each account did."""
    rows: list[tuple[str, ...]] = []
    for account in result.accounts:
        share, busy = with_interval(account.share, "share")[0], with_interval(account.utilisation, "share")
        rows.append((account.channel, str(account.max_jobs), f"{account.jobs:,}", share, *busy))
    header = ("account", "cap", "jobs", "share of jobs", "slots in use", "95% interval")
    return Table("The accounts", header, rows)


def footer(result: Result) -> str:
    """Return how the result came about."""
    enough = result.batches > 1
    batches = f"intervals from {result.batches} batches" if enough else "too short for intervals"
    return (
        f"pika_balancer, engine {result.engine}, seed {result.seed}; "
        f"{duration(result.duration)} of simulated time after the warm-up ({result.warm_up}); {batches}."
    )
