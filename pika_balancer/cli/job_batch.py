"""Run jobs by their journal: send what is new, follow what runs, leave alone what is through."""

import asyncio
import contextlib
from collections.abc import Callable, Coroutine, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import attrs

from pika_balancer.cli.download import download
from pika_balancer.cli.exit_codes import Interrupted, JournalError, StillRunning
from pika_balancer.cli.job_file import JobLine
from pika_balancer.cli.submit_journal import Entry, Journal, State
from pika_balancer.client.client import PikaClient
from pika_balancer.dispatch import Dispatcher, JobHandle
from pika_balancer.errors import (
    BadRequest,
    Closed,
    NoCapacity,
    NotFound,
    PikaError,
    PromptRejected,
    SubmissionUnknown,
    SubscriptionRequired,
    TransportError,
    Unauthorized,
)
from pika_balancer.events import Event, Refused, Submitted, Uncertain
from pika_balancer.models import Job, JobStatus, Secret

_DOWNLOADS_AT_ONCE: Final = 4
_WAITS_IN_LINE: Final = 10.0
_GRACE: Final = 5.0
_LAST_WORDS: Final = 1.0


@attrs.frozen(kw_only=True)
class BatchSettings:
    """How to run jobs."""

    output: Path | None = None
    """Where the results go; None leaves them where they are."""
    to_the_end: bool = True
    """Whether to follow a job once it is accepted."""
    resubmit_unknown: bool = False
    """Whether to send a job again of which nobody knows whether the service has it."""
    reply_url: Secret | None = None
    """Where the service reports ends."""
    reply_ref: str | None = None
    """The reference of the only job; None has one made for each."""


class BatchRun:
    """One run of jobs.

    Args:
        journal: What became of each job; every step is in it before the next is taken.
        settings: How to run them.
        told: Called for each job that is through for this run, with the job where this run has seen it.
        errors: Takes, by key, what goes wrong with a job in this run.

    Attributes:
        errors: The same.
        ended_by: What ended the run before all jobs were through.
    """

    def __init__(
        self,
        journal: Journal,
        settings: BatchSettings,
        *,
        told: Callable[[JobLine, Job | None], None],
        errors: dict[str, PikaError] | None = None,
    ) -> None:
        self.errors = {} if errors is None else errors
        self.ended_by: PikaError | None = None
        self._client: PikaClient
        self._journal = journal
        self._settings = settings
        self._told = told
        self._dispatcher: Dispatcher
        self._keys: dict[str, str] = {}
        self._on_its_way: set[str] = set()
        self._landed = asyncio.Event()
        self._landed.set()
        self._resumed: dict[str, JobHandle] = {}
        self._gate = asyncio.Semaphore(_DOWNLOADS_AT_ONCE)
        self._tasks: set[asyncio.Task[None]] = set()
        self._halted: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._crash: BaseException | None = None

    def observe(self, event: Event) -> None:
        """Note in the journal what the dispatcher tells, in the very moment."""
        if not isinstance(event, Submitted | Refused | Uncertain) or event.reply_ref not in self._keys:
            return
        key = self._keys[event.reply_ref]
        if isinstance(event, Submitted):
            self._accepted(key, event.jobid, event.channel)
        elif isinstance(event, Refused):
            self._note(key, "unsent")
        self._on_its_way.discard(key)
        if not self._on_its_way:
            self._landed.set()

    def abort(self, crash: BaseException) -> None:
        """End the run at once and have `run` raise what nobody expected."""
        self._crash = self._crash or crash
        self._halt(PikaError("the run has ended unexpectedly"))

    async def take_over(self, client: PikaClient, dispatcher: Dispatcher, lines: Sequence[JobLine]) -> None:
        """Resume what an earlier run has left, and count what executes.

        Args:
            client: Asks for the results of jobs that ended in an earlier run.
            dispatcher: Runs the jobs; it must not have reconciled yet. It is closed if the run ends early.
            lines: The jobs.
        """
        self._client, self._dispatcher = client, dispatcher
        in_flight = [line for line in lines if self._journal[line.key].in_flight]
        self._keys = {self._journal[line.key].ref or "": line.key for line in in_flight}
        handles = await dispatcher.resume([self._journal[line.key].record for line in in_flight])
        self._resumed = {line.key: handle for line, handle in zip(in_flight, handles, strict=True)}
        # Only now: what was resumed is recognised among what executes, and not taken for somebody else's.
        await dispatcher.reconcile()

    async def run(
        self,
        lines: Sequence[JobLine],
        *,
        concurrency: int,
        patience: Callable[[], float],
        timeout: float | None = None,
    ) -> None:
        """Run the jobs until all are through, or until something ends it, which `ended_by` then tells.

        A cancellation ends it too, and does not come through: nothing new is sent, and what runs is followed
        a little longer; a second one cuts that short. No task is left.

        Args:
            lines: The jobs that were taken over.
            concurrency: How many to have in hand at most.
            patience: Tells, when it ends early, for how many seconds to follow what runs; asked once.
            timeout: Seconds after which to end; None for never.
        """
        # What runs comes first, so that its end is noticed when it comes.
        todo = iter(sorted(lines, key=lambda line: line.key not in self._resumed))
        workers = [self._task(self._work(todo)) for _ in range(min(concurrency, len(lines)))]
        crew: asyncio.Future[Any] = asyncio.gather(*workers, return_exceptions=True)
        try:
            await asyncio.wait([crew, self._halted], timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
            if not crew.done():
                self._end(StillRunning("time is up"))
                await self._drain(patience)
            while self._tasks and not self._halted.done():
                await asyncio.wait([*self._tasks, self._halted], return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            self._end(Interrupted("interrupted"))
            await self._drain(patience)
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(crew, *self._tasks, return_exceptions=True)
        if self._crash is not None:
            raise self._crash

    def _end(self, error: PikaError) -> None:
        """Take up nothing new; all that is waited for are the jobs that run."""
        self.ended_by = self.ended_by or error

    def _halt(self, error: PikaError) -> None:
        """End, and do not even wait for what runs."""
        self._end(error)
        if not self._halted.done():
            self._halted.set_result(None)

    async def _drain(self, patience: Callable[[], float]) -> None:
        loop = asyncio.get_running_loop()
        until = loop.time() + (0.0 if self._halted.done() else patience())
        try:
            # Whether the service has a job that is on its way, only the answer tells.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_GRACE):
                    await self._landed.wait()
            await self._dispatcher.drain(max(0.0, until - loop.time()))
        except asyncio.CancelledError:
            until = 0.0  # a second signal: what is in flight stands in the journal
            await self._dispatcher.close()
        # Whoever has an ended job in hand still writes that down, and fetches its results.
        until = max(until, loop.time() + _LAST_WORDS)
        while self._tasks and (left := until - loop.time()) > 0:
            await asyncio.wait(self._tasks, timeout=left)

    def _task(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (crash := task.exception()) is not None:
            self.abort(crash)

    async def _work(self, todo: Iterator[JobLine]) -> None:
        for line in todo:
            if self.ended_by is not None:
                return
            entry = self._journal[line.key]
            if entry.state in {"ended", "saved"}:
                if self._is_missing(entry):
                    self._task(self._fetch(line, entry.jobid or ""))
                else:
                    self._told(line, None)
            elif entry.state == "refused" or (
                entry.state == "unknown" and not self._settings.resubmit_unknown
            ):
                self._told(line, None)
            else:
                await self._carry(line)

    async def _carry(self, line: JobLine) -> None:
        try:
            job = await self._job(line)
        except PikaError as error:
            self._failed(line, error)
            return
        if job.ended:
            urls = tuple(attachment.url for attachment in job.attachments)
            words = ": ".join(text for text in (job.error, job.error_details) if text) or None
            self._note(line.key, "ended", jobid=job.jobid, status=job.status, urls=urls, error=words)
        if self._settings.output is not None and job.status == JobStatus.COMPLETED:
            self._task(self._save(line, job, self._settings.output))
        else:
            self._told(line, job)

    async def _job(self, line: JobLine) -> Job:
        """Return the ended job, or the accepted one if that is enough."""
        resumed = self._resumed.pop(line.key, None)
        if resumed is not None:
            try:
                return await self._follow(line, resumed)
            except SubmissionUnknown as error:
                if not self._settings.resubmit_unknown:
                    raise
                self._note(line.key, "unknown", error=error.message)
        return await self._follow(line, await self._submit(line))

    async def _submit(self, line: JobLine) -> JobHandle:
        while True:
            try:
                return await self._dispatcher.submit(
                    line.verb,
                    channel=line.channel,
                    # In turns, so that a wait that has become hopeless is noticed.
                    timeout=_WAITS_IN_LINE,
                    reply_ref=self._settings.reply_ref,
                    reply_url=self._settings.reply_url,
                    before_send=partial(self._sending, line),
                    **line.values,
                )
            except NoCapacity as error:
                if error.reason == "never":
                    raise
                self._refuse_if_ended()

    def _sending(self, line: JobLine, channel: str, reply_ref: str) -> None:
        self._refuse_if_ended()
        self._keys[reply_ref] = line.key
        facts = {"line": line.number, "id": line.id, "verb": line.verb, "ref": reply_ref, "channel": channel}
        self._journal.note(line.key, "sending", **facts, jobid=None, error=None)
        self._on_its_way.add(line.key)
        self._landed.clear()

    def _refuse_if_ended(self) -> None:
        if self.ended_by is not None:
            raise Closed("this run takes up nothing new")

    async def _follow(self, line: JobLine, handle: JobHandle) -> Job:
        async for job in handle:
            self._accepted(line.key, job.jobid, handle.channel)
            if not self._settings.to_the_end:
                return job
        return await handle

    def _accepted(self, key: str, jobid: str | None, channel: str | None) -> None:
        if self._journal[key].jobid is None:
            self._note(key, "accepted", jobid=jobid, channel=channel)

    def _failed(self, line: JobLine, error: PikaError) -> None:
        if isinstance(error, Closed):  # it stands where the journal says
            return
        if _stops_all(line, error):
            # What runs is only followed to its end where that can still be.
            (self._end if isinstance(error, NoCapacity) else self._halt)(error)
            return
        entry = self._journal[line.key]
        if isinstance(error, SubmissionUnknown):
            self._note(line.key, "unknown", error=error.message)
        elif entry.state != "accepted":  # otherwise the next run looks for it again
            own = isinstance(error, BadRequest | PromptRejected)
            own = own or (isinstance(error, NotFound) and line.verb == "button")
            self._note(line.key, "refused" if own else "unsent", error=error.message)
        self.errors[line.key] = error
        self._told(line, None)

    def _is_missing(self, entry: Entry) -> bool:
        output = self._settings.output
        if output is None or entry.status != JobStatus.COMPLETED:
            return False
        return entry.state == "ended" or not all((output / name).exists() for name in entry.files)

    async def _fetch(self, line: JobLine, jobid: str) -> None:
        # Asked for again: the addresses of results do not last.
        try:
            job = await self._client.job(jobid)
        except PikaError as error:
            self.errors[line.key] = error
            self._told(line, None)
            return
        if self._settings.output is not None:
            await self._save(line, job, self._settings.output)

    async def _save(self, line: JobLine, job: Job, directory: Path) -> None:
        service = self._client.base_url
        try:
            async with self._gate:
                files = [(await download(job, one, directory, service)).name for one in job.attachments]
        except PikaError as error:
            self.errors[line.key] = error
        else:
            self._note(line.key, "saved", files=tuple(files))
        self._told(line, job)

    def _note(self, key: str, state: State, **facts: Any) -> None:
        try:
            self._journal.note(key, state, **facts)
        except JournalError as error:
            self._journal.remember(key, state, **facts)
            self._halt(error)


def _stops_all(line: JobLine, error: PikaError) -> bool:
    """Return whether no other job would fare better."""
    if isinstance(error, NoCapacity):
        return line.channel is None
    return isinstance(error, Unauthorized | SubscriptionRequired | JournalError) or (
        isinstance(error, TransportError) and not error.maybe_sent
    )
