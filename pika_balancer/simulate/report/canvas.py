"""Drawing with matplotlib: figures of their own, made without pyplot and without a change to its settings."""

import html
import importlib.util
import io
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Literal

import attrs

Axes = Any
"""matplotlib's axes; its own types are only partly known to type checkers."""

MISSING: Final = "pictures need matplotlib: pip install 'pika-balancer[plot]'"


@attrs.frozen
class Palette:
    """The colours of a picture, by what they are for."""

    ink: str
    """Text."""
    quiet: str
    """Axes and what matters less."""
    grid: str
    """Lines in the background."""
    accent: str
    """What was found."""
    limit: str
    """What it is held against: capacity, targets."""
    exact: str
    """What theory says."""
    paper: str
    """The background."""


PAPER: Final = Palette(
    ink="#1c2127",
    quiet="#5b6570",
    grid="#dde1e6",
    accent="#0b63c4",
    limit="#b8420a",
    exact="#6d2fb5",
    paper="#ffffff",
)
"""For pictures that stand alone."""

_STAND_IN: Final = Palette(*(f"#0000f{place}" for place in range(1, 8)))
_SETTINGS: Final = {
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 10,
    "grid.linewidth": 0.8,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "svg.fonttype": "none",
    "pdf.fonttype": 42,
}
_MARGINS: Final = {"figure.constrained_layout.w_pad": 0.22, "figure.constrained_layout.h_pad": 0.1}
"""In inches, around the pictures of a sheet."""

_FOR_A_PAGE: Final = (
    (r"^.*?<svg", ""),  # the prologue of a file
    (r"<!--.*?-->", ""),
    (r"<defs>\s*<style.*?</style>\s*</defs>", ""),  # would hold for the whole page, which has its own
    (r'\s(?:xmlns(?::xlink)?|version|width|height)="[^"]*"(?=[^<]*viewBox)', ""),
    (r'(viewBox="[^"]*")[^>]*>', r"\1>"),
    (r"xlink:href=", "href="),
    (r"font-family: 'DejaVu Sans'", "font-family: inherit"),
    (r"\s*\n\s*", "\n"),
)
"""What makes an SVG file an element of an HTML page."""


def available() -> bool:
    """Return whether there is anything to draw with."""
    return importlib.util.find_spec("matplotlib") is not None


def svg(draw: Callable[[Any, Palette], object], *, name: str, size: tuple[float, float], says: str) -> str:
    """Return a picture as an SVG element for the middle of a page.

    Its text is text, in the font of the page, and its colours are the page's variables, `--ink` and so on:
    it is readable on light and on dark paper. Nothing in it refers to anything outside.

    Args:
        draw: Draws on a figure, in the colours of a palette.
        name: Begins every id in it; one of its own for each picture of a page.
        size: Width and height in inches.
        says: What is to be seen, for those who cannot.

    Raises:
        ImportError: matplotlib is missing.
    """
    buffer = io.StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    _save(draw, buffer, "svg", size, _STAND_IN, {"svg.hashsalt": name}, metadata=nothing, transparent=True)
    text = buffer.getvalue()
    for pattern, instead in _FOR_A_PAGE:
        text = re.sub(pattern, instead, text, flags=re.DOTALL)
    text = re.sub(r"""(\bid="|href="#|url\(#)""", rf"\g<1>{name}-", text)
    for field in attrs.fields(Palette):
        text = text.replace(getattr(_STAND_IN, field.name), f"var(--{field.name})")
    return f'<svg role="img" aria-label="{html.escape(says)}"{text}'


def save(
    draw: Callable[[Any, Palette], object],
    path: Path,
    kind: Literal["png", "pdf"],
    size: tuple[float, float],
    *,
    title: str,
) -> None:
    """Write a picture to a file, as PNG or PDF, dark on white.

    Raises:
        ImportError: matplotlib is missing.
        OSError: The file cannot be written.
    """
    buffer = io.BytesIO()
    metadata = {"Title": title} | ({"CreationDate": None} if kind == "pdf" else {})
    _save(draw, buffer, kind, size, PAPER, _MARGINS, metadata=metadata, dpi=150)
    path.write_bytes(buffer.getvalue())


def _save(  # noqa: PLR0917 - the two above are all that call it
    draw: Callable[[Any, Palette], object],
    to: io.StringIO | io.BytesIO,
    kind: str,
    size: tuple[float, float],
    palette: Palette,
    more: dict[str, Any],
    **options: Any,
) -> None:
    try:
        mpl: Any = importlib.import_module("matplotlib")  # an extra, slow to import, and partly typed
        figures: Any = importlib.import_module("matplotlib.figure")
    except ImportError as error:
        raise ImportError(MISSING) from error
    colours = {
        "text.color": palette.ink,
        "axes.labelcolor": palette.ink,
        "axes.titlecolor": palette.ink,
        "axes.edgecolor": palette.quiet,
        "axes.facecolor": palette.paper,
        "figure.facecolor": palette.paper,
        "xtick.color": palette.quiet,
        "ytick.color": palette.quiet,
        "xtick.labelcolor": palette.ink,
        "ytick.labelcolor": palette.ink,
        "grid.color": palette.grid,
        "axes.prop_cycle": mpl.cycler(color=[palette.accent]),
    }
    # From matplotlib's own defaults, whatever the user's settings are, and back to those.
    with mpl.rc_context(), warnings.catch_warnings():
        # A letter that the font has not is drawn as a box, and that is all that happens.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        mpl.rcdefaults()
        mpl.rcParams.update(_SETTINGS | colours | more)
        figure = figures.Figure(figsize=size, layout="constrained")
        draw(figure, palette)
        figure.savefig(to, format=kind, **options)
