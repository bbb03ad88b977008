"""How a service stands at one moment, and what is shown of it."""

import datetime as dt
import math
from collections import Counter
from collections.abc import Iterable
from typing import Any, Final, Protocol, Self

import attrs

from pika_balancer.models import Account, Job

_MINUTE: Final = 60
_HOUR: Final = 60 * _MINUTE
_DAY: Final = 24 * _HOUR
_UNKNOWN: Final = "-"

SLOTS_HEADER: Final = ("channel", "cap", "in flight", "free")
JOBS_HEADER: Final = ("job", "status", "channel", "verb", "age", "prompt")
NO_ACCOUNTS: Final = "no accounts are configured"
NO_JOBS: Final = "no job is running"


@attrs.frozen
class Slots:
    """One account, or a channel without one on which jobs run all the same."""

    channel: str | None
    """The channel; None for jobs that the service names no channel for."""
    max_jobs: int | None
    """Its cap; None where no account is configured."""
    in_flight: int
    """Jobs that run on it now."""

    @property
    def free(self) -> int | None:
        """Free slots; None where no account is configured."""
        return None if self.max_jobs is None else max(0, self.max_jobs - self.in_flight)


@attrs.frozen
class JobRow:
    """One job that runs."""

    jobid: str
    """The service's id of it."""
    status: str
    """The service's word for how it stands."""
    channel: str | None
    """The channel that runs it."""
    verb: str | None
    """What was asked for, as the service calls it."""
    age: float | None
    """Seconds since it was created; None where the service does not tell."""
    prompt: str | None
    """The prompt that was sent."""


@attrs.frozen
class Look:
    """What a look at the service showed."""

    at: dt.datetime
    """When, with its time zone."""
    accounts: tuple[Slots, ...]
    """In the order of the account map, channels without an account last."""
    jobs: tuple[JobRow, ...]
    """Newest first, those of unknown age last."""

    @classmethod
    def of(cls, accounts: Iterable[Account], jobs: Iterable[Job], at: dt.datetime) -> "Look":
        """Return what these accounts and those of the jobs that have not ended come to."""
        running = [job for job in jobs if not job.ended]
        taken: Counter[str | None] = Counter(job.channel for job in running)
        slots = [
            Slots(account.channel, account.max_jobs, taken.pop(account.channel, 0)) for account in accounts
        ]
        slots.extend(Slots(channel, None, count) for channel, count in taken.items())
        rows = [
            JobRow(job.jobid, job.status, job.channel, job.verb, _age(job.created, at), job.prompt)
            for job in running
        ]
        rows.sort(key=lambda row: math.inf if row.age is None else row.age)
        return cls(at, tuple(slots), tuple(rows))

    @property
    def summary(self) -> str:
        """When and how much, in one line."""
        configured = [slots for slots in self.accounts if slots.max_jobs is not None]
        taken = sum(slots.in_flight for slots in configured)
        capacity = sum(slots.max_jobs or 0 for slots in configured)
        return (
            f"{time_of_day(self.at)}  {taken} of {capacity} slots taken, "
            f"{len(self.jobs)} {'job' if len(self.jobs) == 1 else 'jobs'} running"
        )

    def document(self) -> dict[str, Any]:
        """Return the look as `--json` shows it: facts that are not known are left out."""
        jobs = [attrs.asdict(job) for job in self.jobs]
        return {
            "at": self.at.astimezone(dt.UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "accounts": [_known(attrs.asdict(slots) | {"free": slots.free}) for slots in self.accounts],
            "jobs": [_known({"age_s" if key == "age" else key: job[key] for key in job}) for job in jobs],
        }


class LookView(Protocol):
    """Shows looks as they come, between its entry and its exit as a context manager."""

    def __enter__(self) -> Self:
        """Begin."""
        ...

    def __exit__(self, *_: object) -> None:
        """End."""
        ...

    def show(self, look: Look, trouble: str | None = None) -> None:
        """Show the look; or, with `trouble`, why there is none newer."""
        ...


def slots_cells(slots: Slots) -> tuple[object, ...]:
    """Return what stands under `SLOTS_HEADER`."""
    return (
        _or_unknown(slots.channel),
        _or_unknown(slots.max_jobs),
        slots.in_flight,
        _or_unknown(slots.free),
    )


def job_cells(job: JobRow) -> tuple[str, ...]:
    """Return what stands under `JOBS_HEADER`, as it came; the prompt on one line, but not cut."""
    return (
        job.jobid,
        job.status,
        job.channel or _UNKNOWN,
        (job.verb or _UNKNOWN).removeprefix("pika-"),
        _UNKNOWN if job.age is None else duration(job.age),
        " ".join((job.prompt or _UNKNOWN).split()),
    )


def duration(seconds: float) -> str:
    """Return a duration in its two largest units, such as `3m05s`."""
    whole = int(seconds)
    if whole < _MINUTE:
        return f"{whole}s"
    if whole < _HOUR:
        return f"{whole // _MINUTE}m{whole % _MINUTE:02}s"
    if whole < _DAY:
        return f"{whole // _HOUR}h{whole % _HOUR // _MINUTE:02}m"
    return f"{whole // _DAY}d{whole % _DAY // _HOUR:02}h"


def time_of_day(at: dt.datetime) -> str:
    """Return hours, minutes and seconds in the moment's own zone."""
    return f"{at:%H:%M:%S}"


def _age(created: str | None, at: dt.datetime) -> float | None:
    try:
        begun = dt.datetime.fromisoformat(created or "")
    except ValueError:
        return None
    # Clocks differ: a job that is younger than nothing is new.
    return max(0.0, (at - (begun if begun.tzinfo else begun.replace(tzinfo=dt.UTC))).total_seconds())


def _or_unknown(value: object) -> object:
    return _UNKNOWN if value is None else value


def _known(facts: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in facts.items() if value is not None}
