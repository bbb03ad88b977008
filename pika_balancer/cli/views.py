"""What commands show of a service or of a shared pool at one moment."""

import datetime as dt
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, Final, Self

import attrs
from rich.console import Group, RenderableType
from rich.live import Live
from rich.padding import Padding

from pika_balancer._util.text import printable
from pika_balancer.cli.output import QUIET, Output
from pika_balancer.models import Account, Job
from pika_balancer.store.redis.pool_status import PoolHolder, PoolStatus

_MINUTE: Final = 60
_HOUR: Final = 60 * _MINUTE
_DAY: Final = 24 * _HOUR
_UNKNOWN: Final = "-"
_LONGEST_PROMPT: Final = 60
_WARNING: Final = "yellow"
_MARGIN: Final = (0, 0, 0, 2)
_SLOTS: Final = ("channel", "max_jobs", "in_flight", "free")

HOLDERS_HEADER: Final = ("job or lease", "channel", "held by", "for", "state")


@attrs.frozen
class Section:
    """A table of a `View`."""

    header: tuple[str, ...]
    rows: Sequence[tuple[object, ...]]
    empty: str = ""
    """Shown instead of a table without rows; such a table is left out if this is empty, too."""
    cut: frozenset[str] = frozenset()
    """Columns that a narrow terminal cuts."""
    right: frozenset[int] = frozenset()
    """Columns that are aligned on the right even if they are no whole numbers."""

    def render(self, out: Output, most: int | None = None) -> RenderableType:
        """Return the table; with `most`, on so many lines below its header, each row on one."""
        if not self.rows:
            return out.text(self.empty, QUIET)
        if most is None:
            return out.grid(self.header, self.rows, right=self.right)
        left_out = 0 if len(self.rows) <= most else len(self.rows) - most + 1
        table = out.grid(self.header, self.rows[: len(self.rows) - left_out], right=self.right, cut=self.cut)
        return Group(table, out.text(f"and {left_out} more", QUIET)) if left_out else table


@attrs.frozen(kw_only=True)
class View:
    """A service or a pool at one moment."""

    summary: str
    """Time and totals, in one line."""
    sections: tuple[Section, ...]
    document: dict[str, Any]
    """The same for `--json`; unknown facts are left out."""
    faults: tuple[str, ...] = ()
    """What is wrong, as sentences."""

    def show(self, out: Output) -> None:
        """Print all of it."""
        out.say(self.summary)
        for number, section in enumerate(self._visible):
            if number:
                out.say()
            out.show(section.render(out))
        for fault in self.faults:
            out.say(fault)

    def render(self, out: Output, hint: str, trouble: str | None) -> RenderableType:
        """Return what fits the terminal."""
        head = out.text(f"{self.summary}   {hint}", one_line=True)
        warnings = [*([] if trouble is None else [trouble]), *self.faults]
        lines: list[RenderableType] = [out.text(""), head]
        lines += [out.text(text, _WARNING, one_line=True) for text in warnings]
        # Around the rows: two lines above, a blank and a header for each table, and the last line and the one
        # after it, which stay empty: there the terminal's own `^C` does not wrap and shift the picture.
        around = 4 + len(warnings) + sum(1 + bool(section.rows) for section in self._visible)
        shares = _shares([len(section.rows) for section in self._visible], out.console.height - around)
        for section, share in zip(self._visible, shares, strict=True):
            lines += [out.text(""), section.render(out, share)]
        return Group(*(Padding(line, _MARGIN) for line in lines), out.text(""))

    @property
    def _visible(self) -> list[Section]:
        return [section for section in self.sections if section.rows or section.empty]


def _shares(lengths: Sequence[int], lines: int) -> list[int]:
    """Share out the lines: none gets more than it needs, and each at least one."""
    shares = [1] * len(lengths)
    while sum(shares) < lines and any(map(int.__lt__, shares, lengths)):
        needy = [place for place, length in enumerate(lengths) if shares[place] < length]
        shares[min(needy, key=shares.__getitem__)] += 1
    return shares


class WatchView:
    """Shows views as they come: in place on a terminal, where the last one stays, else one below the other.

    Args:
        out: Prints.
        poll: Seconds between two of them, for the head.
    """

    def __init__(self, out: Output, poll: float) -> None:
        self._out = out
        self._hint = f"every {poll:g} s; Ctrl-C ends"
        self._live = Live(console=out.console, auto_refresh=False, vertical_overflow="crop")

    def __enter__(self) -> Self:
        if self._out.console.is_interactive:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live.is_started:
            self._live.stop()

    def show(self, view: View, trouble: str | None = None) -> None:
        """Show the view; with `trouble`, say why there is none newer."""
        if self._live.is_started:
            self._live.update(view.render(self._out, self._hint, trouble), refresh=True)
            return
        if trouble is None:
            view.show(self._out)
        else:
            self._out.say(trouble)
        self._out.say()


def service_view(accounts: Iterable[Account], jobs: Iterable[Job], at: dt.datetime) -> View:
    """Return the accounts of a service and those of these jobs that run.

    Args:
        accounts: The account map, in its order; channels without an account come last.
        jobs: Newest first in the view, those of unknown age last.
        at: The present, with its time zone.
    """
    running = [(_age(job.created, at), job) for job in jobs if not job.ended]
    taken: Counter[str | None] = Counter(job.channel for _, job in running)
    running.sort(key=lambda pair: math.inf if pair[0] is None else pair[0])
    slots: list[dict[str, Any]] = []
    for account in accounts:
        in_flight = taken.pop(account.channel, 0)
        free = max(0, account.max_jobs - in_flight)
        slots.append(dict(zip(_SLOTS, (account.channel, account.max_jobs, in_flight, free), strict=True)))
    total = sum(row["in_flight"] for row in slots)
    capacity = sum(row["max_jobs"] for row in slots)
    slots += [{"channel": channel, "in_flight": number} for channel, number in taken.items()]
    return View(
        summary=f"{at:%H:%M:%S}  {total} of {capacity} slots taken, {count(len(running), 'job')} running",
        sections=(
            Section(
                ("channel", "cap", "in flight", "free"),
                [tuple(map(_or_dash, map(row.get, _SLOTS))) for row in slots],
                empty="no accounts are configured",
                right=frozenset({1, 2, 3}),
            ),
            Section(
                ("job", "status", "channel", "verb", "age", "prompt"),
                [_job_cells(job, age) for age, job in running],
                cut=frozenset({"job", "prompt"}),
                right=frozenset({4}),
            ),
        ),
        document={
            "at": _iso(at),
            "accounts": [_known(row) for row in slots],
            "jobs": [
                _known(
                    {
                        "jobid": job.jobid,
                        "status": job.status,
                        "channel": job.channel,
                        "verb": job.verb,
                        "age_s": age,
                        "prompt": job.prompt,
                    }
                )
                for age, job in running
            ],
        },
    )


def pool_view(pool: PoolStatus, at: dt.datetime) -> View:
    """Return the accounts of a shared pool, its leases and waiters, and what is wrong with it."""
    counts = pool.snapshot
    alive = sum(process.alive for process in pool.processes)
    orphans = f", {count(len(pool.orphans), 'orphan')}" if pool.orphans else ""
    learning = f", no grants for {pool.learning:.0f} s more" if pool.learning else ""
    rows = [
        (account.channel, account.max_jobs, account.in_flight, account.free) for account in counts.accounts
    ]
    states = [
        "removed"
        if account.removed
        else "paused"
        if account.paused
        else "open"
        if account.cooldown_until is None
        else "cooling down"
        for account in counts.accounts
    ]
    return View(
        summary=f"{at:%H:%M:%S}  {counts.in_flight} of {counts.capacity} slots taken{orphans}, "
        f"{len(pool.waiters)} waiting, {count(alive, 'process', 'processes')}{learning}",
        sections=(
            Section(
                ("channel", "cap", "in flight", "free", "state"),
                [(*row, state) for row, state in zip(rows, states, strict=True)],
                empty="the pool has no accounts yet; the first process that uses it adds them",
            ),
            holders_section(pool.holders),
            Section(
                ("waits for", "in", "for"),
                [(w.channel or "any channel", w.name, duration(w.age)) for w in pool.waiters],
            ),
        ),
        faults=tuple(
            f"fault: {fault}; `pika-balancer store doctor --repair` mends it" for fault in pool.faults
        ),
        document={
            "at": _iso(at),
            "accounts": [
                dict(zip((*_SLOTS, "state"), (*row, state), strict=True))
                for row, state in zip(rows, states, strict=True)
            ],
            "holders": [as_facts(holder) for holder in pool.holders],
            "waiters": [as_facts(waiter) for waiter in pool.waiters],
            "processes": [as_facts(process) for process in pool.processes],
            "learning_s": round(pool.learning, 3),
            "faults": list(pool.faults),
        },
    )


def holders_section(holders: Iterable[PoolHolder]) -> Section:
    """Return the leases of a pool, each with its process and age."""
    return Section(
        HOLDERS_HEADER,
        [
            (
                holder.jobid or holder.lease_id,
                holder.channel,
                holder.name,
                duration(holder.age),
                # How long an orphan is still counted.
                "alive" if holder.expires is None else f"orphan {duration(max(0.0, holder.expires))}",
            )
            for holder in holders
        ],
        cut=frozenset({HOLDERS_HEADER[0]}),
    )


def as_facts(thing: Any) -> dict[str, Any]:
    """Return a part of a pool's status as `--json` shows it."""
    facts = _known(attrs.asdict(thing))
    return {
        f"{name}_s" if name in {"age", "expires"} else name: round(value, 3)
        if type(value) is float
        else value
        for name, value in facts.items()
    }


def count(number: int, one: str, many: str | None = None) -> str:
    """Return a number of things in words."""
    return f"{number} {one if number == 1 else many or one + 's'}"


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


def _job_cells(job: Job, age: float | None) -> tuple[str, ...]:
    return (
        job.jobid,
        job.status,
        job.channel or _UNKNOWN,
        (job.verb or _UNKNOWN).removeprefix("pika-"),
        _UNKNOWN if age is None else duration(age),
        printable(" ".join((job.prompt or _UNKNOWN).split()), _LONGEST_PROMPT),
    )


def _age(created: str | None, at: dt.datetime) -> float | None:
    try:
        begun = dt.datetime.fromisoformat(created or "")
    except ValueError:
        return None
    # Clocks differ: a job from the future has age 0.
    return max(0.0, (at - (begun if begun.tzinfo else begun.replace(tzinfo=dt.UTC))).total_seconds())


def _or_dash(value: object) -> object:
    return _UNKNOWN if value is None else value


def _iso(at: dt.datetime) -> str:
    return at.astimezone(dt.UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _known(facts: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in facts.items() if value is not None}
