"""How a demo stands at one moment, and the view that shows it where there is no terminal."""

from collections.abc import Callable
from typing import Final, Protocol, Self

import attrs

_MOST_ROWS: Final = 10


@attrs.frozen
class Row:
    """One account."""

    channel: str
    """Its channel."""
    max_jobs: int
    """Its cap."""
    in_flight: int
    """Slots taken now."""
    done: int
    """Jobs that have ended on it."""


@attrs.frozen
class DemoFrame:
    """All there is to show."""

    elapsed: float
    """Seconds since the first job."""
    jobs: int
    """How many jobs there are to do."""
    completed: int
    """How many are done."""
    waiting: int
    """How many workers wait for a slot."""
    rate: float
    """Jobs per second, over the last few seconds."""
    rows: tuple[Row, ...]
    """The accounts, in the order of the map."""
    stopping: bool
    """Whether no new job is submitted any more."""
    processes: tuple[str, ...] = ()
    """What each of several processes has done."""


class DemoView(Protocol):
    """Shows frames as they come, between its entry and its exit as a context manager."""

    interval: float
    """Seconds between two frames."""

    def __enter__(self) -> Self:
        """Begin."""
        ...

    def __exit__(self, *_: object) -> None:
        """End, and leave the screen as it was."""
        ...

    def show(self, frame: DemoFrame) -> None:
        """Show how it stands now."""
        ...


class PlainView:
    """The demo as a line per second."""

    interval: float = 1.0
    """Seconds between two frames."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def show(self, frame: DemoFrame) -> None:
        """Print a line."""
        slots = " ".join(f"{row.in_flight}/{row.max_jobs}" for row in frame.rows[:_MOST_ROWS])
        if len(frame.rows) > _MOST_ROWS:
            slots += " …"
        line = "stopping" if frame.stopping else f"{frame.waiting} in line"
        if frame.processes:
            line += f"  by process {', '.join(frame.processes[:_MOST_ROWS])}"
        self._say(
            f"{frame.elapsed:5.1f} s  {frame.completed:>{len(str(frame.jobs))}} of {frame.jobs} done  "
            f"{frame.rate:5.1f} jobs/s  in flight {slots}  {line}"
        )
