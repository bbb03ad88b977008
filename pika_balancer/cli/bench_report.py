"""Reports a benchmark: progress while it runs, tables for people, one document for `--json`."""

import contextlib
import random
from collections.abc import Callable, Sequence
from typing import Any, Final

import attrs

from pika_balancer.cli.bench_setting import Setting
from pika_balancer.cli.exit_codes import FAILURE, OK, Interrupted, error_document, exit_for, sentence
from pika_balancer.cli.output import Output
from pika_balancer.cli.progress import LiveLine
from pika_balancer.clock import Clock, SystemClock
from pika_balancer.dispatch import Dispatcher
from pika_balancer.errors import PikaError
from pika_balancer.loadtest.compare import PAIRS, Ratio, ratios
from pika_balancer.loadtest.driver import Driver, LoadPlan
from pika_balancer.loadtest.generators import MOST_UNDER_WAY, Reason
from pika_balancer.loadtest.latency import Latencies
from pika_balancer.loadtest.recorder import COMPLETED, Recorder
from pika_balancer.loadtest.server_process import ServerProcess
from pika_balancer.models import AccountState

_SHARES: Final = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p99.9": 0.999}
_MOST_ROWS: Final = 20
_LINES: Final = 20
_LATE: Final = 0.05
_ENOUGH_MEANS: Final = 5


@attrs.define(kw_only=True, eq=False)
class Side:
    """One setting under load, and its measurements so far."""

    setting: Setting
    label: str
    """How it differs from the other side; empty without one."""
    url: str
    accounts: Sequence[AccountState]
    driver: Driver
    dispatcher: Dispatcher
    server: ServerProcess | None
    """Its local server; None with `--base-url`."""
    turns: list[Recorder] = attrs.Factory(list[Recorder])
    """Its turns, including the current one and one that was cut short."""
    complete: list[Recorder] = attrs.Factory(list[Recorder])
    """Its turns that were not cut short."""
    ended_by: Reason | None = None
    """Why the last turn started no more jobs."""
    statistics: dict[str, Any] | None = None
    """What its local server has counted."""

    async def run_turn(
        self, plan: LoadPlan, rng: random.Random, *, watch: Callable[[], object], interval: float
    ) -> Reason:
        """Run one turn of load; see `Driver.run`."""
        recorder = Recorder(seconds=plan.seconds, warm_up=plan.warm_up)
        self.turns.append(recorder)
        try:
            self.ended_by = await self.driver.run(
                self.dispatcher, plan, recorder, rng=rng, watch=watch, interval=interval
            )
        finally:
            if self.server is not None:
                with contextlib.suppress(PikaError):
                    self.statistics = await self.server.statistics()
        self.complete.append(recorder)
        return self.ended_by

    @property
    def total(self) -> Recorder:
        """All turns added up."""
        total = Recorder(seconds=self.turns[0].seconds, warm_up=self.turns[0].warm_up)
        for turn in self.turns:
            total.add(turn)
        return total

    def account_rows(self) -> list[dict[str, Any]]:
        """Return jobs and peak of each account, as counted by the local server, otherwise by the client."""
        total = self.total
        seen: dict[str, Any] = {} if self.statistics is None else self.statistics["channels"]
        return [
            {
                "channel": account.channel,
                "max_jobs": account.max_jobs,
                "jobs": seen[account.channel]["jobs"] if seen else total.sent_to[account.channel],
                "peak_in_flight": seen[account.channel]["peak_in_flight"]
                if seen
                else total.peaks[account.channel],
            }
            for account in self.accounts
        ]


class BenchReport:
    """One benchmark of one or two sides.

    Args:
        seconds: For how long each side is loaded.
        seed: Of all chance.
        foreign: Whether the server was not started by this command.
    """

    def __init__(self, *, seconds: float, seed: int, foreign: bool) -> None:
        self.sides: list[Side] = []
        self.seconds = seconds
        self.seed = seed
        self.foreign = foreign
        self._error: PikaError | None = None

    def end_early(self, error: PikaError) -> None:
        """Record the error, or the interrupt, that ended the benchmark."""
        self._error = error

    @property
    def measured(self) -> bool:
        """Whether each side has begun, so that there is something to report."""
        return bool(self.sides) and all(side.turns for side in self.sides)

    @property
    def interrupted(self) -> bool:
        return isinstance(self._error, Interrupted)

    @property
    def compared(self) -> bool:
        return len(self.sides) > 1

    @property
    def exit_code(self) -> int:
        """0 if the load was as asked, jobs completed on every side, and no cap was exceeded."""
        if self._error is not None:
            return exit_for(self._error).code
        empty = any(not side.total.statuses[COMPLETED] for side in self.sides)
        behind = any(side.ended_by == "backlog" for side in self.sides)
        rows = [row for side in self.sides for row in side.account_rows()]
        exceeded = any(row["peak_in_flight"] > row["max_jobs"] for row in rows)
        return FAILURE if empty or behind or exceeded else OK

    def document(self) -> dict[str, Any]:
        """Return the document of `--json`; durations are seconds."""
        error = {} if self._error is None or self.interrupted else error_document(self._error)
        return {
            "seed": self.seed,
            "seconds": self.seconds,
            "turns": PAIRS if self.compared else 1,
            "sides": [self._side(side) for side in self.sides],
            "ratios": [attrs.asdict(ratio) | {"differs": ratio.differs} for ratio in self._ratios()],
            "interrupted": self.interrupted,
        } | error

    def _side(self, side: Side) -> dict[str, Any]:
        total = side.total
        server = None
        if side.statistics is not None:
            server = {name: value for name, value in side.statistics.items() if name != "channels"}
        return {
            "label": side.label,
            "setting": side.setting.document(),
            "url": side.url,
            "ended_by": side.ended_by,
            "jobs": total.jobs,
            "statuses": dict(total.statuses),
            "failures": dict(total.failures),
            "unfinished": total.unfinished,
            "submit_errors": dict(total.submit_errors),
            "refused": total.refused,
            "window_s": total.window,
            "offered_per_s": total.per_second(total.offered),
            "completed_per_s": total.per_second(total.completed),
            "peak_in_flight": total.peak,
            "quantiles_are_lower_bounds": total.unfinished > 0,
            "latency": {
                "accepted": _quantiles(total.accepted),
                "ended": _quantiles(total.ended),
                "start_lag": _quantiles(total.lag),
            },
            "over_time": [attrs.asdict(point) for point in total.series()],
            "counted_by": "client" if side.statistics is None else "server",
            "accounts": side.account_rows(),
            "server": server,
        }

    def _ratios(self) -> list[Ratio]:
        return ratios(self.sides[0].complete, self.sides[1].complete) if self.compared else []

    def greet(self, out: Output) -> None:
        """Print what will be done."""
        for side in self.sides:
            out.say(f"{_loop(side.setting)} on {side.url}: {len(side.accounts)} accounts, {self._load(side)}")
        for_how_long = f"{self.seconds:g} s"
        if self.compared:
            turn = self.seconds / PAIRS
            for_how_long += f" each, in {PAIRS} turns of {turn:g} s, one after the other: A B, B A, A B, …"
            longest = max(side.setting.service.mean for side in self.sides)
            if turn < _ENOUGH_MEANS * longest:
                out.note(f"turns of {turn:g} s are short for jobs of {longest:g} s: lengthen --duration")
        out.say(f"for {for_how_long}; seed {self.seed}; Ctrl-C stops")

    def _load(self, side: Side) -> str:
        slots = sum(account.max_jobs for account in side.accounts)
        told = f"{slots} slots, policy {side.setting.policy}"
        if self.foreign or side.setting.schedule is None or not slots:
            return told
        offered = side.setting.schedule.rate * side.setting.service.mean
        return f"{told}; offered load {offered:.3g}, utilisation {offered / slots:.0%}"

    def print(self, out: Output) -> None:
        """Print the document or the tables."""
        out.document(self.document())
        if out.as_json:
            return
        out.say()
        self._show_latencies(out)
        for side in self.sides:
            out.say()
            self._show_counts(side, out)
        if self.compared:
            self._show_ratios(out)
        if self.interrupted:
            out.say("interrupted: these are the measurements so far")
        elif self._error is not None:
            out.note(f"ended early: {sentence(self._error)}")

    def _show_latencies(self, out: Output) -> None:
        rows: list[tuple[object, ...]] = []
        for side in self.sides:
            total = side.total
            for name, latencies in (
                ("submit accepted", total.accepted),
                ("to the end", total.ended),
                ("started late by", total.lag),
            ):
                cells = [*latencies.quantiles(list(_SHARES.values())), latencies.max, latencies.mean or 0.0]
                if latencies.count:
                    label = f"{side.label}: {name}" if side.label else name
                    rows.append((label, *map(span, cells), latencies.count))
        if rows:
            out.table(("from the intended start", *_SHARES, "max", "mean", "jobs"), rows)
        else:
            out.say("no job was measured: the load ended within its warm-up, or nothing was accepted")

    def _show_counts(self, side: Side, out: Output) -> None:
        total = side.total
        if side.label:
            out.say(f"{side.label}:")
        rates = total.per_second(total.offered), total.per_second(total.completed)
        if None not in rates:
            out.say(f"offered {rates[0]:.1f}/s, completed {rates[1]:.1f}/s, over {total.window:.1f} s")
        parts = [f"{count} {word}" for word, count in (total.statuses + total.failures).items()]
        out.say(
            f"{total.jobs} jobs: {', '.join(parts) or 'none ended'}; {total.refused} submits refused (429)"
        )
        if total.submit_errors:
            answers = ", ".join(f"{error} {count}" for error, count in total.submit_errors.items())
            out.say(f"submits not answered with a job: {answers}")
        if total.unfinished:
            out.say(f"{total.unfinished} jobs had not ended: percentiles include their times so far")
        if side.ended_by == "backlog":
            out.say(f"stopped early: {MOST_UNDER_WAY:,} jobs were under way: the server does not keep up")
        lag = total.lag.quantile(0.99)
        if lag is not None and lag > _LATE:
            out.say(
                f"this machine was busy: starts were up to {span(lag)} late (p99), which the times include"
            )
        columns = ("channel", "jobs", "peak_in_flight", "max_jobs")
        rows = [tuple(row[name] for name in columns) for row in side.account_rows()]
        by = "counted by the client" if side.statistics is None else "counted by the server"
        out.table((f"account, {by}", "jobs", "peak in flight", "cap"), rows[:_MOST_ROWS])
        if len(rows) > _MOST_ROWS:
            out.say(f"and {len(rows) - _MOST_ROWS} more")

    def _show_ratios(self, out: Output) -> None:
        found = self._ratios()
        if not found:
            return
        first, second = self.sides
        rows = [
            (
                ratio.figure,
                f"{ratio.median:.3f}",
                f"{ratio.low:.3f}–{ratio.high:.3f}",
                "differs" if ratio.differs else "cannot tell",
            )
            for ratio in found
        ]
        out.say()
        out.say(f"{second.label} against {first.label}, turn by turn:")
        out.table(("figure", "ratio", "lowest–highest", "verdict"), rows)


class BenchProgress:
    """Prints the progress: often to a live line on a terminal, seldom elsewhere.

    Args:
        line: Prints.
        report: What to show; its sides are open.
        often: Whether `line` replaces its text.
        clock: Measures.
    """

    def __init__(
        self, line: LiveLine, report: BenchReport, *, often: bool, clock: Clock | None = None
    ) -> None:
        self._line = line
        self._report = report
        self._clock = clock or SystemClock()
        turns = PAIRS if report.compared else 1
        self._total = report.seconds * len(report.sides)
        self.interval = min(0.25, max(0.02, report.seconds / turns / 100))
        self._pause = self.interval if often else max(1.0, self._total / _LINES)
        self._next = self._clock.now()

    interval: float
    """Seconds between two calls of `show`."""

    def show(self) -> None:
        """Print a line if the last one is old enough."""
        now = self._clock.now()
        if now < self._next:
            return
        self._next = now + self._pause
        side, turn = max(
            ((side, turn) for side in self._report.sides for turn in side.turns),
            key=lambda each: each[1].begun,
        )
        turns = [each for other in self._report.sides for each in other.turns]
        label = f"{side.label}  " if side.label else ""
        loaded = (len(turns) - 1) * turn.seconds + min(turn.seconds, now - turn.begun)
        last = "" if turn.last is None else f"  last {span(turn.last)}"
        self._line.show(
            f"{loaded:5.1f} of {self._total:g} s  {label}{sum(each.jobs for each in turns)} started  "
            f"in flight {turn.in_flight}  waiting {turn.waiting}  "
            f"{sum(each.statuses.total() for each in turns)} ended{last}  "
            f"{sum(each.refused for each in turns)} refused  "
            f"{sum(each.failures.total() for each in turns)} failed"
        )


def span(seconds: float) -> str:
    """Return a duration with three digits: `973 µs`, `4.12 ms`, `1.5 s`."""
    # Above this, three digits would show as `1e+03`.
    if seconds >= 999.5:  # noqa: PLR2004
        return f"{seconds:.0f} s"
    for unit, scale in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if seconds >= 0.9995 * scale:
            return f"{seconds / scale:.3g} {unit}"
    return "0 ms"


def _loop(setting: Setting) -> str:
    if setting.closed is not None:
        return f"closed loop, {setting.closed} jobs at a time"
    return f"open loop, {setting.document()['rate']}, {setting.arrivals}"


def _quantiles(latencies: Latencies) -> dict[str, Any]:
    found: Sequence[float | None] = latencies.quantiles(list(_SHARES.values())) or [None] * len(_SHARES)
    return {
        "count": latencies.count,
        "mean_s": latencies.mean,
        **{f"{name}_s": value for name, value in zip(_SHARES, found, strict=True)},
        "max_s": latencies.max if latencies.count else None,
        "histogram": latencies.encoded(),
    }
