"""The accounts of a shared pool as one process last heard of them."""

import math
from collections.abc import Iterable, Iterator, Sequence

import attrs

from pika_balancer.models import Account, Explanation, Snapshot, Unavailability
from pika_balancer.selection.policy import Rule
from pika_balancer.selection.selector import AccountSlots, unavailability_of


class Replica:
    """Accounts and in-flight counts as the server last told, updated by what this process does."""

    def __init__(self) -> None:
        self._version = ""
        self._learning_until = -math.inf
        self._free: list[int] = []
        self._slots: list[AccountSlots] = []
        self._rows: dict[str, int] = {}
        self._own: dict[str, Account] = {}

    def keep(self, accounts: Iterable[Account]) -> None:
        """Remember this process's own accounts: their tokens are never sent to the server."""
        self._own = {account.channel: account for account in accounts}
        for slots in self._slots:
            slots.account = self._account(slots.channel, slots.max_jobs)

    def note(self, version: str, learning_until: float) -> bool:
        """Record what every reply tells; return whether the account map has changed since the last reply.

        Args:
            version: The version that the server tells.
            learning_until: Until when the server counts but grants nothing, on this process's clock.
        """
        self._learning_until = learning_until
        changed = version != self._version
        self._version = version
        return changed

    def row_of(self, channel: str) -> int:
        """Return the row of the channel, a new one if the channel is new."""
        row = self._rows.get(channel)
        return self._begin(channel) if row is None else row

    def account_at(self, row: int) -> Account:
        return self._slots[row].account

    def count(self, channel: str, in_flight: int) -> None:
        """Set the in-flight count of the channel."""
        row = self.row_of(channel)
        self._free[row] = self._slots[row].limit - in_flight

    def has(self, channel: str | None) -> bool:
        """Return whether the account map has the channel, or with None any account."""
        in_map = (slots.channel for slots in self._slots if not slots.removed)
        return any(channel in (None, known) for known in in_map)

    def update(self, fields: Sequence[str], offset: float) -> None:
        """Apply the state of all accounts.

        Args:
            fields: Six values per account; see `accounts.lua`.
            offset: This process's clock minus the server's, in seconds.
        """
        unheard = set(self._rows)
        for at in range(0, len(fields), 6):
            channel, order, cap, in_flight, paused, cooldown = fields[at : at + 6]
            unheard.discard(channel)
            row = self.row_of(channel)
            slots = self._slots[row]
            slots.account = self._account(channel, int(cap))
            slots.order, slots.removed, slots.paused = int(order), int(order) < 0, paused == "1"
            slots.cooldown_until = float(cooldown) / 1000 + offset if cooldown else -math.inf
            self._free[row] = slots.limit - int(in_flight)
        for channel in unheard:
            slots = self._slots[self._rows[channel]]
            slots.removed, slots.paused, slots.cooldown_until = True, False, -math.inf
            self._free[slots.row] = 0

    def snapshot(self, now: float) -> Snapshot:
        return Snapshot(tuple(slots.state() for slots in self._shown(now)))

    def explain(self, now: float, rule: Rule) -> dict[str, Explanation]:
        """Return for each account its probability at the next pick, or why it cannot be picked."""
        learning = self._learning_until > now
        shown = list(self._shown(now))
        candidates = [] if learning else [slots for slots in shown if slots.why_ineligible() is None]
        odds = rule.odds(candidates) if candidates else []
        probability = {slots.channel: p for slots, p in zip(candidates, odds, strict=True)}
        return {
            slots.channel: Explanation(
                channel=slots.channel,
                eligible=slots.channel in probability,
                why=slots.why_ineligible() or ("learning" if learning else "eligible"),
                free=slots.state().free,
                probability=probability.get(slots.channel, 0.0),
            )
            for slots in shown
        }

    def why_unavailable(self, channel: str | None, now: float) -> Unavailability | None:
        """Return why no slot is free, on the channel or on any; None if one is."""
        candidates = [
            slots for slots in self._shown(now) if not slots.removed and channel in (None, slots.channel)
        ]
        is_open = any(slots.why_ineligible() is None for slots in candidates)
        found = None if is_open else unavailability_of(candidates, channel)
        if found is None and self._learning_until > now:
            return Unavailability(
                "cooling_down",
                self._learning_until,
                "the store was empty and learns what is in flight before it grants slots; wait until it has",
            )
        return found

    def _shown(self, now: float) -> Iterator[AccountSlots]:
        """Yield the accounts in map order, then removed ones with jobs in flight, a pause or a cooldown."""
        for slots in self._slots:
            if slots.cooling_down and slots.cooldown_until <= now:
                slots.cooldown_until = -math.inf
        yield from sorted((slots for slots in self._slots if not slots.removed), key=lambda s: s.order)
        yield from (slots for slots in self._slots if slots.removed and slots.matters)

    def _account(self, channel: str, max_jobs: int) -> Account:
        own = self._own.get(channel)
        if own is None:
            return Account(channel, max_jobs)
        return own if own.max_jobs == max_jobs else attrs.evolve(own, max_jobs=max_jobs)

    def _begin(self, channel: str) -> int:
        row = self._rows[channel] = len(self._slots)
        self._free.append(0)
        self._slots.append(AccountSlots(self._account(channel, Account(channel).max_jobs), self._free, row))
        return row
