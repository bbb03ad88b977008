"""What one process last heard of a shared pool: accounts, counts, pauses and rests, on its own clock."""

import math
from collections.abc import Iterable, Iterator, Sequence

import attrs

from pika_balancer.models import Account, AccountState, Explanation, Snapshot, Unavailability
from pika_balancer.selection.policy import Rule
from pika_balancer.selection.selector import AccountSlots, unavailability_of


@attrs.frozen
class Heard:
    """How one account stood when the server was asked."""

    channel: str
    """The account's channel."""
    order: int
    """Place in the account map, from 0; -1 once removed from it."""
    max_jobs: int
    """Its cap."""
    in_flight: int
    """Slots taken."""
    paused: bool
    """Whether it is paused until resumed."""
    cooldown_until: float
    """End of its rest, in milliseconds of the server's clock; minus infinity when it does not rest."""


def read_survey(fields: Sequence[str]) -> list[Heard]:
    """Return the accounts that a survey lists, six fields each."""
    rows = (fields[at : at + 6] for at in range(0, len(fields), 6))
    return [
        Heard(channel, int(order), int(cap), int(taken), paused == "1", float(rest) if rest else -math.inf)
        for channel, order, cap, taken, paused, rest in rows
    ]


class Replica:
    """Accounts as they were when last heard of, with what this process itself has done since.

    Attributes:
        version: Of the account map; compared with what every answer tells.
        learning_until: Until when the server only counts and grants nothing, on this process's clock.
    """

    def __init__(self) -> None:
        self.version = ""
        self.learning_until = -math.inf
        self._free: list[int] = []
        self._books: list[AccountSlots] = []
        self._rows: dict[str, int] = {}
        self._own: dict[str, Account] = {}

    def __len__(self) -> int:
        """Return the number of accounts in the map."""
        return sum(not books.removed for books in self._books)

    def keep(self, accounts: Iterable[Account]) -> None:
        """Remember this process's own accounts: their tokens never leave it."""
        self._own = {account.channel: account for account in accounts}
        for books in self._books:
            books.account = self._account(books.channel, books.max_jobs)

    def row_of(self, channel: str) -> int:
        """Return the row of the channel, a new one if it was never heard of."""
        row = self._rows.get(channel)
        return self._begin(channel) if row is None else row

    def account_at(self, row: int) -> Account:
        """Return the account of that row, as last configured."""
        return self._books[row].account

    def count(self, channel: str, in_flight: int) -> None:
        """Take note of how many slots of the channel are taken."""
        row = self.row_of(channel)
        self._free[row] = self._books[row].limit - in_flight

    def knows(self, channel: str) -> bool:
        """Return whether the channel is in the account map."""
        row = self._rows.get(channel)
        return row is not None and not self._books[row].removed

    def take_over(self, survey: Iterable[Heard], offset: float) -> None:
        """Take over what a survey tells; `offset` is this clock minus the server's, in seconds."""
        unheard = set(self._rows)
        for heard in survey:
            unheard.discard(heard.channel)
            row = self.row_of(heard.channel)
            books = self._books[row]
            books.account = self._account(heard.channel, heard.max_jobs)
            books.removed, books.order, books.paused = heard.order < 0, heard.order, heard.paused
            books.cooldown_until = heard.cooldown_until / 1000 + offset
            self._free[row] = books.limit - heard.in_flight
        for channel in unheard:
            books = self._books[self._rows[channel]]
            books.removed, books.paused, books.cooldown_until = True, False, -math.inf
            self._free[books.row] = 0

    def snapshot(self, now: float) -> Snapshot:
        """Return the books, frozen."""
        return Snapshot(tuple(books.state() for books in self._shown(now)))

    def accounts(self, now: float) -> tuple[AccountState, ...]:
        """Return the accounts, or this process's own while nothing has been heard yet."""
        if self._books:
            return self.snapshot(now).accounts
        return tuple(
            AccountState(own.channel, own.max_jobs, 0, paused=False, cooldown_until=None, removed=False)
            for own in self._own.values()
        )

    def explain(self, now: float, rule: Rule) -> dict[str, Explanation]:
        """Return per account whether the next pick could choose it, and how probably."""
        learning = self.learning_until > now
        shown = list(self._shown(now))
        candidates = [] if learning else [books for books in shown if books.why_ineligible() is None]
        odds = rule.odds(candidates) if candidates else []
        probability = {books.channel: p for books, p in zip(candidates, odds, strict=True)}
        return {
            books.channel: Explanation(
                channel=books.channel,
                eligible=books.channel in probability,
                why=books.why_ineligible() or ("learning" if learning else "eligible"),
                free=books.state().free,
                probability=probability.get(books.channel, 0.0),
            )
            for books in shown
        }

    def why_unavailable(self, channel: str | None, now: float) -> Unavailability | None:
        """Return why nothing can be had, on the channel or at all; None if something can."""
        would_do = [
            books
            for books in self._shown(now)
            if not books.removed and (channel is None or books.channel == channel)
        ]
        is_open = any(books.why_ineligible() is None for books in would_do)
        found = None if is_open else unavailability_of(would_do, channel)
        if found is None and self.learning_until > now:
            return Unavailability(
                "cooling_down",
                self.learning_until,
                "the store was empty and learns first what is in flight; wait until it has",
            )
        return found

    def _shown(self, now: float) -> Iterator[AccountSlots]:
        """Yield the books of the map, in its order, and then of removed accounts that still matter."""
        for books in self._books:
            if books.cooling_down and books.cooldown_until <= now:
                books.cooldown_until = -math.inf
        yield from sorted((books for books in self._books if not books.removed), key=lambda b: b.order)
        yield from (books for books in self._books if books.removed and books.matters)

    def _account(self, channel: str, max_jobs: int) -> Account:
        own = self._own.get(channel)
        if own is None:
            return Account(channel, max_jobs)
        return own if own.max_jobs == max_jobs else attrs.evolve(own, max_jobs=max_jobs)

    def _begin(self, channel: str) -> int:
        row = self._rows[channel] = len(self._books)
        self._free.append(0)
        self._books.append(AccountSlots(self._account(channel, Account(channel).max_jobs), self._free, row))
        return row
