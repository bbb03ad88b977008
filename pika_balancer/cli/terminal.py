"""The only module that sees `rich`: tables and the live views on a terminal."""

from collections.abc import Sequence
from typing import Final, Self, TextIO, TypeVar

from rich.cells import cell_len
from rich.console import Console, Group, JustifyMethod, OverflowMethod, RenderableType
from rich.live import Live
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from pika_balancer._util.text import printable
from pika_balancer.cli.demo_view import DemoFrame, DemoView, Row
from pika_balancer.cli.views import (
    JOBS_HEADER,
    NO_ACCOUNTS,
    NO_JOBS,
    SLOTS_HEADER,
    JobRow,
    Look,
    LookView,
    Slots,
    job_cells,
    slots_cells,
)

T = TypeVar("T")

_MARGIN: Final = 2
_GAP: Final = 2 * _MARGIN
_LABEL_WIDTH: Final = 8
_BAR_WIDTH: Final = 28
_LINES_AROUND: Final = 9
_LINES_AROUND_LOOK: Final = 8
_MOST_WAITERS: Final = 24
_MOST_SQUARES: Final = 12
_FIGURES_WIDTH: Final = 36
_FILLED: Final = "cyan"
_FREE: Final = "bright_black"
_QUIET: Final = "bright_black"
_WAITING: Final = "yellow"


class Terminal:
    """A terminal that people look at; colour only where the terminal and `NO_COLOR` allow it."""

    def __init__(self, stream: TextIO) -> None:
        # Nothing that comes in is markup, an emoji name or worth highlighting.
        self.console = Console(file=stream, markup=False, emoji=False, highlight=False)

    def table(self, header: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[bool]) -> None:
        """Print a table; cells are fit to print already."""
        table = _table()
        for name, end in zip(header, right, strict=True):
            table.add_column(Text(name), justify="right" if end else "left", overflow="fold")
        for row in rows:
            table.add_row(*map(Text, row))
        self.console.print(table)

    def live(self) -> DemoView:
        """Return a view of the demo; use it as a context manager."""
        return LiveView(self.console)

    def line(self) -> "LiveLine":
        """Return a view of one line; use it as a context manager."""
        return LiveLine(self.console)

    def looks(self, every: float) -> LookView:
        """Return a view of a service, looked at every so many seconds; use it as a context manager."""
        return LiveLooks(self.console, every)


class LiveLine:
    """One line that is written over, cut to the width of the terminal."""

    def __init__(self, console: Console) -> None:
        self._live = Live(console=console, auto_refresh=False, transient=True)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def show(self, text: str) -> None:
        """Replace the line."""
        self._live.update(Text(printable(text), no_wrap=True, overflow="crop"), refresh=True)


class LiveView:
    """The demo while it runs: slots by account, the line, and how far it is."""

    interval: float = 0.1
    """Seconds between two frames."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._glyphs = _Glyphs("#", ".", "o") if console.options.ascii_only else _Glyphs("■", "□", "●")
        self._live = Live(console=console, auto_refresh=False, transient=True)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def show(self, frame: DemoFrame) -> None:
        """Replace what is shown."""
        self._live.update(self._render(frame), refresh=True)

    def _render(self, frame: DemoFrame) -> RenderableType:
        most = max(1, self._console.height - _LINES_AROUND - bool(frame.processes))
        shown = frame.rows if len(frame.rows) <= most else frame.rows[: most - 1]
        rest = frame.rows[len(shown) :]
        table = _table()
        width = max(_LABEL_WIDTH, *(len(row.channel) for row in shown), 0)
        table.add_column("account", no_wrap=True, min_width=width)
        table.add_column("slots", no_wrap=True)
        table.add_column("in flight", justify="right", no_wrap=True)
        table.add_column("done", justify="right", no_wrap=True)
        for row in shown:
            slots = self._slots(row)
            table.add_row(
                Text(printable(row.channel)), slots, f"{row.in_flight}/{row.max_jobs}", str(row.done)
            )
        if rest:
            taken = f"{sum(row.in_flight for row in rest)}/{sum(row.max_jobs for row in rest)}"
            done = str(sum(row.done for row in rest))
            table.add_row(f"and {len(rest)} more", "", taken, done, style=_QUIET)
        below = Table.grid(padding=(0, _GAP, 0, 0))
        below.add_column(min_width=width, style=_QUIET, no_wrap=True)
        below.add_column(no_wrap=True)
        below.add_row("in line", self._line(frame))
        if frame.processes:
            below.add_row("done by", Text(", ".join(frame.processes), _QUIET, overflow="crop"))
        below.add_row("progress", self._progress(frame))
        # The last line is empty: there, the terminal's own `^C` does not wrap and shift the picture.
        return Group(Text(), table, Text(), Padding(below, (0, 0, 0, _MARGIN), expand=False), Text())

    def _slots(self, row: Row) -> Text:
        text = Text()
        for slot in range(max(row.max_jobs, row.in_flight)):
            filled = slot < row.in_flight
            glyph = self._glyphs.filled if filled else self._glyphs.free
            text.append(f"{glyph} ", _FILLED if filled else _FREE)
        return text

    def _line(self, frame: DemoFrame) -> Text:
        if frame.stopping:
            return Text("stopping: waiting for what runs", _WAITING)
        text = Text(f"{self._glyphs.waiting} " * min(frame.waiting, _MOST_WAITERS), _WAITING)
        return text.append(str(frame.waiting) if frame.waiting else "nobody", _QUIET)

    def _progress(self, frame: DemoFrame) -> RenderableType:
        grid = Table.grid(padding=(0, _MARGIN, 0, 0))
        bar = ProgressBar(
            total=frame.jobs,
            completed=frame.completed,
            width=max(8, min(_BAR_WIDTH, self._console.width - 64)),
            style=_FREE,
            complete_style=_FILLED,
            finished_style=_FILLED,
        )
        facts = f"{frame.rate:.1f} jobs/s   {frame.elapsed:.1f} s"
        grid.add_row(bar, f"{frame.completed} of {frame.jobs}", Text(facts, _QUIET))
        return grid


class LiveLooks:
    """A service while it is watched: its accounts, and the newest of the jobs that run.

    Cut to the height of the terminal. The last picture stays when it is over.
    """

    def __init__(self, console: Console, every: float) -> None:
        self._console = console
        self._hint = f"every {every:g} s; Ctrl-C ends"
        self._glyphs = _Glyphs("#", ".", "o") if console.options.ascii_only else _Glyphs("■", "□", "●")
        # What the terminal's encoding lacks comes as escapes, and rich's own mark of a cut would too.
        self._cut: OverflowMethod = "crop" if console.options.ascii_only else "ellipsis"
        self._live = Live(console=console, auto_refresh=False, vertical_overflow="crop")

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def show(self, look: Look, trouble: str | None = None) -> None:
        """Replace what is shown; with `trouble`, add it to the last look."""
        self._live.update(self._render(look, trouble), refresh=True)

    def _render(self, look: Look, trouble: str | None) -> RenderableType:
        head = Text.assemble(look.summary, "   ", (self._hint, _QUIET), no_wrap=True, overflow=self._cut)
        above: list[RenderableType] = [Text(), _indented(head)]
        if trouble is not None:
            above.append(_indented(Text(self._fit(trouble), _WAITING, no_wrap=True, overflow=self._cut)))
        rows = max(2, self._console.height - _LINES_AROUND_LOOK - (trouble is not None))
        accounts = min(len(look.accounts), max(rows // 2, rows - len(look.jobs)))
        tables = self._accounts(look.accounts, accounts), self._jobs(look.jobs, rows - accounts)
        # The last line is empty: there, the terminal's own `^C` does not wrap and shift the picture.
        return Group(*above, Text(), tables[0], Text(), tables[1], Text())

    def _accounts(self, accounts: Sequence[Slots], most: int) -> RenderableType:
        if not accounts:
            return _indented(Text(NO_ACCOUNTS, _QUIET))
        shown, rest = _split(accounts, most)
        squares = [self._squares(slots) for slots in shown]
        names = [self._fit(str(slots_cells(slots)[0])) for slots in shown]
        width = max(map(cell_len, names), default=0) + max((text.cell_len for text in squares), default=0)
        # Where there is little room the squares go: a channel that is cut could be any of them.
        roomy = width + _FIGURES_WIDTH <= self._console.width
        table = _table() if roomy else Table(box=None, header_style=_QUIET, padding=(0, 0, 0, 1))
        for name in (SLOTS_HEADER[0], *(["slots"] if roomy else []), *SLOTS_HEADER[1:]):
            justify: JustifyMethod = "left" if name in (SLOTS_HEADER[0], "slots") else "right"
            table.add_column(name, justify=justify, no_wrap=True)
        for slots, name, picture in zip(shown, names, squares, strict=True):
            figures = (Text(self._fit(str(cell)), no_wrap=True) for cell in slots_cells(slots)[1:])
            table.add_row(Text(name, no_wrap=True), *([picture] if roomy else []), *figures)
        if rest:
            taken, free = sum(slots.in_flight for slots in rest), sum(slots.free or 0 for slots in rest)
            blank = ("", "") if roomy else ("",)
            table.add_row(f"and {len(rest)} more", *blank, str(taken), str(free), style=_QUIET)
        return table if roomy else Padding(table, (0, 0, 0, 1))

    def _jobs(self, jobs: Sequence[JobRow], most: int) -> RenderableType:
        if not jobs:
            return _indented(Text(NO_JOBS, _QUIET))
        shown, rest = _split(jobs, most)
        table = Table(box=None, header_style=_QUIET, padding=(0, 0, 0, _MARGIN))
        for name in JOBS_HEADER:
            # Those that may wrap, and do not, share what the others leave.
            free = name in (JOBS_HEADER[0], JOBS_HEADER[-1])
            justify: JustifyMethod = "right" if name == "age" else "left"
            table.add_column(Text(name, no_wrap=True), justify=justify, no_wrap=not free)
        for job in shown:
            cells = (Text(self._fit(cell), no_wrap=True, overflow=self._cut) for cell in job_cells(job))
            table.add_row(*cells)
        # Below the table, since in a narrow one the first column may have no width at all.
        more = [_indented(Text(f"and {len(rest)} more", _QUIET))] if rest else []
        return Group(table, *more)

    def _squares(self, slots: Slots) -> Text:
        over = 0 if slots.max_jobs is None else max(0, slots.in_flight - slots.max_jobs)
        text = Text(no_wrap=True)
        text.append(self._row(self._glyphs.filled, slots.in_flight - over), _FILLED)
        text.append(self._row(self._glyphs.filled, over), _WAITING)
        return text.append(self._row(self._glyphs.free, slots.free or 0), _FREE)

    @staticmethod
    def _row(glyph: str, count: int) -> str:
        return f"{glyph} " * min(count, _MOST_SQUARES)

    def _fit(self, text: str) -> str:
        encoding = self._console.encoding
        return printable(text).encode(encoding, "backslashreplace").decode(encoding)


class _Glyphs:
    def __init__(self, filled: str, free: str, waiting: str) -> None:
        self.filled, self.free, self.waiting = filled, free, waiting


def _split(rows: Sequence[T], most: int) -> tuple[Sequence[T], Sequence[T]]:
    """Return the rows to show on `most` lines, the last of which tells of the others, and the others."""
    shown = len(rows) if len(rows) <= most else most - 1
    return rows[:shown], rows[shown:]


def _indented(renderable: RenderableType) -> Padding:
    return Padding(renderable, (0, 0, 0, _MARGIN))


def _table() -> Table:
    return Table(box=None, header_style=_QUIET, padding=(0, _MARGIN))
