"""What a benchmark came to: a line while it runs, tables for people, a document for `--json`."""

import contextlib
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Final, Self

import attrs

from pika_balancer.cli.bench_setting import Setting
from pika_balancer.cli.exit_codes import FAILURE, INTERRUPTED, OK, error_document, exit_for, sentence
from pika_balancer.cli.output import Output
from pika_balancer.cli.progress import LiveLine
from pika_balancer.clock import Clock, SystemClock
from pika_balancer.errors import PikaError
from pika_balancer.loadtest.compare import PAIRS, ratios
from pika_balancer.loadtest.driver import Load
from pika_balancer.loadtest.generators import MOST_UNDER_WAY, Reason
from pika_balancer.loadtest.latency import Latencies
from pika_balancer.loadtest.recorder import COMPLETED, Recorder
from pika_balancer.loadtest.server_process import Server
from pika_balancer.models import AccountState

_SHARES: Final = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p99.9": 0.999}
_MOST_ROWS: Final = 20
_LINES: Final = 20
_LATE: Final = 0.05
_ENOUGH_MEANS: Final = 5


class Side:
    """One setting under load, and what was measured with it so far."""

    def __init__(self, setting: Setting, label: str) -> None:
        self.setting = setting
        self.label = label
        self.load: Load
        self.server: Server | None = None
        self.url = ""
        self.accounts: Sequence[AccountState] = ()
        self.turns: list[Recorder] = []
        self.whole: list[Recorder] = []
        self.ended_by: Reason | None = None
        self.statistics: dict[str, Any] | None = None

    label: str
    """What sets it apart from the other side; empty where there is none."""
    turns: list[Recorder]
    """Its turns, the one that is under way or was cut short among them."""
    whole: list[Recorder]
    """Its turns that have come to their end."""
    statistics: dict[str, Any] | None
    """What its local server has seen."""

    async def ask(self) -> None:
        """Get what its server has seen, if it can tell."""
        if self.server is not None:
            with contextlib.suppress(PikaError):
                self.statistics = await self.server.statistics()

    @property
    def jobs(self) -> int:
        """Jobs started so far."""
        return sum(tally.jobs for tally in self.turns)

    @property
    def total(self) -> Recorder:
        """All turns together."""
        total = Recorder(seconds=self.turns[0].seconds, warm_up=self.turns[0].warm_up)
        for tally in self.turns:
            total.add(tally)
        return total

    def seats(self) -> list[dict[str, Any]]:
        """Return, per account, jobs and the most at once: as the server counts, or else as seen from here."""
        total = self.total
        seen: dict[str, Any] = {} if self.statistics is None else self.statistics["channels"]
        return [
            {
                "channel": account.channel,
                "max_jobs": account.max_jobs,
                "jobs": seen[account.channel]["jobs"] if seen else total.sent[account.channel],
                "peak_in_flight": seen[account.channel]["peak_in_flight"]
                if seen
                else total.peaks[account.channel],
            }
            for account in self.accounts
        ]


class BenchReport:
    """One benchmark.

    Args:
        settings: Of its sides, one or two.
        changes: The names of the settings in which the two differ.
        seconds: For how long each is loaded.
        seed: Fixes its chance.
        foreign: Whether the server is somebody else's.
    """

    def __init__(
        self, settings: Sequence[Setting], changes: Sequence[str], *, seconds: float, seed: int, foreign: bool
    ) -> None:
        self.sides = [Side(setting, setting.told(changes)) for setting in settings]
        self.seconds = seconds
        self.seed = seed
        self.foreign = foreign
        self.interrupted = False
        self.error: PikaError | None = None

    @property
    def measured(self) -> bool:
        """Whether there is anything to report: each side has begun."""
        return all(side.turns for side in self.sides)

    @property
    def compared(self) -> bool:
        """Whether there are two sides."""
        return len(self.sides) > 1

    @property
    def slots(self) -> int:
        """Slots of every side; 0 where they differ."""
        slots = {sum(account.max_jobs for account in side.accounts) for side in self.sides}
        return slots.pop() if len(slots) == 1 else 0

    @property
    def exceeded(self) -> int:
        """How many accounts ever had more jobs than their cap."""
        return sum(seat["peak_in_flight"] > seat["max_jobs"] for side in self.sides for seat in side.seats())

    @property
    def exit_code(self) -> int:
        """0 only if the load was as asked, jobs completed on every side, and no cap was passed."""
        if self.interrupted:
            return INTERRUPTED
        if self.error is not None:
            return exit_for(self.error).code
        empty = any(not side.total.statuses[COMPLETED] for side in self.sides)
        behind = any(side.ended_by == "backlog" for side in self.sides)
        return FAILURE if empty or behind or self.exceeded else OK

    def document(self) -> dict[str, Any]:
        """Return all of it, as `--json` shows it. Durations are seconds."""
        error = {} if self.error is None else error_document(self.error)
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
            "submit_errors": dict(total.answers),
            "refused": total.refused,
            "window_s": total.window,
            "offered_per_s": _per_second(total.offered, total),
            "completed_per_s": _per_second(total.completed, total),
            "peak_in_flight": total.peak,
            "quantiles_are_lower_bounds": total.unfinished > 0,
            "latency": {
                "accepted": _quantiles(total.accepted),
                "ended": _quantiles(total.ended),
                "start_lag": _quantiles(total.lag),
            },
            "over_time": [attrs.asdict(point) for point in total.series()],
            "counted_by": "client" if side.statistics is None else "server",
            "accounts": side.seats(),
            "server": server,
        }

    def _ratios(self) -> Any:
        return ratios(self.sides[0].whole, self.sides[1].whole) if self.compared else []

    def greet(self, out: Output) -> None:
        """Say what will be done."""
        for side in self.sides:
            out.say(f"{_loop(side.setting)} on {side.url}: {len(side.accounts)} accounts, {self._load(side)}")
        for_how_long = f"{self.seconds:g} s"
        if self.compared:
            turn = self.seconds / PAIRS
            for_how_long += f" each, in {PAIRS} turns of {turn:g} s, one after the other: A B, B A, A B, …"
            longest = max(side.setting.service.mean for side in self.sides)
            if turn < _ENOUGH_MEANS * longest:
                out.note(f"turns of {turn:g} s are short against jobs of {longest:g} s: lengthen --duration")
        out.say(f"for {for_how_long}; seed {self.seed}; Ctrl-C stops")

    def _load(self, side: Side) -> str:
        slots = sum(account.max_jobs for account in side.accounts)
        told = f"{slots} slots, policy {side.setting.policy}"
        if self.foreign or side.setting.law is None or not slots:
            return told
        offered = side.setting.law.rate * side.setting.service.mean
        return f"{told}; offered load {offered:.3g}, utilisation {offered / slots:.0%}"

    def print(self, out: Output) -> None:
        """Print all of it."""
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
        if self.error is not None:
            out.note(f"ended early: {sentence(self.error)}")
        if self.interrupted:
            out.say("interrupted: this is what was measured until then")

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
        rates = _per_second(total.offered, total), _per_second(total.completed, total)
        if None not in rates:
            out.say(f"offered {rates[0]:.1f}/s, completed {rates[1]:.1f}/s, over {total.window:.1f} s")
        parts = [f"{count} {word}" for word, count in (total.statuses + total.failures).items()]
        out.say(
            f"{total.jobs} jobs: {', '.join(parts) or 'none ended'}; {total.refused} submits refused (429)"
        )
        if total.answers:
            answers = ", ".join(f"{error} {count}" for error, count in total.answers.items())
            out.say(f"submits not answered with a job: {answers}")
        if total.unfinished:
            out.say(
                f"{total.unfinished} jobs had not ended: their times so far count, and percentiles are bounds"
            )
        if side.ended_by == "backlog":
            out.say(f"stopped early: {MOST_UNDER_WAY:,} jobs were under way, the server does not keep up")
        lag = total.lag.quantile(0.99)
        if lag is not None and lag > _LATE:
            out.say(
                f"this machine was busy: starts came up to {span(lag)} late (p99), which the times include"
            )
        seats = side.seats()
        rows = [
            tuple(seat[name] for name in ("channel", "jobs", "peak_in_flight", "max_jobs")) for seat in seats
        ]
        by = "as seen from here" if side.statistics is None else "by the server's count"
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


class Watch:
    """How it stands, while it runs: a line on a terminal, some lines elsewhere.

    Args:
        out: Prints.
        report: What there is to tell.
        clock: Measures.
    """

    def __init__(self, out: Output, report: BenchReport, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()
        self._report = report
        self._say: Callable[[str], object] = out.say
        self._live = LiveLine(out) if out.console.is_interactive else None
        turns = PAIRS if report.compared else 1
        self._total = report.seconds * len(report.sides)
        self.interval = min(0.25, max(0.02, report.seconds / turns / 100))
        self._pause = self.interval if self._live else max(1.0, self._total / _LINES)
        self._next = self._clock.now()

    interval: float
    """Seconds between two calls of `show`."""

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.__enter__()
            self._say = self._live.show
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.__exit__(kind, error, trace)

    def show(self) -> None:
        """Show how it stands now, if it is time for that."""
        now = self._clock.now()
        if now < self._next:
            return
        self._next = now + self._pause
        turns = [(side, tally) for side in self._report.sides for tally in side.turns]
        side, tally = max(turns, key=lambda turn: turn[1].begun)
        done = sum(tally.statuses.total() for _, tally in turns)
        label = f"{side.label}  " if side.label else ""
        loaded = (len(turns) - 1) * tally.seconds + min(tally.seconds, now - tally.begun)
        last = "" if tally.recent is None else f"  last {span(tally.recent)}"
        self._say(
            f"{loaded:5.1f} of {self._total:g} s  {label}{sum(t.jobs for _, t in turns)} started  "
            f"in flight {tally.running}  in line {tally.waiting}  {done} ended{last}  "
            f"{sum(t.refused for _, t in turns)} refused  {sum(t.failed for _, t in turns)} failed"
        )


def span(seconds: float) -> str:
    """Return a duration as people read it, with three digits: `973 µs`, `4.12 ms`, `1.5 s`."""
    # From where three digits would make `1e+03` of the smaller unit.
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


def _per_second(count: int, total: Recorder) -> float | None:
    return count / total.window if total.window else None


def _quantiles(latencies: Latencies) -> dict[str, Any]:
    found: Sequence[float | None] = latencies.quantiles(list(_SHARES.values())) or [None] * len(_SHARES)
    return {
        "count": latencies.count,
        "mean_s": latencies.mean,
        **{f"{name}_s": value for name, value in zip(_SHARES, found, strict=True)},
        "max_s": latencies.max if latencies.count else None,
        "histogram": latencies.encoded(),
    }
