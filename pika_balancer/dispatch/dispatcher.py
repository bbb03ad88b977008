"""`Dispatcher`: takes a slot, submits a job once, follows it to its end and gives the slot back."""

import asyncio
import contextlib
import math
import os
import random
from collections.abc import AsyncIterable, Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Self

from pika_balancer._util.tasks import Drain
from pika_balancer.balancer.balancer import Balancer, check_timeout
from pika_balancer.client.client import PikaClient
from pika_balancer.client.requests import Verb
from pika_balancer.clock import Clock, SystemClock
from pika_balancer.dispatch.batch import Batch
from pika_balancer.dispatch.handle import REFERENCE, JobHandle, read_records
from pika_balancer.dispatch.registry import REFUSALS, JobRegistry, reference_in_use
from pika_balancer.dispatch.submitter import BeforeSend, Order, ShutdownGate, Submitter
from pika_balancer.errors import Closed, InvalidArgument, PikaError
from pika_balancer.events import Stopped
from pika_balancer.models import Job, Secret, guarded, hide

if TYPE_CHECKING:
    from pika_balancer.dispatch.webhook import Webhook

_LONGEST_NAME: Final = 256


class Dispatcher:
    """Run jobs on the accounts of a balancer, each exactly once, whatever the service answers.

    For one event loop. Entering it counts all jobs that execute already, also those of other submitters.
    Leaving it waits for its own jobs, or detaches them if an exception is raised. Events go to the
    balancer's observer.

    Args:
        client: Calls the service.
        balancer: Grants the slots. Several dispatchers may share one, or its store.
        name: Prefix of the references of its jobs, by which `reconcile` finds the jobs of an earlier process
            of that name. Processes that run at the same time need different names. None draws one.
        webhook: Receives the service's callbacks. Polling continues, since a callback can get lost.
        poll_every: Seconds between two polls of a job, ±20 %.
        search_for: Seconds for which a job of unknown fate is searched for and holds its slot.
        resubmit_after: Seconds after which a job of unknown fate that was not found executing is sent again,
            under a new reference. It may then run twice. None for never.
        reconcile: Whether entering counts the jobs that execute.
        rng: Spreads polls and cooldowns.
        clock: Measures everything; use the balancer's.

    Raises:
        InvalidArgument: An argument cannot work; `field` names it.
    """

    def __init__(
        self,
        client: PikaClient,
        balancer: Balancer,
        *,
        name: str | None = None,
        webhook: "Webhook | None" = None,
        poll_every: float = 15.0,
        search_for: float = 180.0,
        resubmit_after: float | None = None,
        reconcile: bool = True,
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
        rng = rng or random.Random()  # noqa: S311 - spreads polls, protects nothing
        self._clock = clock = clock or SystemClock()
        self._client = client
        self._balancer = balancer
        self._prefix = f"{name or os.urandom(16).hex()}."
        self._webhook = webhook
        self._reconciles = reconcile
        self._gate = ShutdownGate()
        self._closing, self._closed = False, asyncio.Event()
        self._drain = Drain(lambda: bool(self._registry.handles), clock)
        self._registry = JobRegistry(
            client,
            balancer,
            prefix=self._prefix,
            search_for=search_for,
            poll_every=poll_every,
            refused=self._refused,
            removed=self._drain.notify,
            rng=rng,
            clock=clock,
        )
        self._submitter = Submitter(
            client,
            balancer,
            self._registry,
            self._gate,
            refused=self._refused,
            search_for=search_for,
            resubmit_after=resubmit_after,
            rng=rng,
            clock=clock,
        )
        update = partial(self._registry.update_from, source="callback")
        self._unsubscribe = None if webhook is None else webhook.subscribe(update)

    @property
    def handles(self) -> tuple[JobHandle, ...]:
        """Its jobs that were sent and have not ended, in order of their submit."""
        return self._registry.handles

    async def __aenter__(self) -> Self:
        try:
            if self._reconciles:
                await self.reconcile()
            self._registry.reconciler.start()
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

        Arguments and errors are those of `submit` and of awaiting its handle. If the caller is cancelled, a
        job that is not sent yet is not sent; one that was sent runs on and keeps its slot.
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
            channel: The only acceptable channel; None for any. A button runs on the channel of its job.
            timeout: Maximum wait for slots in seconds; 0 takes a free slot or fails; None waits forever.
            reply_ref: A reference that no job has used before; None makes one.
            reply_url: URL for the service's callback; not together with `webhook`.
            before_send: Called with channel and reference right before the job is sent. If it raises, the job
                is not sent and `submit` raises the same.
            values: As for the `PikaClient` method of that name.

        Raises:
            InvalidArgument: Before anything else is done; `field` names the argument.
            NoCapacity: No slot was free in time.
            UnknownChannel: No account has that channel.
            BadRequest, PromptRejected, NotFound, UnexpectedStatus: The service refuses this job.
            ConnectFailed: The service could not be reached, several times in a row.
            SubmissionUnknown: It is unknown whether the service has the job.
            Unauthorized, SubscriptionRequired: The service refuses all calls; the dispatcher stops.
            Closed: The dispatcher is draining or closed.
        """
        reply_url = hide(values, reply_url)
        self._gate.check()
        check_timeout(timeout)
        deadline = None if timeout is None else self._clock.now() + timeout
        if before_send is not None and not callable(before_send):
            raise InvalidArgument("before_send must be a function", field="before_send")
        for name in sorted(values.keys() & {"discord", "max_jobs"}):
            raise InvalidArgument(f"{name} belongs to the account, not to a job", field=name)
        if self._webhook is not None:
            if reply_url is not None:
                raise InvalidArgument("reply_url is set by the webhook; leave it out", field="reply_url")
            reply_url = Secret(self._webhook.reply_url)
        prepared = await self._client.prepare(verb, **values, reply_ref=reply_ref, reply_url=reply_url)
        if reply_ref is not None and self._registry.knows(REFERENCE + reply_ref):
            raise reference_in_use()
        if verb == "button" and channel is None:
            parent = self._registry.with_id(values["jobid"]) or await self._client.job(values["jobid"])
            channel = parent.channel
        handle = JobHandle(verb, reply_ref or self._prefix + os.urandom(16).hex())
        await self._submitter.submit(handle, Order(prepared, before_send, channel, deadline))
        return handle

    def map(
        self,
        jobs: Iterable[Mapping[str, Any]] | AsyncIterable[Mapping[str, Any]],
        *,
        concurrency: int | None = None,
    ) -> Batch:
        """Run many jobs and return an async iterator over their outcomes, in order of their ends.

        Args:
            jobs: The arguments of `run`, a mapping for each job; `verb` defaults to `create`. Read only as
                far as jobs are started.
            concurrency: Maximum number of jobs waiting or running; None for the number of slots.
        """
        if concurrency is None:
            concurrency = max(1, self._balancer.snapshot().capacity)
        if type(concurrency) is not int or concurrency < 1:
            raise InvalidArgument("concurrency must be a whole number, 1 or more", field="concurrency")
        return Batch(self.run, jobs, concurrency)

    async def reconcile(self) -> tuple[JobHandle, ...]:
        """Count the jobs that execute and return new handles for those of an earlier process of this `name`.

        Jobs of other submitters hold their slots until they have ended. Entering a dispatcher calls this.

        Raises:
            PikaError: The service did not answer.
        """
        if self._closing:
            self._gate.check()
        return await self._registry.reconcile()

    async def resume(self, records: Iterable[Mapping[str, Any]]) -> list[JobHandle]:
        """Take over the jobs of an earlier process from its records; return their handles in that order.

        A job without an id is searched for by its reference among the executing jobs, for `search_for`
        seconds.

        Raises:
            InvalidArgument: A record is not as `drain` returns it; then no job is taken over.
        """
        self._gate.check()
        handles: list[JobHandle] = []
        async with self._registry.taking_over:
            for record in read_records(records):
                handle = self._registry.find(record["reply_ref"])
                if handle is None:
                    handle = await self._registry.take_over(record)
                    if handle.jobid is None:
                        self._submitter.tasks.spawn(self._submitter.find_out(handle))
                handles.append(handle)
        return handles

    async def drain(self, timeout: float | None = None) -> list[dict[str, Any]]:
        """Submit nothing more, wait for the running jobs, and return records of those that still run.

        Callers that wait for a slot get `Closed`. Pass the records, plain JSON without secrets, to `resume`
        of a later dispatcher, in any process; meanwhile the jobs keep their slots under their ids. A drained
        dispatcher cannot be used again.

        Args:
            timeout: Maximum wait in seconds; None waits forever.
        """
        check_timeout(timeout)
        self._gate.shut(Closed("this dispatcher is draining and submits nothing more; make a new one"))
        await self._drain.wait(timeout)
        await self._close()
        return list(self._registry.records)

    async def close(self) -> None:
        """Stop submitting and following at once; a second call does nothing.

        Running jobs keep their slots. Their handles raise `Closed`, even if the caller is cancelled.
        """
        self._gate.shut(Closed("this dispatcher is closed and submits nothing more; make a new one"))
        await self._close()

    @guarded
    def __repr__(self) -> str:
        state = "closed" if self._closing else "over" if self._gate.why else "open"
        return f"<Dispatcher {state}, {len(self.handles)} jobs>"

    def _refused(self, error: PikaError) -> bool:
        """Stop submitting if the error concerns every call; return whether it does."""
        if not isinstance(error, REFUSALS):
            return False
        if not isinstance(self._gate.why, REFUSALS):
            self._balancer.reporter.report(Stopped(at=self._clock.now(), why=error.message))
            self._gate.shut(error)
        return True

    async def _close(self) -> None:
        if self._closing:
            await self._closed.wait()
            return
        self._closing = True
        if self._unsubscribe is not None:
            self._unsubscribe()
        closed = Closed("this dispatcher is closed; the job runs on, and `drain` returned a record of it")
        # If one step is cancelled, the later ones still run: no waiter is left behind.
        async with contextlib.AsyncExitStack() as steps:
            steps.callback(self._closed.set)
            steps.callback(self._registry.detach_all, closed, self._gate.why or closed)
            steps.push_async_callback(self._registry.name_slots)
            steps.push_async_callback(self._registry.reconciler.close)
            steps.push_async_callback(self._registry.poller.close)
            await self._submitter.tasks.cancel()
