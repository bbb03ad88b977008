"""One submit on one slot: send it once, and do for job, slot and account what the answer asks for."""

import asyncio
import contextlib
import random
from collections.abc import Callable
from enum import Enum
from typing import Final

import attrs

from pika_balancer._util.tasks import Tasks
from pika_balancer.balancer.balancer import Balancer
from pika_balancer.client.client import PikaClient
from pika_balancer.client.requests import Request
from pika_balancer.clock import Clock
from pika_balancer.dispatch.cooldown import Cooldown
from pika_balancer.dispatch.handle import JobHandle
from pika_balancer.dispatch.reconciler import Reconciler
from pika_balancer.dispatch.registry import JobRegistry
from pika_balancer.errors import (
    AccountSuspended,
    ApiError,
    ChannelFull,
    Closed,
    InvalidResponse,
    LostTrack,
    NotFound,
    PikaError,
    RateLimited,
    ServiceError,
    SubmissionUnknown,
    SubscriptionRequired,
    TransportError,
    Unauthorized,
    WrongLoop,
)
from pika_balancer.events import Failed, Refused, Submitting, Uncertain
from pika_balancer.models import Job


class SubmitOutcome(Enum):
    """What to do about a submit that failed."""

    OWN_FAULT = "own fault"
    """The job's own fault: the slot is free, the account unharmed, the caller is told."""
    FULL = "full"
    """Others' jobs fill the channel, which is no fault of the account: another one is tried."""
    LIMITED = "limited"
    """The account has to rest; another one is tried."""
    BLOCKED = "blocked"
    """The account waits for a person and is paused; another one is tried."""
    GONE = "gone"
    """The service does not know the account any more, or else what the job names: another account is tried,
    if there is one that will do; otherwise it is the job's own fault."""
    REFUSED = "refused"
    """The token, the subscription, or a client that is closed: no account can help, everything stops."""
    NOT_SENT = "not sent"
    """The request cannot have reached the service: it is sent again after a pause."""
    LOST = "lost"
    """Queued upstream but lost from sight: it takes a slot for some minutes and is never sent again."""
    UNKNOWN = "unknown"
    """Nobody knows whether the service has it: the slot stays taken while it is looked for."""


_TABLE: Final[dict[type[PikaError], SubmitOutcome]] = {
    ChannelFull: SubmitOutcome.FULL,
    RateLimited: SubmitOutcome.LIMITED,
    AccountSuspended: SubmitOutcome.BLOCKED,
    NotFound: SubmitOutcome.GONE,
    Unauthorized: SubmitOutcome.REFUSED,
    SubscriptionRequired: SubmitOutcome.REFUSED,
    Closed: SubmitOutcome.REFUSED,
    WrongLoop: SubmitOutcome.REFUSED,
    LostTrack: SubmitOutcome.LOST,
    ServiceError: SubmitOutcome.UNKNOWN,
    InvalidResponse: SubmitOutcome.UNKNOWN,
    TransportError: SubmitOutcome.UNKNOWN,
    PikaError: SubmitOutcome.OWN_FAULT,
}
_REFUSALS: Final = range(300, 500)
"""Statuses that say of a request that nothing was done about it."""


def submit_outcome(error: PikaError) -> SubmitOutcome:
    """Return what `error`, with which a submit ended, means."""
    if isinstance(error, TransportError) and not error.maybe_sent:
        return SubmitOutcome.NOT_SENT
    if isinstance(error, ApiError) and type(error) not in _TABLE:
        # A class of answers that says nothing of the kind. A status below 200 is no last word.
        return SubmitOutcome.OWN_FAULT if error.status in _REFUSALS else SubmitOutcome.UNKNOWN
    return next(_TABLE[cls] for cls in type(error).__mro__ if cls in _TABLE)


_TRIES: Final = 5
_FIRST_PAUSE: Final = 1.0
_LOOKS: Final = 3

BeforeSend = Callable[[str, str], object]
"""Called with channel and reference right before a job is sent; what it raises keeps it from being sent."""


@attrs.define
class Order:
    """What is to be submitted."""

    prepared: Request[Job] = attrs.field(repr=False)
    """The checked request; channel and reference are set when it is sent."""
    before_send: BeforeSend | None
    """The caller's last word before each sending."""
    tries: int = 0
    """How often it could not be sent at all, in a row."""
    gone: set[str] = attrs.field(factory=set[str])
    """The accounts of which the service said that it does not know them."""


@attrs.frozen
class Again:
    """The service does not have the job, and it may be sent again, on whatever slot there is then."""

    pause: float = 0.0
    """Seconds to wait before that."""


class Submitter:
    """Sends jobs, one POST each, and acts on every answer; see `verdict` for the table.

    Args:
        client: Sends.
        balancer: Takes slots back, lets accounts rest.
        roster: Keeps the jobs.
        lookout: Finds the ones whose fate is unknown.
        health: Knows how long an account has to rest.
        refused: Is told when the service refuses the token or the subscription.
        lost_for: Seconds for which a job of unknown fate is looked for, and keeps its slot.
        resubmit_after: Seconds after which one that was not found is sent again; None: never.
        tasks: Runs what goes on beside.
        rng: Spreads what is tried again.
        clock: Measures the seconds.
    """

    def __init__(
        self,
        client: PikaClient,
        balancer: Balancer,
        *,
        registry: JobRegistry,
        reconciler: Reconciler,
        health: Cooldown,
        tasks: Tasks,
        rng: random.Random,
        refused: Callable[[PikaError], object],
        search_for: float,
        resubmit_after: float | None,
        clock: Clock,
    ) -> None:
        self._client = client
        self._balancer = balancer
        self._registry = registry
        self._reconciler = reconciler
        self._health = health
        self._tasks = tasks
        self._rng = rng
        self._refused = refused
        self._search_for = search_for
        self._resubmit_after = resubmit_after
        self._clock = clock

    async def attempt(
        self, handle: JobHandle, order: Order, *, pinned: bool = False
    ) -> PikaError | Again | None:
        """Send the job, which is on the roster, once; return None if the service has it.

        When it returns, all is settled: the slot is the job's, or on its way back. Otherwise it returns what
        to raise, or that the job may be sent again.

        Args:
            handle: The job.
            order: What it is.
            pinned: Whether no other account will do.

        Raises:
            Exception: What the caller's `before_send` raised.
        """
        began = self._clock.now()
        channel = handle.channel or ""
        try:
            if order.before_send is not None:
                order.before_send(channel, handle.reply_ref)
        except BaseException:
            self._registry.remove(handle)
            raise
        self._tell(Submitting(**self._registry.facts(handle)))
        handle.sent = True
        values = {"channel": channel, "reply_ref": handle.reply_ref}
        try:
            job = await self._send(order, values)
        except PikaError as error:
            if handle.jobid is not None:
                return None  # a callback, or a look at what executes, knows better
            return await self._answered(handle, order, error, began, pinned=pinned)
        self._health.success(channel, began=began)
        if handle.jobid not in (None, job.jobid):
            # An earlier sending had arrived after all, and is followed: this one takes a slot, too.
            with contextlib.suppress(PikaError):
                await self._reconciler.watch(channel, job.jobid)
        await self._accept(handle, job)
        if job.ended:
            self._registry.update_from(job, "answer")
        return None

    async def _send(self, order: Order, values: dict[str, str]) -> Job:
        try:
            return await self._client.send(order.prepared, **values)
        except PikaError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever it was, the job may be on its way
            name = type(error).__name__
        raise TransportError(f"the client failed with {name}; the job may have been sent all the same")

    async def _answered(
        self, handle: JobHandle, order: Order, error: PikaError, began: float, *, pinned: bool
    ) -> PikaError | Again | None:
        meaning = submit_outcome(error)
        if meaning is SubmitOutcome.GONE and (pinned or not self._others(handle, order)):
            meaning = SubmitOutcome.OWN_FAULT
        if meaning in (SubmitOutcome.UNKNOWN, SubmitOutcome.LOST):
            if isinstance(error, ServiceError):
                await self._fault(handle.channel or "", error, began)
            return await self._uncertain(handle, error)
        order.tries = order.tries + 1 if meaning is SubmitOutcome.NOT_SENT else 0
        if meaning is SubmitOutcome.REFUSED:
            self._refused(error)
        if meaning in (SubmitOutcome.REFUSED, SubmitOutcome.OWN_FAULT) or order.tries >= _TRIES:
            return self._give_up(handle, error)
        try:
            await self._penalise(meaning, handle.channel or "", error, began)
        except asyncio.CancelledError:
            # The service is known not to have it: no record of it is left.
            self._refusal(handle, error, again=False)
            self._registry.remove(handle)
            raise
        pause = _FIRST_PAUSE * 2.0 ** (order.tries - 1) * self._rng.uniform(0.5, 1.5) if order.tries else 0.0
        return self._again(handle, error, pause)

    def _others(self, handle: JobHandle, order: Order) -> set[str]:
        """Return the accounts on which the job could still run, if the service does not know this one."""
        order.gone.add(handle.channel or "")
        accounts = self._balancer.snapshot().accounts
        return {one.channel for one in accounts if not (one.removed or one.paused)} - order.gone

    async def _penalise(self, meaning: SubmitOutcome, channel: str, error: PikaError, began: float) -> None:
        """See to it that the account which refused a job is not asked again at once."""
        match meaning:
            case SubmitOutcome.LIMITED | SubmitOutcome.GONE:
                await self._fault(channel, error, began)
            case SubmitOutcome.BLOCKED:
                with contextlib.suppress(PikaError):  # closed, or without that account, since
                    await self._balancer.pause(channel)
            case SubmitOutcome.FULL:
                with contextlib.suppress(PikaError):  # the store may fail: then the account rests
                    await self._reconciler.count(channel, error.executing_jobs)
                if not self._reconciler.is_full(channel):
                    # Full for the service and not for us: no sense in knocking again before the next look.
                    await self._cool_down(channel, self._reconciler.every)
            case _:
                pass

    async def _uncertain(self, handle: JobHandle, error: PikaError) -> PikaError | Again | None:
        status = error.status
        self._tell(Uncertain(**self._registry.facts(handle), error=type(error).__name__, status=status))
        handle.doubt = error
        if error.jobid is not None:
            job = Job(error.jobid, channel=handle.channel, reply_ref=handle.reply_ref)
            await self._accept(handle, job)
            return None
        await self._registry.name_the_slot(handle)
        return await self.find_out(handle, may_repeat=submit_outcome(error) is SubmitOutcome.UNKNOWN)

    async def find_out(self, handle: JobHandle, *, may_repeat: bool) -> PikaError | Again | None:
        """Look for a job whose fate is unknown; return None once it is found.

        Args:
            handle: The job, which is on the roster and keeps its slot meanwhile.
            may_repeat: Whether it may be sent again after `resubmit_after`, where that is allowed at all.
        """
        repeat = self._resubmit_after if may_repeat else None
        patience = self._search_for if repeat is None else repeat
        # The look that decides is one from after all that time, and may have to be tried a few times.
        looked = self._tasks.spawn(self._reconciler.complete(self._clock.now() + patience))
        longer = max(self._search_for, _LOOKS * self._reconciler.every)
        try:
            await self._wait(patience + longer, handle.found, looked)
        finally:
            looked.cancel()
        if handle.found.done():
            return None
        seen = looked.done()
        if seen and repeat is not None:
            return self._again(handle, handle.doubt)
        error = _unknown(handle, slot_held=not seen)
        if not seen:
            self._reconciler.stop_searching(handle.key)
        self._registry.fail(handle, error, keep_slot=not seen)
        return error

    async def _wait(self, seconds: float, *futures: "asyncio.Future[None]") -> None:
        """Return as soon as one of the futures is done, or after so many seconds."""
        expired: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        timer = self._clock.call_later(seconds, lambda: _done(expired))
        try:
            await asyncio.wait((*futures, expired), return_when=asyncio.FIRST_COMPLETED)
        finally:
            timer.cancel()

    async def _accept(self, handle: JobHandle, job: Job) -> None:
        self._registry.accept(handle, job)
        await self._registry.name_the_slot(handle)

    async def _fault(self, channel: str, error: PikaError, began: float) -> None:
        now = self._clock.now()
        seconds = self._health.fault(channel, began=began, now=now, retry_after=error.retry_after)
        await self._cool_down(channel, seconds)

    async def _cool_down(self, channel: str, seconds: float) -> None:
        with contextlib.suppress(PikaError):  # closed, or without that account, since
            await self._balancer.cool_down(channel, seconds)

    def _again(self, handle: JobHandle, error: PikaError | None, pause: float = 0.0) -> Again:
        self._refusal(handle, error, again=not handle.abandoned)
        self._registry.remove(handle)
        return Again(pause)

    def _give_up(self, handle: JobHandle, error: PikaError) -> PikaError:
        self._refusal(handle, error, again=False)
        name = type(error).__name__
        self._tell(Failed(**self._registry.facts(handle), error=name, status=error.status))
        self._registry.remove(handle)
        return error

    def _refusal(self, handle: JobHandle, error: PikaError | None, *, again: bool) -> None:
        name, status = type(error).__name__, None if error is None else error.status
        self._tell(Refused(**self._registry.facts(handle), error=name, status=status, again=again))

    def _tell(self, event: Submitting | Refused | Uncertain | Failed) -> None:
        self._balancer.reporter.report(event)


def _done(future: "asyncio.Future[None]") -> None:
    if not future.done():
        future.set_result(None)


def _unknown(handle: JobHandle, *, slot_held: bool) -> SubmissionUnknown:
    doubt = handle.doubt
    error = SubmissionUnknown(
        f"nobody knows whether the service has this {handle.verb} job, and it was not found among what "
        f"executes: look for the reference {handle.reply_ref!r} among its results before you send it again",
        verb=handle.verb,
        reply_ref=handle.reply_ref,
        slot_held=slot_held,
        status=None if doubt is None else doubt.status,
        channel=handle.channel,
    )
    error.__cause__ = doubt
    return error
