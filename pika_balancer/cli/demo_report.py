"""The output of a demo: its progress, and its result by the server's count."""

from collections import deque
from typing import Any, Final, Self

import attrs
from rich.console import Group, RenderableType
from rich.live import Live
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from pika_balancer.cli.exit_codes import FAILURE, INTERRUPTED, OK
from pika_balancer.cli.output import QUIET, Output
from pika_balancer.cli.views import count
from pika_balancer.clock import Clock
from pika_balancer.server import LocalServer, ServerStatistics

_RATE_OVER: Final = 3.0
_MOST_ROWS: Final = 10
_MOST_WAITERS: Final = 24
_LINES_AROUND: Final = 9
_LABEL_WIDTH: Final = 8
_BAR_WIDTH: Final = 28
_GAP: Final = 4
_FILLED: Final = "cyan"
_WAITING: Final = "yellow"


@attrs.frozen
class AccountCounts:
    """What the server counts on one account."""

    channel: str
    max_jobs: int
    jobs: int
    """Jobs accepted."""
    peak_in_flight: int
    in_flight: int

    @classmethod
    def of(cls, statistics: ServerStatistics) -> tuple[Self, ...]:
        """Return the counts in the order of the account map."""
        return tuple(
            cls(seen.channel, seen.max_jobs or 0, seen.jobs, seen.peak_in_flight, seen.in_flight)
            for seen in statistics.channels.values()
        )


@attrs.frozen
class DemoFrame:
    """A demo at one moment."""

    elapsed: float
    """Seconds since its start."""
    jobs: int
    """How many jobs there are to do."""
    completed: int
    waiting: int
    """How many workers wait for a slot."""
    rate: float
    """Completed jobs per second, over the last three seconds."""
    accounts: tuple[AccountCounts, ...]
    stopping: bool
    """Whether no new job is submitted any more."""


class DemoMeter:
    """Makes frames of what the server counts.

    Args:
        server: Runs the jobs.
        jobs: How many jobs there are to do.
        clock: Measures the time.
    """

    def __init__(self, server: LocalServer, jobs: int, clock: Clock) -> None:
        self._server = server
        self._jobs = jobs
        self._clock = clock
        self._begun = clock.now()
        self._history: deque[tuple[float, int]] = deque()

    @property
    def elapsed(self) -> float:
        """Seconds since it was made."""
        return self._clock.now() - self._begun

    def frame(self, waiting: int, *, stopping: bool) -> DemoFrame:
        """Return how the demo stands now."""
        now = self._clock.now()
        statistics = self._server.statistics()
        self._history.append((now, statistics.completed))
        while len(self._history) > 1 and self._history[0][0] < now - _RATE_OVER:
            self._history.popleft()
        since, before = self._history[0]
        return DemoFrame(
            elapsed=self.elapsed,
            jobs=self._jobs,
            completed=statistics.completed,
            waiting=waiting,
            rate=(statistics.completed - before) / max(0.1, now - since),
            accounts=AccountCounts.of(statistics),
            stopping=stopping,
        )


class DemoView:
    """Shows frames as they come: in place on a terminal, else as a line per second."""

    def __init__(self, out: Output) -> None:
        self._out = out
        console = out.console
        self._filled, self._free, self._waiter = "#.o" if console.options.ascii_only else "■□●"
        self._live = Live(console=console, auto_refresh=False, transient=True)
        self.interval = 0.1 if console.is_interactive else 1.0
        """Seconds between two frames."""

    def __enter__(self) -> Self:
        if self._out.console.is_interactive:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live.is_started:
            self._live.stop()

    def show(self, frame: DemoFrame) -> None:
        """Show how the demo stands now."""
        if self._live.is_started:
            self._live.update(self._picture(frame), refresh=True)
        else:
            self._out.say(_line(frame))

    def _picture(self, frame: DemoFrame) -> RenderableType:
        most = max(1, self._out.console.height - _LINES_AROUND)
        accounts = frame.accounts
        shown = accounts if len(accounts) <= most else accounts[: most - 1]
        others = accounts[len(shown) :]
        names = [self._out.text(seen.channel) for seen in shown]
        width = max([_LABEL_WIDTH, *(name.cell_len for name in names)])
        table = Table(box=None, header_style=QUIET, padding=(0, 2))
        table.add_column("account", no_wrap=True, min_width=width)
        table.add_column("slots", no_wrap=True)
        table.add_column("in flight", justify="right", no_wrap=True)
        table.add_column("done", justify="right", no_wrap=True)
        for name, seen in zip(names, shown, strict=True):
            done = str(seen.jobs - seen.in_flight)
            table.add_row(name, self._slots(seen), f"{seen.in_flight}/{seen.max_jobs}", done)
        if others:
            taken = f"{sum(seen.in_flight for seen in others)}/{sum(seen.max_jobs for seen in others)}"
            done = str(sum(seen.jobs - seen.in_flight for seen in others))
            table.add_row(f"and {len(others)} more", "", taken, done, style=QUIET)
        below = Table.grid(padding=(0, _GAP, 0, 0))
        below.add_column(min_width=width, style=QUIET, no_wrap=True)
        below.add_column(no_wrap=True)
        below.add_row("waiting", self._waiters(frame))
        below.add_row("progress", self._progress(frame))
        # The last line is empty: there, the terminal's own `^C` does not wrap and shift the picture.
        return Group(Text(), table, Text(), Padding(below, (0, 0, 0, 2), expand=False), Text())

    def _slots(self, seen: AccountCounts) -> Text:
        filled = Text(f"{self._filled} " * seen.in_flight, _FILLED)
        return filled.append(f"{self._free} " * (seen.max_jobs - seen.in_flight), QUIET)

    def _waiters(self, frame: DemoFrame) -> Text:
        if frame.stopping:
            return Text("stopping; following the running jobs", _WAITING)
        text = Text(f"{self._waiter} " * min(frame.waiting, _MOST_WAITERS), _WAITING)
        return text.append(str(frame.waiting), QUIET)

    def _progress(self, frame: DemoFrame) -> RenderableType:
        bar = ProgressBar(
            total=frame.jobs,
            completed=frame.completed,
            width=max(8, min(_BAR_WIDTH, self._out.console.width - 64)),
            style=QUIET,
            complete_style=_FILLED,
            finished_style=_FILLED,
        )
        grid = Table.grid(padding=(0, 2, 0, 0))
        facts = f"{frame.rate:.1f} jobs/s   {frame.elapsed:.1f} s"
        grid.add_row(bar, f"{frame.completed} of {frame.jobs}", Text(facts, QUIET))
        return grid


def _line(frame: DemoFrame) -> str:
    slots = " ".join(f"{seen.in_flight}/{seen.max_jobs}" for seen in frame.accounts[:_MOST_ROWS])
    if len(frame.accounts) > _MOST_ROWS:
        slots += " …"
    return (
        f"{frame.elapsed:5.1f} s  {frame.completed:>{len(str(frame.jobs))}} of {frame.jobs} done  "
        f"{frame.rate:5.1f} jobs/s  in flight {slots}  "
        + ("stopping" if frame.stopping else f"{frame.waiting} waiting")
    )


@attrs.frozen(kw_only=True)
class DemoReport:
    """How the demo went, by the server's own count."""

    jobs: int
    """Jobs there were to do."""
    completed: int
    """Jobs that ended as completed."""
    refusals: int
    """Submits that the server refused because no slot was free."""
    duplicated: int
    """Jobs that the server accepted twice."""
    elapsed_s: float
    accounts: tuple[AccountCounts, ...]
    interrupted: bool
    """Whether a signal stopped it."""
    pool: str | None = None
    """The pool of several processes; None with one process."""
    processes: tuple[int | None, ...] = ()
    """The exit codes of the processes, minus the signal where one ended it."""
    slots_left: int | None = None
    """Slots that the pool still counts at the end; None if the store could not be asked."""

    @property
    def exceeded(self) -> int:
        """How many accounts ever ran more jobs than their cap."""
        return sum(seen.peak_in_flight > seen.max_jobs for seen in self.accounts)

    @property
    def exit_code(self) -> int:
        """0 only if all jobs are completed, and no promise is broken."""
        if self.interrupted:
            return INTERRUPTED
        wrong = self.refusals or self.duplicated or self.exceeded or any(self.processes)
        left = self.pool is not None and self.slots_left != 0
        return OK if self.completed == self.jobs and not wrong and not left else FAILURE

    def document(self) -> dict[str, Any]:
        """Return the report for `--json`; facts about processes only where there are several."""
        facts = attrs.asdict(self)
        for seen in facts["accounts"]:
            del seen["in_flight"]
        if self.pool is None:
            for name in ("pool", "processes", "slots_left"):
                del facts[name]
        return facts

    def show(self, out: Output) -> None:
        """Print the report."""
        rows = [(seen.channel, seen.jobs, seen.peak_in_flight, seen.max_jobs) for seen in self.accounts]
        out.say()
        out.table(("account", "jobs", "peak in flight", "cap"), rows)
        out.say()
        stopped = "stopped early: " if self.interrupted else ""
        rate = self.completed / self.elapsed_s if self.elapsed_s else 0.0
        speed = f"in {self.elapsed_s:.1f} s ({rate:.1f} jobs/s)"
        out.say(f"{stopped}{self.completed} of {self.jobs} jobs completed {speed}")
        out.say(
            f"by the server's count: {self.refusals} submits refused (0 expected), "
            f"{self.exceeded} accounts above their cap (0 expected)"
        )
        if self.pool is None:
            return
        for number, code in enumerate(self.processes, 1):
            if code not in (OK, INTERRUPTED):
                how = f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"
                out.say(f"process {number} died with {how}")
        if self.slots_left is None:
            out.say(f"the store is unreachable; pool {self.pool} may still count some slots")
        elif self.slots_left:
            out.say(
                f"pool {self.pool} still counts {count(self.slots_left, 'slot')}; "
                f"`pika-balancer store doctor --store URL --pool {self.pool} --repair --orphans` frees them"
            )
        else:
            out.say(
                f"{count(self.duplicated, 'job')} sent twice (0 expected), no slot left taken in the pool"
            )
