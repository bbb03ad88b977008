"""One job before its owner's eyes: its story line by line, and what to say of it in the end."""

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


class One:
    """Tells of one job.

    Args:
        line: The job.
        journal: What became of it.
        out: Prints.
        output: Where its results go; None where they are not fetched.
    """

    def __init__(self, line: JobLine, journal: Journal, out: Output, output: Path | None) -> None:
        self.lines = [line]
        self._line = line
        self._journal = journal
        self._out = out
        self._output = output
        self._job: Job | None = None

    @property
    def _entry(self) -> Entry:
        return self._journal[self._line.key]

    def begin(self, balancer: Balancer) -> None:
        """Say what stands in the way of the job, if anything does."""
        self._balancer = balancer
        if self._entry.in_flight:
            self._out.note(f"going on with job {self._entry.jobid or self._entry.ref}")
            return
        why_unavailable = balancer.why_unavailable(self._line.channel)
        if why_unavailable is not None and why_unavailable.reason != "never":
            self._out.note("no slot is free; waiting for one")

    def observe(self, event: Event) -> None:
        """Print the next line of the story."""
        match event:
            case Submitting():
                self._out.note(f"submitting on channel {event.channel}")
            case Submitted():
                self._out.note(f"accepted as {event.jobid}")
            case Changed() | Ended():
                self._out.note(event.status)
            case Refused(error="ChannelFull"):
                self._out.note("the channel has just become full; looking for another slot")
            case Refused(again=True):
                self._out.note(f"not taken ({event.error}); it will be sent again")
            case Uncertain():
                self._out.note(f"the job may run all the same ({event.error}); looking for it")
            case _:
                pass

    def told(self, _line: JobLine, job: Job | None) -> None:
        """Print what the job brought."""
        self._job = job
        if job is None or job.status != JobStatus.COMPLETED:
            return
        if not job.attachments:
            self._out.note("the job is completed, but the service names no result")
        for attachment in job.attachments:
            self._out.result(attachment.url)
        for file in self._files():
            self._out.note(f"saved {file}")

    def patience(self) -> float:
        """Return for how many seconds to follow the job at a signal: none, its id is all that is needed."""
        return 0.0

    def finish(self, error: PikaError | None) -> int:
        """Print the document and return the exit code, or raise what is wrong.

        Args:
            error: What went wrong with the job, or ended the run.
        """
        entry, job = self._entry, self._job
        if isinstance(error, Interrupted):
            raise Interrupted(self._farewell(entry), jobid=entry.jobid)
        if isinstance(error, StillRunning):
            raise self._out_of_time(entry)
        if error is not None:
            raise error
        if entry.state == "unknown":
            raise SubmissionUnknown(f"{entry.error}; --resubmit-unknown sends it again", reply_ref=entry.ref)
        assert job is not None  # noqa: S101 - told without an error
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

    def _farewell(self, entry: Entry) -> str:
        again = "; the same command goes on with it" if self._journal.path is not None else ""
        if entry.state in {"accepted", "ended", "saved"}:
            stands = "goes on" if entry.state == "accepted" else f"has ended as {entry.status}"
            return f"interrupted; the job {stands}: `pika-balancer jobs {entry.jobid}` shows it{again}"
        if entry.state in {"sending", "unknown"}:
            return (
                "interrupted during the submit: the job may run; `pika-balancer jobs` lists what runs" + again
            )
        return "interrupted; nothing was submitted"

    def _out_of_time(self, entry: Entry) -> PikaError:
        if entry.jobid is not None:
            return StillRunning(
                f"the job has not ended in time and goes on; ask with `pika-balancer jobs {entry.jobid}`",
                jobid=entry.jobid,
                channel=entry.channel,
            )
        if entry.in_flight:
            return StillRunning("time is up during the submit: the job may run", channel=entry.channel)
        why_unavailable = self._balancer.why_unavailable(self._line.channel)
        if why_unavailable is None:
            return NoCapacity("no slot in time; allow more with --timeout", channel=self._line.channel)
        return NoCapacity(
            why_unavailable.message,
            reason=why_unavailable.reason,
            until=why_unavailable.until,
            channel=self._line.channel,
        )
