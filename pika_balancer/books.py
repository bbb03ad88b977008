"""The books of one account: what is in flight, and whether it may take another job."""

import math
from typing import Final

from pika_balancer.models import Account, AccountState

CLOSED: Final = -1
"""The `place` of an account that cannot take a job."""


class Entry:
    """One account as a selector counts it. Mutable, and changed by its selector only."""

    __slots__ = (
        "account",
        "in_flight",
        "max_jobs",
        "order",
        "owner",
        "paused",
        "place",
        "removed",
        "rest_until",
    )

    def __init__(self, owner: object, account: Account) -> None:
        self.owner = owner
        self.account = account
        self.max_jobs = account.max_jobs
        self.in_flight = 0
        self.order = 0
        self.place = CLOSED
        self.paused = False
        self.removed = False
        self.rest_until = -math.inf

    @property
    def channel(self) -> str:
        """The account's channel."""
        return self.account.channel

    @property
    def resting(self) -> bool:
        """Whether a rest has been set and not ended."""
        return self.rest_until > -math.inf

    def obstacle(self) -> str | None:
        """Return why this account cannot take a job, or None if it can: the one test of eligibility."""
        if self.removed:
            return "removed"
        if self.paused:
            return "paused"
        if self.resting:
            return "resting"
        if self.in_flight >= self.max_jobs:
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
