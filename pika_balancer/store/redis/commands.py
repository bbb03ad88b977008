"""What one call to the server says, and what is made of its answer."""

import asyncio
from collections.abc import Callable, Sequence
from itertools import islice
from typing import TYPE_CHECKING

from pika_balancer.store.redis.leases import Wish
from pika_balancer.store.redis.pipeline import Reply

if TYPE_CHECKING:
    from pika_balancer.store.redis.session import Session


class Acquire:
    """Some wishes."""

    operation = "acquire"

    def __init__(self, session: "Session", wishes: Sequence[Wish]) -> None:
        self._session = session
        self._wishes = wishes

    def arguments(self) -> Sequence[object]:
        """Return what each wish is."""
        values: list[object] = []
        for wish in self._wishes:
            values += (wish.name, wish.channel or "", wish.chance, b"1" if wish.waits else b"0")
        return values

    def done(self, answer: Reply) -> None:
        """Grant, or take note of who waits."""
        self._session.took(answer)
        items = answer.items
        end = 2 * len(self._wishes)
        if len(items) > end:
            self._session.surveyed(items[end:])
        for at, wish in enumerate(self._wishes):
            self._session.answered(wish, items[2 * at], items[2 * at + 1])

    def failed(self, why: str, *, refused: bool = False) -> None:  # noqa: ARG002 - the promise of a batch
        """Leave it to the next statement."""
        self._session.unanswered(self._wishes, surely=not why)


class Release:
    """Some leases given back, and some waits ended."""

    operation = "release"

    def __init__(self, session: "Session", releases: "dict[str, asyncio.Future[None]]", crowd: int) -> None:
        self._session = session
        self._releases = releases
        self._names = list(islice(releases, crowd))

    def arguments(self) -> Sequence[object]:
        """Return their names."""
        return self._names

    def done(self, answer: Reply) -> None:
        """Tell whoever waits for it."""
        self._session.took(answer)
        items = answer.items
        for at, name in enumerate(self._names):
            if items[2 * at]:
                self._session.counted(items[2 * at], int(items[2 * at + 1]))
            settle(self._releases.pop(name), None)

    def failed(self, why: str, *, refused: bool = False) -> None:  # noqa: ARG002 - the promise of a batch
        """Keep them; whoever waits need not, if the server is away."""
        if why:
            for name in self._names:
                settle(self._releases[name], None)


class Call:
    """Anything else: one operation, with an answer that somebody waits for.

    Attributes:
        future: The answer; None if the server is away, and the call is kept until it is back.
    """

    def __init__(
        self,
        session: "Session",
        operation: str,
        arguments: Callable[[], Sequence[object]],
        future: "asyncio.Future[Reply | None]",
    ) -> None:
        self._session = session
        self.operation = operation
        self.arguments = arguments
        self.future = future
        self.over = False

    def done(self, answer: Reply) -> None:
        """Hand on the answer."""
        self.over = True
        self._session.took(answer)
        settle(self.future, answer)

    def failed(self, why: str, *, refused: bool = False) -> None:
        """Keep it."""


class Beat:
    """All that the process holds and waits for."""

    operation = "beat"

    def __init__(
        self, session: "Session", label: str, claims: Sequence[object], *, first: bool, leaves: bool
    ) -> None:
        self._session = session
        self._claims = claims
        self._head = (label, b"1" if first else b"0", b"1" if leaves else b"0")
        self._leaves = leaves

    def arguments(self) -> Sequence[object]:
        """Return the statement."""
        return (*self._head, *self._claims)

    def done(self, answer: Reply) -> None:
        """Set right whatever the server sees otherwise."""
        self._session.took(answer)
        self._session.stated(self._claims, answer, leaves=self._leaves)

    def failed(self, why: str, *, refused: bool = False) -> None:
        """Say it again."""


def settle(future: "asyncio.Future[Reply | None] | asyncio.Future[None]", value: Reply | None) -> None:
    """Set the result unless somebody has given up on it."""
    if not future.done():
        future.set_result(value)  # type: ignore[arg-type]  # the two kinds of futures take None alike
