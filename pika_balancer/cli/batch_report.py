"""What became of each job of a run: as rows for JSON, as counts, and as a table."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from pika_balancer.cli.exit_codes import error_document, sentence
from pika_balancer.cli.job_file import JobLine
from pika_balancer.cli.submit_journal import Entry, Journal
from pika_balancer.errors import PikaError
from pika_balancer.models import JobStatus

REFUSED: Final = "refused"
"""The service does not have the job, and would not take it."""
UNKNOWN: Final = "unknown"
"""Nobody knows whether the service has the job, or how it ended."""
RUNNING: Final = "running"
"""The service has the job, as far as is known."""
WAITING: Final = "waiting"
"""The job has not been sent."""

_ALWAYS: Final = (JobStatus.COMPLETED, JobStatus.MODERATED, JobStatus.FAILED, REFUSED, UNKNOWN)
_SOMETIMES: Final = (JobStatus.CANCELLED, RUNNING, WAITING)


def status_of(entry: Entry, error: PikaError | None) -> str:
    """Return how a job stands, in one word; `error` is what went wrong with it in this run."""
    if entry.state in {"ended", "saved"}:
        return entry.status or UNKNOWN
    if entry.state in {"refused", "unknown"}:
        return entry.state
    if entry.in_flight:
        return RUNNING if error is None else UNKNOWN
    return WAITING if error is None else REFUSED


def why(entry: Entry, error: PikaError | None) -> str | None:
    """Return what is wrong with a job, as a sentence."""
    return entry.error if error is None else sentence(error)


class BatchReport:
    """How the jobs stand now.

    Args:
        lines: The jobs, in their order.
        journal: What became of them.
        errors: By key, what went wrong in this run.
        output: Where the results are; None where they are not fetched.
    """

    def __init__(
        self, lines: Sequence[JobLine], journal: Journal, errors: Mapping[str, PikaError], output: Path | None
    ) -> None:
        self._lines = lines
        self._journal = journal
        self._errors = errors
        self._output = output

    def status(self, line: JobLine) -> str:
        """Return how one job stands, in one word."""
        return status_of(self._journal[line.key], self._errors.get(line.key))

    def sentence(self, line: JobLine) -> str:
        """Return how one job stands, in words for people."""
        reason = why(self._journal[line.key], self._errors.get(line.key))
        return f"{line.name}: {self.status(line)}" + (f": {reason}" if reason else "")

    def results(self, line: JobLine) -> list[str]:
        """Return what a job brought: files where they are fetched, else addresses; nothing after an error."""
        entry = self._journal[line.key]
        if line.key in self._errors:
            return []
        return list(entry.urls) if self._output is None else self._files(entry)

    def counts(self) -> Counter[str]:
        """Return how many jobs stand how."""
        return Counter(map(self.status, self._lines))

    def all_is_well(self, *, accepted_is_enough: bool) -> bool:
        """Return whether every job is completed, and its results are here if they were to be."""
        counts = self.counts()
        good = counts[JobStatus.COMPLETED] + (counts[RUNNING] if accepted_is_enough else 0)
        return good == len(self._lines) and not self._errors

    def rows(self) -> list[dict[str, Any]]:
        """Return one object for each job; facts that are not known are left out."""
        rows: list[dict[str, Any]] = []
        for index, line in enumerate(self._lines):
            entry, error = self._journal[line.key], self._errors.get(line.key)
            known = {"id": line.id, "jobid": entry.jobid, "channel": entry.channel}
            row: dict[str, Any] = {"index": index, "line": line.number}
            row |= {name: value for name, value in known.items() if value is not None}
            row |= {"status": self.status(line), "urls": list(entry.urls), "files": self._files(entry)}
            if error is not None:
                row |= error_document(error)
            elif entry.error is not None:
                row["error"] = {"message": entry.error}
            rows.append(row)
        return rows

    def summary(self) -> dict[str, int]:
        """Return the counts as JSON shows them: all of them, 0 or not."""
        counts = self.counts()
        return {"jobs": len(self._lines)} | {word: counts[word] for word in (*_ALWAYS, *_SOMETIMES)}

    def table(self) -> list[tuple[str, int]]:
        """Return the counts as people want to see them."""
        counts = self.counts()
        return [
            (str(word), counts[word]) for word in (*_ALWAYS, *_SOMETIMES) if word in _ALWAYS or counts[word]
        ]

    def _files(self, entry: Entry) -> list[str]:
        return [] if self._output is None else [str(self._output / name) for name in entry.files]
