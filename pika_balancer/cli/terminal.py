"""The only module that sees `rich`: tables and the live view of the demo on a terminal."""

from collections.abc import Sequence
from typing import Final, Self, TextIO

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from pika_balancer.cli.frame import Frame, Row, View
from pika_balancer.mask import printable

_MARGIN: Final = 2
_GAP: Final = 2 * _MARGIN
_LABEL_WIDTH: Final = 8
_BAR_WIDTH: Final = 28
_LINES_AROUND: Final = 9
_MOST_WAITERS: Final = 24
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

    def live(self) -> View:
        """Return a view of the demo; use it as a context manager."""
        return LiveView(self.console)


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

    def show(self, frame: Frame) -> None:
        """Replace what is shown."""
        self._live.update(self._render(frame), refresh=True)

    def _render(self, frame: Frame) -> RenderableType:
        most = max(1, self._console.height - _LINES_AROUND)
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

    def _line(self, frame: Frame) -> Text:
        if frame.stopping:
            return Text("stopping: waiting for what runs", _WAITING)
        text = Text(f"{self._glyphs.waiting} " * min(frame.waiting, _MOST_WAITERS), _WAITING)
        return text.append(str(frame.waiting) if frame.waiting else "nobody", _QUIET)

    def _progress(self, frame: Frame) -> RenderableType:
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


class _Glyphs:
    def __init__(self, filled: str, free: str, waiting: str) -> None:
        self.filled, self.free, self.waiting = filled, free, waiting


def _table() -> Table:
    return Table(box=None, header_style=_QUIET, padding=(0, _MARGIN))
