"""What the commands print: text that is safe on a terminal, tables, and one JSON document for `--json`."""

import json
import os
import sys
from collections.abc import Container, Iterable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, TextIO

from pika_balancer._util.text import printable

if TYPE_CHECKING:
    from rich.console import Console, OverflowMethod, RenderableType
    from rich.table import Table
    from rich.text import Text

_LONGEST_LINE: Final = 4000
_UNLIMITED: Final = 100_000
"""Columns where no terminal limits them: the lines of a file or a pipe are not folded."""

QUIET: Final = "bright_black"
"""The style of what matters less."""


class Output:
    """Prints for one command.

    With `as_json`, stdout gets nothing but `document`, and what is for people goes to stderr. Every text is
    escaped here, so callers pass on what the network said as it came.
    """

    def __init__(self, *, as_json: bool = False) -> None:
        self.as_json = as_json
        self._people: TextIO = sys.stderr if as_json else sys.stdout

    @cached_property
    def console(self) -> "Console":
        """The console on which people read; `is_interactive` if it is a terminal that can redraw lines."""
        from rich.console import Console  # noqa: PLC0415 - slow to import, and not all commands need it

        terminal = self._people.isatty() and os.environ.get("TERM") not in ("dumb", "unknown")
        # Nothing that comes in is markup, an emoji name or worth highlighting.
        return Console(
            file=self._people,
            force_terminal=terminal,
            width=None if terminal else _UNLIMITED,
            markup=False,
            emoji=False,
            highlight=False,
        )

    def document(self, value: Any) -> None:
        """Print the JSON document; nothing without `as_json`."""
        if self.as_json:
            # ASCII alone: nothing in it can steer a terminal.
            _print(json.dumps(value, indent=2), sys.stdout)

    def say(self, text: str = "") -> None:
        """Print a line for people."""
        _print(clean(text), self._people)

    def note(self, text: str) -> None:
        """Print a line beside the result: always on stderr."""
        _print(clean(text), sys.stderr)

    def result(self, text: str) -> None:
        """Print a line that scripts read from stdout; nothing with `as_json`, whose document has it."""
        if not self.as_json:
            _print(clean(text), sys.stdout)

    def pairs(self, pairs: Iterable[tuple[str, str]]) -> None:
        """Print headings for people, each with the text that belongs to it."""
        listed = [(clean(heading), text) for heading, text in pairs]
        width = max((len(heading) for heading, _ in listed), default=0)
        for heading, text in listed:
            self.say(f"{heading.ljust(width)}  {text}")

    def table(
        self, header: Sequence[str], rows: Iterable[Sequence[object]], *, right: Container[int] = ()
    ) -> None:
        """Print a table for people; whole numbers and the columns `right` are aligned on the right."""
        self.show(self.grid(header, rows, right=right))

    def show(self, renderable: "RenderableType") -> None:
        """Print something of `rich` for people, without the blanks at the ends of its lines."""
        with self.console.capture() as captured:
            self.console.print(renderable)
        for line in captured.get().split("\n")[:-1]:
            _print(line.rstrip(), self._people)

    def grid(
        self,
        header: Sequence[str],
        rows: Iterable[Sequence[object]],
        *,
        right: Container[int] = (),
        cut: Container[str] | None = None,
    ) -> "Table":
        """Return a table for `show` or a live view.

        Args:
            header: The names of the columns.
            rows: The cells, as they came.
            right: Columns that are aligned on the right even if they are no whole numbers.
            cut: Columns that a narrow terminal cuts, each row on one line; None folds all cells instead.
        """
        from rich.table import Table  # noqa: PLC0415 - slow to import, and not all commands need it

        listed = list(rows)
        table = Table(box=None, header_style=QUIET, pad_edge=False, padding=(0, 2, 0, 0))
        for place, name in enumerate(header):
            figures = place in right or all(isinstance(row[place], int) for row in listed)
            table.add_column(
                self.text(name, one_line=cut is not None),
                justify="right" if figures else "left",
                overflow="fold",
                no_wrap=cut is not None and name not in cut,
            )
        for row in listed:
            table.add_row(*(self.text(str(cell), one_line=cut is not None) for cell in row))
        return table

    def text(self, text: str, style: str = "", *, one_line: bool = False) -> "Text":
        """Return escaped text for `show` or a live view; `one_line` is cut where a terminal ends."""
        from rich.text import Text  # noqa: PLC0415 - slow to import, and not all commands need it

        # What the encoding lacks is escaped before it is measured.
        encoding = self.console.encoding
        fit = clean(text).encode(encoding, "backslashreplace").decode(encoding)
        if not one_line:
            return Text(fit, style, overflow="fold")
        # The ellipsis of rich is no ASCII.
        cut: OverflowMethod = "crop" if self.console.options.ascii_only else "ellipsis"
        return Text(fit, style, no_wrap=True, overflow=cut)


def _print(text: str, stream: TextIO) -> None:
    stream.write(text + "\n")
    stream.flush()


def clean(text: str) -> str:
    """Return `text` as one line with everything escaped that could steer a terminal."""
    return printable(text, _LONGEST_LINE)
