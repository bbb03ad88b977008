"""The jobs that a dispatcher follows, by reference and by id, and each step of their lives.

A step happens at once, without an await: if an answer, a poll and a callback report the same, the first one
counts. What a step has to tell the store follows in a task.
"""

import asyncio
import copy
import random
from collections.abc import Callable, Mapping
from typing import Any, Final

import attrs

from pika_balancer._util.tasks import Tasks
from pika_balancer.balancer.balancer import Balancer
from pika_balancer.client.client import PikaClient
from pika_balancer.clock import Clock
from pika_balancer.dispatch.handle import REFERENCE, JobHandle
from pika_balancer.dispatch.poller import Poller
from pika_balancer.dispatch.reconciler import Reconciler
from pika_balancer.errors import (
    Closed,
    InvalidArgument,
    NotFound,
    PikaError,
    SubscriptionRequired,
    Unauthorized,
    WrongLoop,
)
from pika_balancer.events import Changed, Detached, Ended, Failed, JobEvent, Submitted
from pika_balancer.models import Job, Lease

REFUSALS: Final = (Unauthorized, SubscriptionRequired, Closed, WrongLoop)
"""Errors that concern every call: the service refuses the token, or the client cannot be used."""


@attrs.define(eq=False)
class JobRegistry:
    """Every job that was sent and has not ended."""

    client: PikaClient
    """Looks up jobs."""
    balancer: Balancer
    """Keeps the in-flight counts, and reports the events."""
    prefix: str
    """Prefix of the references of this dispatcher's jobs."""
    search_for: float
    """Seconds after which a job that the service does not know is given up."""
    poll_every: float
    """Seconds between two polls of a job, and between two passes of the reconciler."""
    refused: Callable[[PikaError], bool]
    """Called with the errors of polls and passes; returns whether to stop."""
    removed: Callable[[], None]
    """Called whenever a job has left."""
    rng: random.Random
    """Spreads the polls."""
    clock: Clock
    """Measures the seconds."""
    reconciler: Reconciler = attrs.field(init=False)
    """Counts what the service executes."""
    poller: Poller = attrs.field(init=False)
    """Polls the jobs."""
    records: list[dict[str, Any]] = attrs.field(init=False, factory=list[dict[str, Any]])
    """Records of the jobs that were detached."""
    naming: Tasks = attrs.field(init=False, factory=Tasks)
    """Tasks that name slots."""
    taking_over: asyncio.Lock = attrs.field(init=False, factory=asyncio.Lock)
    """Held while jobs are taken over, so that a job gets one handle only."""
    _by_ref: dict[str, JobHandle] = attrs.field(init=False, factory=dict[str, JobHandle])
    _by_jobid: dict[str, JobHandle] = attrs.field(init=False, factory=dict[str, JobHandle])
    _live: dict[JobHandle, None] = attrs.field(init=False, factory=dict[JobHandle, None])
    _reconciling: bool = attrs.field(init=False, default=False)
    _regained: dict[str, JobHandle] = attrs.field(init=False, factory=dict[str, JobHandle])
    _unreturned: list[JobHandle] = attrs.field(init=False, factory=list[JobHandle])

    def __attrs_post_init__(self) -> None:
        self.poller = Poller(self._poll, every=self.poll_every, rng=self.rng, clock=self.clock)
        self.reconciler = Reconciler(
            self.client,
            self.balancer,
            known=self.knows,
            claim=self._claim,
            refused=self.refused,
            search_for=self.search_for,
            every=self.poll_every,
            rng=self.rng,
            clock=self.clock,
        )

    @property
    def handles(self) -> tuple[JobHandle, ...]:
        """All jobs, in order of their submit."""
        return tuple(self._live)

    def knows(self, key: str) -> bool:
        """Return whether the balancer counts the slot of one of the jobs under that key."""
        return key in self._by_jobid or key.removeprefix(REFERENCE) in self._by_ref

    def with_id(self, jobid: str) -> JobHandle | None:
        """Return the job of that id."""
        return self._by_jobid.get(jobid)

    def report(self, kind: type[JobEvent], handle: JobHandle, **more: Any) -> None:
        """Report an event of the job."""
        event = kind(
            at=self.clock.now(),
            channel=handle.channel,
            verb=handle.verb,
            reply_ref=handle.reply_ref,
            jobid=handle.jobid,
            **more,
        )
        self.balancer.reporter.report(event)

    # --- the steps of a job ----------------------------------------------------------------------------

    def enter(self, handle: JobHandle, lease: Lease) -> None:
        """Add the job before it is sent: a callback may come before the answer.

        Raises:
            InvalidArgument: Another job with that reference is followed.
        """
        if handle.reply_ref in self._by_ref:
            raise reference_in_use()
        handle.lease = lease
        handle.channel = lease.channel
        self._live[handle] = None
        for ref in (handle.reply_ref, *handle.earlier_refs):
            self._by_ref[ref] = handle

    def accept(self, handle: JobHandle, job: Job, *, taken_over: bool = False) -> None:
        """Record that the service has the job; does nothing the second time. `name_slot` has to follow.

        Args:
            handle: The job here.
            job: The job as the service reports it.
            taken_over: Whether an earlier process submitted it; it may have ended since.
        """
        if handle.jobid is not None:
            return
        handle.sent = True
        handle.jobid = job.jobid
        handle.channel = job.channel or handle.channel
        handle.since = self.clock.now()
        self._by_jobid[job.jobid] = handle
        handle.found.set()
        if not taken_over:
            self.report(Submitted, handle)
        handle.update(job)
        if not job.ended:
            self.poller.add(job.jobid, soon=taken_over)

    def update_from(self, job: Job, source: str) -> bool:
        """Apply what a poll, a callback or an answer reports; return whether the job is one of these."""
        handle = self._by_jobid.get(job.jobid) or self._by_ref.get(job.reply_ref or "")
        if handle is None or handle.jobid not in (None, job.jobid):
            return handle is not None
        before, key = handle.status, handle.key
        handle.missing_since = handle.doubt = None
        if handle.jobid is None:
            self.accept(handle, job)
        if job.ended:
            elapsed = self.clock.now() - handle.since
            self.report(Ended, handle, status=job.status, elapsed=elapsed, told_by=source)
            self._leave(handle, job)
            return True
        # A shared store may have dropped the slot meanwhile.
        if key != handle.key or handle.lease is None or not handle.lease.held:
            self.naming.spawn(self.name_slot(handle))
        if job.status != before:
            self.report(Changed, handle, status=job.status)
            handle.update(job)
        return True

    def fail(self, handle: JobHandle, error: PikaError, *, keep_slot: bool = False) -> None:
        """Give the job up; free its slot unless `keep_slot`."""
        self.report(Failed, handle, error=type(error).__name__, status=error.status)
        self._leave(handle, error=error, keep_slot=keep_slot)

    def detach(self, handle: JobHandle, error: PikaError) -> None:
        """Stop following the job, which runs on and keeps its slot; add a record of it."""
        if handle.done:  # a callback came before the poll that failed
            return
        self.records.append(handle.record())
        self.report(Detached, handle, error=type(error).__name__)
        self._leave(handle, error=_about(handle, error), keep_slot=True)

    def detach_all(self, error: PikaError, unsent: PikaError) -> None:
        """Stop following all jobs; fail those that were not sent with `unsent`."""
        for handle in self.handles:
            if handle.sent:
                self.detach(handle, error)
            else:
                self.fail(handle, unsent)

    def remove(self, handle: JobHandle) -> None:
        """Remove a job that the service does not have, and free its slot; it may be sent again."""
        handle.sent = False
        self._forget(handle)
        lease, handle.lease = handle.lease, None
        if lease is not None:
            self.balancer.release_nowait(lease)

    def _leave(
        self,
        handle: JobHandle,
        job: Job | None = None,
        *,
        error: PikaError | None = None,
        keep_slot: bool = False,
    ) -> None:
        handle.found.set()
        self._forget(handle)
        try:
            # Before the waiters of the handle wake: one of them may want the slot next.
            if handle.lease is not None and not keep_slot:
                self.balancer.release_nowait(handle.lease)
        finally:
            handle.update(job, done=True, error=error)

    def _forget(self, handle: JobHandle) -> None:
        self._live.pop(handle, None)
        for ref in (handle.reply_ref, *handle.earlier_refs):
            self._by_ref.pop(ref, None)
        if handle.jobid is not None:
            self._by_jobid.pop(handle.jobid, None)
            self.poller.remove(handle.jobid)
        self.removed()

    # --- what the service reports ----------------------------------------------------------------------

    async def _poll(self, jobid: str) -> bool:
        """Look the job up; return whether the service answered."""
        handle = self._by_jobid[jobid]
        try:
            job = await self.client.job(jobid)
        except NotFound as error:
            self._missing(handle, error)
        except PikaError as error:
            if self.refused(error):
                self.detach(handle, error)
            return False
        else:
            self.update_from(job, "poll")
        return True

    def _missing(self, handle: JobHandle, error: NotFound) -> None:
        now = self.clock.now()
        if handle.missing_since is None:
            handle.missing_since = now if handle.doubt is None else handle.since
        if now - handle.missing_since >= self.search_for:
            self.fail(handle, _about(handle, handle.doubt or error))

    async def _claim(self, job: Job) -> bool:
        """Apply the report of an executing job; return whether it is one of this dispatcher's."""
        handle = self._by_ref.get(job.reply_ref or "")
        if handle is not None and handle.jobid not in (None, job.jobid):
            return False
        if handle is None and self._reconciling and (job.reply_ref or "").startswith(self.prefix):
            record = {
                "verb": (job.verb or "create").removeprefix("pika-"),
                "reply_ref": job.reply_ref,
                "jobid": job.jobid,
                "channel": job.channel,
            }
            handle = await self.take_over(record)
            self._regained[handle.reply_ref] = handle
            self._unreturned.append(handle)
        return handle is not None and self.update_from(job, "poll")

    # --- jobs of earlier processes ---------------------------------------------------------------------

    async def reconcile(self) -> tuple[JobHandle, ...]:
        """Make a pass over the executing jobs; return new handles for those with this dispatcher's prefix."""
        async with self.taking_over:
            self._reconciling = True
            # An earlier pass may have counted some of them as another submitter's.
            self.reconciler.ask_again()
            try:
                await self.reconciler.reconcile()
            finally:
                self._reconciling = False
        # If the last caller was cancelled before it could return its handles, this one returns them.
        found, self._unreturned = tuple(self._unreturned), []
        return found

    def find(self, reply_ref: str) -> JobHandle | None:
        """Return the job of that reference; one that `reconcile` found may have ended since."""
        return self._by_ref.get(reply_ref) or self._regained.get(reply_ref)

    async def take_over(self, record: Mapping[str, Any]) -> JobHandle:
        """Count the job of a record and return a new handle of it."""
        handle = JobHandle(record["verb"], record["reply_ref"])
        handle.sent = True
        jobid = record["jobid"]
        lease = await self.reconciler.adopt(record["channel"], jobid or handle.key)
        if lease is None:
            raise InvalidArgument(
                f"the job {jobid or handle.reply_ref!r} is counted on another channel already",
                field="records",
            )
        self.enter(handle, lease)
        if jobid is None:
            self.reconciler.ask_again()
        else:
            job = Job(jobid, channel=record["channel"], reply_ref=record["reply_ref"])
            self.accept(handle, job, taken_over=True)
            # The slot may have been counted under the reference while the id was unknown or in doubt.
            await self.reconciler.drop(REFERENCE + handle.reply_ref)
        return handle

    # --- the key of the slot ---------------------------------------------------------------------------

    async def name_slots(self) -> None:
        """Count the slots of all jobs that were sent under the jobs' keys."""
        await self.naming.settle()
        for handle in self.handles:
            if handle.sent:
                await self.name_slot(handle)

    async def name_slot(self, handle: JobHandle) -> None:
        """Count the slot under the job's id, or its reference, instead of the lease's number.

        A reconciler then does not count the job a second time, and the slot outlives the dispatcher. If the
        store fails, the slot stays counted under its number: the service has the job all the same.
        """
        key = handle.key
        if handle.done or handle.channel is None or handle.lease is None:
            return
        try:
            named = await self.reconciler.adopt(handle.channel, key)
        except PikaError:
            return
        superfluous = named
        if handle in self._live and handle.key == key and named is not None:
            # Read after the wait: the slot may have been named meanwhile.
            handle.lease, superfluous = named, handle.lease
        if superfluous is not None and superfluous is not handle.lease:
            self.balancer.release_nowait(superfluous)


def reference_in_use() -> InvalidArgument:
    """Return the error for a job whose reference belongs to another job that is followed."""
    return InvalidArgument("reply_ref is in use; pass another one for each job", field="reply_ref")


def _about(handle: JobHandle, error: PikaError) -> PikaError:
    """Return a copy of the error that names the job."""
    copied = copy.copy(error)
    copied.jobid, copied.channel = handle.jobid, handle.channel
    return copied
