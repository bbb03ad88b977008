"""One submit on one slot: send it once, and do for job, slot and account what the answer asks for."""

import asyncio
import contextlib
import random
from collections.abc import Callable
from typing import Final

import attrs

from pika_balancer.balancer import Balancer
from pika_balancer.client import PikaClient
from pika_balancer.clock import Clock
from pika_balancer.dispatch.handle import JobHandle
from pika_balancer.dispatch.health import Health
from pika_balancer.dispatch.lookout import Lookout
from pika_balancer.dispatch.roster import Roster
from pika_balancer.dispatch.verdict import Verdict, verdict
from pika_balancer.drain import Tasks
from pika_balancer.errors import PikaError, ServiceError, SubmissionUnknown, TransportError
from pika_balancer.events import Failed, Refused, Submitting, Uncertain
from pika_balancer.models import Job
from pika_balancer.wire import Request

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
        roster: Roster,
        lookout: Lookout,
        health: Health,
        tasks: Tasks,
        rng: random.Random,
        refused: Callable[[PikaError], object],
        lost_for: float,
        resubmit_after: float | None,
        clock: Clock,
    ) -> None:
        self._client = client
        self._balancer = balancer
        self._roster = roster
        self._lookout = lookout
        self._health = health
        self._tasks = tasks
        self._rng = rng
        self._refused = refused
        self._lost_for = lost_for
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
            self._roster.withdraw(handle)
            raise
        self._tell(Submitting(**self._roster.facts(handle)))
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
                await self._lookout.watch(channel, job.jobid)
        await self._accept(handle, job)
        if job.ended:
            self._roster.told(job, "answer")
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
        meaning = verdict(error)
        if meaning is Verdict.GONE and (pinned or not self._others(handle, order)):
            meaning = Verdict.OWN_FAULT
        if meaning in (Verdict.UNKNOWN, Verdict.LOST):
            if isinstance(error, ServiceError):
                await self._fault(handle.channel or "", error, began)
            return await self._doubt(handle, error)
        order.tries = order.tries + 1 if meaning is Verdict.NOT_SENT else 0
        if meaning is Verdict.REFUSED:
            self._refused(error)
        if meaning in (Verdict.REFUSED, Verdict.OWN_FAULT) or order.tries >= _TRIES:
            return self._give_up(handle, error)
        await self._spare(meaning, handle.channel or "", error, began)
        pause = _FIRST_PAUSE * 2.0 ** (order.tries - 1) * self._rng.uniform(0.5, 1.5) if order.tries else 0.0
        return self._again(handle, error, pause)

    def _others(self, handle: JobHandle, order: Order) -> set[str]:
        """Return the accounts on which the job could still run, if the service does not know this one."""
        order.gone.add(handle.channel or "")
        accounts = self._balancer.snapshot().accounts
        return {one.channel for one in accounts if not (one.removed or one.paused)} - order.gone

    async def _spare(self, meaning: Verdict, channel: str, error: PikaError, began: float) -> None:
        """See to it that the account which refused a job is not asked again at once."""
        match meaning:
            case Verdict.LIMITED | Verdict.GONE:
                await self._fault(channel, error, began)
            case Verdict.BLOCKED:
                with contextlib.suppress(PikaError):  # closed, or without that account, since
                    await self._balancer.pause(channel)
            case Verdict.FULL:
                with contextlib.suppress(PikaError):  # the store may fail: then the account rests
                    await self._lookout.count(channel, error.executing_jobs)
                if not self._lookout.is_full(channel):
                    # Full for the service and not for us: no sense in knocking again before the next look.
                    await self._rest(channel, self._lookout.every)
            case _:
                pass

    async def _doubt(self, handle: JobHandle, error: PikaError) -> PikaError | Again | None:
        status = error.status
        self._tell(Uncertain(**self._roster.facts(handle), error=type(error).__name__, status=status))
        handle.doubt = error
        if error.jobid is not None:
            job = Job(error.jobid, channel=handle.channel, reply_ref=handle.reply_ref)
            await self._accept(handle, job)
            return None
        await self._roster.name_the_slot(handle)
        return await self.find_out(handle, may_repeat=verdict(error) is Verdict.UNKNOWN)

    async def find_out(self, handle: JobHandle, *, may_repeat: bool) -> PikaError | Again | None:
        """Look for a job whose fate is unknown; return None once it is found.

        Args:
            handle: The job, which is on the roster and keeps its slot meanwhile.
            may_repeat: Whether it may be sent again after `resubmit_after`, where that is allowed at all.
        """
        repeat = self._resubmit_after if may_repeat else None
        patience = self._lost_for if repeat is None else repeat
        # The look that decides is one from after all that time, and may have to be tried a few times.
        looked = self._tasks.spawn(self._lookout.complete(self._clock.now() + patience))
        longer = max(self._lost_for, _LOOKS * self._lookout.every)
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
            self._lookout.forsake(handle.key)
        self._roster.fail(handle, error, keep_slot=not seen)
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
        self._roster.accept(handle, job)
        await self._roster.name_the_slot(handle)

    async def _fault(self, channel: str, error: PikaError, began: float) -> None:
        now = self._clock.now()
        seconds = self._health.fault(channel, began=began, now=now, retry_after=error.retry_after)
        await self._rest(channel, seconds)

    async def _rest(self, channel: str, seconds: float) -> None:
        with contextlib.suppress(PikaError):  # closed, or without that account, since
            await self._balancer.rest(channel, seconds)

    def _again(self, handle: JobHandle, error: PikaError | None, pause: float = 0.0) -> Again:
        self._refusal(handle, error, again=not handle.abandoned)
        self._roster.withdraw(handle)
        return Again(pause)

    def _give_up(self, handle: JobHandle, error: PikaError) -> PikaError:
        self._refusal(handle, error, again=False)
        name = type(error).__name__
        self._tell(Failed(**self._roster.facts(handle), error=name, status=error.status))
        self._roster.withdraw(handle)
        return error

    def _refusal(self, handle: JobHandle, error: PikaError | None, *, again: bool) -> None:
        name, status = type(error).__name__, None if error is None else error.status
        self._tell(Refused(**self._roster.facts(handle), error=name, status=status, again=again))

    def _tell(self, event: Submitting | Refused | Uncertain | Failed) -> None:
        self._balancer.reporter.tell(event)


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
