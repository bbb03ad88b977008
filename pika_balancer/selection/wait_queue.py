"""The wait queue: a freed slot goes to the first waiter that can use it.

No event loop. Some waiters accept any channel, others only one; all get tickets from one counter, which
orders them. Adding and removing a waiter is O(1).
"""

from collections import OrderedDict
from collections.abc import Iterator
from typing import Generic, TypeVar

W = TypeVar("W")


class WaitQueue(Generic[W]):
    """Waiters in order of arrival, found by the channel that they accept.

    Attributes:
        size: Number of waiters.
    """

    def __init__(self) -> None:
        self.size = 0
        self._tickets = 0
        self._any: OrderedDict[W, int] = OrderedDict()
        self._pinned: dict[str, OrderedDict[W, int]] = {}

    def __iter__(self) -> Iterator[tuple[W, str | None]]:
        """Yield each waiter with the only channel it accepts (None for any), in order of arrival."""
        queues: list[tuple[str | None, OrderedDict[W, int]]] = [(None, self._any), *self._pinned.items()]
        waiters = [(ticket, waiter, channel) for channel, queue in queues for waiter, ticket in queue.items()]
        waiters.sort(key=lambda item: item[0])
        return iter([(waiter, channel) for _, waiter, channel in waiters])

    def add(self, waiter: W, channel: str | None) -> None:
        """Append a waiter that accepts only `channel`, or any channel if None."""
        queue = self._any if channel is None else self._pinned.setdefault(channel, OrderedDict())
        self._tickets += 1
        self.size += 1
        queue[waiter] = self._tickets

    def remove(self, waiter: W, channel: str | None) -> bool:
        """Remove the waiter; return whether it was in the queue."""
        queue = self._any if channel is None else self._pinned.get(channel)
        if queue is None or queue.pop(waiter, None) is None:
            return False
        self.size -= 1
        if channel is not None and not queue:
            del self._pinned[channel]
        return True

    def first(self, channel: str) -> tuple[W, str | None] | None:
        """Return the first waiter that can use a slot of `channel`, and the only channel it accepts."""
        pinned = self._pinned.get(channel)
        if pinned is None:
            return (next(iter(self._any)), None) if self._any else None
        if not self._any or _head(pinned)[1] < _head(self._any)[1]:
            return _head(pinned)[0], channel
        return next(iter(self._any)), None


def _head(queue: OrderedDict[W, int]) -> tuple[W, int]:
    return next(iter(queue.items()))
