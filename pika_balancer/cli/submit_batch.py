"""Terminal output for a file of jobs: progress, and the status of each job at the end."""

import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from pika_balancer.balancer.balancer import Balancer
from pika_balancer.cli.exit_codes import (
    FAILURE,
    OK,
    BadJobFile,
    Interrupted,
    error_document,
    exit_for,
    sentence,
)
from pika_balancer.cli.job_file import JobLine
from pika_balancer.cli.output import Output
from pika_balancer.cli.progress import JobProgress
from pika_balancer.cli.submit_journal import Entry, Journal
from pika_balancer.errors import Fault, PikaError
from pika_balancer.events import Event, Paused, RefreshFailed
from pika_balancer.models import Job, JobStatus

_DRAIN: Final = 5.0
_RESUME: Final = "the same command goes on where this one has stopped"

_REFUSED: Final = "refused"
"""The service does not have the job, and would not take it."""
_UNKNOWN: Final = "unknown"
"""It is unknown whether the service has the job, or how it ended."""
_RUNNING: Final = "running"
"""The service has the job, as far as is known."""
_WAITING: Final = "waiting"
"""The job has not been sent."""

_ALWAYS: Final = (JobStatus.COMPLETED, JobStatus.MODERATED, JobStatus.FAILED, _REFUSED, _UNKNOWN)
_SOMETIMES: Final = (JobStatus.CANCELLED, _RUNNING, _WAITING)


class SubmitBatch:
    """Reports a run of many jobs.

    Args:
        lines: The jobs, in their order.
        journal: What happened to them.
        out: Prints results, and the document.
        output: The directory of the results; None if they are not fetched.

    Attributes:
        errors: By key, what goes wrong with them in this run; the `BatchRun` fills it.
        progress: Shows how far the run is, while it is entered.
    """

    def __init__(self, lines: Sequence[JobLine], journal: Journal, out: Output, output: Path | None) -> None:
        self._lines = lines
        self._journal = journal
        self._out = out
        self._output = output
        self._begun = time.monotonic()
        self._done = 0
        self.errors: dict[str, PikaError] = {}
        self.progress = JobProgress(out, len(lines))

    def begin(self, balancer: Balancer) -> None:
        """Say what the journal knows of these jobs.

        Raises:
            BadJobFile: A job that is to be sent names a channel without an account.
        """
        known = {account.channel for account in balancer.snapshot().accounts}
        left = [line for line in self._lines if self._journal[line.key].state in {"new", "unsent"}]
        faults = tuple(
            Fault(f"line {line.number}", f"no account has channel {line.channel!r}")
            for line in left
            if line.channel is not None and line.channel not in known
        )
        if faults:
            raise BadJobFile(
                f"--jobs-file: {len(faults)} of the jobs name channels without an account; nothing was sent; "
                "`pika-balancer accounts` lists the channels",
                faults=faults,
            )
        if self._journal.changed:
            gone = self._journal.count_others(line.key for line in self._lines)
            self.progress.say(f"the job file has changed since the last run; jobs gone from it: {gone}")
        if len(self._journal):
            in_flight = sum(self._journal[line.key].in_flight for line in self._lines)
            done = len(self._lines) - len(left) - in_flight
            self.progress.say(
                f"resuming from the journal: of {len(self._lines)} jobs {done} are done, "
                f"{in_flight} may be running, {len(left)} are to be sent"
            )

    def observe(self, event: Event) -> None:
        """Report events that concern more than one job."""
        if isinstance(event, Paused):
            self.progress.say(
                f"channel {event.channel} has a pending moderation message and gets no new job in this run"
            )
        elif isinstance(event, RefreshFailed):
            self.progress.say(f"the account map could not be refreshed and is asked for again: {event.why}")

    def told(self, line: JobLine, job: Job | None) -> None:
        """Count a job that is done in this run, and print its results."""
        self._done += 1
        self.progress.show(self._done)
        status, error = self._status(line), self.errors.get(line.key)
        completed = status == JobStatus.COMPLETED and error is None
        if job is not None or not completed:
            reason = self._journal[line.key].error if error is None else sentence(error)
            text = f"{self._done} of {len(self._lines)}: {line.name}: {status}"
            (self.progress.mention if completed else self.progress.say)(
                f"{text}: {reason}" if reason else text
            )
        if error is None:
            entry = self._journal[line.key]
            for result in entry.urls if self._output is None else self._files(entry):
                self.progress.result(result)

    def drain_seconds(self) -> float:
        """Say that the run ends early; return the seconds for which running jobs are followed."""
        running = self._counts()[_RUNNING]
        which = f"{running} running {'job is' if running == 1 else 'jobs are'}"
        self.progress.say(
            f"stopping: nothing new is sent; {which} followed for {_DRAIN:g} s more, Ctrl-C stops at once"
        )
        return _DRAIN

    def finish(self, ended_by: PikaError | None, *, to_the_end: bool) -> int:
        """Print the summary or the document, and return the exit code.

        Args:
            ended_by: What ended the run before all jobs were done.
            to_the_end: Whether jobs were to be followed to their end.
        """
        elapsed = time.monotonic() - self._begun
        counts = self._counts()
        summary = {"jobs": len(self._lines)} | {word: counts[word] for word in (*_ALWAYS, *_SOMETIMES)}
        document = {
            "jobs": self._rows(),
            "summary": summary | {"elapsed_s": round(elapsed, 3)},
            "journal": str(self._journal.path),
            "interrupted": isinstance(ended_by, Interrupted),
        }
        self._out.document(document | (error_document(ended_by) if ended_by is not None else {}))
        # To stderr: stdout is for results alone.
        Output(as_json=True).table(
            ("status", "jobs"),
            [
                (str(word), counts[word])
                for word in (*_ALWAYS, *_SOMETIMES)
                if word in _ALWAYS or counts[word]
            ],
        )
        self._out.note(
            f"{self._done} of {len(self._lines)} jobs are done in {elapsed:.1f} s; "
            f"journal: {self._journal.path}"
        )
        if counts[_UNKNOWN]:
            self._out.note(
                f"jobs that may or may not have run: {counts[_UNKNOWN]}; they are not sent again, "
                "unless with --resubmit-unknown, which may run them twice"
            )
        open_ended = counts[_RUNNING] + counts[_WAITING] + counts[_UNKNOWN]
        if counts.total() > counts[JobStatus.COMPLETED] + open_ended:
            self._out.note("ended jobs are not repeated; a line that is changed is a new job")
        if ended_by is not None:
            more = f"; {_RESUME}" if self._done < len(self._lines) or self.errors else ""
            self._out.note(f"pika-balancer: {sentence(ended_by)}{more}")
            return exit_for(ended_by).code
        good = counts[JobStatus.COMPLETED] + (0 if to_the_end else counts[_RUNNING])
        return OK if good == len(self._lines) and not self.errors else FAILURE

    def _status(self, line: JobLine) -> str:
        entry, error = self._journal[line.key], self.errors.get(line.key)
        if entry.state in {"ended", "saved"}:
            return entry.status or _UNKNOWN
        if entry.state in {"refused", "unknown"}:
            return entry.state
        if entry.in_flight:
            return _RUNNING if error is None else _UNKNOWN
        return _WAITING if error is None else _REFUSED

    def _counts(self) -> Counter[str]:
        return Counter(map(self._status, self._lines))

    def _rows(self) -> list[dict[str, Any]]:
        """Return one object for each job; unknown facts are left out."""
        rows: list[dict[str, Any]] = []
        for index, line in enumerate(self._lines):
            entry, error = self._journal[line.key], self.errors.get(line.key)
            known = {"id": line.id, "jobid": entry.jobid, "channel": entry.channel}
            row: dict[str, Any] = {"index": index, "line": line.number}
            row |= {name: value for name, value in known.items() if value is not None}
            row |= {"status": self._status(line), "urls": list(entry.urls), "files": self._files(entry)}
            if error is not None:
                row |= error_document(error)
            elif entry.error is not None:
                row["error"] = {"message": entry.error}
            rows.append(row)
        return rows

    def _files(self, entry: Entry) -> list[str]:
        return [] if self._output is None else [str(self._output / name) for name in entry.files]
