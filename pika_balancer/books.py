"""The books of one channel: whether it may take another job, and why not.

What changes at every grant, the free slots, stands in a column of its own beside the books (a list, one place
per channel): with thousands of accounts a grant then touches a few bytes instead of a whole object.
"""

import math
from collections.abc import Sequence
from typing import Final, overload

from pika_balancer.models import Account, AccountState

CLOSED: Final = -1
"""The `place` of an account that cannot take a job."""


class Books:
    """One channel as a selector knows it, at first without an account in the map.

    Mutable, and changed by its selector only.

    Attributes:
        account: The account as last configured.
        row: Which place of the column is this channel's.
        order: Place in the account map, from 0.
        place: Position among the accounts that can take a job, or `CLOSED`.
        paused: Whether it is paused until resumed.
        removed: Whether it is gone from the account map.
        rest_until: When its rest ends; minus infinity when it does not rest.
    """

    __slots__ = ("_free", "account", "order", "paused", "place", "removed", "rest_until", "row")

    def __init__(self, account: Account, free: Sequence[int], row: int) -> None:
        self.account = account
        self._free = free
        self.row = row
        self.order = 0
        self.place = CLOSED
        self.paused = False
        self.removed = True
        self.rest_until = -math.inf

    @property
    def channel(self) -> str:
        """The account's channel."""
        return self.account.channel

    @property
    def max_jobs(self) -> int:
        """The account's cap."""
        return self.account.max_jobs

    @property
    def limit(self) -> int:
        """What free slots are counted from: the cap, or 0 once removed."""
        return 0 if self.removed else self.account.max_jobs

    @property
    def in_flight(self) -> int:
        """Slots taken."""
        # `limit`, without the call: rules read this of every candidate.
        return (0 if self.removed else self.account.max_jobs) - self._free[self.row]

    @property
    def resting(self) -> bool:
        """Whether a rest has been set and not ended."""
        return self.rest_until > -math.inf

    @property
    def matters(self) -> bool:
        """Whether the channel has to be shown even without an account: a pause or rest outlives it too."""
        return bool(self.in_flight) or self.paused or self.resting

    def obstacle(self) -> str | None:
        """Return why this account cannot take a job, or None if it can: the one test of eligibility."""
        if self.removed:
            return "removed"
        if self.paused:
            return "paused"
        if self.resting:
            return "resting"
        if self._free[self.row] <= 0:
            return "full"
        return None

    def state(self) -> AccountState:
        """Return the books, frozen."""
        return AccountState(
            channel=self.channel,
            max_jobs=self.max_jobs,
            in_flight=self.in_flight,
            paused=self.paused,
            resting_until=self.rest_until if self.resting else None,
            removed=self.removed,
        )


class Chosen(Sequence[Books]):
    """Some of the books, by their rows, without making a list of them."""

    __slots__ = ("_books", "_rows")

    def __init__(self, books: Sequence[Books], rows: Sequence[int]) -> None:
        self._books = books
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, index: int) -> Books: ...

    @overload
    def __getitem__(self, index: slice) -> list[Books]: ...

    def __getitem__(self, index: int | slice) -> Books | list[Books]:
        if isinstance(index, slice):
            return [self._books[row] for row in self._rows[index]]
        return self._books[self._rows[index]]
