"""Changes caps, removes accounts and adds them again while jobs run."""

import math
import random
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Final

from pika_balancer import Balancer, PikaClient
from pika_balancer.server.accounts import MAX_JOBS_LIMIT, made_up
from tests.soak.server import CAPS, ScaledClock

REFRESH_EVERY: Final = 200.0
"""Seconds of service time between two refreshes of a balancer."""
PAUSES: Final = (600.0, 1800.0)
"""Shortest and longest pause after a change that all balancers know, in seconds of service time."""
FEWEST: Final = 3
"""Minimum number of accounts."""
_READS: Final = 50
"""Refreshes after which a change must be known."""


class AccountChurn:
    """Changes the account map of the service and waits until every balancer has read it.

    Args:
        client: Calls the service.
        balancers: Have to learn of each change.
        clock: Service time.
        rng: Draws changes and pauses.
        complain: Called with a description of each violation.
    """

    def __init__(
        self,
        client: PikaClient,
        balancers: Sequence[Balancer],
        *,
        clock: ScaledClock,
        rng: random.Random,
        complain: Callable[[str], None],
    ) -> None:
        self._client = client
        self._balancers = balancers
        self._clock = clock
        self._rng = rng
        self._complain = complain
        self._caps = dict(CAPS)
        self._known_at: dict[str, float] = {}
        self.highest = dict(CAPS)
        self.changes = Counter[str]()

    highest: dict[str, int]
    """The highest cap that each channel has had."""
    changes: Counter[str]
    """Number of changes of each kind."""

    def excuses(self, channel: str, since: float) -> bool:
        """Return whether, at some time since then, a balancer may have had another cap than the service."""
        return since <= self._known_at.get(channel, -math.inf)

    async def work(self) -> None:
        """Change something periodically, forever."""
        while True:
            await self._clock.sleep(self._rng.uniform(*PAUSES))
            channel = self._rng.choice(list(CAPS))
            self._known_at[channel] = math.inf
            if await self._known(channel, await self._change(channel)):
                self._known_at[channel] = self._clock.now()
            else:
                self._complain(f"the change of {channel} is not known to {self._balancers}")

    async def _change(self, channel: str) -> int | None:
        """Give a channel another cap, or none; return it."""
        old = self._caps.get(channel)
        if old is not None and len(self._caps) > FEWEST and self._rng.random() < 1 / 3:
            await self._client.delete_account(channel)
            del self._caps[channel]
            self.changes["removed"] += 1
            return None
        new = self._rng.choice([cap for cap in range(1, MAX_JOBS_LIMIT + 1) if cap != old])
        await self._client.put_account(channel, discord=made_up(channel, new).discord, max_jobs=new)
        self._caps[channel] = new
        self.highest[channel] = max(new, self.highest[channel])
        self.changes["added" if old is None else "raised" if new > old else "lowered"] += 1
        return new

    async def _known(self, channel: str, cap: int | None) -> bool:
        """Wait until all balancers have the cap of a channel; return whether they do.

        They have to have it after a further refresh as well, since an older answer may arrive later.
        """
        agreed = 0
        for _ in range(_READS):
            await self._clock.sleep(REFRESH_EVERY)
            agree = all(_cap(balancer, channel) == cap for balancer in self._balancers)
            agreed = agreed + 1 if agree else 0
            if agreed > 1:
                return True
        return False


def _cap(balancer: Balancer, channel: str) -> int | None:
    for account in balancer.snapshot().accounts:
        if account.channel == channel and not account.removed:
            return account.max_jobs
    return None
