"""In-flight counts on Redis or Valkey, for many processes on many machines: one pool, one truth."""

import asyncio
import math
import os
import random
import socket
from collections.abc import Callable, Iterable, Sequence
from typing import Final, Literal

from pika_balancer._util.tasks import shielded
from pika_balancer._util.text import encodable
from pika_balancer.clock import Clock, SystemClock, Timer
from pika_balancer.errors import Closed, ForeignLease, InvalidArgument, PikaError
from pika_balancer.events import Event, Reporter
from pika_balancer.models import (
    Account,
    AccountState,
    Explanation,
    Lease,
    Orphan,
    Secret,
    Snapshot,
    Unavailability,
    guarded,
)
from pika_balancer.selection.errors import adopted_elsewhere, unknown_channel
from pika_balancer.selection.policy import POLICIES, make_rule
from pika_balancer.selection.selector import read_map
from pika_balancer.store.redis.connection import Connection
from pika_balancer.store.redis.leases import Claims
from pika_balancer.store.redis.local_share import LocalShare
from pika_balancer.store.redis.pipeline import Pipeline, Reply
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

_PATIENCE: Final = 5.0
_SHORTEST_TTL: Final = 0.1


class RedisStore:
    """The counts of a pool of accounts, shared by every process that names the same pool.

    For one event loop. Connects when it is first used.

    Args:
        url_or_client: `redis://`, `rediss://` (TLS) or `unix://`, with user and password if need be;
            `redis+cluster://host:port`; `redis+sentinel://host1:port,host2:port/service`. Or an asyncio
            client of redis-py or valkey-py, which stays open when the store is closed. A URL may be a
            `Secret`.
        pool: Names the pool: the same for all processes that share the same accounts.
        lease_ttl: Seconds without a sign of life after which a process counts as dead and its leases as
            orphans; 30 or more, unless network and event loop are known to be quick.
        orphan_ttl: Seconds for which an orphan is counted at most: longer than any job takes.
        policy: A name from `POLICIES`. A function cannot run in the server.
        first_start: The pool is new, and an empty server has forgotten nothing. Otherwise an empty server
            counts for `lease_ttl` what the processes tell it before it grants anything.
        on_outage: `wait`: while the server is away nothing is granted. `local_share`: this process grants
            `local_share` of each cap by itself then, rounded down, whatever the others do.
        local_share: For that: with n processes 1/n keeps all of them together below the caps.
        name: Who this is, for people; host and process id by default.
        rng: Source of chance for picks and pauses.
        clock: Measures deadlines, rests and pauses.
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
        on_outage: Literal["wait", "local_share"] = "wait",
        local_share: float | None = None,
        name: str | None = None,
        rng: random.Random | None = None,
        clock: Clock | None = None,
        server_time: Callable[[], int] | None = None,
    ) -> None:
        if isinstance(url_or_client, str):
            # What is raised below has this frame in its traceback.
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
        self._clock = clock or SystemClock()
        rng = rng or random.Random()  # noqa: S311 - balancing, not cryptography
        process, patience = os.urandom(8).hex(), min(_PATIENCE, lease_ttl / 3)
        if on_outage not in ("wait", "local_share"):
            raise InvalidArgument("on_outage must be 'wait' or 'local_share'", field="on_outage")
        stated = 1.0 if local_share is None else local_share
        if (on_outage == "local_share") != (local_share is not None) or not 0 < stated <= 1:
            raise InvalidArgument(
                "local_share goes with on_outage='local_share' and is above 0 and at most 1",
                field="local_share",
            )

        def share(accounts: Iterable[AccountState], claims: Claims) -> LocalShare:
            held = {name: holding.channel for name, holding in claims.held.items()}
            return LocalShare(accounts, stated, held, policy=policy, rng=rng)

        self._orphan_ttl = orphan_ttl
        self._reporters: list[Reporter] = []
        self._connection = Connection(url_or_client, pool, patience=patience)
        self._session = session = Session(
            self._connection,
            process=process,
            label=(name or f"{socket.gethostname()}:{os.getpid()}").replace("\n", " "),
            grantor=self,
            tell=self._tell,
            ttl=lease_ttl,
            orphan_ttl=orphan_ttl,
            patience=patience,
            share=share if local_share else None,
            first_start=first_start,
            rng=rng,
            clock=self._clock,
        )
        session.pipeline = self._pipeline = Pipeline(
            self._connection,
            session,
            (process, round(lease_ttl * 1000), round(orphan_ttl * 1000), policy),
            server_time=server_time,
            rng=rng,
            clock=self._clock,
        )

    # --- the promises of a store -----------------------------------------------------------------------

    def try_acquire(self, channel: str | None = None) -> Lease | None:  # noqa: ARG002 - the promise of a store
        """Return None: only the server knows, and it has to be asked."""
        return None

    async def acquire(self, channel: str | None, deadline: float | None) -> Lease:
        """Wait in line for a slot; see `Store.acquire`.

        Raises:
            StoreUnavailable: The deadline passed while the server could not be reached, or it refuses.
        """
        if channel is not None:
            _check_channel(channel)
        session = self._session
        left = math.inf if deadline is None else deadline - self._clock.now()
        wish = session.wish(channel, waits=left > 0)
        timer: Timer | None = None
        if 0 < left < math.inf:
            timer = self._clock.call_later(left, lambda: session.give_up(wish))
        try:
            return await wish.future
        except BaseException:
            session.withdraw(wish)
            raise
        finally:
            if timer is not None:
                timer.cancel()

    def release(self, lease: Lease) -> asyncio.Future[None] | None:
        """Give the slot back; what is returned is done when the server knows, or cannot be told now."""
        try:
            ours = lease.grantor is self
        except AttributeError:
            raise InvalidArgument(
                f"release takes a lease, not {type(lease).__name__}", field="lease"
            ) from None
        if not ours:
            raise ForeignLease(
                "this lease was granted elsewhere; release it where it was acquired", channel=lease.channel
            )
        if not lease.held:
            return None
        lease.held = False
        held = self._session.claims.held
        name = str(lease.id) if lease.id in held else f"={lease.id}"
        return self._session.give_back(name) if name in held else None

    async def adopt(self, channel: str, key: str) -> Lease:
        """Count a job that already runs upstream; see `Selector.adopt`. While the server is away: at once."""
        _check_channel(channel)
        if type(key) is not str or not key:
            raise InvalidArgument("key must name the job that is adopted, as a string", field="key")
        if "\n" in key:
            raise InvalidArgument("key must be without line breaks", field="key")
        name = f"={key}"
        session = self._session
        session.open()
        counted = channel
        if self._pipeline.away_since is None:
            try:
                with session.claims.adopting(name, channel, session.moment()):
                    answer = await session.call("adopt", lambda: (name, channel)).future
            except asyncio.CancelledError:
                # What the server counts now, or will in a moment, is nobody's: the next statement says so.
                session.beat_soon()
                raise
            if answer is not None:
                counted, taken = answer.items
                session.counted(counted, int(taken))
        known = session.claims.adopted(name, counted)
        if counted != channel:
            raise adopted_elsewhere(key, counted, channel)
        return session.hold(name, channel, key, keep=True) if known is None else known

    @property
    def shared(self) -> bool:
        """Return True: other processes count here, too."""
        return True

    async def orphans(self) -> Sequence[Orphan]:
        """Return the slots whose processes are dead; see `Store.orphans`."""
        return await self._orphans(())

    async def give_up(self, orphans: Iterable[Orphan]) -> None:
        """Count orphans no longer whose jobs are known to be over; see `Store.give_up`."""
        await self._orphans([(server_name(orphan), orphan.dead_since) for orphan in orphans])

    async def update(self, accounts: Iterable[Account]) -> None:
        """Take over a new account map by difference, unless another process has told a newer one."""
        accounts = list(read_map(accounts).values())
        for account in accounts:
            _check_channel(account.channel)
        read_at = self._clock.now()
        flat = [value for account in accounts for value in (account.channel, account.max_jobs)]
        self._session.replica.keep(accounts)
        call = self._session.call(
            "update", lambda: (max(0, round((self._clock.now() - read_at) * 1000)), *flat)
        )
        answer = await call.future
        if answer is not None:
            self._session.surveyed(answer.items)

    async def pause(self, channel: str) -> None:
        """Give the channel no new job until `resume`."""
        await self._bar(channel, lambda: "pause")

    async def cool_down(self, channel: str, until: float) -> None:
        """Give the channel no new job before `until`, on this process's clock."""
        if not math.isfinite(until):
            raise InvalidArgument("until must be finite; use pause to rest without end", field="until")
        await self._bar(channel, lambda: max(0, round((until - self._clock.now()) * 1000)))

    async def resume(self, channel: str) -> None:
        """End a pause and a rest at once."""
        await self._bar(channel, lambda: "resume")

    def fail_waiters(self, error: Callable[[], PikaError]) -> None:
        """Fail everybody in line, each with an error of its own."""
        for wish in self._session.claims.wishes():
            self._session.fail(wish, error())

    async def close(self) -> None:
        """Say what is still to be said, tell the others that this process is gone, and disconnect.

        Leases that are still held are orphans from now on. They can be released: for that it connects again.
        Whoever is cancelled meanwhile is cancelled once that is done: a few seconds, if the server is silent.

        Raises:
            WrongLoop: The store works in another event loop, where it has to be closed.
        """
        if not self._session.is_open():
            return
        self.fail_waiters(lambda: Closed("this store is closed; nobody in line is served any more"))
        # Half said, what was given back would count until this process is found dead.
        await shielded(self._session.close())

    def snapshot(self) -> Snapshot:
        """Return the books as this process last heard of them; `fleet` asks the server."""
        return self._session.replica.snapshot(self._clock.now())

    def explain(self) -> dict[str, Explanation]:
        """Return what the next pick would make of each account, from what this process last heard."""
        return self._session.replica.explain(self._clock.now(), self._rule)

    def why_unavailable(self, channel: str | None = None) -> Unavailability | None:
        """Return why nothing can be had, from what this process last heard; None if something can."""
        return self._session.replica.why_unavailable(channel, self._clock.now())

    async def pool_status(self) -> PoolStatus:
        """Ask the server who holds what since when, in all processes, who waits, and what are orphans.

        Can be asked by somebody who takes no part in the pool.

        Raises:
            StoreUnavailable: The server cannot be reached.
        """
        answer = await self._ask("fleet", tuple)
        now = self._clock.now()
        return read_pool_status(answer, orphan_ttl=self._orphan_ttl, offset=now - answer.now / 1000, here=now)

    async def repair(self, over: Iterable[PoolHolder] = ()) -> Repair:
        """Set right what does not agree in the pool, and give up orphans whose jobs are known to be over.

        Args:
            over: From `fleet`; whoever's process is alive again keeps its slot.

        Raises:
            StoreUnavailable: The server cannot be reached.
        """
        names = [server_name(holder) for holder in over]
        return read_repair(await self._ask("repair", lambda: names))

    def attach(self, reporter: Reporter) -> None:
        """Tell the reporter what happens to the store: outages, and leases that got lost."""
        self._reporters.append(reporter)

    def account_at(self, row: int) -> Account:
        """Return the account of that row, as last configured; for leases."""
        return self._session.replica.account_at(row)

    @guarded
    def __repr__(self) -> str:
        away = ", away" if self._pipeline.away_since is not None else ""
        return f"<RedisStore {self._connection.address}{away}, {len(self._session.claims.held)} held here>"

    async def _orphans(self, over: Iterable[tuple[str, int]]) -> Sequence[Orphan]:
        # What is asked while the server is away would be kept, and all be said when it is back.
        if self._pipeline.away_since is not None:
            return ()
        flat = [value for pair in over for value in pair]
        answer = await self._session.call("orphans", lambda: flat, takes_part=False).future
        return () if answer is None else read_orphans(answer)

    async def _ask(self, operation: str, arguments: Callable[[], Sequence[object]]) -> Reply:
        answer = await self._session.call(operation, arguments, takes_part=False).future
        if answer is None:
            raise self._session.unavailable()
        return answer

    async def _bar(self, channel: str, what: Callable[[], str | int]) -> None:
        _check_channel(channel)
        answer = await self._session.call("bar", lambda: (channel, what())).future
        if answer is None:
            return
        if not answer.items:
            raise unknown_channel(channel)
        self._session.surveyed(answer.items[1:])

    def _tell(self, event: Event) -> None:
        for reporter in self._reporters:
            reporter.report(event)


def _check_channel(channel: object) -> None:
    if not isinstance(channel, str):
        raise InvalidArgument(
            f"channel must be a string, not {type(channel).__name__}; a time limit goes to timeout=",
            field="channel",
        )
    if not channel or "\n" in channel:
        raise InvalidArgument("channel must be a non-empty string without line breaks", field="channel")
