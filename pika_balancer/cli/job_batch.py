"""Runs jobs by their journal: sends new ones, follows running ones, skips those that are done."""

import asyncio
import contextlib
from collections.abc import Coroutine, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

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

if TYPE_CHECKING:
    from pika_balancer.cli.submit_batch import SubmitBatch
    from pika_balancer.cli.submit_one import SubmitOne

_DOWNLOADS_AT_ONCE: Final = 4
_SLOT_TIMEOUT: Final = 10.0
_ANSWER_TIMEOUT: Final = 5.0
_CLEANUP: Final = 1.0


@attrs.frozen(kw_only=True)
class BatchSettings:
    """How to run jobs."""

    output: Path | None = None
    """The directory of the results; None if they are not fetched."""
    to_the_end: bool = True
    """Whether to follow a job once it is accepted."""
    resubmit_unknown: bool = False
    """Whether to send a job again if it is unknown whether the service has it."""
    reply_url: Secret | None = None
    """The URL to which the service reports the end of a job."""
    reply_ref: str | None = None
    """The reference of the only job; None: a new one for each job."""


class BatchRun:
    """One run of jobs.

    Args:
        journal: What happened to each job; every step is in it before the next is taken.
        settings: How to run them.
        reporter: Told of each job that is done in this run; its `errors` take what goes wrong.

    Attributes:
        ended_by: What ended the run before all jobs were done.
    """

    def __init__(
        self, journal: Journal, settings: BatchSettings, reporter: "SubmitOne | SubmitBatch"
    ) -> None:
        self.ended_by: PikaError | None = None
        self._client: PikaClient
        self._journal = journal
        self._settings = settings
        self._reporter = reporter
        self._errors = reporter.errors
        self._dispatcher: Dispatcher
        self._keys: dict[str, str] = {}
        self._pending_submits: set[str] = set()
        self._answered = asyncio.Event()
        self._answered.set()
        self._resumed: dict[str, JobHandle] = {}
        self._gate = asyncio.Semaphore(_DOWNLOADS_AT_ONCE)
        self._tasks: set[asyncio.Task[None]] = set()
        self._halted: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._crash: BaseException | None = None

    def observe(self, event: Event) -> None:
        """Record an event of the dispatcher in the journal, at once."""
        if not isinstance(event, Submitted | Refused | Uncertain) or event.reply_ref not in self._keys:
            return
        key = self._keys[event.reply_ref]
        if isinstance(event, Submitted):
            self._accepted(key, event.jobid, event.channel)
        elif isinstance(event, Refused):
            self._note(key, "unsent")
        self._pending_submits.discard(key)
        if not self._pending_submits:
            self._answered.set()

    def abort(self, crash: BaseException) -> None:
        """End the run at once and have `run` raise an unexpected error."""
        self._crash = self._crash or crash
        self._halt(PikaError("the run has ended unexpectedly"))

    async def take_over(self, client: PikaClient, dispatcher: Dispatcher, lines: Sequence[JobLine]) -> None:
        """Resume the jobs of an earlier run, and count all running jobs.

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
        # Only now: the resumed jobs are recognised among the running ones, and not counted as foreign.
        await dispatcher.reconcile()

    async def run(
        self,
        lines: Sequence[JobLine],
        *,
        concurrency: int,
        timeout: float | None = None,
    ) -> None:
        """Run the jobs until all are done, or until something ends the run, which `ended_by` then names.

        A cancellation ends it, too, and is not raised: nothing new is sent, and running jobs are followed a
        little longer; a second one stops that. No task is left.

        Args:
            lines: The jobs that were taken over.
            concurrency: How many jobs to run or wait for at once.
            timeout: Seconds after which to end; None for never.
        """
        # Running jobs come first, so that their ends are noticed in time.
        todo = iter(sorted(lines, key=lambda line: line.key not in self._resumed))
        workers = [self._task(self._work(todo)) for _ in range(min(concurrency, len(lines)))]
        all_done: asyncio.Future[Any] = asyncio.gather(*workers, return_exceptions=True)
        try:
            await asyncio.wait([all_done, self._halted], timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
            if not all_done.done():
                self._end(StillRunning("time is up"))
                await self._drain()
            while self._tasks and not self._halted.done():
                await asyncio.wait([*self._tasks, self._halted], return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            self._end(Interrupted("interrupted"))
            await self._drain()
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(all_done, *self._tasks, return_exceptions=True)
        if self._crash is not None:
            raise self._crash

    def _end(self, error: PikaError) -> None:
        """Start nothing new; wait only for running jobs."""
        self.ended_by = self.ended_by or error

    def _halt(self, error: PikaError) -> None:
        """End without waiting for running jobs."""
        self._end(error)
        if not self._halted.done():
            self._halted.set_result(None)

    async def _drain(self) -> None:
        loop = asyncio.get_running_loop()
        until = loop.time() + (0.0 if self._halted.done() else self._reporter.drain_seconds())
        try:
            # Only its answer tells whether the service has accepted a job.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_ANSWER_TIMEOUT):
                    await self._answered.wait()
            await self._dispatcher.drain(max(0.0, until - loop.time()))
        except asyncio.CancelledError:
            until = 0.0  # a second signal: the journal knows the jobs in flight
            await self._dispatcher.close()
        # Tasks with an ended job still record that, and fetch its results.
        until = max(until, loop.time() + _CLEANUP)
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
                output = self._settings.output
                if output is not None and _lacks_files(entry, output):
                    self._task(self._save(line, entry.jobid or "", output))
                else:
                    self._reporter.told(line, None)
            elif entry.state == "refused" or (
                entry.state == "unknown" and not self._settings.resubmit_unknown
            ):
                self._reporter.told(line, None)
            else:
                await self._run_job(line)

    async def _run_job(self, line: JobLine) -> None:
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
            self._reporter.told(line, job)

    async def _job(self, line: JobLine) -> Job:
        """Return the ended job, or the accepted one if `to_the_end` is false."""
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
                    # In rounds, so that `reason == "never"` ends a wait that can no longer succeed.
                    timeout=_SLOT_TIMEOUT,
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
        self._pending_submits.add(line.key)
        self._answered.clear()

    def _refuse_if_ended(self) -> None:
        if self.ended_by is not None:
            raise Closed("this run starts no more jobs")

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
        if isinstance(error, Closed):  # its state is in the journal
            return
        if _stops_all(line, error):
            # Running jobs are followed only if the service can still be asked.
            (self._end if isinstance(error, NoCapacity) else self._halt)(error)
            return
        entry = self._journal[line.key]
        if isinstance(error, SubmissionUnknown):
            self._note(line.key, "unknown", error=error.message)
        elif entry.state != "accepted":  # otherwise the next run follows it
            own = isinstance(error, BadRequest | PromptRejected) or (
                isinstance(error, NotFound) and line.verb == "button"
            )
            self._note(line.key, "refused" if own else "unsent", error=error.message)
        self._errors[line.key] = error
        self._reporter.told(line, None)

    async def _save(self, line: JobLine, job: Job | str, directory: Path) -> None:
        """Save the results of a job; one that is given by its id is asked for, since the URLs expire."""
        try:
            if isinstance(job, str):
                job = await self._client.job(job)
            async with self._gate:
                files = [
                    (await download(job, one, directory, self._client.base_url)).name
                    for one in job.attachments
                ]
        except PikaError as error:
            self._errors[line.key] = error
        else:
            self._note(line.key, "saved", files=tuple(files))
        self._reporter.told(line, None if isinstance(job, str) else job)

    def _note(self, key: str, state: State, **facts: Any) -> None:
        try:
            self._journal.note(key, state, **facts)
        except JournalError as error:
            self._journal.remember(key, state, **facts)
            self._halt(error)


def _lacks_files(entry: Entry, directory: Path) -> bool:
    saved = entry.state == "saved" and all((directory / name).exists() for name in entry.files)
    return entry.status == JobStatus.COMPLETED and not saved


def _stops_all(line: JobLine, error: PikaError) -> bool:
    """Return whether every other job would fail in the same way."""
    if isinstance(error, NoCapacity):
        return line.channel is None
    return isinstance(error, Unauthorized | SubscriptionRequired | JournalError) or (
        isinstance(error, TransportError) and not error.maybe_sent
    )
