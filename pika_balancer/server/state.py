"""Accounts, the jobs that hold their slots, and counts; the documented balancing rule."""

import random
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Mapping
from typing import Final

import attrs

from pika_balancer.server.accounts import ServerAccount

_REFS_REMEMBERED: Final = 1_000_000


@attrs.frozen
class ChannelStatistics:
    """What the server counted on one channel since it was made."""

    channel: str
    """Discord channel id."""
    max_jobs: int | None
    """Current cap; None for a channel that is not configured, or no longer."""
    jobs: int
    """Jobs accepted."""
    in_flight: int
    """Slots taken now."""
    peak_in_flight: int
    """Most slots taken at once."""
    refused: int
    """Submits that named the channel while it was full (429 with `executingJobs`)."""


@attrs.frozen
class ServerStatistics:
    """What the server counted since it was made; a copy, which does not change later."""

    channels: Mapping[str, ChannelStatistics]
    """By channel: the configured ones in their order, then others that had jobs."""
    submits: int
    """Job calls with an accepted token, whatever the answer."""
    completed: int
    """Jobs that ended as completed."""
    duplicate_reply_refs: int
    """Accepted jobs whose `replyRef` an earlier accepted job had: each is a job paid for twice."""
    attempts_when_full: int
    """Submits refused because no slot was free: attempts to go above a cap, channel named or not."""
    faults: Mapping[str, int]
    """How often each scripted fault happened, by its name."""

    @property
    def jobs(self) -> int:
        """Jobs accepted, over all channels."""
        return sum(channel.jobs for channel in self.channels.values())

    @property
    def in_flight(self) -> int:
        """Slots taken now, over all channels."""
        return sum(channel.in_flight for channel in self.channels.values())


@attrs.define
class _Counts:
    jobs: int = 0
    in_flight: int = 0
    peak_in_flight: int = 0
    refused: int = 0


class State:
    """The accounts of a server and the jobs on them. Nothing here awaits, so no check becomes outdated.

    Args:
        accounts: By channel.
        save: Called with the new accounts before each change; what it raises prevents the change.
    """

    def __init__(
        self, accounts: Mapping[str, ServerAccount], *, save: Callable[[Mapping[str, ServerAccount]], None]
    ) -> None:
        self.accounts = accounts
        self._save = save
        self._submits = 0
        self._faults: Counter[str] = Counter()
        self._counts: defaultdict[str, _Counts] = defaultdict(_Counts)
        self._executing: dict[str, str] = {}
        self._reply_refs: set[int] = set()
        self._refs_in_order: deque[int] = deque()
        self._completed = 0
        self._duplicates = 0
        self._full = 0

    def put_account(self, account: ServerAccount) -> None:
        """Add or replace an account; its running jobs go on. Raises `OSError` if it cannot be saved."""
        self._replace({**self.accounts, account.channel: account})

    def delete_account(self, channel: str) -> None:
        """Remove an account; its running jobs go on. Raises `OSError` if that cannot be saved."""
        self._replace({key: account for key, account in self.accounts.items() if key != channel})

    def _replace(self, accounts: dict[str, ServerAccount]) -> None:
        self._save(accounts)
        self.accounts = accounts

    def pick(self, rng: random.Random) -> ServerAccount | None:
        """Return an account with a free slot, all with equal probability; None if all are full.

        This is the service's documented rule: uniform over accounts with capacity, not over slots.
        """
        accounts = self.accounts.values()
        free = [account for account in accounts if self.has_room(account.channel, account.max_jobs)]
        if not free:
            self._full += 1
            return None
        return rng.choice(free)

    def has_room(self, channel: str, max_jobs: int) -> bool:
        counts = self._counts.get(channel)
        return counts is None or counts.in_flight < max_jobs

    def count_submit(self) -> None:
        self._submits += 1

    def count_fault(self, name: str) -> None:
        self._faults[name] += 1

    def count_refusal(self, channel: str) -> None:
        """Count a submit that named `channel` while it was full."""
        self._full += 1
        self._counts[channel].refused += 1

    def job_accepted(self, channel: str, jobid: str, reply_ref: str | None) -> None:
        """Take a slot of `channel` for a job."""
        counts = self._counts[channel]
        counts.jobs += 1
        counts.in_flight += 1
        counts.peak_in_flight = max(counts.peak_in_flight, counts.in_flight)
        self._executing[jobid] = channel
        if reply_ref is not None:
            # Hashes, so that a million references take some tens of megabytes and not a gigabyte.
            key = hash(reply_ref)
            if key in self._reply_refs:
                self._duplicates += 1
                return
            self._reply_refs.add(key)
            self._refs_in_order.append(key)
            if len(self._refs_in_order) > _REFS_REMEMBERED:
                self._reply_refs.remove(self._refs_in_order.popleft())

    def job_ended(self, jobid: str, *, completed: bool) -> None:
        """Free the slot that a job held."""
        self._counts[self._executing.pop(jobid)].in_flight -= 1
        self._completed += completed

    def executing(self, channel: str | None = None) -> list[str]:
        """Return the ids of the jobs that hold slots, oldest first, on one channel or on all."""
        return [jobid for jobid, where in self._executing.items() if channel in (None, where)]

    def statistics(self) -> ServerStatistics:
        caps = {channel: account.max_jobs for channel, account in self.accounts.items()}
        channels = {
            channel: ChannelStatistics(
                channel=channel,
                max_jobs=caps.get(channel),
                **attrs.asdict(self._counts.get(channel, _Counts())),
            )
            for channel in (*caps, *self._counts)
        }
        return ServerStatistics(
            channels=channels,
            submits=self._submits,
            completed=self._completed,
            duplicate_reply_refs=self._duplicates,
            attempts_when_full=self._full,
            faults=dict(self._faults),
        )
