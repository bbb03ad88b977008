"""Pictures as SVG by matplotlib, made without pyplot and without a change to its settings."""

import html
import importlib.util
import io
import re
import warnings
from collections.abc import Callable
from typing import Any, Final

import attrs

Axes = Any
"""matplotlib's axes; its own types are only partly known to type checkers."""


@attrs.frozen
class Palette:
    """The colours of a page, by purpose."""

    ink: str
    """Text."""
    quiet: str
    """Axes and secondary text."""
    grid: str
    """Lines in the background."""
    accent: str
    """Measured values."""
    limit: str
    """Capacity and targets."""
    exact: str
    """Exact values."""
    paper: str
    """The background."""


_PLACEHOLDERS: Final = Palette(*(f"#0000f{place}" for place in range(1, 8)))
"""Colours that `svg` replaces by variables of the page."""
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
    "text.color": _PLACEHOLDERS.ink,
    "axes.labelcolor": _PLACEHOLDERS.ink,
    "axes.titlecolor": _PLACEHOLDERS.ink,
    "axes.edgecolor": _PLACEHOLDERS.quiet,
    "axes.facecolor": _PLACEHOLDERS.paper,
    "figure.facecolor": _PLACEHOLDERS.paper,
    "xtick.color": _PLACEHOLDERS.quiet,
    "ytick.color": _PLACEHOLDERS.quiet,
    "xtick.labelcolor": _PLACEHOLDERS.ink,
    "ytick.labelcolor": _PLACEHOLDERS.ink,
    "grid.color": _PLACEHOLDERS.grid,
}
_FOR_A_PAGE: Final = (
    (r"^.*?<svg", ""),  # the prologue of a file
    (r"<!--.*?-->", ""),
    (r"<defs>\s*<style.*?</style>\s*</defs>", ""),  # it would apply to the whole page, which has its own
    (r'\s(?:xmlns(?::xlink)?|version|width|height)="[^"]*"(?=[^<]*viewBox)', ""),
    (r'(viewBox="[^"]*")[^>]*>', r"\1>"),
    (r"xlink:href=", "href="),
    (r"font-family: 'DejaVu Sans'", "font-family: inherit"),
    (r"\s*\n\s*", "\n"),
)
"""Replacements that turn an SVG file into an element of an HTML page."""


def available() -> bool:
    """Return whether matplotlib is installed."""
    return importlib.util.find_spec("matplotlib") is not None


def log_scale(axes: Axes, text: Callable[[float], str]) -> None:
    """Make the vertical axis logarithmic, with labels from `text`."""

    def label(value: float, _place: int) -> str:
        return text(value)

    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(label)
    axes.yaxis.set_minor_formatter("")


def svg(draw: Callable[[Axes, Palette], object], *, name: str, size: tuple[float, float], says: str) -> str:
    """Return a picture as an SVG element for an HTML page.

    Its text is text in the font of the page, and its colours are the page's variables (`--ink`, …), so that
    it is readable in light and dark mode. It refers to nothing outside itself.

    Args:
        draw: Draws on axes, in the colours of a palette.
        name: The prefix of every id in it; unique on the page.
        size: Width and height in inches.
        says: The text alternative.

    Raises:
        ImportError: matplotlib is missing.
    """
    try:
        mpl: Any = importlib.import_module("matplotlib")  # an extra, slow to import, and partly typed
        figures: Any = importlib.import_module("matplotlib.figure")
    except ImportError as error:
        raise ImportError("pictures need matplotlib: pip install 'pika-balancer[plot]'") from error
    buffer = io.StringIO()
    # Start from matplotlib's own defaults, whatever the user's settings are, and restore those.
    with mpl.rc_context(), warnings.catch_warnings():
        # A letter missing in the font is drawn as a box.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        mpl.rcdefaults()
        mpl.rcParams.update(_SETTINGS | {"svg.hashsalt": name})
        mpl.rcParams["axes.prop_cycle"] = mpl.cycler(color=[_PLACEHOLDERS.accent])
        figure = figures.Figure(figsize=size, layout="constrained")
        draw(figure.subplots(), _PLACEHOLDERS)
        metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(buffer, format="svg", metadata=metadata, transparent=True)
    text = buffer.getvalue()
    for pattern, replacement in _FOR_A_PAGE:
        text = re.sub(pattern, replacement, text, flags=re.DOTALL)
    text = re.sub(r"""(\bid="|href="#|url\(#)""", rf"\g<1>{name}-", text)
    for colour, placeholder in attrs.asdict(_PLACEHOLDERS).items():
        text = text.replace(placeholder, f"var(--{colour})")
    return f'<svg role="img" aria-label="{html.escape(says)}"{text}'
