"""The jobs in a dispatcher's care, by reference and by id, and every step of their lives.

A step is taken at once, without an await, so that of an answer, a poll and a callback that tell the same the
first one counts. What a step owes the books follows, in a task of its own.
"""

import asyncio
import copy
from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol

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
from pika_balancer.events import Changed, Detached, Ended, Failed, Submitted
from pika_balancer.models import Job, Lease


class JobRegistry:
    """Knows every job that was sent and has not ended.

    Args:
        balancer: Takes the slots back, and is told the events.
        clock: Tells the moments of events.
        emptied: Called whenever a job has left.
    """

    def __init__(self, balancer: Balancer, clock: Clock, emptied: Callable[[], None]) -> None:
        self._balancer = balancer
        self._clock = clock
        self._emptied = emptied
        self._by_ref: dict[str, JobHandle] = {}
        self._by_jobid: dict[str, JobHandle] = {}
        self._live: dict[JobHandle, None] = {}
        self.names = Tasks()

    poller: Poller
    """Looks at the jobs; set by the dispatcher, since each of the two needs the other."""
    reconciler: Reconciler
    """Counts the jobs; likewise."""

    @property
    def handles(self) -> tuple[JobHandle, ...]:
        """Every job, in the order in which they came."""
        return tuple(self._live)

    def knows(self, key: str) -> bool:
        """Return whether the books have the slot of one of the jobs by that key."""
        return key in self._by_jobid or key.removeprefix(REFERENCE) in self._by_ref

    def with_ref(self, reply_ref: str | None) -> JobHandle | None:
        """Return the job that was sent under that reference."""
        return self._by_ref.get(reply_ref) if reply_ref is not None else None

    def with_id(self, jobid: str) -> JobHandle | None:
        """Return the job of that id."""
        return self._by_jobid.get(jobid)

    def enter(self, handle: JobHandle, lease: Lease) -> None:
        """Take the job in, before it is sent: what is told of it may come before the answer."""
        handle.lease = lease
        handle.channel = lease.channel
        self._live[handle] = None
        for ref in handle.refs:
            self._by_ref[ref] = handle

    def accept(self, handle: JobHandle, job: Job, *, taken_over: bool = False) -> None:
        """Note that the service has the job; a second time does nothing. `name_the_slot` has to follow.

        Args:
            handle: The job here.
            job: The job there.
            taken_over: Whether an earlier process submitted it; it may have ended since.
        """
        if handle.jobid is not None:
            return
        handle.sent = True
        handle.jobid = job.jobid
        handle.channel = job.channel or handle.channel
        handle.since = self._clock.now()
        self._by_jobid[job.jobid] = handle
        if not handle.found.done():
            handle.found.set_result(None)
        if not taken_over:
            self._balancer.reporter.report(Submitted(**self.facts(handle)))
        handle.tell(job)
        if not job.ended:
            self.poller.add(job.jobid, soon=taken_over)

    def update_from(self, job: Job, by: str) -> bool:
        """Take note of what a poll, callback or answer says of a job; return whether it is one of these."""
        handle = self._by_jobid.get(job.jobid) or self.with_ref(job.reply_ref)
        if handle is None or handle.jobid not in (None, job.jobid):
            return handle is not None
        before, key = handle.status, handle.key
        handle.missing_since = handle.doubt = None
        if handle.jobid is None:
            self.accept(handle, job)
        if (key != handle.key or not self._is_held(handle)) and not job.ended:
            self.names.spawn(self.name_the_slot(handle))
        if job.ended:
            self._end(handle, job, by)
        elif job.status != before:
            self._balancer.reporter.report(Changed(**self.facts(handle), status=job.status))
            handle.tell(job)
        return True

    def fail(self, handle: JobHandle, error: PikaError, *, keep_slot: bool = False) -> None:
        """Give the job up; its slot is given back unless it has to stay taken."""
        event = Failed(**self.facts(handle), error=type(error).__name__, status=error.status)
        self._balancer.reporter.report(event)
        self._leave(handle, lambda: handle.fail(error), keep_slot=keep_slot)

    def detach(self, handle: JobHandle, error: PikaError) -> None:
        """Follow the job no more; it runs on and keeps its slot."""
        self._balancer.reporter.report(Detached(**self.facts(handle), error=type(error).__name__))
        self._leave(handle, lambda: handle.fail(error), keep_slot=True)

    def remove(self, handle: JobHandle) -> None:
        """Let the job go that the service does not have, and give its slot back; it may come again."""
        handle.sent = False
        self._forget(handle)
        lease, handle.lease = handle.lease, None
        if lease is not None:
            self._balancer.release_nowait(lease)

    def facts(self, handle: JobHandle) -> dict[str, Any]:
        """Return what every event of the job tells."""
        return {
            "at": self._clock.now(),
            "channel": handle.channel,
            "verb": handle.verb,
            "reply_ref": handle.reply_ref,
            "jobid": handle.jobid,
        }

    def _end(self, handle: JobHandle, job: Job, by: str) -> None:
        elapsed = self._clock.now() - handle.since
        event = Ended(**self.facts(handle), status=job.status, elapsed=elapsed, told_by=by)
        self._balancer.reporter.report(event)
        self._leave(handle, lambda: handle.end(job))

    def _leave(self, handle: JobHandle, tell: Callable[[], None], *, keep_slot: bool = False) -> None:
        handle.over = True
        if not handle.found.done():
            handle.found.set_result(None)
        self._forget(handle)
        try:
            # First the slot: whoever waited may want it next.
            if handle.lease is not None and not keep_slot:
                self._balancer.release_nowait(handle.lease)
        finally:
            tell()

    def _is_held(self, handle: JobHandle) -> bool:
        """Return whether the job's slot is counted: a shared store may have given it up meanwhile."""
        return handle.lease is not None and handle.lease.held

    def _forget(self, handle: JobHandle) -> None:
        self._live.pop(handle, None)
        for ref in handle.refs:
            self._by_ref.pop(ref, None)
        if handle.jobid is not None:
            self._by_jobid.pop(handle.jobid, None)
            self.poller.discard(handle.jobid)
        self._emptied()

    async def name_the_slots(self) -> None:
        """Have the books know the slots of all jobs that were sent by the jobs' ids; returns once they do."""
        await self.names.settle()
        for handle in self.handles:
            if handle.sent:
                await self.name_the_slot(handle)

    async def name_the_slot(self, handle: JobHandle) -> None:
        """Have the books know the slot by the job's id, or its reference, and not by a mere number.

        Nobody who asks what executes then counts the job a second time, and the slot outlives the dispatcher.
        If the store fails, the slot stays under its number: the job is the service's all the same.
        """
        key = handle.key
        if handle.over or handle.channel is None or handle.lease is None:
            return
        try:
            named = await self.reconciler.adopt(handle.channel, key)
        except PikaError:
            return
        superfluous = named
        if handle in self._live and handle.key == key and named is not None:
            # Not the lease from before the wait: the slot may have got a name meanwhile.
            handle.lease, superfluous = named, handle.lease
        if superfluous is not None and superfluous is not handle.lease:
            self._balancer.release_nowait(superfluous)


REFUSALS: Final = (Unauthorized, SubscriptionRequired, Closed, WrongLoop)
"""Errors that concern every call, not just one: the service's refusals, and a client that is of no use."""


class Reports(Protocol):
    """Where the service reports the ends of jobs."""

    @property
    def reply_url(self) -> str:
        """The address to name in a submit."""
        ...

    def subscribe(self, take: Callable[[Job], bool]) -> Callable[[], object]:
        """Have `take` told of every job that is reported, from now until the returned function is called."""
        ...


class Following:
    """Hands on to the roster whatever is told of its jobs, and takes over jobs of earlier processes.

    Args:
        client: Asks after jobs.
        roster: Keeps the jobs.
        refused: Is told of polls that failed; returns whether there is no sense in any more.
        prefix: Begins the references of our own jobs.
        lost_for: Seconds after which a job that the service does not know is given up.
        clock: Measures the seconds.
    """

    def __init__(
        self,
        client: PikaClient,
        registry: JobRegistry,
        *,
        refused: Callable[[PikaError], bool],
        prefix: str,
        search_for: float,
        clock: Clock,
    ) -> None:
        self._client = client
        self._registry = registry
        self._refused = refused
        self._prefix = prefix
        self._search_for = search_for
        self._clock = clock
        self.taking_over = asyncio.Lock()
        self._regaining = False
        self._regained: dict[str, JobHandle] = {}
        self._told: set[str] = set()
        self.records: list[dict[str, Any]] = []

    reconciler: Reconciler
    """Sees what executes; set by the dispatcher, since each of the two needs the other."""
    records: list[dict[str, Any]]
    """Of jobs that were let go and run on."""
    taking_over: asyncio.Lock
    """Held by whoever takes jobs over, so that two who do at once do not make two handles of one job."""

    async def poll(self, jobid: str) -> bool:
        """Ask how the job stands; return whether the service told."""
        handle = self._registry.with_id(jobid)
        if handle is None:
            return True
        try:
            job = await self._client.job(jobid)
        except NotFound as error:
            self._missing(handle, error)
        except PikaError as error:
            if self._refused(error):
                self.detach(handle, error)
            return False
        else:
            self._registry.update_from(job, "poll")
        return True

    def called_back(self, job: Job) -> bool:
        """Take note of a callback; return whether the job is one of ours."""
        return self._registry.update_from(job, "callback")

    async def claim(self, job: Job) -> bool:
        """Take note of a job that executes; return whether it is one of ours."""
        handle = self._registry.with_ref(job.reply_ref)
        if handle is not None and handle.jobid not in (None, job.jobid):
            return False
        if handle is None and self._regaining and (job.reply_ref or "").startswith(self._prefix):
            facts = {
                "verb": (job.verb or "create").removeprefix("pika-"),
                "reply_ref": job.reply_ref,
                "jobid": job.jobid,
                "channel": job.channel,
            }
            handle = await self.take_over(facts)
            self._regained[handle.reply_ref] = handle
        if handle is None:
            return False
        self._registry.update_from(job, "poll")
        return True

    async def reconcile(self) -> tuple[JobHandle, ...]:
        """Look at what executes, and return new handles for what carries our prefix."""
        async with self.taking_over:
            self._regaining = True
            # A look without that aim may have taken ours for others'.
            self.reconciler.ask_again()
            try:
                await self.reconciler.look()
            finally:
                self._regaining = False
        # What one found that was cancelled before it could tell, the next one tells.
        found = [ref for ref in self._regained if ref not in self._told]
        self._told.update(found)
        return tuple(self._regained[ref] for ref in found)

    def had(self, reply_ref: str) -> JobHandle | None:
        """Return the job of that reference, if it is on the roster or was regained, perhaps ended since."""
        return self._registry.with_ref(reply_ref) or self._regained.get(reply_ref)

    async def take_over(self, record: Mapping[str, Any]) -> JobHandle:
        """Return a handle for a job of which there is a record, with its slot counted."""
        handle = JobHandle(record["verb"], record["reply_ref"])
        handle.sent = True
        jobid = record["jobid"]
        lease = await self.reconciler.adopt(record["channel"], jobid or handle.key)
        if lease is None:
            raise InvalidArgument(
                f"the job {jobid or handle.reply_ref!r} is counted on another channel already",
                field="records",
            )
        self._registry.enter(handle, lease)
        if jobid is None:
            self.reconciler.ask_again()
        else:
            job = Job(jobid, channel=record["channel"], reply_ref=record["reply_ref"])
            self._registry.accept(handle, job, taken_over=True)
            # Its slot may have been kept under the reference, while its id was not known, or in doubt.
            await self.reconciler.drop(REFERENCE + handle.reply_ref)
        return handle

    def detach(self, handle: JobHandle, error: PikaError) -> None:
        """Follow the job no more: it runs on, with a record and its slot kept."""
        if handle.over:  # a callback was quicker than the poll that failed
            return
        self.records.append(handle.record())
        error = copy.copy(error)
        error.jobid, error.channel = handle.jobid, handle.channel
        self._registry.detach(handle, error)

    def detach_all(self, error: PikaError, unsent: PikaError) -> None:
        """Follow nothing more; what was not sent never will be, for the reason `unsent`."""
        for handle in self._registry.handles:
            if handle.sent:
                self.detach(handle, error)
            else:
                self._registry.fail(handle, unsent)

    def _missing(self, handle: JobHandle, error: NotFound) -> None:
        now = self._clock.now()
        if handle.missing_since is None:
            handle.missing_since = now if handle.doubt is None else handle.since
        if now - handle.missing_since >= self._search_for:
            lost = copy.copy(handle.doubt or error)
            lost.jobid, lost.channel = handle.jobid, handle.channel
            self._registry.fail(handle, lost)
