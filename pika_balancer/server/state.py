"""Accounts and who runs where: the documented balancing rule, and the counts that are the truth."""

import random
from collections import deque
from collections.abc import Callable, Mapping
from typing import Final

import attrs

from pika_balancer.server.accounts import ServerAccount

_REFS_REMEMBERED: Final = 1_000_000


@attrs.frozen
class ChannelStatistics:
    """What the server saw on one channel since it was made."""

    channel: str
    """Discord channel id."""
    max_jobs: int | None
    """The cap configured now; None for a channel that is not, or no longer, configured."""
    jobs: int
    """Jobs accepted."""
    in_flight: int
    """Slots taken now."""
    peak_in_flight: int
    """Most slots ever taken at once."""
    refused: int
    """Submits that named the channel while it was full (429 with `executingJobs`)."""


@attrs.frozen
class ServerStatistics:
    """What the server saw since it was made; later changes do not show in it."""

    channels: Mapping[str, ChannelStatistics]
    """By channel: the configured ones in their order, then others that had jobs."""
    submits: int
    """Job calls with a good token, whatever became of them."""
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
class _Track:
    executing: dict[str, None] = attrs.field(factory=dict[str, None])
    jobs: int = 0
    peak: int = 0
    refused: int = 0


class State:
    """The accounts of a server and the slots taken on them. Nothing here awaits, so no check goes stale."""

    def __init__(
        self, accounts: Mapping[str, ServerAccount], *, save: Callable[[Mapping[str, ServerAccount]], None]
    ) -> None:
        self._accounts = dict(accounts)
        self._save = save
        self._tracks: dict[str, _Track] = {}
        self._executing: dict[str, None] = {}
        self._reply_refs: set[int] = set()
        self._refs_in_order: deque[int] = deque()
        self._completed = 0
        self._duplicates = 0
        self._full = 0
        self.submits = 0
        self.faults: dict[str, int] = {}

    @property
    def accounts(self) -> Mapping[str, ServerAccount]:
        """The configured accounts by channel."""
        return self._accounts

    def put_account(self, account: ServerAccount) -> None:
        """Add or replace an account; its running jobs go on. Raises `OSError` if it cannot be kept."""
        self._replace({**self._accounts, account.channel: account})

    def delete_account(self, channel: str) -> None:
        """Remove an account; its running jobs go on. Raises `OSError` if that cannot be kept."""
        self._replace({key: account for key, account in self._accounts.items() if key != channel})

    def _replace(self, accounts: dict[str, ServerAccount]) -> None:
        self._save(accounts)
        self._accounts = accounts

    def pick(self, rng: random.Random) -> ServerAccount | None:
        """Return one of the accounts with a free slot, each as likely as the other; None when all are full.

        The rule is the service's documented one: uniform over accounts with capacity, not over slots.
        """
        accounts = self._accounts.values()
        free = [account for account in accounts if self.has_room(account.channel, account.max_jobs)]
        if not free:
            self._full += 1
            return None
        return rng.choice(free)

    def has_room(self, channel: str, max_jobs: int) -> bool:
        """Return whether `channel` runs fewer than `max_jobs` jobs, whoever submitted them."""
        track = self._tracks.get(channel)
        return track is None or len(track.executing) < max_jobs

    def count_refusal(self, channel: str) -> None:
        """Count a submit that named `channel` while it was full."""
        self._full += 1
        self._track(channel).refused += 1

    def count_fault(self, name: str) -> None:
        """Count a scripted fault."""
        self.faults[name] = self.faults.get(name, 0) + 1

    def job_accepted(self, channel: str, jobid: str, reply_ref: str | None) -> None:
        """Take a slot of `channel` for a job."""
        track = self._track(channel)
        track.executing[jobid] = None
        track.jobs += 1
        track.peak = max(track.peak, len(track.executing))
        self._executing[jobid] = None
        if reply_ref is not None:
            # Hashes, so that a million references cost some tens of megabytes and not a gigabyte.
            key = hash(reply_ref)
            if key in self._reply_refs:
                self._duplicates += 1
                return
            self._reply_refs.add(key)
            self._refs_in_order.append(key)
            if len(self._refs_in_order) > _REFS_REMEMBERED:
                self._reply_refs.remove(self._refs_in_order.popleft())

    def job_ended(self, channel: str, jobid: str, *, completed: bool) -> None:
        """Free the slot that a job held."""
        del self._track(channel).executing[jobid]
        del self._executing[jobid]
        self._completed += completed

    def executing(self, channel: str | None = None) -> list[str]:
        """Return the ids of the jobs that hold slots, oldest first, on one channel or on all."""
        return list(self._executing if channel is None else self._track(channel).executing)

    def statistics(self) -> ServerStatistics:
        """Return the counts as they are now."""
        channels = {channel: self._channel(channel) for channel in (*self._accounts, *self._tracks)}
        return ServerStatistics(
            channels=channels,
            submits=self.submits,
            completed=self._completed,
            duplicate_reply_refs=self._duplicates,
            attempts_when_full=self._full,
            faults=dict(self.faults),
        )

    def _channel(self, channel: str) -> ChannelStatistics:
        account = self._accounts.get(channel)
        track = self._tracks.get(channel) or _Track()
        return ChannelStatistics(
            channel=channel,
            max_jobs=account.max_jobs if account else None,
            jobs=track.jobs,
            in_flight=len(track.executing),
            peak_in_flight=track.peak,
            refused=track.refused,
        )

    def _track(self, channel: str) -> _Track:
        track = self._tracks.get(channel)
        if track is None:
            track = self._tracks[channel] = _Track()
        return track
