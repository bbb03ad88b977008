"""How far a run is, on stderr: a bar on a terminal, and lines elsewhere."""

import contextlib
import signal
import sys
import time
from collections.abc import Callable, Generator
from types import FrameType
from typing import TYPE_CHECKING, Final, Self

from pika_balancer.cli.exit_codes import Interrupted
from pika_balancer.cli.output import Output, clean
from pika_balancer.cli.signals import handling

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

_DELAY: Final = 0.7


class Gauge:
    """A bar with the time left, on stderr if that is a terminal; nothing for work under 0.7 s.

    Args:
        total: How much there is to do; None if that is unknown.
        now: Seconds since an arbitrary moment.
    """

    delay = _DELAY

    def __init__(self, total: int | None, *, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._begun = now()
        self._console = Output(as_json=True).console
        self._bar = _bar(self._console, total)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if not self._bar.disable:  # else older versions of rich print a blank line
            self._bar.stop()

    def show(self, done: int) -> None:
        """Show that so much is done."""
        if self._now() - self._begun >= self.delay:
            self._bar.start()
            self._bar.update(self._bar.task_ids[0], completed=done)


class JobProgress(Gauge):
    """Progress of a run of jobs: on a terminal a bar with lines above it, elsewhere lines alone.

    Args:
        out: Prints results.
        total: How many jobs there are.
    """

    delay = 0.0

    def __init__(self, out: Output, total: int) -> None:
        super().__init__(total)
        self._out = out

    def __enter__(self) -> Self:
        self.show(0)
        return self

    def say(self, text: str) -> None:
        """Print a line."""
        if self._console.is_interactive:
            self._console.print(clean(text), soft_wrap=True)
        else:
            self._out.note(text)

    def mention(self, text: str) -> None:
        """Print a line that is needed only where there is no bar."""
        if not self._console.is_interactive:
            self._out.note(text)

    def result(self, text: str) -> None:
        """Print a result on stdout; above the bar where both are on one terminal."""
        if self._console.is_interactive and sys.stdout.isatty() and not self._out.as_json:
            self.say(text)
        else:
            self._out.result(text)


def _bar(console: "Console", total: int | None) -> "Progress":
    from rich import progress  # noqa: PLC0415 - slow to import, and not all commands need it

    bar = progress.Progress(
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        progress.TimeElapsedColumn(),
        progress.TimeRemainingColumn(),
        console=console,
        transient=True,
        # What is printed to stdout must get there, even while the bar is on the screen.
        redirect_stdout=False,
        redirect_stderr=False,
        disable=not console.is_interactive,
    )
    bar.add_task("", total=total)
    return bar


class LiveLine:
    """One line that is written over, cut to the width of the terminal; elsewhere one line after the other."""

    def __init__(self, out: Output) -> None:
        from rich.live import Live  # noqa: PLC0415 - slow to import, and not all commands need it

        self._out = out
        self._live = Live(console=out.console, auto_refresh=False, transient=True)

    def __enter__(self) -> Self:
        if self._out.console.is_interactive:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def show(self, text: str) -> None:
        """Replace the line."""
        if self._live.is_started:
            self._live.update(self._out.text(text, one_line=True), refresh=True)
        else:
            self._out.say(text)


class Stop:
    """A signal handler that records the first signal; the second raises `KeyboardInterrupt`."""

    def __init__(self) -> None:
        self.asked = False

    def __call__(self, _signum: int, _frame: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True

    def check(self) -> None:
        """Raise `Interrupted` if there was a signal."""
        if self.asked:
            raise Interrupted("interrupted")


@contextlib.contextmanager
def stopping() -> Generator[Stop]:
    """Record the first SIGINT or SIGTERM inside; the next one raises `KeyboardInterrupt`.

    For what computes in the event loop's own thread, where a cancellation would come too late.
    """
    stop = Stop()
    with handling(stop):
        yield stop


@contextlib.contextmanager
def interruptible() -> Generator[None]:
    """Let SIGINT and SIGTERM raise `KeyboardInterrupt` inside, for code that can end by that."""
    with handling(signal.default_int_handler):
        yield
