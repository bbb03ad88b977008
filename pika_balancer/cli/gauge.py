"""Long computations in the foreground: how far they are, and a signal that asks them to come to an end."""

import contextlib
import signal
import time
from collections.abc import Callable, Generator
from types import FrameType
from typing import Final, Self

from pika_balancer.cli.exits import Interrupted
from pika_balancer.cli.output import Output
from pika_balancer.cli.progress import Bar
from pika_balancer.cli.signals import handling

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
