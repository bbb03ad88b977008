"""`Dispatcher`: a job's whole life. Take a slot, submit once, follow to the end, give the slot back."""

import asyncio
import contextlib
import copy
import math
import os
import random
from collections.abc import AsyncIterable, Awaitable, Callable, Iterable, Mapping
from functools import partial
from typing import Any, Final, Self, TypeVar

from pika_balancer._util.tasks import Drain, Tasks
from pika_balancer.balancer.balancer import Balancer, check_timeout
from pika_balancer.client.client import PikaClient
from pika_balancer.client.requests import Verb
from pika_balancer.clock import Clock, SystemClock
from pika_balancer.dispatch.batch import Batch
from pika_balancer.dispatch.cooldown import Cooldown
from pika_balancer.dispatch.handle import JobHandle, read_records
from pika_balancer.dispatch.poller import Poller
from pika_balancer.dispatch.reconciler import Reconciler
from pika_balancer.dispatch.registry import REFUSALS, Following, JobRegistry, Reports
from pika_balancer.dispatch.submitter import BeforeSend, Order, Submitter
from pika_balancer.errors import Closed, InvalidArgument, PikaError
from pika_balancer.events import Stopped
from pika_balancer.models import Job, Secret, guarded, hide

T = TypeVar("T")


class ShutdownGate:
    """Lets waits through until it is shut for a reason."""

    def __init__(self) -> None:
        self.why: PikaError | None = None
        self._waiting: set[asyncio.Timeout] = set()

    why: PikaError | None
    """Why it is shut; None while it is open."""

    def shut(self, why: PikaError) -> None:
        """Fail all waits, now and from now on; the first reason stays."""
        if self.why is None:
            self.why = why
        now = asyncio.get_running_loop().time()
        while self._waiting:
            self._waiting.pop().reschedule(now)

    def check(self) -> None:
        """Raise the reason if it is shut, each time an error of its own."""
        if self.why is not None:
            raise copy.copy(self.why)

    async def wait(self, begin: Callable[[], Awaitable[T]]) -> T:
        """Return what `begin()` leads to; if the gate is shut first, cancel that and raise the reason."""
        self.check()
        try:
            async with asyncio.timeout(None) as waiting:
                self._waiting.add(waiting)
                try:
                    return await begin()
                finally:
                    self._waiting.discard(waiting)
        except TimeoutError:
            self.check()
            raise


_LONGEST_NAME: Final = 256


class Dispatcher:
    """Run jobs on the accounts of a balancer, each exactly once, whatever the service answers.

    For one event loop. Entering it counts what executes already, whoever submitted it; leaving it waits for
    its own jobs, or drops all at once if an exception is on its way. The balancer's observer is told events.

    Args:
        client: Talks to the service.
        balancer: Gives the slots. Several dispatchers may share one, or its store.
        name: Begins every reference that is made here; `reconcile` knows the jobs of an earlier process by
            it. No two processes that run at the same time should share one. None: a new one each time.
        callbacks: Receives the service's reports of ended jobs: a `pika_balancer.dispatch.webhook.Callbacks`.
            Polling goes on all the same, since a report can get lost.
        poll_every: Seconds between two looks at a job, give or take a fifth.
        lost_for: Seconds for which a job is looked for whose fate is unknown, and keeps its slot.
        resubmit_after: Seconds after which a job of unknown fate that was not found executing is sent again,
            under a new reference. It may then run twice. None: never.
        reconcile: Whether entering counts what executes.
        make_ref: Returns a text that nobody ever had before.
        rng: Spreads looks and rests.
        clock: Measures everything; the balancer's should be the same.

    Raises:
        InvalidArgument: An argument cannot work; `field` names it.
    """

    def __init__(
        self,
        client: PikaClient,
        balancer: Balancer,
        *,
        name: str | None = None,
        callbacks: Reports | None = None,
        poll_every: float = 15.0,
        search_for: float = 180.0,
        resubmit_after: float | None = None,
        reconcile: bool = True,
        make_ref: Callable[[], str] = lambda: os.urandom(16).hex(),
        rng: random.Random | None = None,
        clock: Clock | None = None,
    ) -> None:
        for field, seconds in (("poll_every", poll_every), ("search_for", search_for)):
            if not 0 < seconds < math.inf:
                raise InvalidArgument(f"{field} must be a number of seconds above 0", field=field)
        if resubmit_after is not None and not 0 <= resubmit_after < math.inf:
            raise InvalidArgument("resubmit_after must be a number of seconds", field="resubmit_after")
        if name is not None and not 0 < len(name) <= _LONGEST_NAME:
            raise InvalidArgument(f"name must have 1 to {_LONGEST_NAME} characters", field="name")
        rng = rng or random.Random()  # noqa: S311 - spreads looks, guards nothing
        self._clock = clock = clock or SystemClock()
        self._client = client
        self._balancer = balancer
        self._make_ref = make_ref
        self._prefix = f"{make_ref() if name is None else name}."
        self._callbacks = callbacks
        self._reconciles = reconcile
        self._gate = ShutdownGate()
        self._shut, self._over = False, asyncio.Event()
        self._tasks = Tasks()
        self._drain = Drain(lambda: bool(self._registry.handles), clock)
        self._registry = JobRegistry(balancer, clock, self._drain.notify)
        self._following = Following(
            client,
            self._registry,
            refused=self._refused,
            prefix=self._prefix,
            search_for=search_for,
            clock=clock,
        )
        self._reconciler = self._registry.reconciler = self._following.reconciler = Reconciler(
            client,
            balancer,
            known=self._registry.knows,
            search_for=search_for,
            claim=self._following.claim,
            refused=self._refused,
            every=poll_every,
            rng=rng,
            clock=clock,
        )
        self._poller = self._registry.poller = Poller(
            self._following.poll, every=poll_every, rng=rng, clock=clock
        )
        self._submitter = Submitter(
            client,
            balancer,
            registry=self._registry,
            reconciler=self._reconciler,
            health=Cooldown(rng),
            refused=self._refused,
            search_for=search_for,
            resubmit_after=resubmit_after,
            tasks=self._tasks,
            rng=rng,
            clock=clock,
        )
        self._unsubscribe = None if callbacks is None else callbacks.subscribe(self._following.called_back)

    @property
    def handles(self) -> tuple[JobHandle, ...]:
        """The jobs in its care that have not ended, in the order in which they came."""
        return self._registry.handles

    async def __aenter__(self) -> Self:
        try:
            if self._reconciles:
                await self.reconcile()
            self._reconciler.begin()
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        try:
            if error is None:
                await self.drain()
        finally:
            await self.close()

    async def run(
        self,
        /,
        verb: Verb,
        *,
        channel: str | None = None,
        timeout: float | None = None,
        reply_ref: str | None = None,
        reply_url: str | Secret | None = None,
        before_send: BeforeSend | None = None,
        **values: Any,
    ) -> Job:
        """Submit a job and return it once it has ended: completed, moderated, failed or cancelled.

        Arguments and errors are those of `submit` and of awaiting its handle. Whoever is cancelled here stops
        waiting: a job that is not sent yet never will be, one that is runs on and keeps its slot.
        """
        reply_url = hide(values, reply_url)
        handle = await self.submit(
            verb,
            channel=channel,
            timeout=timeout,
            reply_ref=reply_ref,
            reply_url=reply_url,
            before_send=before_send,
            **values,
        )
        return await handle

    async def submit(
        self,
        /,
        verb: Verb,
        *,
        channel: str | None = None,
        timeout: float | None = None,
        reply_ref: str | None = None,
        reply_url: str | Secret | None = None,
        before_send: BeforeSend | None = None,
        **values: Any,
    ) -> JobHandle:
        """Wait for a slot, submit a job on it, and return its handle once the service has it.

        Args:
            verb: `create`, `animate`, `encrypt_text`, `encrypt_image` or `button`.
            channel: The only channel that will do; None for any. A button runs on the channel of its job.
            timeout: Seconds to wait for slots at most; 0 to take what is free now or fail; None for ever.
            reply_ref: A reference of the caller's own, never used before by anybody; None makes one.
            reply_url: Where the service reports the end; not together with `callbacks`.
            before_send: Called with channel and reference right before the job is sent. What it raises keeps
                the job from being sent and is raised here.
            values: As for the `PikaClient` method of that name.

        Raises:
            InvalidArgument: Before anything else is done; `field` names the argument.
            NoCapacity: No slot in time.
            UnknownChannel: No account has that channel.
            BadRequest, PromptRejected, NotFound, UnexpectedStatus: The service refuses this job.
            ConnectFailed: Nothing could be sent, several times in a row.
            SubmissionUnknown: Nobody knows whether the service has the job.
            Unauthorized, SubscriptionRequired: The service refuses everything; so does the dispatcher now.
            Closed: The dispatcher drains or is closed.
        """
        reply_url = hide(values, reply_url)
        self._gate.check()
        check_timeout(timeout)
        deadline = None if timeout is None else self._clock.now() + timeout
        order = await self._order(verb, reply_ref, reply_url, before_send, values)
        if verb == "button" and channel is None:
            channel = await self._channel_of(values["jobid"])
        handle = JobHandle(verb, self._reference(reply_ref))
        while True:
            await self._take_slot(handle, channel, deadline)
            # In a task of its own: what is on its way is seen through, whoever is cancelled meanwhile.
            attempt = self._tasks.spawn(self._submitter.attempt(handle, order, pinned=channel is not None))
            try:
                await asyncio.wait([attempt])
            except asyncio.CancelledError:
                handle.abandoned = True
                raise
            if attempt.cancelled() and handle.jobid is None:
                self._gate.check()
            outcome = None if attempt.cancelled() else attempt.result()
            if outcome is None:
                return handle
            if isinstance(outcome, PikaError):
                raise outcome
            if outcome.pause > 0:
                await self._gate.wait(partial(self._clock.sleep, outcome.pause))
            self._gate.check()
            handle.renew()

    def map(
        self,
        jobs: Iterable[Mapping[str, Any]] | AsyncIterable[Mapping[str, Any]],
        *,
        concurrency: int | None = None,
    ) -> Batch:
        """Run many jobs, so many at a time, and return an async iterator over their outcomes as they come.

        Args:
            jobs: The arguments of `run`, each as a mapping; without a `verb` it is `create`. Read only as far
                as jobs are begun.
            concurrency: How many are on their way at once; None for as many as there are slots.
        """
        if concurrency is None:
            concurrency = max(1, self._balancer.snapshot().capacity)
        if type(concurrency) is not int or concurrency < 1:
            raise InvalidArgument("concurrency must be a whole number, 1 or more", field="concurrency")
        return Batch(self.run, jobs, concurrency)

    async def reconcile(self) -> tuple[JobHandle, ...]:
        """Count what executes upstream, whoever submitted it, and return handles for what was ours.

        Ours is what carries a reference that begins with `name`. Others' jobs take their slots until they
        have ended. Who enters a dispatcher has had this done.

        Raises:
            PikaError: The service did not tell.
        """
        if self._shut:
            self._gate.check()
        return await self._following.reconcile()

    async def resume(self, records: Iterable[Mapping[str, Any]]) -> list[JobHandle]:
        """Take over jobs of an earlier process from its records; return their handles, in that order.

        A job without an id is looked for by its reference among what executes, for `lost_for` seconds.

        Raises:
            InvalidArgument: A record is not as `drain` returns them; then none is taken over.
        """
        self._gate.check()
        handles: list[JobHandle] = []
        async with self._following.taking_over:
            for record in read_records(records):
                handle = self._following.had(record["reply_ref"])
                if handle is None:
                    handle = await self._following.take_over(record)
                    if handle.jobid is None:
                        self._tasks.spawn(self._submitter.find_out(handle, may_repeat=False))
                handles.append(handle)
        return handles

    async def drain(self, timeout: float | None = None) -> list[dict[str, Any]]:
        """Submit nothing more, wait for what runs, and return records of what still does.

        Whoever waits for a slot gets `Closed`. A record is plain JSON without secrets, for `resume`, here or
        elsewhere. The slots of the jobs in them stay counted under the jobs' ids. There is no way back: make
        a new dispatcher.

        Args:
            timeout: Seconds to wait at most; None to wait for ever.
        """
        check_timeout(timeout)
        self._gate.shut(Closed("this dispatcher drains and submits nothing more; make a new one"))
        await self._drain.wait(timeout)
        await self._close()
        return list(self._following.records)

    async def close(self) -> None:
        """Submit and follow nothing more, at once; a second time does nothing.

        What runs keeps its slot. Handles of it raise `Closed`, even if whoever closes is cancelled.
        """
        self._gate.shut(Closed("this dispatcher is closed and submits nothing more; make a new one"))
        await self._close()

    @guarded
    def __repr__(self) -> str:
        state = "closed" if self._shut else "over" if self._gate.why else "open"
        return f"<Dispatcher {state}, {len(self.handles)} jobs>"

    # --- on the way to the service ---------------------------------------------------------------------

    async def _order(
        self,
        verb: Verb,
        reply_ref: str | None,
        reply_url: Secret | None,
        before_send: BeforeSend | None,
        values: dict[str, Any],
    ) -> Order:
        if before_send is not None and not callable(before_send):
            raise InvalidArgument("before_send must be a function", field="before_send")
        for name in sorted(values.keys() & {"discord", "max_jobs"}):
            raise InvalidArgument(f"{name} belongs to the account, not to a job", field=name)
        if self._callbacks is not None:
            if reply_url is not None:
                raise InvalidArgument("reply_url is taken: callbacks come here", field="reply_url")
            reply_url = Secret(self._callbacks.reply_url)
        prepared = await self._client.prepare(verb, **values, reply_ref=reply_ref, reply_url=reply_url)
        return Order(prepared, before_send)

    def _reference(self, own: str | None) -> str:
        if own is not None:
            self._check_reference(own)
        return own or self._prefix + self._make_ref()

    def _check_reference(self, reply_ref: str) -> None:
        if self._registry.with_ref(reply_ref) is not None:
            raise InvalidArgument("that reference is in use; each job needs its own", field="reply_ref")

    async def _channel_of(self, jobid: str) -> str | None:
        handle = self._registry.with_id(jobid)
        return handle.channel if handle is not None else (await self._client.job(jobid)).channel

    async def _take_slot(self, handle: JobHandle, channel: str | None, deadline: float | None) -> None:
        left = None if deadline is None else max(0.0, deadline - self._clock.now())
        lease = await self._gate.wait(partial(self._balancer.acquire, channel, left))
        try:
            self._gate.check()
            self._check_reference(handle.reply_ref)
        except PikaError:
            await self._balancer.release(lease)
            raise
        self._registry.enter(handle, lease)

    # --- the end ---------------------------------------------------------------------------------------

    def _refused(self, error: PikaError) -> bool:
        """Stop everything if the service refuses not this, but all of us; return whether it does."""
        if not isinstance(error, REFUSALS):
            return False
        if not isinstance(self._gate.why, REFUSALS):
            self._balancer.reporter.report(Stopped(at=self._clock.now(), why=error.message))
            self._gate.shut(error)
        return True

    async def _close(self) -> None:
        if self._shut:
            await self._over.wait()
            return
        self._shut = True
        if self._unsubscribe is not None:
            self._unsubscribe()
        closed = Closed("this dispatcher is closed; the job goes on, and `drain` returned a record of it")
        # Whichever step is interrupted, those that come after it are taken: nobody is left waiting.
        async with contextlib.AsyncExitStack() as steps:
            steps.callback(self._over.set)
            steps.callback(self._following.detach_all, closed, self._gate.why or closed)
            steps.push_async_callback(self._registry.name_the_slots)
            steps.push_async_callback(self._reconciler.close)
            steps.push_async_callback(self._poller.close)
            await self._tasks.cancel()
