"""SIGINT and SIGTERM: the first cancels the command, the second its cleanup, the third aborts both."""

import asyncio
import contextlib
import signal
from collections.abc import Callable, Coroutine, Generator
from types import FrameType
from typing import Any, Final

_MOST_CANCELLATIONS: Final = 2


def supervise(command: Callable[[], Coroutine[Any, Any, int]]) -> int:
    """Run the command in a new event loop and return its exit code.

    Raises:
        CancelledError: A signal cancelled the command; after a third one it was aborted.
    """
    stop = _Stop()
    try:
        with handling(stop), asyncio.Runner() as runner:
            return runner.run(stop.guard(command))
    except KeyboardInterrupt:
        raise asyncio.CancelledError from None


class _Stop:
    def __init__(self) -> None:
        self._signals = 0
        self._cancel: Callable[[], object] | None = None

    async def guard(self, command: Callable[[], Coroutine[Any, Any, int]]) -> int:
        task = asyncio.current_task()
        loop = asyncio.get_running_loop()
        assert task is not None  # noqa: S101 - a coroutine that a runner runs is in a task
        # Threadsafe, since it also wakes the loop from its wait for I/O.
        self._cancel = lambda: loop.call_soon_threadsafe(task.cancel)
        if self._signals:
            raise asyncio.CancelledError
        try:
            return await command()
        finally:
            self._cancel = None

    def __call__(self, _signum: int, _frame: FrameType | None) -> None:
        self._signals += 1
        if self._signals > _MOST_CANCELLATIONS:
            raise KeyboardInterrupt
        if self._cancel is not None:
            self._cancel()


@contextlib.contextmanager
def handling(handler: Callable[[int, FrameType | None], Any]) -> Generator[None]:
    """Let SIGINT and SIGTERM call `handler` inside; does nothing outside the main thread."""
    before: dict[signal.Signals, Any] = {}
    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            before[number] = signal.signal(number, handler)
    except ValueError:
        # Only the main thread may; elsewhere the code that started the thread ends it.
        before.clear()
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)
