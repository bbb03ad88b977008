"""How far a run of jobs is, on stderr: a bar on a terminal, if `rich` is there, and lines elsewhere."""

import contextlib
import signal
import sys
import time
from collections.abc import Callable, Generator
from types import FrameType
from typing import Any, Final, Protocol, Self

from pika_balancer.cli.exit_codes import Interrupted
from pika_balancer.cli.output import Output, clean
from pika_balancer.cli.signals import handling


class ProgressView(Protocol):
    """Shows how far it is, between its entry and its exit as a context manager."""

    def __enter__(self) -> Self:
        """Begin."""
        ...

    def __exit__(self, *_: object) -> None:
        """End, and leave the screen as it was."""
        ...

    def show(self, done: int) -> None:
        """Show that so many jobs are through."""
        ...

    def say(self, text: str) -> None:
        """Print a line that everybody should see."""
        ...

    def mention(self, text: str) -> None:
        """Print a line that a bar says as well."""
        ...

    def result(self, text: str) -> None:
        """Print a result on stdout, unless that is for a JSON document."""
        ...


class Lines:
    """Without a terminal: one line for each job."""

    def __init__(self, out: Output) -> None:
        self.say = self.mention = out.note
        self.result = out.result

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def show(self, done: int) -> None:
        """Do nothing: the lines tell."""


class Bar:
    """On a terminal: a bar below, and above it what scrolls by."""

    def __init__(self, out: Output, console: Any, total: int | None) -> None:
        from rich.progress import (  # noqa: PLC0415 - an extra, and slow to import
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        self._out = out
        self._console = console
        # What goes to stdout must go there, even while the bar is on the screen.
        self._progress = Progress(
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._task = self._progress.add_task("", total=total)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def show(self, done: int) -> None:
        """Move the bar."""
        self._progress.update(self._task, completed=done)

    def say(self, text: str) -> None:
        """Print above the bar."""
        self._console.print(clean(text), soft_wrap=True)

    def mention(self, text: str) -> None:
        """Do nothing: the bar tells."""

    def result(self, text: str) -> None:
        """Print above the bar where stdout is the same terminal, else plainly."""
        if sys.stdout.isatty() and not self._out.as_json:
            self.say(text)
        else:
            self._out.result(text)


def progress(out: Output, people: Output, total: int) -> ProgressView:
    """Return what shows a run of so many jobs.

    Args:
        out: Prints results.
        people: Its people look at stderr.
        total: How many jobs there are.
    """
    return Lines(out) if people.terminal is None else Bar(out, people.terminal.console, total)


_QUICK: Final = 0.7


class Gauge:
    """A bar with the time left, on stderr if that is a terminal and `rich` is there; nothing elsewhere.

    Whatever is over in the twinkling of an eye gets none.

    Args:
        total: How much there is to do; None where nobody knows.
        now: Seconds since an arbitrary moment.
    """

    def __init__(self, total: int | None, *, now: Callable[[], float] = time.monotonic) -> None:
        self._total = total
        self._now = now
        self._begun = now()
        self._bar: Bar | None = None
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def show(self, done: int) -> None:
        """Show that so much is done."""
        if self._bar is None:
            if self._now() - self._begun < _QUICK:
                return
            people = Output(as_json=True)  # whose people look at stderr
            if people.terminal is None:
                self._begun = float("inf")
                return
            self._bar = self._stack.enter_context(Bar(people, people.terminal.console, self._total))
        self._bar.show(done)


class Stop:
    """Whether a signal asked for the end."""

    def __init__(self) -> None:
        self.asked = False

    def __call__(self, _signum: int, _frame: FrameType | None) -> None:
        """Take note of a signal."""
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True

    def check(self) -> None:
        """Raise `Interrupted` if the end was asked for."""
        if self.asked:
            raise Interrupted("interrupted")


@contextlib.contextmanager
def stopping() -> Generator[Stop]:
    """Take note of the first SIGINT or SIGTERM inside; the next one raises `KeyboardInterrupt`.

    For what computes in the event loop's own thread, where a cancellation would come too late.
    """
    stop = Stop()
    with handling(stop):
        yield stop


@contextlib.contextmanager
def interruptible() -> Generator[None]:
    """Let SIGINT and SIGTERM raise `KeyboardInterrupt` inside, for what knows how to end by that."""
    with handling(signal.default_int_handler):
        yield
