"""In-flight bookkeeping and the pick: the specification that every store is tested against.

Plain and synchronous: no event loop, no wall clock. The moment `now` and the chance `rng` come in. Reserving
happens inside the pick, so nothing can come between the decision and the count. Not for several threads.

Every channel ever heard of keeps its row: a list of free slots by row, and its `Books` in the same row of
another. The rows of the accounts that could take a job stand unordered in `_open`; leaving it swaps the last
one into the gap. That makes the documented rule O(1) whatever the number of accounts.
"""

import math
import random
from array import array
from collections.abc import Iterable, Sequence
from typing import Any, Final, overload

import attrs

from pika_balancer.errors import ForeignLease, InvalidArgument, UnknownChannel
from pika_balancer.models import Account, AccountState, Explanation, Lease, Snapshot, Unavailability
from pika_balancer.selection.policy import Uniform, Weights, make_rule

CLOSED: Final = -1
"""The `place` of an account that cannot take a job."""


class AccountSlots:
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

    __slots__ = ("_free", "account", "order", "paused", "place", "removed", "cooldown_until", "row")

    def __init__(self, account: Account, free: Sequence[int], row: int) -> None:
        self.account = account
        self._free = free
        self.row = row
        self.order = 0
        self.place = CLOSED
        self.paused = False
        self.removed = True
        self.cooldown_until = -math.inf

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
    def cooling_down(self) -> bool:
        """Whether a rest has been set and not ended."""
        return self.cooldown_until > -math.inf

    @property
    def matters(self) -> bool:
        """Whether the channel has to be shown even without an account: a pause or rest outlives it too."""
        return bool(self.in_flight) or self.paused or self.cooling_down

    def obstacle(self) -> str | None:
        """Return why this account cannot take a job, or None if it can: the one test of eligibility."""
        if self.removed:
            return "removed"
        if self.paused:
            return "paused"
        if self.cooling_down:
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
            cooldown_until=self.cooldown_until if self.cooling_down else None,
            removed=self.removed,
        )


class Chosen(Sequence[AccountSlots]):
    """Some of the books, by their rows, without making a list of them."""

    __slots__ = ("_books", "_rows")

    def __init__(self, books: Sequence[AccountSlots], rows: Sequence[int]) -> None:
        self._books = books
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, index: int) -> AccountSlots: ...

    @overload
    def __getitem__(self, index: slice) -> list[AccountSlots]: ...

    def __getitem__(self, index: int | slice) -> AccountSlots | list[AccountSlots]:
        if isinstance(index, slice):
            return [self._books[row] for row in self._rows[index]]
        return self._books[self._rows[index]]


def unavailability_of(books: Iterable[AccountSlots], channel: str | None) -> Unavailability | None:
    """Return why none of the accounts can take a job, or None if one can; stops at the first full one.

    Args:
        books: The accounts that would do, none of which is open unless it is the only one.
        channel: The only channel that was asked for; None for any.
    """
    subject = "every account" if channel is None else f"channel {channel!r}"
    rests: list[float] = []
    known = False
    for one in books:
        known = True
        obstacle = one.obstacle()
        if obstacle is None:
            return None
        if obstacle == "full":
            full = "no account has a free slot now" if channel is None else f"{subject} is full now"
            return Unavailability("full", None, f"{full}; wait for a job to end, or add an account")
        if obstacle == "resting":
            rests.append(one.cooldown_until)
    if rests:
        return Unavailability("resting", min(rests), f"{subject} rests or is paused; wait for a rest to end")
    return Unavailability("never", None, _never(subject, channel, known=known))


def _never(subject: str, channel: str | None, *, known: bool) -> str:
    if known:
        return f"{subject} is paused; resume one"
    if channel is None:
        return "there are no accounts; configure one"
    return f"no account has {subject}; name a configured one"


_NEW: Final = object.__new__


class Selector:
    """Pick an account with capacity and count what is in flight.

    Args:
        accounts: The account map's values, in its order; no channel twice.
        rng: Source of chance; a seed makes every pick repeatable. A fresh one by default.
        policy: A name from `POLICIES`, or a function from candidates to weights. `random`, the default, is
            the documented rule: uniform over the accounts that have a free slot.

    Attributes:
        next_wake: A moment before which no rest ends; infinite when nobody rests.

    Raises:
        InvalidArgument: An account is not an `Account`, a channel comes twice, the policy is unknown.
    """

    def __init__(
        self,
        accounts: Iterable[Account] = (),
        *,
        rng: random.Random | None = None,
        policy: str | Weights = "random",
    ) -> None:
        self._rule = make_rule(policy)
        self._uniform = isinstance(self._rule, Uniform)
        if rng is not None and not callable(getattr(rng, "random", None)):
            raise InvalidArgument("rng must be a random.Random, such as random.Random(7)", field="rng")
        self._rng = random.Random() if rng is None else rng  # noqa: S311 - balancing, not cryptography
        self._chance = self._rng.random
        self._free: list[int] = []
        self._books: list[AccountSlots] = []
        self._rows: dict[str, int] = {}
        self._map: list[AccountSlots] = []
        # An array, not a list: its numbers stand side by side, so that a pick among thousands stays in cache.
        self._open = array("i")
        self._adopted: dict[int | str, Lease] = {}
        self._serial = 0
        self.next_wake = math.inf
        self.update(accounts)

    def try_acquire(
        self, channel: str | None = None, max_jobs: int | None = None, now: float | None = None
    ) -> Lease | None:
        """Reserve a slot and return its lease, or return None: never blocks, never passes a cap.

        O(1) for `random` and `two_choices`, O(n) for the other rules and wherever `max_jobs` is given.

        Args:
            channel: Take a slot of this channel and of no other.
            max_jobs: A lower cap for this call only; it cannot raise an account's own.
            now: The moment, in seconds; rests due by then end. Without it, time stands still.

        Raises:
            UnknownChannel: No account has that channel.
        """
        if now is not None and now >= self.next_wake:
            self.wake(now)
        if channel is None and max_jobs is None and self._uniform:
            # Uniform.pick, without the call: this is the hot path.
            rows = self._open
            if not rows:
                return None
            row = rows[int(self._chance() * len(rows))]
        else:
            chosen = self._choose(channel, max_jobs)
            if chosen is None:
                return None
            if chosen.place < 0:
                raise InvalidArgument("the policy must not acquire or release by itself", field="policy")
            row = chosen.row
        free = self._free
        free[row] = left = free[row] - 1
        if left <= 0:
            self._close(self._books[row])
        self._serial = serial = self._serial + 1
        # What Lease(self, row, serial) makes, at half its cost; all in one line would make a tuple first.
        lease = _NEW(Lease)
        lease.grantor = self
        lease.row = row
        lease.id = serial
        lease.held = True
        return lease

    def release(self, lease: Lease) -> bool:
        """Give the slot back; return whether it was still held. A second time does nothing.

        Raises:
            ForeignLease: The lease was granted by somebody else.
        """
        try:
            ours = lease.grantor is self
        except AttributeError:
            raise InvalidArgument(
                f"release takes a lease, not {type(lease).__name__}; "
                "try_acquire returns None when nothing is free",
                field="lease",
            ) from None
        if not ours:
            raise ForeignLease(
                "this lease was granted elsewhere; release it where it was acquired", channel=lease.channel
            )
        if not lease.held:
            return False
        lease.held = False
        row, free = lease.row, self._free
        free[row] = left = free[row] + 1
        if left == 1:
            self._settle(self._books[row])
        if self._adopted:
            self._adopted.pop(lease.id, None)
        return True

    def adopt(self, channel: str, key: str) -> Lease:
        """Count a job that already runs upstream, even past the cap, and return its lease.

        The same `key` (the job's id) again returns the same lease for as long as it is held. A channel that
        is not in the map is counted too, so that the count is right if its account returns.

        Raises:
            InvalidArgument: The key is empty, or is held on another channel.
        """
        if type(key) is not str or not key:
            raise InvalidArgument("key must name the job that is adopted, as a string", field="key")
        known = self._adopted.get(key)
        if known is not None:
            if known.channel != channel:
                raise InvalidArgument(
                    f"{key!r} is already adopted on channel {known.channel!r}; release that lease first",
                    field="key",
                    channel=channel,
                )
            return known
        books = self._books_of(channel) or self._begin(Account(channel))
        self._free[books.row] -= 1
        self._settle(books)
        lease = self._adopted[key] = Lease(self, books.row, key)
        return lease

    def update(self, accounts: Iterable[Account]) -> None:
        """Take over a new account map by difference: what is in flight, paused or resting stays so.

        A cap below what is in flight drains. A removed account gets no new job and keeps its leases until
        they end; one that comes back gets its count back.

        Raises:
            InvalidArgument: As for the constructor; nothing has changed then.
        """
        new = read_map(accounts)
        for books in self._map:
            if books.channel not in new:
                # An account that runs nothing any more leaves no token behind.
                account = books.account if books.in_flight else attrs.evolve(books.account, discord=None)
                self._resize(books, account, removed=True)
        self._map = []
        for order, account in enumerate(new.values()):
            books = self._books_of(account.channel) or self._begin(account)
            books.order = order
            self._resize(books, account, removed=False)
            self._map.append(books)

    def pause(self, channel: str) -> None:
        """Give the channel no new job until `resume`; its running ones keep their slots.

        Raises:
            UnknownChannel: No account has that channel.
        """
        books = self._known(channel)
        books.paused = True
        self._settle(books)

    def cool_down(self, channel: str, until: float) -> None:
        """Give the channel no new job before `until`, a moment on the caller's clock, in seconds.

        The longest of several rests counts; `resume` ends them.

        Raises:
            UnknownChannel: No account has that channel.
            InvalidArgument: `until` is not finite; to rest without end, pause.
        """
        if not math.isfinite(until):
            raise InvalidArgument("until must be finite; use pause to rest without end", field="until")
        books = self._known(channel)
        books.cooldown_until = max(books.cooldown_until, until)
        self._settle(books)
        # A lower bound will do: a wake that comes too early finds nothing and sets it right.
        self.next_wake = min(self.next_wake, until)

    def resume(self, channel: str) -> None:
        """End a pause and a rest at once.

        Raises:
            UnknownChannel: No account has that channel.
        """
        books = self._known(channel)
        books.paused = False
        books.cooldown_until = -math.inf
        self._settle(books)

    def wake(self, now: float) -> None:
        """End the rests that are due by `now`, in seconds on the clock that `rest` was given."""
        if now < self.next_wake:
            return
        for books in self._books:
            if books.cooling_down and books.cooldown_until <= now:
                books.cooldown_until = -math.inf
                self._settle(books)
        self.next_wake = min((b.cooldown_until for b in self._books if b.cooling_down), default=math.inf)

    def __len__(self) -> int:
        """Return the number of accounts in the map."""
        return len(self._map)

    def in_flight(self, channel: str | None = None) -> int:
        """Return how many slots are taken on the channel, 0 for one never heard of; without one, in all."""
        if channel is None:
            return sum(books.in_flight for books in self._books)
        books = self._books_of(channel)
        return books.in_flight if books is not None else 0

    def snapshot(self, *, now: float | None = None) -> Snapshot:
        """Return the books at this moment, frozen. O(n)."""
        if now is not None:
            self.wake(now)
        return Snapshot(tuple(books.state() for books in self._shown()))

    def explain(self, *, now: float | None = None) -> dict[str, Explanation]:
        """Return for each account whether the next unpinned pick could choose it, and how probably.

        Reserves nothing and draws nothing. O(n).
        """
        if now is not None:
            self.wake(now)
        candidates = self._ordered()
        odds = self._rule.odds(candidates) if candidates else []
        probability = {books.channel: p for books, p in zip(candidates, odds, strict=True)}
        explanations: dict[str, Explanation] = {}
        for books in self._shown():
            obstacle = books.obstacle()
            explanations[books.channel] = Explanation(
                channel=books.channel,
                eligible=obstacle is None,
                why=obstacle or "eligible",
                free=books.state().free,
                probability=probability.get(books.channel, 0.0),
            )
        return explanations

    def why_unavailable(
        self, channel: str | None = None, *, now: float | None = None
    ) -> Unavailability | None:
        """Return why nothing can be had, on the channel or at all; None if something can.

        It knows nothing of a lower cap for one call: `try_acquire(max_jobs=…)` can find nothing all the same.
        """
        if now is not None:
            self.wake(now)
        if channel is None:
            return None if self._open else unavailability_of(self._map, None)
        books = self._books_of(channel)
        return unavailability_of([] if books is None or books.removed else [books], channel)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Bind the method anew, so that a copy draws from its own copy of the chance."""
        vars(self).update(state)
        self._chance = self._rng.random

    def account_at(self, row: int) -> Account:
        """Return the account of that row, as last configured; for leases."""
        return self._books[row].account

    def _books_of(self, channel: str) -> AccountSlots | None:
        if not isinstance(channel, str):
            raise InvalidArgument(
                f"channel must be a string, not {type(channel).__name__}; a time limit goes to timeout=",
                field="channel",
            )
        row = self._rows.get(channel)
        return None if row is None else self._books[row]

    def _known(self, channel: str) -> AccountSlots:
        books = self._books_of(channel)
        if books is None or (books.removed and not books.matters):
            raise self._unknown(channel)
        return books

    @staticmethod
    def _unknown(channel: str) -> UnknownChannel:
        return UnknownChannel(
            f"no account has channel {channel!r}; fetch the account map again or name a configured one",
            field="channel",
            channel=channel,
        )

    def _choose(self, channel: str | None, max_jobs: int | None) -> AccountSlots | None:
        if max_jobs is not None and (type(max_jobs) is not int or max_jobs < 1):
            raise InvalidArgument("max_jobs must be a whole number of at least 1", field="max_jobs")
        if channel is not None:
            books = self._books_of(channel)
            if books is None or books.removed:
                raise self._unknown(channel)
            roomy = books.place >= 0 and (max_jobs is None or books.in_flight < max_jobs)
            return books if roomy else None
        candidates: Sequence[AccountSlots]
        if max_jobs is not None:
            candidates = [books for books in self._ordered() if books.in_flight < max_jobs]
        elif self._rule.ordered:
            candidates = self._ordered()
        else:
            candidates = Chosen(self._books, self._open)
        return self._rule.pick(candidates, self._chance) if candidates else None

    def _shown(self) -> list[AccountSlots]:
        """Return the books of the map, in its order, and then of removed accounts that still matter."""
        return self._map + [books for books in self._books if books.removed and books.matters]

    def _ordered(self) -> list[AccountSlots]:
        return [books for books in self._map if books.place >= 0]

    def _begin(self, account: Account) -> AccountSlots:
        """Return new books for a channel never heard of, as if it had been removed."""
        books = AccountSlots(account, self._free, len(self._books))
        self._free.append(0)
        self._books.append(books)
        self._rows[account.channel] = books.row
        return books

    def _resize(self, books: AccountSlots, account: Account, *, removed: bool) -> None:
        before = books.limit
        books.account, books.removed = account, removed
        self._free[books.row] += books.limit - before
        self._settle(books)

    def _settle(self, books: AccountSlots) -> None:
        """Put the account among the open ones, or take it out, as its books say."""
        if books.obstacle() is None:
            if books.place < 0:
                books.place = len(self._open)
                self._open.append(books.row)
        elif books.place >= 0:
            self._close(books)

    def _close(self, books: AccountSlots) -> None:
        last = self._open.pop()
        if last != books.row:
            self._open[books.place] = last
            self._books[last].place = books.place
        books.place = CLOSED


def read_map(accounts: Iterable[Account]) -> dict[str, Account]:
    """Return the account map by channel, in its order.

    Raises:
        InvalidArgument: An account is not an `Account`, or a channel comes twice.
    """
    new: dict[str, Account] = {}
    for account in accounts:
        if not isinstance(account, Account):
            raise InvalidArgument(
                f"accounts must be Account values, not {type(account).__name__}; "
                "of a map pass accounts.values()",
                field="accounts",
            )
        if account.channel in new:
            raise InvalidArgument(
                f"channel {account.channel!r} comes twice; each account needs its own",
                field="accounts",
                channel=account.channel,
            )
        new[account.channel] = account
    return new
