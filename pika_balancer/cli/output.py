"""What the commands print: text that is safe on a terminal, tables, and one JSON document for `--json`."""

import json
import os
import sys
from collections.abc import Container, Iterable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, TextIO

from pika_balancer._util.text import printable

if TYPE_CHECKING:
    from pika_balancer.cli.terminal import Terminal

_LONGEST_LINE: Final = 4000


class Output:
    """Prints for one command.

    With `as_json`, stdout gets nothing but `document`, and what is for people goes to stderr. Every text is
    escaped here, so callers pass on what the network said as it came.
    """

    def __init__(self, *, as_json: bool = False) -> None:
        self.as_json = as_json
        self._people: TextIO = sys.stderr if as_json else sys.stdout

    @cached_property
    def terminal(self) -> "Terminal | None":
        """Where people look, if that is a terminal and `rich` is there."""
        return _terminal(self._people)

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
        """Print headings for people, each with what belongs to it."""
        listed = [(clean(heading), text) for heading, text in pairs]
        width = max((len(heading) for heading, _ in listed), default=0)
        for heading, text in listed:
            self.say(f"{heading.ljust(width)}  {text}")

    def table(
        self, header: Sequence[str], rows: Iterable[Sequence[object]], *, right: Container[int] = ()
    ) -> None:
        """Print a table for people; whole numbers and the columns `right` are aligned on the right."""
        listed = list(rows)
        cells = [[clean(str(cell)) for cell in row] for row in (header, *listed)]
        ends = [
            place in right or all(isinstance(row[place], int) for row in listed)
            for place in range(len(header))
        ]
        if self.terminal is not None:
            self.terminal.table(cells[0], cells[1:], ends)
            return
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        for row in cells:
            line = "  ".join(
                cell.rjust(width) if end else cell.ljust(width)
                for cell, width, end in zip(row, widths, ends, strict=True)
            )
            _print(line.rstrip(), self._people)


def _print(text: str, stream: TextIO) -> None:
    stream.write(text + "\n")
    stream.flush()


def clean(text: str) -> str:
    """Return `text` as one line with everything escaped that could steer a terminal."""
    return printable(text, _LONGEST_LINE)


def _terminal(stream: TextIO) -> "Terminal | None":
    if not stream.isatty() or os.environ.get("TERM") in ("dumb", "unknown"):
        return None
    try:
        from pika_balancer.cli.terminal import Terminal  # noqa: PLC0415 - rich is an extra, and slow to import
    except ImportError:
        return None
    return Terminal(stream)
