"""In-flight bookkeeping and the pick: the specification that every store is tested against.

Plain and synchronous: no event loop, no wall clock. The moment `now` and the chance `rng` come in. Reserving
happens inside the pick, so nothing can come between the decision and the count. Not for several threads.

Accounts that could take a job stand in one unordered list, `_open`; each knows its position there, so leaving
swaps the last one into the gap. That makes the documented rule O(1) whatever the number of accounts.
"""

import math
import random
from collections.abc import Iterable
from typing import Any

from pika_balancer.books import CLOSED, Entry
from pika_balancer.errors import ForeignLease, InvalidArgument, UnknownChannel
from pika_balancer.models import Account, Explanation, Lease, Shortage, Snapshot
from pika_balancer.policy import Uniform, Weights, make_rule


class Selector:
    """Pick an account with capacity and count what is in flight.

    Args:
        accounts: The account map's values, in its order; no channel twice.
        rng: Source of chance; a seed makes every pick repeatable. A fresh one by default.
        policy: A name from `POLICIES`, or a function from candidates to weights. `random`, the default, is
            the documented rule: uniform over the accounts that have a free slot.

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
        self._chance = (rng or random.Random()).random  # noqa: S311 - balancing, not cryptography
        self._entries: dict[str, Entry] = {}
        self._departed: dict[str, Entry] = {}
        self._open: list[Entry] = []
        self._adopted: dict[str, Lease] = {}
        self._serial = 0
        self._first_wake = math.inf
        self.update(accounts)

    def try_acquire(
        self, channel: str | None = None, max_jobs: int | None = None, *, now: float | None = None
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
        if now is not None and now >= self._first_wake:
            self.wake(now)
        if channel is not None or max_jobs is not None:
            entry = self._choose(channel, max_jobs)
            if entry is None:
                return None
        else:
            candidates = self._open
            if not candidates:
                return None
            if self._uniform:
                # Uniform.pick, without the call: this is the hot path.
                entry = candidates[int(self._chance() * len(candidates))]
            else:
                entry = self._rule.pick(self._ordered() if self._rule.ordered else candidates, self._chance)
        entry.in_flight = in_flight = entry.in_flight + 1
        if in_flight >= entry.max_jobs:
            self._close(entry)
        self._serial = serial = self._serial + 1
        return Lease(entry, serial)

    def release(self, lease: Lease) -> bool:
        """Give the slot back; return whether it was still held. A second time does nothing.

        Raises:
            ForeignLease: The lease was granted by somebody else.
        """
        try:
            entry: Any = lease.slot
        except AttributeError:
            raise InvalidArgument(
                f"release takes a lease, not {type(lease).__name__}; "
                "try_acquire returns None when nothing is free",
                field="lease",
            ) from None
        if entry.owner is not self:
            raise ForeignLease(
                "this lease was granted elsewhere; release it where it was acquired", channel=lease.channel
            )
        if not lease.held:
            return False
        lease.held = False
        entry.in_flight -= 1
        if entry.place < 0:
            self._settle(entry)
        if lease.key is not None:
            del self._adopted[lease.key]
        return True

    def adopt(self, channel: str, key: str) -> Lease:
        """Count a job that already runs upstream, even past the cap, and return its lease.

        The same `key` (the job's id) again returns the same lease for as long as it is held. A channel that
        is not in the map is counted too, so that the count is right if its account returns.

        Raises:
            InvalidArgument: The key is empty, or is held on another channel.
        """
        if not key:
            raise InvalidArgument("key must name the job that is adopted", field="key")
        known = self._adopted.get(key)
        if known is not None:
            if known.channel != channel:
                raise InvalidArgument(
                    f"{key!r} is already adopted on channel {known.channel!r}; release that lease first",
                    field="key",
                    channel=channel,
                )
            return known
        entry = self._entries.get(channel) or self._departed.get(channel)
        if entry is None:
            entry = self._departed[channel] = Entry(self, Account(channel))
            entry.removed = True
        entry.in_flight += 1
        self._settle(entry)
        self._serial += 1
        lease = self._adopted[key] = Lease(entry, self._serial, key)
        return lease

    def update(self, accounts: Iterable[Account]) -> None:
        """Take over a new account map by difference: what is in flight, paused or resting stays so.

        A cap below what is in flight drains. A removed account gets no new job and keeps its leases until
        they end; one that comes back gets its count back.

        Raises:
            InvalidArgument: As for the constructor; nothing has changed then.
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
        gone = {channel: entry for channel, entry in self._entries.items() if channel not in new}
        entries: dict[str, Entry] = {}
        for order, (channel, account) in enumerate(new.items()):
            entry = self._entries.get(channel) or self._departed.pop(channel, None) or Entry(self, account)
            entry.account, entry.max_jobs = account, account.max_jobs
            entry.order, entry.removed = order, False
            entries[channel] = entry
        self._entries = entries
        self._departed.update(gone)
        for entry in gone.values():
            entry.removed = True
            self._settle(entry)
        for entry in entries.values():
            self._settle(entry)

    def pause(self, channel: str) -> None:
        """Give the channel no new job until `resume`; its running ones keep their slots.

        Raises:
            UnknownChannel: No account has that channel.
        """
        entry = self._entry(channel)
        entry.paused = True
        self._settle(entry)

    def rest(self, channel: str, until: float) -> None:
        """Give the channel no new job before `until`, a moment on the caller's clock, in seconds.

        A later call replaces an earlier one.

        Raises:
            UnknownChannel: No account has that channel.
            InvalidArgument: `until` is not finite; to rest without end, pause.
        """
        if not math.isfinite(until):
            raise InvalidArgument("until must be finite; use pause to rest without end", field="until")
        entry = self._entry(channel)
        entry.rest_until = until
        self._settle(entry)
        self._first_wake = self._next_wake()

    def resume(self, channel: str) -> None:
        """End a pause and a rest at once.

        Raises:
            UnknownChannel: No account has that channel.
        """
        entry = self._entry(channel)
        entry.paused = False
        entry.rest_until = -math.inf
        self._settle(entry)

    def wake(self, now: float) -> None:
        """End the rests that are due by `now`, in seconds on the clock that `rest` was given."""
        if now < self._first_wake:
            return
        for entry in self._known():
            if entry.resting and entry.rest_until <= now:
                entry.rest_until = -math.inf
                self._settle(entry)
        self._first_wake = self._next_wake()

    def __len__(self) -> int:
        """Return the number of accounts in the map."""
        return len(self._entries)

    def in_flight(self, channel: str | None = None) -> int:
        """Return how many slots are taken on the channel, 0 for one never heard of; without one, in all."""
        if channel is None:
            return sum(entry.in_flight for entry in self._known())
        entry = self._entries.get(channel) or self._departed.get(channel)
        return entry.in_flight if entry is not None else 0

    def snapshot(self, *, now: float | None = None) -> Snapshot:
        """Return the books at this moment, frozen. O(n)."""
        if now is not None:
            self.wake(now)
        return Snapshot(tuple(entry.state() for entry in self._known()))

    def explain(self, *, now: float | None = None) -> dict[str, Explanation]:
        """Return for each account whether the next unpinned pick could choose it, and how probably.

        Reserves nothing and draws nothing. O(n).
        """
        if now is not None:
            self.wake(now)
        candidates = self._ordered()
        odds = self._rule.odds(candidates) if candidates else []
        probability = {entry.channel: p for entry, p in zip(candidates, odds, strict=True)}
        explanations: dict[str, Explanation] = {}
        for entry in self._known():
            obstacle = entry.obstacle()
            explanations[entry.channel] = Explanation(
                channel=entry.channel,
                eligible=obstacle is None,
                why=obstacle or "eligible",
                free=entry.state().free,
                probability=probability.get(entry.channel, 0.0),
            )
        return explanations

    def shortage(self, channel: str | None = None, *, now: float | None = None) -> Shortage | None:
        """Return why nothing can be had, on the channel or at all; None if something can. O(n)."""
        if now is not None:
            self.wake(now)
        if channel is None:
            entries = list(self._entries.values())
            subject = "every account"
        else:
            entries = [self._entries[channel]] if channel in self._entries else []
            subject = f"channel {channel!r}"
        obstacles = {entry.obstacle() for entry in entries}
        if None in obstacles:
            return None
        if "full" in obstacles:
            return Shortage("full", None, f"{subject} is full now; wait for a job to end, or add an account")
        if "resting" in obstacles:
            until = min(entry.rest_until for entry in entries if entry.obstacle() == "resting")
            return Shortage("resting", until, f"{subject} rests or is paused; the first is back at {until}")
        if entries:
            return Shortage("never", None, f"{subject} is paused; resume one")
        if channel is None:
            return Shortage("never", None, "there are no accounts; configure one")
        return Shortage("never", None, f"no account has {subject}; name a configured one")

    def _entry(self, channel: str) -> Entry:
        entry = self._entries.get(channel) or self._departed.get(channel)
        if entry is None:
            raise self._unknown(channel)
        return entry

    @staticmethod
    def _unknown(channel: str) -> UnknownChannel:
        return UnknownChannel(
            f"no account has channel {channel!r}; fetch the account map again or name a configured one",
            field="channel",
            channel=channel,
        )

    def _choose(self, channel: str | None, max_jobs: int | None) -> Entry | None:
        if max_jobs is not None and (type(max_jobs) is not int or max_jobs < 1):
            raise InvalidArgument("max_jobs must be a whole number of at least 1", field="max_jobs")
        if channel is not None:
            entry = self._entries.get(channel)
            if entry is None:
                raise self._unknown(channel)
            roomy = entry.place >= 0 and (max_jobs is None or entry.in_flight < max_jobs)
            return entry if roomy else None
        candidates = [e for e in self._ordered() if max_jobs is None or e.in_flight < max_jobs]
        return self._rule.pick(candidates, self._chance) if candidates else None

    def _next_wake(self) -> float:
        return min((entry.rest_until for entry in self._known() if entry.resting), default=math.inf)

    def _known(self) -> list[Entry]:
        return [*self._entries.values(), *self._departed.values()]

    def _ordered(self) -> list[Entry]:
        return [entry for entry in self._entries.values() if entry.place >= 0]

    def _settle(self, entry: Entry) -> None:
        """Move the account to where its books say it belongs."""
        if entry.obstacle() is None:
            if entry.place < 0:
                entry.place = len(self._open)
                self._open.append(entry)
        elif entry.place >= 0:
            self._close(entry)
        # A pause or rest outlives the account's absence: a map that flickers must not lift a quarantine.
        if entry.removed and not (entry.in_flight or entry.paused or entry.resting):
            self._departed.pop(entry.channel, None)

    def _close(self, entry: Entry) -> None:
        last = self._open.pop()
        if last is not entry:
            self._open[entry.place] = last
            last.place = entry.place
        entry.place = CLOSED
