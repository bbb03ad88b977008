"""A report as one HTML page: the question, the answer, tables and pictures.

The page is one file that needs nothing else. All text is escaped here.
"""

import html
from collections.abc import Callable, Iterator, Sequence
from importlib import resources
from pathlib import Path
from typing import Final

import attrs

from pika_balancer._util.text import printable
from pika_balancer.errors import InvalidArgument
from pika_balancer.simulate.report.canvas import Axes, Palette, svg

_WIDTH: Final = 7.6
_MOST_ROWS: Final = 40
_LONGEST: Final = 2000
_LIGHT: Final = Palette(
    ink="#1c2127",
    quiet="#5b6570",
    grid="#dde1e6",
    accent="#0b63c4",
    limit="#b8420a",
    exact="#6d2fb5",
    paper="#ffffff",
)
_DARK: Final = Palette(
    ink="#e4e7ea",
    quiet="#98a2ad",
    grid="#31373e",
    accent="#6db1ff",
    limit="#ff9a5c",
    exact="#c39bff",
    paper="#14171a",
)


@attrs.frozen
class Picture:
    """A picture with its caption."""

    name: str
    """Letters and digits; unique on the page."""
    draw: Callable[[Axes, Palette], object]
    """Draws on axes."""
    says: str
    """The caption, which is the text alternative too."""
    height: float = 2.9
    """In inches, at a width of 7.6."""


@attrs.frozen
class Table:
    """A table with its title."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    chosen: int | None = None
    """The row to highlight."""


@attrs.frozen
class Page:
    """The contents of a report."""

    title: str
    answer: str
    """In sentences."""
    question: Sequence[tuple[str, str]]
    """Pairs of a heading and its text."""
    notes: Sequence[str]
    """Warnings, as sentences."""
    parts: Sequence[Picture | Table]
    footer: str
    """How it was made."""

    def write(self, path: Path) -> None:
        """Write the page to a file.

        Raises:
            InvalidArgument: The name does not end in `.html`.
            ImportError: matplotlib is missing.
            OSError: The file cannot be written.
        """
        check_name(path)
        path.write_text(self.html(), encoding="utf-8")

    def html(self) -> str:
        """Return the page.

        Raises:
            ImportError: matplotlib is missing.
        """
        return "\n".join(self._lines()) + "\n"

    def _lines(self) -> Iterator[str]:
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


def check_name(name: str | Path) -> None:
    """Check the name of a report's file.

    Raises:
        InvalidArgument: It does not end in `.html`.
    """
    path = Path(name)
    if path.suffix.lower() != ".html":
        raise InvalidArgument(f"a report ends in .html, not {path.name!r:.60}", field="report")


def _safe(text: str) -> str:
    return html.escape(printable(text, _LONGEST))


def _picture(part: Picture) -> Iterator[str]:
    picture = svg(part.draw, name=part.name, size=(_WIDTH, part.height), says=part.says)
    yield f"<figure>\n{picture}<figcaption>{_safe(part.says)}</figcaption>\n</figure>"


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


def _style() -> str:
    light, dark = (
        ":root { " + " ".join(f"--{name}: {colour};" for name, colour in attrs.asdict(palette).items()) + " }"
        for palette in (_LIGHT, _DARK)
    )
    rules = resources.files("pika_balancer.simulate.report").joinpath("page.css").read_text(encoding="utf-8")
    return f"\n{light}\n@media (prefers-color-scheme: dark) {{ {dark} }}\n{rules}"
