"""A report: the question, the answer, tables and pictures, on one page of HTML or on one sheet.

The page is one file that needs nothing else. All text that comes in is escaped here.
"""

import html
import textwrap
from collections.abc import Callable, Iterator, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, Final

import attrs

from pika_balancer._util.text import printable
from pika_balancer.errors import InvalidArgument
from pika_balancer.simulate.report import canvas
from pika_balancer.simulate.report.canvas import Axes, Palette

FORMS: Final = (".html", ".png", ".pdf")
"""What a report can be, by the end of its file's name."""

_WIDTH: Final = 7.6
_COLUMNS: Final = 96
_EDGE: Final = 0.03
_LINE: Final = 0.2
_ROW: Final = 0.145
_MOST_ROWS: Final = 40
_LONGEST: Final = 2000
_LONGEST_CELL: Final = 40


@attrs.frozen
class Picture:
    """A picture with its words."""

    name: str
    """Of letters; its own on the page."""
    draw: Callable[[Axes, Palette], object]
    """Draws on axes."""
    says: str
    """What is to be seen, in words."""
    height: float = 2.9
    """In inches, of a width of 7.6."""


@attrs.frozen
class Table:
    """A table with its title."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    chosen: int | None = None
    """The row to point out."""


@attrs.frozen
class Page:
    """Everything that is on the page."""

    title: str
    answer: str
    """In sentences."""
    question: Sequence[tuple[str, str]]
    """Pairs of a heading and what stands below it."""
    notes: Sequence[str]
    """Warnings, as sentences."""
    parts: Sequence[Picture | Table]
    footer: str
    """How it was made."""

    def write(self, path: Path) -> None:
        """Write the report to a file: HTML, PNG or PDF, by the end of its name.

        Raises:
            InvalidArgument: The name ends otherwise.
            ImportError: matplotlib is missing.
            OSError: The file cannot be written.
        """
        form = form_of(path)
        if form == ".html":
            path.write_text(self.html(), encoding="utf-8")
            return
        head = self._head()
        heights = [_LINE * (head.count("\n") + 2), *map(_height, self.parts), 0.5]
        size = _WIDTH, sum(heights)

        def draw(figure: Any, palette: Palette) -> None:
            self._sheet(figure, palette, head, heights)

        canvas.save(draw, path, "pdf" if form == ".pdf" else "png", size, title=self.title)

    def html(self) -> str:
        """Return the page.

        Raises:
            ImportError: matplotlib is missing.
        """
        return "\n".join(self._html()) + "\n"

    def _html(self) -> Iterator[str]:
        title = _safe(self.title)
        yield '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">'
        yield f"<title>{title}</title>"
        yield '<meta name="viewport" content="width=device-width, initial-scale=1">'
        yield '<meta name="color-scheme" content="light dark">'
        yield f"<style>{_style()}</style>\n</head>\n<body>\n<main>"
        yield f'<h1>{title}</h1>\n<p class="answer">{_safe(self.answer)}</p>'
        if self.notes:
            yield '<ul class="notes">'
            yield from (f"<li>{_safe(note)}</li>" for note in self.notes)
            yield "</ul>"
        yield '<h2>The question</h2>\n<dl class="question">'
        for heading, text in self.question:
            yield f"<div><dt>{_safe(heading)}</dt><dd>{_safe(text)}</dd></div>"
        yield "</dl>"
        for part in self.parts:
            yield from _picture(part) if isinstance(part, Picture) else _table(part)
        yield f"<footer>{_safe(self.footer)}</footer>\n</main>\n</body>\n</html>"

    def _head(self) -> str:
        lines = [self.title, "", *textwrap.wrap(self.answer, _COLUMNS)]
        for note in self.notes:
            lines += textwrap.wrap(printable(f"Note: {note}", _LONGEST), _COLUMNS)
        lines.append("")
        for heading, text in self.question:
            line = printable(f"{heading}: {text}", _LONGEST)
            lines += textwrap.wrap(line, _COLUMNS, subsequent_indent="    ")
        return "\n".join(lines)

    def _sheet(self, figure: Any, palette: Palette, head: str, heights: Sequence[float]) -> None:
        parts = figure.subfigures(len(heights), 1, height_ratios=heights)
        title, _, rest = head.partition("\n")
        top, below = (1 - inches / heights[0] for inches in (0.15, 0.5))
        parts[0].text(_EDGE, top, title, va="top", fontsize=15, fontweight="bold", parse_math=False)
        parts[0].text(_EDGE, below, rest.strip(), va="top", fontsize=9.5, linespacing=1.45, parse_math=False)
        for place, part in zip(parts[1:-1], self.parts, strict=True):
            if isinstance(part, Picture):
                part.draw(place.subplots(), palette)
            else:
                mono = {"family": "DejaVu Sans Mono", "fontsize": 8.5, "linespacing": 1.2}
                place.text(_EDGE, 1, part.title, va="top", fontsize=11, fontweight="bold", parse_math=False)
                place.text(_EDGE, 1, "\n\n" + _aligned(part), va="top", parse_math=False, **mono)
        footer = textwrap.fill(self.footer, _COLUMNS + 20)
        parts[-1].text(_EDGE, 0.5, footer, va="center", fontsize=8, color=palette.quiet, parse_math=False)


def form_of(path: Path) -> str:
    """Return which of the forms the file's name asks for.

    Raises:
        InvalidArgument: It is none of them.
    """
    form = path.suffix.lower()
    if form not in FORMS:
        raise InvalidArgument(f"a report ends in {', '.join(FORMS)}, not {path.name!r:.60}", field="report")
    return form


def _safe(text: str) -> str:
    return html.escape(printable(text, _LONGEST))


def _picture(part: Picture) -> Iterator[str]:
    svg = canvas.svg(
        lambda figure, palette: part.draw(figure.subplots(), palette),
        name=part.name,
        size=(_WIDTH, part.height),
        says=part.says,
    )
    yield f"<figure>\n{svg}<figcaption>{_safe(part.says)}</figcaption>\n</figure>"


def _table(part: Table) -> Iterator[str]:
    yield f"<h2>{_safe(part.title)}</h2>"
    long = len(part.rows) > _MOST_ROWS
    if long:
        yield f"<details><summary>{len(part.rows)} rows</summary>"
    yield '<div class="wide"><table>\n<thead><tr>'
    yield "".join(f'<th scope="col">{_safe(cell)}</th>' for cell in part.header) + "</tr></thead>\n<tbody>"
    for place, row in enumerate(part.rows):
        first, *others = (_safe(cell) for cell in row)
        mark = ' class="chosen"' if place == part.chosen else ""
        cells = "".join(f"<td>{cell}</td>" for cell in others)
        yield f'<tr{mark}><th scope="row">{first}</th>{cells}</tr>'
    yield "</tbody>\n</table></div>" + ("</details>" if long else "")


def _height(part: Picture | Table) -> float:
    return part.height if isinstance(part, Picture) else _ROW * (min(len(part.rows), _MOST_ROWS) + 6)


def _aligned(part: Table) -> str:
    rows = [
        [printable(cell, _LONGEST_CELL) for cell in row] for row in (part.header, *part.rows[:_MOST_ROWS])
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip() for row in rows
    ]
    if len(part.rows) > _MOST_ROWS:
        lines.append(f"and {len(part.rows) - _MOST_ROWS} more")
    return "\n".join(lines)


_DARK: Final = Palette(
    ink="#e4e7ea",
    quiet="#98a2ad",
    grid="#31373e",
    accent="#6db1ff",
    limit="#ff9a5c",
    exact="#c39bff",
    paper="#14171a",
)


def _style() -> str:
    dark = f"@media (prefers-color-scheme: dark) {{ :root {{ {_variables(_DARK)} }} }}"
    rules = resources.files("pika_balancer.simulate.report").joinpath("page.css").read_text(encoding="utf-8")
    return f"\n:root {{ {_variables(canvas.PAPER)} }}\n{dark}\n{rules}"


def _variables(palette: Palette) -> str:
    return " ".join(f"--{name}: {colour};" for name, colour in attrs.asdict(palette).items())
