"""Terminal output for one job: its events line by line, and its result."""

import contextlib
from pathlib import Path

from pika_balancer.balancer.balancer import Balancer
from pika_balancer.cli.exit_codes import Interrupted, NotCompleted, StillRunning
from pika_balancer.cli.job_file import JobLine
from pika_balancer.cli.jobs import as_wire
from pika_balancer.cli.output import Output
from pika_balancer.cli.submit_journal import Entry, Journal
from pika_balancer.errors import NoCapacity, PikaError, SubmissionUnknown
from pika_balancer.events import Changed, Ended, Event, Refused, Submitted, Submitting, Uncertain
from pika_balancer.models import Job, JobStatus


class SubmitOne:
    """Reports one job.

    Args:
        line: The job.
        journal: What happened to it.
        out: Prints.
        output: The directory of its results; None if they are not fetched.

    Attributes:
        errors: What goes wrong with it in this run, by its key; the `BatchRun` fills it.
    """

    def __init__(self, line: JobLine, journal: Journal, out: Output, output: Path | None) -> None:
        self._line = line
        self._journal = journal
        self._out = out
        self._output = output
        self._job: Job | None = None
        self.errors: dict[str, PikaError] = {}
        self.progress = contextlib.nullcontext()

    @property
    def _entry(self) -> Entry:
        return self._journal[self._line.key]

    def begin(self, balancer: Balancer) -> None:
        """Say whether the job is resumed, or has to wait."""
        self._balancer = balancer
        if self._entry.in_flight:
            self._out.note(f"resuming job {self._entry.jobid or self._entry.ref}")
            return
        why = balancer.why_unavailable(self._line.channel)
        if why is not None and why.reason != "never":
            self._out.note("no slot is free; waiting for one")

    def observe(self, event: Event) -> None:
        """Print what happens."""
        match event:
            case Submitting():
                self._out.note(f"submitting on channel {event.channel}")
            case Submitted():
                self._out.note(f"accepted as {event.jobid}")
            case Changed() | Ended():
                self._out.note(event.status)
            case Refused(error="ChannelFull"):
                self._out.note("the channel has just become full; waiting for another slot")
            case Refused(again=True):
                self._out.note(f"not accepted ({event.error}); it will be sent again")
            case Uncertain():
                self._out.note(f"the job may be running ({event.error}); searching for it")
            case _:
                pass

    def told(self, _line: JobLine, job: Job | None) -> None:
        """Print the results of the job."""
        self._job = job
        if job is None or job.status != JobStatus.COMPLETED:
            return
        if not job.attachments:
            self._out.note("the job is completed, but the service names no result")
        for attachment in job.attachments:
            self._out.result(attachment.url)
        for file in self._files():
            self._out.note(f"saved {file}")

    def drain_seconds(self) -> float:
        """Return the seconds for which to follow the job after a signal: 0, since its id is enough."""
        return 0.0

    def finish(self, ended_by: PikaError | None, *, to_the_end: bool) -> int:  # noqa: ARG002 - as of a batch
        """Print the document and return the exit code, or raise what went wrong or ended the run."""
        entry, job = self._entry, self._job
        interrupted = isinstance(ended_by, Interrupted)
        error = ended_by if interrupted else self.errors.get(self._line.key) or ended_by
        if isinstance(error, Interrupted):
            raise Interrupted(self._interrupted(entry), jobid=entry.jobid)
        if isinstance(error, StillRunning):
            raise self._time_is_up(entry)
        if error is not None:
            raise error
        if entry.state == "unknown":
            raise SubmissionUnknown(f"{entry.error}; --resubmit-unknown sends it again", reply_ref=entry.ref)
        assert job is not None  # noqa: S101 - `told` without an error has one
        if job.ended and job.status != JobStatus.COMPLETED:
            words = ": ".join(text for text in (job.error, job.error_details) if text)
            raise NotCompleted(
                f"the job ended as {job.status}" + (f"; the service says: {words}" if words else ""),
                job=as_wire(job),
                jobid=job.jobid,
                channel=job.channel,
            )
        self._out.document(as_wire(job) | ({} if self._output is None else {"files": self._files()}))
        if not job.ended:
            self._out.result(job.jobid)
        return 0

    def _files(self) -> list[str]:
        return [] if self._output is None else [str(self._output / name) for name in self._entry.files]

    def _interrupted(self, entry: Entry) -> str:
        again = "; the same command resumes it" if self._journal.path is not None else ""
        if entry.state in {"accepted", "ended", "saved"}:
            stands = "goes on" if entry.state == "accepted" else f"has ended as {entry.status}"
            return f"interrupted; the job {stands}: `pika-balancer jobs {entry.jobid}` shows it{again}"
        if entry.state in {"sending", "unknown"}:
            return (
                "interrupted during the submit: the job may run; `pika-balancer jobs` lists what runs" + again
            )
        return "interrupted; nothing was submitted"

    def _time_is_up(self, entry: Entry) -> PikaError:
        if entry.jobid is not None:
            return StillRunning(
                f"the job has not ended in time and goes on; ask with `pika-balancer jobs {entry.jobid}`",
                jobid=entry.jobid,
                channel=entry.channel,
            )
        if entry.in_flight:
            return StillRunning("time is up during the submit: the job may run", channel=entry.channel)
        why = self._balancer.why_unavailable(self._line.channel)
        if why is None:
            return NoCapacity("no slot in time; allow more with --timeout", channel=self._line.channel)
        return NoCapacity(why.message, reason=why.reason, until=why.until, channel=self._line.channel)
