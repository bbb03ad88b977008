"""What a load measured, as a picture: latencies, by percentile and over time, and jobs under way.

Needs the extra `plot`.
"""

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from pika_balancer.errors import InvalidArgument
from pika_balancer.loadtest.latency import Latencies
from pika_balancer.loadtest.recorder import Recorder, TimePoint

_KINDS: Final = (".png", ".svg", ".pdf")
_SHARES: Final = [1 - 10 ** (-step / 10) for step in range(51)]
_TICKS: Final = {1: "0 %", 2: "50 %", 10: "90 %", 100: "99 %", 1000: "99.9 %", 10_000: "99.99 %"}
_COLOURS: Final = ("#1f77b4", "#d95f02")
_QUIET: Final = "#888888"


def check_picture(path: Path) -> None:
    """Refuse a picture that could not be drawn in the end.

    Raises:
        InvalidArgument: Its kind is not known, or there is no such folder; names the field `picture`.
        ImportError: matplotlib is missing.
    """
    if path.suffix.lower() not in _KINDS:
        raise InvalidArgument(f"picture: {path.name!r:.60} must end with .png, .svg or .pdf", field="picture")
    try:
        found = path.parent.is_dir()
    except OSError:  # the name is too long
        found = False
    if not found:
        raise InvalidArgument(f"picture: there is no folder {str(path.parent)!r:.60}", field="picture")
    _figure_class()


def draw(path: Path, sides: Sequence[tuple[str, Recorder]], *, slots: int) -> None:
    """Draw what one or two sides came to.

    Args:
        path: Where to; the kind goes by the end of its name.
        sides: Each with its name.
        slots: How many slots there are; 0 where that differs or is not known.
    """
    figure = _figure_class()(figsize=(9, 10), layout="constrained")
    by_percentile, over_time, under_way = figure.subplots(3, 1)
    series = [tally.series() for _, tally in sides]
    latencies = [side.ended.max for _, side in sides]
    scale, unit = (1000.0, "ms") if max(latencies, default=0.0) < 2 else (1.0, "s")  # noqa: PLR2004 - see unit
    for (name, tally), points, colour in zip(sides, series, _COLOURS, strict=False):
        _curve(by_percentile, tally.ended, scale, color=colour, label=_label(name, "to the end"))
        _curve(by_percentile, tally.accepted, scale, color=colour, ls="--", label=_label(name, "accepted"))
        _line(over_time, points, "p50_s", scale, color=colour, label=_label(name, "median"))
        _line(over_time, points, "p99_s", scale, color=colour, ls=":", label=_label(name, "99th percentile"))
        _line(under_way, points, "in_flight", color=colour, label=_label(name, "in flight"))
        _line(under_way, points, "waiting", color=colour, ls="--", label=_label(name, "in line"))
    if slots:
        under_way.axhline(slots, color=_QUIET, lw=1, label=f"{slots} slots")
    by_percentile.set_xscale("log")
    most = max((side.ended.count for _, side in sides), default=1)
    ticks = [place for place in _TICKS if place <= max(10, most)]
    by_percentile.set_xticks(ticks, [_TICKS[place] for place in ticks])
    if any(side.accepted.max > 0 for _, side in sides):  # there is no logarithm of nothing
        by_percentile.set_yscale("log")
        by_percentile.yaxis.set_major_locator(_module("matplotlib.ticker").LogLocator(subs=(1, 2, 5)))
        by_percentile.yaxis.set_major_formatter("{x:g}")
    by_percentile.minorticks_off()
    bound = ", lower bounds: some had not ended" if any(side.unfinished for _, side in sides) else ""
    by_percentile.set_title(f"Time from the intended start, by percentile of jobs{bound}")
    by_percentile.set_xlabel("share of jobs that took no longer")
    over_time.set_title("Time to the end, by intended start")
    under_way.set_title("Jobs under way")
    for axes in (by_percentile, over_time):
        axes.set_ylabel(f"time ({unit})")
    for axes in (over_time, under_way):
        axes.set_xlabel("seconds from the beginning of the load")
        longest = max((points[-1].at_s for points in series if points), default=1.0)
        axes.set_xlim(0, max(longest, *(side.seconds for _, side in sides)))
    under_way.set_ylabel("jobs")
    for axes in (by_percentile, over_time, under_way):
        axes.grid(visible=True, color="#dddddd", lw=0.6)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize="small", loc="upper left", ncols=2)
    for axes in (by_percentile, over_time, under_way):
        _make_room(axes)
    figure.savefig(path, dpi=110)


def _curve(axes: Any, latencies: Latencies, scale: float, **style: Any) -> None:
    # Up to the share that the number of jobs can tell: beyond it there is one job, the longest, for all.
    shares = [share for share in _SHARES if latencies.count * (1 - share) >= 1 - 1e-9]
    heights = [scale * seconds for seconds in latencies.quantiles(shares)]
    axes.plot([1 / (1 - share) for share in shares], heights, **style)


def _line(axes: Any, points: Sequence[TimePoint], name: str, scale: float = 1.0, **style: Any) -> None:
    known = [(point.at_s, getattr(point, name)) for point in points if getattr(point, name) is not None]
    axes.plot([at for at, _ in known], [scale * value for _, value in known], lw=1.4, **style)


def _make_room(axes: Any) -> None:
    """Leave the upper part of the panel to the legend."""
    low, high = axes.get_ylim()
    if axes.get_yscale() == "log":
        axes.set_ylim(low, high * (high / low) ** 0.3)
    else:
        axes.set_ylim(0, 1.3 * max(high, 1e-3))


def _label(side: str, what: str) -> str:
    return f"{side}: {what}" if side else what


def _figure_class() -> Any:
    # The class itself, not pyplot: no window system, and nothing of the caller's is changed.
    return _module("matplotlib.figure").Figure


def _module(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError("pictures need an extra: pip install 'pika-balancer[plot]'") from error
