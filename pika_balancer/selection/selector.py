"""Count the jobs in flight per account and pick an account for the next job.

Plain and synchronous: no event loop, no clock; `now` and `rng` are arguments. A slot is reserved inside the
pick, so nothing can happen between the decision and the count. Every store is tested against this class. Not
thread-safe.

Each channel ever seen has a row: the index of its `AccountSlots` and of its number of free slots. `_open`
holds the rows of the accounts that can take a job, in any order; the last one fills the gap of one that
leaves. The documented rule therefore costs O(1) whatever the number of accounts.
"""

import math
import random
from array import array
from collections.abc import Iterable, Sequence
from typing import Any, Final

import attrs

from pika_balancer.errors import ForeignLease, InvalidArgument
from pika_balancer.models import Account, AccountState, Explanation, Lease, Snapshot, Unavailability
from pika_balancer.selection.errors import adopted_elsewhere, unknown_channel
from pika_balancer.selection.policy import Uniform, Weights, make_rule

CLOSED: Final = -1
"""The `open_index` of an account that cannot take a job."""
_NEW: Final = object.__new__


class AccountSlots:
    """The slots of one channel: its cap, its jobs in flight, and what keeps it from taking another.

    Only its selector changes it. The free slots are stored outside, in a list indexed by row: with thousands
    of accounts a pick then touches a few bytes instead of a whole object.

    Attributes:
        account: The account as last configured.
        row: Index of this channel in the selector's lists.
        order: Position in the account map, from 0.
        open_index: Position among the accounts that can take a job, or `CLOSED`.
        paused: True until resumed.
        removed: True if the account map does not have it.
        cooldown_until: End of its cooldown in seconds; minus infinity if it is not cooling down.
    """

    __slots__ = ("_free", "account", "cooldown_until", "open_index", "order", "paused", "removed", "row")

    def __init__(self, account: Account, free: Sequence[int], row: int) -> None:
        self.account = account
        self._free = free
        self.row = row
        self.order = 0
        self.open_index = CLOSED
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
        """The cap, or 0 once removed; free slots are this minus the jobs in flight."""
        return 0 if self.removed else self.account.max_jobs

    @property
    def in_flight(self) -> int:
        """Jobs in flight."""
        # Inlines `limit`: rules read this for every candidate.
        return (0 if self.removed else self.account.max_jobs) - self._free[self.row]

    @property
    def cooling_down(self) -> bool:
        """Whether a cooldown has been set and not ended."""
        return self.cooldown_until > -math.inf

    @property
    def matters(self) -> bool:
        """Whether to show the channel even without an account: a pause or a cooldown outlives the account."""
        return bool(self.in_flight) or self.paused or self.cooling_down

    def why_ineligible(self) -> str | None:
        """Return why this account cannot take a job, or None if it can: the only test of eligibility."""
        if self.removed:
            return "removed"
        if self.paused:
            return "paused"
        if self.cooling_down:
            return "cooling_down"
        if self._free[self.row] <= 0:
            return "full"
        return None

    def state(self) -> AccountState:
        """Return a frozen copy."""
        return AccountState(
            channel=self.channel,
            max_jobs=self.max_jobs,
            in_flight=self.in_flight,
            paused=self.paused,
            cooldown_until=self.cooldown_until if self.cooling_down else None,
            removed=self.removed,
        )


def unavailability_of(candidates: Iterable[AccountSlots], channel: str | None) -> Unavailability | None:
    """Return why none of the accounts can take a job, or None if one can. Stops at the first full account.

    Args:
        candidates: The accounts that could serve the request.
        channel: The only acceptable channel; None for any.
    """
    subject = "every account" if channel is None else f"channel {channel!r}"
    cooldowns: list[float] = []
    known = False
    for slots in candidates:
        known = True
        why = slots.why_ineligible()
        if why is None:
            return None
        if why == "full":
            full = "no account has a free slot now" if channel is None else f"{subject} is full now"
            return Unavailability("full", None, f"{full}; wait for a job to end, or add an account")
        if why == "cooling_down":
            cooldowns.append(slots.cooldown_until)
    if cooldowns:
        message = f"{subject} is cooling down or paused; wait for a cooldown to end"
        return Unavailability("cooling_down", min(cooldowns), message)
    if known:
        message = f"{subject} is paused; resume one"
    elif channel is None:
        message = "there are no accounts; configure one"
    else:
        message = f"no account has {subject}; name a configured one"
    return Unavailability("never", None, message)


class Selector:
    """Pick an account with capacity and count the jobs in flight.

    Args:
        accounts: The values of the account map, in its order; no channel twice.
        rng: Source of randomness; a seed makes every pick repeatable. A new `random.Random()` by default.
        policy: A name from `POLICIES`, or a function from candidates to weights. `random`, the default, is
            the documented rule: uniform over the accounts that have a free slot.

    Attributes:
        next_wake: Time before which no cooldown ends; infinite if no account is cooling down.

    Raises:
        InvalidArgument: An account is not an `Account`, a channel appears twice, or the policy is unknown.
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
        self._slots: list[AccountSlots] = []
        self._rows: dict[str, int] = {}
        self._map: list[AccountSlots] = []
        # An array, not a list: its numbers are adjacent in memory, so a pick among thousands stays in cache.
        self._open = array("i")
        self._adopted: dict[int | str, Lease] = {}
        self._serial = 0
        self.next_wake = math.inf
        self.update(accounts)

    def try_acquire(self, channel: str | None = None, now: float | None = None) -> Lease | None:
        """Reserve a slot and return its lease, or return None if there is no free slot. Never blocks.

        O(1) for `random` and `two_choices`, O(n) for the other rules.

        Args:
            channel: The only acceptable channel; None for any.
            now: Time in seconds; cooldowns that are due end first. None leaves cooldowns as they are.

        Raises:
            UnknownChannel: No account has that channel.
        """
        if now is not None and now >= self.next_wake:
            self.wake(now)
        if channel is None and self._uniform:
            # Uniform.pick inlined: this is the hot path.
            rows = self._open
            if not rows:
                return None
            row = rows[int(self._chance() * len(rows))]
        else:
            chosen = self._choose(channel)
            if chosen is None:
                return None
            if chosen.open_index < 0:
                raise InvalidArgument("the policy must not acquire or release by itself", field="policy")
            row = chosen.row
        free = self._free
        free[row] = left = free[row] - 1
        if left <= 0:
            self._close(self._slots[row])
        self._serial = serial = self._serial + 1
        # The same as Lease(self, row, serial) at half the cost; one assignment of all would build a tuple.
        lease = _NEW(Lease)
        lease.grantor = self
        lease.row = row
        lease.id = serial
        lease.held = True
        return lease

    def release(self, lease: Lease) -> bool:
        """Give the slot back; return whether the lease was still held. A second release does nothing.

        Raises:
            ForeignLease: Another selector granted the lease.
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
            self._settle(self._slots[row])
        if self._adopted:
            self._adopted.pop(lease.id, None)
        return True

    def adopt(self, channel: str, key: str) -> Lease:
        """Count a job that the service already executes, even above the cap, and return its lease.

        The same `key` (the job's id) returns the same lease as long as it is held. A channel that is not in
        the map is counted too, so that the count is right if its account returns.

        Raises:
            InvalidArgument: The key is empty, or it is held on another channel.
        """
        if type(key) is not str or not key:
            raise InvalidArgument("key must be a non-empty string: the id of the adopted job", field="key")
        known = self._adopted.get(key)
        if known is not None:
            if known.channel != channel:
                raise adopted_elsewhere(key, known.channel, channel)
            return known
        slots = self._find(channel) or self._begin(Account(channel))
        self._free[slots.row] -= 1
        self._settle(slots)
        lease = self._adopted[key] = Lease(self, slots.row, key)
        return lease

    def update(self, accounts: Iterable[Account]) -> None:
        """Apply a new account map; jobs in flight, pauses and cooldowns stay.

        An account whose cap is now below its jobs in flight gets no new job until enough have ended. A
        removed account gets no new job and keeps its leases until they end; if it returns, its count is still
        right.

        Raises:
            InvalidArgument: As for the constructor; nothing has changed then.
        """
        new = read_map(accounts)
        for slots in self._map:
            if slots.channel not in new:
                # Drop the token of an account that runs nothing any more.
                account = slots.account if slots.in_flight else attrs.evolve(slots.account, discord=None)
                self._resize(slots, account, removed=True)
        self._map = []
        for order, account in enumerate(new.values()):
            slots = self._find(account.channel) or self._begin(account)
            slots.order = order
            self._resize(slots, account, removed=False)
            self._map.append(slots)

    def pause(self, channel: str) -> None:
        """Give the channel no new job until `resume`; its jobs in flight keep their slots.

        Raises:
            UnknownChannel: No account has that channel.
        """
        slots = self._known(channel)
        slots.paused = True
        self._settle(slots)

    def cool_down(self, channel: str, until: float) -> None:
        """Give the channel no new job before `until`, in seconds on the caller's clock.

        Of several cooldowns the last to end counts; `resume` ends them all.

        Raises:
            UnknownChannel: No account has that channel.
            InvalidArgument: `until` is not finite.
        """
        if not math.isfinite(until):
            raise InvalidArgument("until must be finite; for no end use pause", field="until")
        slots = self._known(channel)
        slots.cooldown_until = max(slots.cooldown_until, until)
        self._settle(slots)
        # A lower bound is enough: a wake that comes too early corrects it.
        self.next_wake = min(self.next_wake, until)

    def resume(self, channel: str) -> None:
        """End a pause and a cooldown at once.

        Raises:
            UnknownChannel: No account has that channel.
        """
        slots = self._known(channel)
        slots.paused = False
        slots.cooldown_until = -math.inf
        self._settle(slots)

    def wake(self, now: float) -> None:
        """End the cooldowns that are due by `now`, in seconds on the clock of `cool_down`."""
        if now < self.next_wake:
            return
        for slots in self._slots:
            if slots.cooling_down and slots.cooldown_until <= now:
                slots.cooldown_until = -math.inf
                self._settle(slots)
        self.next_wake = min((b.cooldown_until for b in self._slots if b.cooling_down), default=math.inf)

    def __len__(self) -> int:
        return len(self._map)

    def in_flight(self, channel: str | None = None) -> int:
        """Return the jobs in flight on the channel, 0 if it was never seen; without a channel, of all."""
        if channel is None:
            return sum(slots.in_flight for slots in self._slots)
        slots = self._find(channel)
        return slots.in_flight if slots is not None else 0

    def snapshot(self, *, now: float | None = None) -> Snapshot:
        """Return the in-flight counts as frozen values. O(n)."""
        if now is not None:
            self.wake(now)
        return Snapshot(tuple(slots.state() for slots in self._shown()))

    def explain(self, *, now: float | None = None) -> dict[str, Explanation]:
        """Return each account's probability at the next pick for any channel, or why it cannot be picked.

        Reserves nothing and draws no random number. O(n).
        """
        if now is not None:
            self.wake(now)
        candidates = [slots for slots in self._map if slots.open_index >= 0]
        odds = self._rule.odds(candidates) if candidates else []
        probability = {slots.channel: p for slots, p in zip(candidates, odds, strict=True)}
        explanations: dict[str, Explanation] = {}
        for slots in self._shown():
            why = slots.why_ineligible()
            explanations[slots.channel] = Explanation(
                channel=slots.channel,
                eligible=why is None,
                why=why or "eligible",
                free=slots.state().free,
                probability=probability.get(slots.channel, 0.0),
            )
        return explanations

    def why_unavailable(
        self, channel: str | None = None, *, now: float | None = None
    ) -> Unavailability | None:
        """Return why there is no free slot, on the channel or on any; None if there is one."""
        if now is not None:
            self.wake(now)
        if channel is None:
            return None if self._open else unavailability_of(self._map, None)
        slots = self._find(channel)
        return unavailability_of([] if slots is None or slots.removed else [slots], channel)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Bind `rng.random` again, so that a copy draws from its own copy of `rng`."""
        vars(self).update(state)
        self._chance = self._rng.random

    def account_at(self, row: int) -> Account:
        """Return the account of that row, as last configured."""
        return self._slots[row].account

    def _find(self, channel: str) -> AccountSlots | None:
        if not isinstance(channel, str):
            raise InvalidArgument(
                f"channel must be a string, not {type(channel).__name__}; pass a time limit as timeout=",
                field="channel",
            )
        row = self._rows.get(channel)
        return None if row is None else self._slots[row]

    def _known(self, channel: str) -> AccountSlots:
        slots = self._find(channel)
        if slots is None or (slots.removed and not slots.matters):
            raise unknown_channel(channel)
        return slots

    def _choose(self, channel: str | None) -> AccountSlots | None:
        if channel is not None:
            slots = self._find(channel)
            if slots is None or slots.removed:
                raise unknown_channel(channel)
            return slots if slots.open_index >= 0 else None
        rows: Sequence[int] = self._open
        if self._rule.ordered:
            rows = [slots.row for slots in self._map if slots.open_index >= 0]
        return self._rule.pick(self._slots, rows, self._chance) if rows else None

    def _shown(self) -> list[AccountSlots]:
        """Return the slots of the map in its order, then those of removed accounts that still matter."""
        return self._map + [slots for slots in self._slots if slots.removed and slots.matters]

    def _begin(self, account: Account) -> AccountSlots:
        """Return the slots of a channel never seen before, marked as removed."""
        slots = AccountSlots(account, self._free, len(self._slots))
        self._free.append(0)
        self._slots.append(slots)
        self._rows[account.channel] = slots.row
        return slots

    def _resize(self, slots: AccountSlots, account: Account, *, removed: bool) -> None:
        before = slots.limit
        slots.account, slots.removed = account, removed
        self._free[slots.row] += slots.limit - before
        self._settle(slots)

    def _settle(self, slots: AccountSlots) -> None:
        """Add the account to the open ones or remove it, as its state requires."""
        if slots.why_ineligible() is None:
            if slots.open_index < 0:
                slots.open_index = len(self._open)
                self._open.append(slots.row)
        elif slots.open_index >= 0:
            self._close(slots)

    def _close(self, slots: AccountSlots) -> None:
        last = self._open.pop()
        if last != slots.row:
            self._open[slots.open_index] = last
            self._slots[last].open_index = slots.open_index
        slots.open_index = CLOSED


def read_map(accounts: Iterable[Account]) -> dict[str, Account]:
    """Return the accounts by channel, in their order.

    Raises:
        InvalidArgument: An account is not an `Account`, or a channel appears twice.
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
                f"channel {account.channel!r} appears twice; give each account its own",
                field="accounts",
                channel=account.channel,
            )
        new[account.channel] = account
    return new
