"""Many jobs before their owner's eyes: how far they are, and what became of them all."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from pika_balancer.balancer.balancer import Balancer
from pika_balancer.cli.batch_report import RUNNING, UNKNOWN, WAITING, BatchReport
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
from pika_balancer.cli.progress import ProgressView
from pika_balancer.cli.submit_journal import Journal
from pika_balancer.clock import Clock
from pika_balancer.errors import Fault, PikaError
from pika_balancer.events import Event, Paused, RefreshFailed
from pika_balancer.models import Job, JobStatus

_PATIENCE: Final = 5.0
_GO_ON: Final = "the same command goes on where this one has stopped"


class Many:
    """Tells of a run of many jobs.

    Args:
        lines: The jobs.
        journal: What became of them.
        view: Shows how far it is.
        out: Prints the document.
        output: Where the results go; None where they are not fetched.
        clock: Measures how long it takes.

    Attributes:
        errors: By key, what goes wrong with them in this run; for whoever runs them to fill.
    """

    def __init__(
        self,
        lines: Sequence[JobLine],
        journal: Journal,
        view: ProgressView,
        out: Output,
        *,
        output: Path | None,
        clock: Clock,
    ) -> None:
        self._lines = lines
        self._journal = journal
        self._view = view
        self._out = out
        # Its tables go to stderr: stdout is for results alone.
        self._people = Output(as_json=True)
        self.errors: dict[str, PikaError] = {}
        self._report = BatchReport(lines, journal, self.errors, output)
        self._clock = clock
        self._begun = clock.now()
        self._done = 0

    def begin(self, balancer: Balancer) -> None:
        """Say what the journal knows of these jobs already.

        Raises:
            BadJobFile: A job that is not through names a channel that no account has.
        """
        known = {account.channel for account in balancer.snapshot().accounts}
        left = [line for line in self._lines if self._journal[line.key].state in {"new", "unsent"}]
        strange = [line for line in left if line.channel is not None and line.channel not in known]
        if strange:
            faults = tuple(
                Fault(f"line {line.number}", f"no account has channel {line.channel!r}") for line in strange
            )
            raise BadJobFile(
                f"--jobs-file: {len(faults)} of the jobs name channels without an account; nothing was sent; "
                "`pika-balancer accounts` lists the channels",
                faults=faults,
            )
        if self._journal.changed:
            gone = self._journal.strangers(line.key for line in self._lines)
            self._view.say(f"the job file has changed since the last run; jobs gone from it: {gone}")
        if len(self._journal):
            flying = sum(self._journal[line.key].in_flight for line in self._lines)
            through = len(self._lines) - len(left) - flying
            self._view.say(
                f"going on by the journal: of {len(self._lines)} jobs {through} are through, "
                f"{flying} may be running, {len(left)} are to be sent"
            )

    def observe(self, event: Event) -> None:
        """Say what concerns more than one job."""
        if isinstance(event, Paused):
            self._view.say(f"channel {event.channel} waits for a person and gets no new job in this run")
        elif isinstance(event, RefreshFailed):
            self._view.say(f"the service did not tell its accounts, and is asked again later: {event.why}")

    def told(self, line: JobLine, job: Job | None) -> None:
        """Count a job that is through, and print what it brought."""
        self._done += 1
        self._view.show(self._done)
        completed = self._report.status(line) == JobStatus.COMPLETED and line.key not in self.errors
        if job is not None or not completed:
            words = f"{self._done} of {len(self._lines)}: {self._report.sentence(line)}"
            (self._view.mention if completed else self._view.say)(words)
        for result in self._report.results(line):
            self._view.result(result)

    def patience(self) -> float:
        """Say that the run comes to its end early, and return for how many seconds to follow what runs."""
        running = self._report.counts()[RUNNING]
        which = f"{running} running {'job is' if running == 1 else 'jobs are'}"
        self._view.say(
            f"stopping: nothing new is sent; {which} followed for {_PATIENCE:g} s more, Ctrl-C stops at once"
        )
        return _PATIENCE

    def finish(self, ended_by: PikaError | None, *, to_the_end: bool) -> int:
        """Print the summary or the document, and return the exit code.

        Args:
            ended_by: What ended the run before all jobs were through.
            to_the_end: Whether jobs were to be followed to their end.
        """
        elapsed = self._clock.now() - self._begun
        counts = self._report.counts()
        document = {
            "jobs": self._report.rows(),
            "summary": self._report.summary() | {"elapsed_s": round(elapsed, 3)},
            "journal": str(self._journal.path),
            "interrupted": isinstance(ended_by, Interrupted),
        }
        self._out.document(document | (error_document(ended_by) if ended_by is not None else {}))
        self._people.table(("status", "jobs"), self._report.table())
        self._out.note(
            f"{self._done} of {len(self._lines)} jobs are through in {elapsed:.1f} s; "
            f"journal: {self._journal.path}"
        )
        if counts[UNKNOWN]:
            self._out.note(
                f"jobs that may or may not have run: {counts[UNKNOWN]}; they are not sent again, "
                "unless with --resubmit-unknown, which may run them twice"
            )
        if counts.total() > counts[JobStatus.COMPLETED] + counts[RUNNING] + counts[WAITING] + counts[UNKNOWN]:
            self._out.note("what has ended is not repeated; a line that is changed is a new job")
        if ended_by is not None:
            more = f"; {_GO_ON}" if self._done < len(self._lines) or self.errors else ""
            self._out.note(f"pika-balancer: {sentence(ended_by)}{more}")
            return exit_for(ended_by).code
        return OK if self._report.all_is_well(accepted_is_enough=not to_the_end) else FAILURE
