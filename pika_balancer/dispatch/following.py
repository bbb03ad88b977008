"""What is told of jobs once the service has them: by polls, by callbacks, by a look at what executes."""

import asyncio
import copy
from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol

from pika_balancer.client import PikaClient
from pika_balancer.clock import Clock
from pika_balancer.dispatch.handle import REFERENCE, JobHandle
from pika_balancer.dispatch.lookout import Lookout
from pika_balancer.dispatch.roster import Roster
from pika_balancer.errors import (
    Closed,
    InvalidArgument,
    NotFound,
    PikaError,
    SubscriptionRequired,
    Unauthorized,
    WrongLoop,
)
from pika_balancer.models import Job

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
        roster: Roster,
        *,
        refused: Callable[[PikaError], bool],
        prefix: str,
        lost_for: float,
        clock: Clock,
    ) -> None:
        self._client = client
        self._roster = roster
        self._refused = refused
        self._prefix = prefix
        self._lost_for = lost_for
        self._clock = clock
        self.taking_over = asyncio.Lock()
        self._regaining = False
        self._regained: dict[str, JobHandle] = {}
        self._told: set[str] = set()
        self.records: list[dict[str, Any]] = []

    lookout: Lookout
    """Sees what executes; set by the dispatcher, since each of the two needs the other."""
    records: list[dict[str, Any]]
    """Of jobs that were let go and run on."""
    taking_over: asyncio.Lock
    """Held by whoever takes jobs over, so that two who do at once do not make two handles of one job."""

    async def poll(self, jobid: str) -> bool:
        """Ask how the job stands; return whether the service told."""
        handle = self._roster.with_id(jobid)
        if handle is None:
            return True
        try:
            job = await self._client.job(jobid)
        except NotFound as error:
            self._missing(handle, error)
        except PikaError as error:
            if self._refused(error):
                self.let_go(handle, error)
            return False
        else:
            self._roster.told(job, "poll")
        return True

    def called_back(self, job: Job) -> bool:
        """Take note of a callback; return whether the job is one of ours."""
        return self._roster.told(job, "callback")

    async def claim(self, job: Job) -> bool:
        """Take note of a job that executes; return whether it is one of ours."""
        handle = self._roster.with_ref(job.reply_ref)
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
        self._roster.told(job, "poll")
        return True

    async def reconcile(self) -> tuple[JobHandle, ...]:
        """Look at what executes, and return new handles for what carries our prefix."""
        async with self.taking_over:
            self._regaining = True
            # A look without that aim may have taken ours for others'.
            self.lookout.ask_again()
            try:
                await self.lookout.look()
            finally:
                self._regaining = False
        # What one found that was cancelled before it could tell, the next one tells.
        found = [ref for ref in self._regained if ref not in self._told]
        self._told.update(found)
        return tuple(self._regained[ref] for ref in found)

    def had(self, reply_ref: str) -> JobHandle | None:
        """Return the job of that reference, if it is on the roster or was regained, perhaps ended since."""
        return self._roster.with_ref(reply_ref) or self._regained.get(reply_ref)

    async def take_over(self, record: Mapping[str, Any]) -> JobHandle:
        """Return a handle for a job of which there is a record, with its slot counted."""
        handle = JobHandle(record["verb"], record["reply_ref"])
        handle.sent = True
        jobid = record["jobid"]
        lease = await self.lookout.adopt(record["channel"], jobid or handle.key)
        if lease is None:
            raise InvalidArgument(
                f"the job {jobid or handle.reply_ref!r} is counted on another channel already",
                field="records",
            )
        self._roster.enter(handle, lease)
        if jobid is None:
            self.lookout.ask_again()
        else:
            job = Job(jobid, channel=record["channel"], reply_ref=record["reply_ref"])
            self._roster.accept(handle, job, taken_over=True)
            # Its slot may have been kept under the reference, while its id was not known, or in doubt.
            await self.lookout.drop(REFERENCE + handle.reply_ref)
        return handle

    def let_go(self, handle: JobHandle, error: PikaError) -> None:
        """Follow the job no more: it runs on, with a record and its slot kept."""
        if handle.over:  # a callback was quicker than the poll that failed
            return
        self.records.append(handle.record())
        error = copy.copy(error)
        error.jobid, error.channel = handle.jobid, handle.channel
        self._roster.let_go(handle, error)

    def let_all_go(self, error: PikaError) -> None:
        """Follow nothing more; what was not sent never will be."""
        for handle in self._roster.handles:
            if handle.sent:
                self.let_go(handle, error)
            else:
                self._roster.fail(handle, error)

    def _missing(self, handle: JobHandle, error: NotFound) -> None:
        now = self._clock.now()
        if handle.missing_since is None:
            handle.missing_since = now if handle.doubt is None else handle.since
        if now - handle.missing_since >= self._lost_for:
            lost = copy.copy(handle.doubt or error)
            lost.jobid, lost.channel = handle.jobid, handle.channel
            self._roster.fail(handle, lost)
