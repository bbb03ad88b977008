"""Sends a job until the service has it, and does for job, slot and account what each answer asks for."""

import asyncio
import contextlib
import copy
import random
from collections.abc import Awaitable, Callable
from enum import Enum
from functools import partial
from typing import Final, TypeVar

import attrs

from pika_balancer._util.tasks import Tasks
from pika_balancer.balancer.balancer import Balancer
from pika_balancer.client.client import PikaClient
from pika_balancer.client.requests import Request
from pika_balancer.clock import Clock, alarm
from pika_balancer.dispatch.cooldown import Cooldown
from pika_balancer.dispatch.handle import JobHandle
from pika_balancer.dispatch.registry import REFUSALS, JobRegistry
from pika_balancer.errors import (
    AccountSuspended,
    ApiError,
    ChannelFull,
    InvalidResponse,
    LostTrack,
    NotFound,
    PikaError,
    RateLimited,
    ServiceError,
    SubmissionUnknown,
    TransportError,
)
from pika_balancer.events import Failed, Refused, Submitting, Uncertain
from pika_balancer.models import Job

T = TypeVar("T")


class SubmitOutcome(Enum):
    """What the error of a submit means."""

    OWN_FAULT = "own fault"
    """The job is at fault: its slot is freed, the account is not affected, the caller gets the error."""
    FULL = "full"
    """Jobs of other submitters fill the channel, no fault of the account: another account is tried."""
    LIMITED = "limited"
    """The account cools down; another one is tried."""
    BLOCKED = "blocked"
    """The account needs a person and is paused; another one is tried."""
    GONE = "gone"
    """The service no longer knows the account, or what the job names: another account is tried if there is
    one; otherwise the job is at fault."""
    REFUSED = "refused"
    """Token or subscription refused, or the client is closed: no account can help, the dispatcher stops."""
    NOT_SENT = "not sent"
    """The request cannot have reached the service: it is sent again after a pause."""
    LOST = "lost"
    """The service queued the job but lost sight of it: it holds its slot while it is searched for, and is
    never sent again."""
    UNKNOWN = "unknown"
    """The service may have the job: it holds its slot while it is searched for."""


_TABLE: Final[dict[type[PikaError], SubmitOutcome]] = {
    ChannelFull: SubmitOutcome.FULL,
    RateLimited: SubmitOutcome.LIMITED,
    AccountSuspended: SubmitOutcome.BLOCKED,
    NotFound: SubmitOutcome.GONE,
    **dict.fromkeys(REFUSALS, SubmitOutcome.REFUSED),
    LostTrack: SubmitOutcome.LOST,
    ServiceError: SubmitOutcome.UNKNOWN,
    InvalidResponse: SubmitOutcome.UNKNOWN,
    TransportError: SubmitOutcome.UNKNOWN,
    PikaError: SubmitOutcome.OWN_FAULT,
}
_NOTHING_DONE: Final = range(300, 500)
"""Statuses of requests that the service did not act on."""


def submit_outcome(error: PikaError) -> SubmitOutcome:
    """Return what the error of a submit means."""
    if isinstance(error, TransportError) and not error.maybe_sent:
        return SubmitOutcome.NOT_SENT
    if isinstance(error, ApiError) and type(error) not in _TABLE:
        # Only the status is known. One below 200 is not a final answer.
        return SubmitOutcome.OWN_FAULT if error.status in _NOTHING_DONE else SubmitOutcome.UNKNOWN
    return next(_TABLE[cls] for cls in type(error).__mro__ if cls in _TABLE)


class ShutdownGate:
    """Fails current and later waiters with one reason once it is shut."""

    def __init__(self) -> None:
        self.why: PikaError | None = None
        """The reason; None while the gate is open."""
        self._waiting: set[asyncio.Timeout] = set()

    def shut(self, why: PikaError) -> None:
        """Fail all waiters, now and from now on; the first reason stays."""
        if self.why is None:
            self.why = why
        now = asyncio.get_running_loop().time()
        while self._waiting:
            self._waiting.pop().reschedule(now)

    def check(self) -> None:
        """Raise a copy of the reason if the gate is shut."""
        if self.why is not None:
            raise copy.copy(self.why)

    async def wait(self, start: Callable[[], Awaitable[T]]) -> T:
        """Return what `start()` returns; if the gate is shut first, cancel that and raise the reason."""
        self.check()
        try:
            async with asyncio.timeout(None) as waiting:
                self._waiting.add(waiting)
                try:
                    return await start()
                finally:
                    self._waiting.discard(waiting)
        except TimeoutError:
            self.check()
            raise


_TRIES: Final = 5
_FIRST_PAUSE: Final = 1.0
_PASSES: Final = 3

BeforeSend = Callable[[str, str], object]
"""Called with channel and reference right before a job is sent; if it raises, the job is not sent."""


@attrs.define
class Order:
    """A job to be submitted."""

    prepared: Request[Job] = attrs.field(repr=False)
    """The checked request; channel and reference are set at each sending."""
    before_send: BeforeSend | None
    """Called before each sending."""
    channel: str | None
    """The only acceptable channel; None for any."""
    deadline: float | None
    """End of the wait for slots, on the clock; None waits forever."""
    tries: int = 0
    """Failures to connect, in a row."""
    gone: set[str] = attrs.field(factory=set[str])
    """The accounts that the service did not know."""


@attrs.define(eq=False)
class Submitter:
    """Sends jobs, one POST for each try, and acts on every answer."""

    client: PikaClient
    """Sends the requests."""
    balancer: Balancer
    """Grants the slots."""
    registry: JobRegistry
    """Follows the jobs."""
    gate: ShutdownGate
    """Shut when nothing more is to be submitted."""
    refused: Callable[[PikaError], object]
    """Called when the service refuses the token or the subscription."""
    search_for: float
    """Seconds for which a job of unknown fate is searched for and holds its slot."""
    resubmit_after: float | None
    """Seconds after which a job that was not found is sent again; None for never."""
    rng: random.Random
    """Spreads cooldowns and pauses."""
    clock: Clock
    """Measures the seconds."""
    tasks: Tasks = attrs.field(init=False, factory=Tasks)
    """Submits and searches under way."""
    _cooldown: Cooldown = attrs.field(
        init=False, default=attrs.Factory(lambda self: Cooldown(self.rng), takes_self=True)
    )

    async def submit(self, handle: JobHandle, order: Order) -> None:
        """Wait for a slot and send the job, again if need be; return once the service has it.

        Raises:
            PikaError: See `Dispatcher.submit`.
            Exception: What `before_send` raised.
        """
        while True:
            left = None if order.deadline is None else max(0.0, order.deadline - self.clock.now())
            lease = await self.gate.wait(partial(self.balancer.acquire, order.channel, left))
            try:
                self.gate.check()
                self.registry.enter(handle, lease)
            except PikaError:
                await self.balancer.release(lease)
                raise
            # A task: a request that is under way is followed up even if the caller is cancelled.
            attempt = self.tasks.spawn(self._attempt(handle, order))
            try:
                await asyncio.wait([attempt])
            except asyncio.CancelledError:
                handle.abandoned = True
                raise
            if attempt.cancelled() and handle.jobid is None:
                self.gate.check()
            outcome = None if attempt.cancelled() else attempt.result()
            if outcome is None:
                return
            if isinstance(outcome, PikaError):
                raise outcome
            if outcome > 0:
                await self.gate.wait(partial(self.clock.sleep, outcome))
            self.gate.check()
            handle.renew()

    async def _attempt(self, handle: JobHandle, order: Order) -> PikaError | float | None:
        """Send the job once; return None if the service has it.

        Otherwise return the error to raise, or the seconds to wait before the job is sent again. The slot is
        then already on its way back.
        """
        began = self.clock.now()
        channel = handle.channel or ""
        try:
            if order.before_send is not None:
                order.before_send(channel, handle.reply_ref)
        except BaseException:
            self.registry.remove(handle)
            raise
        self.registry.report(Submitting, handle)
        handle.sent = True
        try:
            job = await self.client.send(order.prepared, channel=channel, reply_ref=handle.reply_ref)
        except PikaError as caught:
            error = caught
        except Exception as caught:  # noqa: BLE001 - after any error, the job may be on its way
            name = type(caught).__name__
            error = TransportError(f"the client failed with {name}; the job may have been sent all the same")
        else:
            self._cooldown.success(channel, began=began)
            if handle.jobid not in (None, job.jobid):
                # An earlier sending arrived after all and is followed: this one takes a slot as well.
                with contextlib.suppress(PikaError):
                    await self.registry.reconciler.count(channel, job.jobid)
            self.registry.accept(handle, job)
            await self.registry.name_slot(handle)
            if job.ended:
                self.registry.update_from(job, "answer")
            return None
        if handle.jobid is not None:
            return None  # a callback, or a pass of the reconciler, has found the job meanwhile
        return await self._answered(handle, order, error, began)

    async def _answered(
        self, handle: JobHandle, order: Order, error: PikaError, began: float
    ) -> PikaError | float | None:
        channel = handle.channel or ""
        outcome = submit_outcome(error)
        if outcome is SubmitOutcome.GONE and (order.channel is not None or not self._others(channel, order)):
            outcome = SubmitOutcome.OWN_FAULT
        if outcome in (SubmitOutcome.UNKNOWN, SubmitOutcome.LOST):
            if isinstance(error, ServiceError):
                await self._fault(channel, error, began)
            return await self._uncertain(handle, error)
        order.tries = order.tries + 1 if outcome is SubmitOutcome.NOT_SENT else 0
        if outcome is SubmitOutcome.REFUSED:
            self.refused(error)
        if outcome in (SubmitOutcome.REFUSED, SubmitOutcome.OWN_FAULT) or order.tries >= _TRIES:
            self._report_refusal(handle, error, again=False)
            self.registry.report(Failed, handle, error=type(error).__name__, status=error.status)
            self.registry.remove(handle)
            return error
        again = False
        try:
            await self._penalise(outcome, channel, error, began)
            again = not handle.abandoned
        finally:
            # Also if cancelled: the service does not have the job, so no record of it may remain.
            self._report_refusal(handle, error, again=again)
            self.registry.remove(handle)
        return _FIRST_PAUSE * 2.0 ** (order.tries - 1) * self.rng.uniform(0.5, 1.5) if order.tries else 0.0

    def _others(self, channel: str, order: Order) -> set[str]:
        """Return the accounts that remain for a job whose account the service does not know."""
        order.gone.add(channel)
        accounts = self.balancer.snapshot().accounts
        return {one.channel for one in accounts if not (one.removed or one.paused)} - order.gone

    async def _penalise(self, outcome: SubmitOutcome, channel: str, error: PikaError, began: float) -> None:
        """Keep the account that refused a job from being picked again at once."""
        match outcome:
            case SubmitOutcome.LIMITED | SubmitOutcome.GONE:
                await self._fault(channel, error, began)
            case SubmitOutcome.BLOCKED:
                with contextlib.suppress(PikaError):  # closed, or the account was removed meanwhile
                    await self.balancer.pause(channel)
            case SubmitOutcome.FULL:
                reconciler = self.registry.reconciler
                with contextlib.suppress(PikaError):  # if the store fails, the account cools down
                    await reconciler.fill(channel, error.executing_jobs)
                if not reconciler.is_full(channel):
                    # Full for the service, not by our counts: wait for the next pass.
                    await self._cool_down(channel, reconciler.every)
            case _:
                pass

    async def _fault(self, channel: str, error: PikaError, began: float) -> None:
        now = self.clock.now()
        seconds = self._cooldown.fault(channel, began=began, now=now, retry_after=error.retry_after)
        await self._cool_down(channel, seconds)

    async def _cool_down(self, channel: str, seconds: float) -> None:
        with contextlib.suppress(PikaError):  # closed, or the account was removed meanwhile
            await self.balancer.cool_down(channel, seconds)

    async def _uncertain(self, handle: JobHandle, error: PikaError) -> PikaError | float | None:
        self.registry.report(Uncertain, handle, error=type(error).__name__, status=error.status)
        handle.doubt = error
        if error.jobid is not None:
            self.registry.accept(handle, Job(error.jobid, channel=handle.channel, reply_ref=handle.reply_ref))
            await self.registry.name_slot(handle)
            return None
        await self.registry.name_slot(handle)
        repeats = submit_outcome(error) is SubmitOutcome.UNKNOWN
        return await self.find_out(handle, error, self.resubmit_after if repeats else None)

    async def find_out(
        self, handle: JobHandle, cause: PikaError | None = None, resubmit_after: float | None = None
    ) -> PikaError | float | None:
        """Search for a job of unknown fate, which holds its slot meanwhile; return None once it is found.

        Args:
            handle: The job.
            cause: The error of its submit.
            resubmit_after: Seconds after which it may be sent again; None for never.
        """
        seconds = self.search_for if resubmit_after is None else resubmit_after
        reconciler = self.registry.reconciler
        # The pass that decides begins after all that time, and may have to be repeated.
        found = self.tasks.spawn(handle.found.wait())
        searched = self.tasks.spawn(reconciler.pass_after(self.clock.now() + seconds))
        longest = seconds + max(self.search_for, _PASSES * reconciler.every)
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(None) as window, alarm(window, self.clock, longest):
                    await asyncio.wait((found, searched), return_when=asyncio.FIRST_COMPLETED)
        finally:
            found.cancel()
            searched.cancel()
        if handle.found.is_set():
            return None
        decided = searched.done()
        if cause is not None and decided and resubmit_after is not None:
            self._report_refusal(handle, cause, again=not handle.abandoned)
            self.registry.remove(handle)
            return 0.0
        error = SubmissionUnknown(
            f"it is unknown whether the service has this {handle.verb} job; it was not found among the "
            f"executing jobs: search the results for reference {handle.reply_ref!r} before sending it again",
            verb=handle.verb,
            reply_ref=handle.reply_ref,
            slot_held=not decided,
            status=None if cause is None else cause.status,
            channel=handle.channel,
        )
        error.__cause__ = cause
        if not decided:
            reconciler.stop_searching(handle.key)
        self.registry.fail(handle, error, keep_slot=not decided)
        return error

    def _report_refusal(self, handle: JobHandle, error: PikaError, *, again: bool) -> None:
        name = type(error).__name__
        self.registry.report(Refused, handle, error=name, status=error.status, again=again)
