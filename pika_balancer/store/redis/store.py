"""In-flight counts and a wait queue on Redis or Valkey, shared by processes on any number of machines."""

import asyncio
import math
import os
import random
import socket
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from pika_balancer._util.tasks import shielded
from pika_balancer._util.text import encodable
from pika_balancer.clock import Clock, SystemClock, Timer
from pika_balancer.errors import Closed, ForeignLease, InvalidArgument, PikaError
from pika_balancer.events import Event, Reporter
from pika_balancer.models import (
    Account,
    Explanation,
    Lease,
    Orphan,
    Secret,
    Snapshot,
    Unavailability,
    guarded,
)
from pika_balancer.selection.errors import unknown_channel
from pika_balancer.selection.policy import POLICIES, make_rule
from pika_balancer.selection.selector import read_map
from pika_balancer.store.redis.commands import Reply, Settings
from pika_balancer.store.redis.endpoint import Endpoint
from pika_balancer.store.redis.pool_status import (
    PoolHolder,
    PoolStatus,
    Repair,
    read_orphans,
    read_pool_status,
    read_repair,
    server_name,
)
from pika_balancer.store.redis.session import Session

_TIMEOUT: Final = 5.0
_SHORTEST_TTL: Final = 0.1


class RedisStore:
    """A store that every process with the same pool name shares.

    For one event loop. Connects at its first use. While the server is away nothing is granted: requests wait,
    and releases are kept and sent when it is back.

    Args:
        url_or_client: `redis://`, `rediss://` (TLS) or `unix://`, with user and password if needed;
            `redis+cluster://host:port`; `redis+sentinel://host1:port,host2:port/service`. Or an asyncio
            client of redis-py or valkey-py, which stays open when the store is closed. A URL may be a
            `Secret`.
        pool: Name of the pool: the same for all processes that share the same accounts.
        lease_ttl: Seconds without a call after which a process counts as dead and its leases as orphans; 30
            or more, unless network and event loop are known to be fast.
        orphan_ttl: Seconds for which an orphan stays counted at most: longer than any job takes.
        policy: A name from `POLICIES`. A function cannot run in the server.
        first_start: The pool is new: an empty server has lost nothing. Otherwise an empty server only counts
            for `lease_ttl`, and grants nothing until the processes have told it what they hold.
        name: Name of this process for people; host and process id by default.
        rng: Source of randomness for picks and pauses.
        clock: Measures deadlines, cooldowns and pauses.
        server_time: For tests: returns milliseconds in place of the server's clock.

    Raises:
        InvalidArgument: An argument cannot work; `field` names it.
        ImportError: The extra `redis` is not installed.
    """

    def __init__(
        self,
        url_or_client: object,
        pool: str = "default",
        *,
        lease_ttl: float = 60.0,
        orphan_ttl: float = 1800.0,
        policy: str = "random",
        first_start: bool = False,
        name: str | None = None,
        rng: random.Random | None = None,
        clock: Clock | None = None,
        server_time: Callable[[], int] | None = None,
    ) -> None:
        if isinstance(url_or_client, str):
            # Tracebacks of the errors below show this frame's variables.
            url_or_client = Secret(url_or_client)
        for field, seconds in (("lease_ttl", lease_ttl), ("orphan_ttl", orphan_ttl)):
            if not _SHORTEST_TTL <= seconds < math.inf:
                raise InvalidArgument(
                    f"{field} must be a number of seconds, {_SHORTEST_TTL} or more", field=field
                )
        if not isinstance(policy, str):
            raise InvalidArgument(
                f"a shared store picks in the server, by name: one of {', '.join(POLICIES)}", field="policy"
            )
        if not pool or set(pool) & set("{}\n") or not encodable(pool):
            raise InvalidArgument("pool must be a name in UTF-8, without braces or line breaks", field="pool")
        self._rule = make_rule(policy)
        self._reporters: list[Reporter] = []
        self._clock = clock or SystemClock()
        self._settings = Settings(
            label=(name or f"{socket.gethostname()}:{os.getpid()}").replace("\n", " "),
            lease_ttl=lease_ttl,
            orphan_ttl=orphan_ttl,
            timeout=min(_TIMEOUT, lease_ttl / 3),
            policy=policy,
            first_start=first_start,
            server_time=server_time,
            rng=rng or random.Random(),  # noqa: S311 - balancing, not cryptography
            clock=self._clock,
        )
        self._endpoint = Endpoint(url_or_client, pool, timeout=self._settings.timeout)
        self._session = Session(self._endpoint, self._settings, self, self._report)

    # --- the protocol `Store` --------------------------------------------------------------------------

    def try_acquire(self, channel: str | None = None) -> Lease | None:  # noqa: ARG002 - part of the protocol
        """Return None: a grant needs the server."""
        return None

    async def acquire(self, channel: str | None, deadline: float | None) -> Lease:
        """Wait for a slot and return its lease; see `Store.acquire`.

        Raises:
            StoreUnavailable: The deadline passed while the server was away, or the server refuses.
        """
        if channel is not None:
            _check_channel(channel)
        left = math.inf if deadline is None else deadline - self._clock.now()
        request = self._session.request(channel, may_wait=left > 0)
        timer: Timer | None = None
        if 0 < left < math.inf:
            timer = self._clock.call_later(left, lambda: self._session.time_out(request))
        try:
            return await request.future
        except BaseException:
            self._session.cancel(request)
            raise
        finally:
            if timer is not None:
                timer.cancel()

    def release(self, lease: Lease) -> asyncio.Future[None] | None:
        """Give the slot back; the future is done when the server knows, or at once while it is away."""
        try:
            is_own = lease.grantor is self
        except AttributeError:
            raise InvalidArgument(
                f"release takes a lease, not {type(lease).__name__}", field="lease"
            ) from None
        if not is_own:
            raise ForeignLease(
                "this lease was granted elsewhere; release it where it was acquired", channel=lease.channel
            )
        if not lease.held:
            return None
        lease.held = False
        held = self._session.leases.held
        name = str(lease.id) if lease.id in held else f"={lease.id}"
        return self._session.release(name) if name in held else None

    async def adopt(self, channel: str, key: str) -> Lease:
        """Count a job that the service already executes; see `Selector.adopt`."""
        _check_channel(channel)
        if type(key) is not str or not key or "\n" in key:
            raise InvalidArgument("key must be a non-empty string without line breaks", field="key")
        return await self._session.adopt(channel, key)

    @property
    def shared(self) -> bool:
        return True

    async def orphans(self) -> Sequence[Orphan]:
        return await self._orphans(())

    async def give_up(self, orphans: Iterable[Orphan]) -> None:
        await self._orphans([(server_name(orphan), orphan.dead_since) for orphan in orphans])

    async def update(self, accounts: Iterable[Account]) -> None:
        """Apply a new account map, unless another process has sent a newer one."""
        accounts = list(read_map(accounts).values())
        for account in accounts:
            _check_channel(account.channel)
        read_at = self._clock.now()
        flat = [value for account in accounts for value in (account.channel, account.max_jobs)]
        self._session.replica.keep(accounts)
        reply = await self._session.call(
            "update", lambda: (_milliseconds(self._clock.now() - read_at), *flat)
        )
        if reply is not None:
            self._session.update_accounts(reply.items)

    async def pause(self, channel: str) -> None:
        await self._set_pause(channel, lambda: "pause")

    async def cool_down(self, channel: str, until: float) -> None:
        """Give the channel no new job before `until`, in seconds on this process's clock."""
        if not math.isfinite(until):
            raise InvalidArgument("until must be finite; use pause to stop without an end", field="until")
        await self._set_pause(channel, lambda: _milliseconds(until - self._clock.now()))

    async def resume(self, channel: str) -> None:
        await self._set_pause(channel, lambda: "resume")

    def fail_waiters(self, error: Callable[[], PikaError]) -> None:
        for request in self._session.leases.requests():
            self._session.fail(request, error())

    async def close(self) -> None:
        """Send what is left, tell the server that this process leaves, and disconnect.

        Leases that are still held become orphans. They can still be released: the store connects again for
        that. A cancelled caller stays cancelled, once this is done: a few seconds if the server does not
        reply.

        Raises:
            WrongLoop: The store works in another event loop; close it there.
        """
        if not self._session.is_open():
            return
        self.fail_waiters(lambda: Closed("the store was closed while this request waited"))
        # Shielded: a release that is not sent counts until this process is declared dead.
        await shielded(self._session.close())

    async def settled(self) -> None:
        """Return once nothing is under way between this process and the server.

        Every release, pause, cooldown and cancellation before this call has reached the server then, and
        every slot that the server had granted to a waiter of this process has arrived.

        Raises:
            StoreUnavailable: The server cannot be reached; releases are kept and sent later.
        """
        if self._session.is_open():
            await self._session.settle()

    def attach(self, reporter: Reporter) -> None:
        self._reporters.append(reporter)

    def snapshot(self) -> Snapshot:
        """Return the in-flight counts as this process last heard of them; `pool_status` asks the server."""
        return self._session.replica.snapshot(self._clock.now())

    def explain(self) -> dict[str, Explanation]:
        """Return each account's probability at the next pick, from what this process last heard."""
        return self._session.replica.explain(self._clock.now(), self._rule)

    def why_unavailable(self, channel: str | None = None) -> Unavailability | None:
        """Return why no slot is free, from what this process last heard; None if one is."""
        return self._session.replica.why_unavailable(channel, self._clock.now())

    # --- what only a shared store has ------------------------------------------------------------------

    async def pool_status(self) -> PoolStatus:
        """Ask the server for the state of the pool in all processes; the caller need not take part in it.

        Raises:
            StoreUnavailable: The server cannot be reached.
        """
        reply = await self._ask("pool_status", tuple)
        return read_pool_status(reply, orphan_ttl=self._settings.orphan_ttl, now=self._clock.now())

    async def repair(self, over: Iterable[PoolHolder] = ()) -> Repair:
        """Correct entries of the pool that disagree, and free the slots of orphans whose jobs have ended.

        Args:
            over: These orphans, from `pool_status`; a slot whose process is alive again is kept.

        Raises:
            StoreUnavailable: The server cannot be reached.
        """
        names = [server_name(holder) for holder in over]
        return read_repair(await self._ask("repair", lambda: names))

    def account_at(self, row: int) -> Account:
        """Return the account of that row, as last configured; for leases."""
        return self._session.replica.account_at(row)

    @guarded
    def __repr__(self) -> str:
        away = ", away" if self._session.is_away else ""
        return f"<RedisStore {self._endpoint.address}{away}, {len(self._session.leases.held)} held here>"

    async def _orphans(self, ended: Iterable[tuple[str, int]]) -> Sequence[Orphan]:
        # Calls during an outage are kept; these would all be sent when the server is back.
        if self._session.is_away:
            return ()
        flat = [value for pair in ended for value in pair]
        reply = await self._session.call("orphans", lambda: flat, takes_part=False)
        return () if reply is None else read_orphans(reply)

    async def _ask(self, operation: str, arguments: Callable[[], Sequence[object]]) -> Reply:
        reply = await self._session.call(operation, arguments, takes_part=False)
        if reply is None:
            raise self._session.unavailable()
        return reply

    async def _set_pause(self, channel: str, change: Callable[[], str | int]) -> None:
        _check_channel(channel)
        reply = await self._session.call("set_pause", lambda: (channel, change()))
        if reply is None:
            return
        if not reply.items:
            raise unknown_channel(channel)
        self._session.update_accounts(reply.items[1:])

    def _report(self, event: Event) -> None:
        for reporter in self._reporters:
            reporter.report(event)


def _milliseconds(seconds: float) -> int:
    return max(0, round(seconds * 1000))


def _check_channel(channel: object) -> None:
    if not isinstance(channel, str):
        raise InvalidArgument(
            f"channel must be a string, not {type(channel).__name__}; a time limit goes to timeout=",
            field="channel",
        )
    if not channel or "\n" in channel:
        raise InvalidArgument("channel must be a non-empty string without line breaks", field="channel")
