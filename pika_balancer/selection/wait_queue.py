"""The waiting line: first come, first served among those who could use a freed slot.

Pure bookkeeping, no event loop. Some wait for any slot, some for a slot of one channel only; all draw tickets
from one counter, so that who came first is known across both. Joining and leaving are O(1).
"""

from collections import OrderedDict
from collections.abc import Iterator
from typing import Generic, TypeVar

W = TypeVar("W")


class WaitQueue(Generic[W]):
    """Waiters in the order of their arrival, found by the channel that they could use.

    Attributes:
        size: How many wait.
    """

    def __init__(self) -> None:
        self.size = 0
        self._tickets = 0
        self._any: OrderedDict[W, int] = OrderedDict()
        self._pinned: dict[str, OrderedDict[W, int]] = {}

    def __iter__(self) -> Iterator[tuple[W, str | None]]:
        """Yield each waiter with the channel it waits for (None for any), in the order of arrival."""
        lines: list[tuple[str | None, OrderedDict[W, int]]] = [(None, self._any), *self._pinned.items()]
        everybody = [(ticket, waiter, channel) for channel, line in lines for waiter, ticket in line.items()]
        everybody.sort(key=lambda item: item[0])
        return iter([(waiter, channel) for _, waiter, channel in everybody])

    def join(self, waiter: W, channel: str | None) -> None:
        """Put the waiter at the end, for a slot of `channel` only or for any."""
        line = self._any if channel is None else self._pinned.setdefault(channel, OrderedDict())
        self._tickets += 1
        self.size += 1
        line[waiter] = self._tickets

    def leave(self, waiter: W, channel: str | None) -> bool:
        """Take the waiter out; return whether it stood in line."""
        line = self._any if channel is None else self._pinned.get(channel)
        if line is None or line.pop(waiter, None) is None:
            return False
        self.size -= 1
        if channel is not None and not line:
            del self._pinned[channel]
        return True

    def first(self, channel: str) -> tuple[W, str | None] | None:
        """Return who came first among those who could use a slot of `channel`, and what they wait for."""
        pinned = self._pinned.get(channel)
        if pinned is None:
            return (next(iter(self._any)), None) if self._any else None
        if not self._any or _head(pinned)[1] < _head(self._any)[1]:
            return _head(pinned)[0], channel
        return next(iter(self._any)), None


def _head(line: OrderedDict[W, int]) -> tuple[W, int]:
    return next(iter(line.items()))
