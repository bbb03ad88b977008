"""A stated share of every cap, granted by a process on its own while the shared store is away."""

import contextlib
import random
from collections.abc import Iterable, Mapping

from pika_balancer.errors import UnknownChannel
from pika_balancer.models import Account, AccountState, Lease
from pika_balancer.selection.selector import Selector


class LocalShare:
    """Grants slots without the server. All processes together stay below the caps if their shares do.

    Args:
        accounts: As they were when last heard of.
        share: Of each cap, rounded down; above 0, at most 1.
        held: What this process holds: name of the lease to its channel.
        policy: Rule of the pick.
        rng: Source of chance.
    """

    def __init__(
        self,
        accounts: Iterable[AccountState],
        share: float,
        held: Mapping[str, str],
        *,
        policy: str,
        rng: random.Random,
    ) -> None:
        here = [account for account in accounts if not account.removed and int(account.max_jobs * share)]
        limits = [Account(account.channel, int(account.max_jobs * share)) for account in here]
        self._selector = Selector(limits, rng=rng, policy=policy)
        for account in here:
            if account.paused:
                self._selector.pause(account.channel)
            if account.cooldown_until is not None:
                self._selector.cool_down(account.channel, account.cooldown_until)
        self._leases: dict[str, Lease] = {}
        for name, channel in held.items():
            self.count(name, channel)

    def take(self, name: str, channel: str | None, now: float) -> str | None:
        """Grant a slot under that name and return its channel; None if the share has none left."""
        with contextlib.suppress(UnknownChannel):
            lease = self._selector.try_acquire(channel, now=now)
            if lease is not None:
                self._leases[name] = lease
                return lease.channel
        return None

    def count(self, name: str, channel: str) -> None:
        """Count what is held already, or runs already."""
        self._leases[name] = self._selector.adopt(channel, name)

    def give_back(self, name: str) -> None:
        """Count it no longer."""
        if (lease := self._leases.pop(name, None)) is not None:
            self._selector.release(lease)
