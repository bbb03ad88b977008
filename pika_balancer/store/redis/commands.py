"""The commands that a session sends: what each of them says, and what its reply changes."""

import asyncio
import os
import random
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import attrs

from pika_balancer.clock import Clock
from pika_balancer.store.redis.leases import WaitRequest

if TYPE_CHECKING:
    from pika_balancer.store.redis.session import Session


@attrs.frozen(kw_only=True)
class Settings:
    """How a process takes part in a pool; see `RedisStore`."""

    label: str
    """Name of the process for people."""
    lease_ttl: float
    """Seconds without a call after which the process counts as dead; a heartbeat comes every third."""
    orphan_ttl: float
    """Seconds for which a dead process's leases stay counted."""
    timeout: float
    """Seconds to wait for a reply."""
    policy: str
    """Name of the rule of the pick."""
    first_start: bool
    """Whether an empty server has lost nothing."""
    server_time: Callable[[], int] | None
    """For tests: returns milliseconds in place of the server's TIME."""
    rng: random.Random
    """Source of randomness for picks and pauses."""
    clock: Clock
    """Measures time."""
    process: str = attrs.field(init=False, factory=lambda: os.urandom(8).hex())
    """Id of the process on the server."""


@attrs.frozen
class Reply:
    """The server's reply to one operation."""

    grants: tuple[tuple[str, str, int], ...]
    """Slots granted to waiters of this process: lease, channel, in-flight count of the channel."""
    now: int
    """The server's time in milliseconds."""
    version: str
    """Version of the account map."""
    learning: int
    """Until when the server counts but grants nothing; 0 if it grants."""
    due: int
    """When a waiting process has to call again."""
    items: Sequence[str]
    """The operation's own items."""

    @classmethod
    def parse(cls, text: str) -> "Reply":
        fields = text.split("\n")
        end = 1 + 3 * int(fields[0])
        grants = tuple((fields[at], fields[at + 1], int(fields[at + 2])) for at in range(1, end, 3))
        now, version, learning, due = fields[end : end + 4]
        return cls(grants, int(now), version, int(learning), int(due), fields[end + 4 :])


class Command:
    """One operation to send.

    Attributes:
        operation: Name of the script.
    """

    operation: str

    def arguments(self) -> Sequence[object]:
        """Return the operation's own arguments, as of now."""
        raise NotImplementedError

    def done(self, reply: Reply) -> None:
        """Apply the reply."""
        raise NotImplementedError

    def failed(self, *, maybe_done: bool) -> None:
        """Handle that no reply comes; with `maybe_done` the server may have executed the operation."""


class Acquire(Command):
    """Ask for slots."""

    operation = "acquire"

    def __init__(self, session: "Session", requests: Sequence[WaitRequest]) -> None:
        self._session = session
        self._requests = requests

    def arguments(self) -> Sequence[object]:
        return [
            value
            for request in self._requests
            for value in (request.name, request.channel or "", request.u, b"1" if request.may_wait else b"0")
        ]

    def done(self, reply: Reply) -> None:
        end = 2 * len(self._requests)
        if len(reply.items) > end:
            self._session.update_accounts(reply.items[end:])
        results = zip(self._requests, reply.items[:end:2], reply.items[1:end:2], strict=True)
        for request, code, detail in results:
            self._session.resolve(request, code, detail)

    def failed(self, *, maybe_done: bool) -> None:
        # If the server may have seen the requests, the next heartbeat states them as waiting.
        if not maybe_done:
            self._session.leases.send_again(self._requests)


class Release(Command):
    """Release leases and withdraw requests from the wait queue."""

    operation = "release"

    def __init__(self, session: "Session", names: Sequence[str]) -> None:
        self._session = session
        self._names = names

    def arguments(self) -> Sequence[object]:
        return self._names

    def done(self, reply: Reply) -> None:
        for name, channel, taken in zip(self._names, reply.items[::2], reply.items[1::2], strict=True):
            if channel:
                self._session.replica.count(channel, int(taken))
            settle(self._session.leases.releases.pop(name), None)

    def failed(self, *, maybe_done: bool) -> None:
        # The releases stay in `releases` and are sent again, but their callers need not wait for that.
        if maybe_done:
            for name in self._names:
                settle(self._session.leases.releases[name], None)


class Call(Command):
    """Any other operation.

    Attributes:
        future: The reply; None if the server is away. The call is then sent when it is back.
        is_done: Whether the server has replied.
    """

    def __init__(
        self,
        operation: str,
        arguments: Callable[[], Sequence[object]],
        future: "asyncio.Future[Reply | None]",
    ) -> None:
        self.operation = operation
        self._arguments = arguments
        self.future = future
        self.is_done = False

    def arguments(self) -> Sequence[object]:
        return self._arguments()

    def done(self, reply: Reply) -> None:
        self.is_done = True
        settle(self.future, reply)


class Peek(Command):
    """Read the state of all accounts."""

    operation = "peek"

    def __init__(self, session: "Session") -> None:
        self._session = session

    def arguments(self) -> Sequence[object]:
        return ()

    def done(self, reply: Reply) -> None:
        self._session.update_accounts(reply.items)


class Heartbeat(Command):
    """State everything that the process holds and waits for."""

    operation = "heartbeat"

    def __init__(self, session: "Session", settings: Settings, *, leaving: bool) -> None:
        self._session = session
        self._settings = settings
        self._statement = session.leases.statement()
        self._leaving = leaving

    def arguments(self) -> Sequence[object]:
        flags = self._settings.first_start, self._leaving
        head = (self._settings.label, *(b"1" if flag else b"0" for flag in flags))
        return (*head, *(value for entry in self._statement for value in entry))

    def done(self, reply: Reply) -> None:
        self._session.reconcile(self._statement, reply, leaving=self._leaving)


def settle(future: "asyncio.Future[Reply | None] | asyncio.Future[None]", value: Reply | None) -> None:
    """Set the result unless the future is done or cancelled."""
    if not future.done():
        future.set_result(value)  # type: ignore[arg-type]  # the two kinds of futures take None alike
