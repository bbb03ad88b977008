"""What became of each job, by the events, the callers and the server."""

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Final

import attrs

from pika_balancer.events import (
    Detached,
    Ended,
    Event,
    Failed,
    JobEvent,
    Refused,
    Submitted,
    Submitting,
    Uncertain,
)

ROUNDS: Final = 2
"""How often the server is asked for news of a job that is over before the job is judged and forgotten."""


@attrs.define(eq=False)
class Entry:
    """What became of one job."""

    reply_ref: str
    verb: str
    jobid: str | None = None
    channel: str | None = None
    submitting: int = 0
    sent_at: float = 0.0
    """When it was last sent, in service time."""
    refused: int = 0
    uncertain: int = 0
    detach: int = 0
    ends: list[str] = attrs.Factory(list[str])
    """Statuses and errors of `Ended` and `Failed`: there should be one."""
    told: list[str] = attrs.Factory(list[str])
    """What the caller, and then each follower of a handle, got; the last one counts."""
    cancelled: bool = False
    holders: int = 0
    """Callers and followers that are not through with it."""
    taken: tuple[str, str] | None = None
    """Its id and outcome in the words of the server, which has it."""
    rounds: int = 0
    """News from the server since it was over."""

    @property
    def open(self) -> bool:
        """Whether the service may have it and no end was reported."""
        return self.submitting > self.refused and not self.ends

    @property
    def excused(self) -> bool:
        """Whether it is right that the job's end at the server was not told as such."""
        if self.ends != ["SubmissionUnknown"] or self.taken is None:
            return False
        # Either the service hides it, or it ended before a pass could see it: its caller knows that much.
        return self.taken[1] == "lost" or self.uncertain + self.detach > 0

    def problems(self) -> Iterator[str]:
        """Yield what is wrong with the account of a job's life."""
        sent = self.submitting - self.refused
        told = self.told[-1] if self.told else None
        if not 0 <= sent <= 1:
            yield f"sent {self.submitting} times, of which {self.refused} were refused"
        if len(self.ends) > 1:
            yield "ended more than once"
        if sent and not self.ends:
            yield "sent, and no end was reported"
        if self.ends and told not in (*self.ends, None):
            yield f"the caller was told {told}"
        if told is None and not self.cancelled:
            yield "the caller was told nothing"
        if self.taken is None:
            return
        jobid, outcome = self.taken
        if not sent:
            yield "the server has it, and it counts as refused"
        if self.jobid not in (None, jobid):
            yield f"another job than told: {jobid}"
        elif self.ends != [outcome] and not self.excused:
            yield f"the server had it end as {outcome}"


class Ledger:
    """Every job by its reference, kept by events; an observer.

    A job that is over, and right in every respect, is added to the sums and forgotten, so that a soak weighs
    as much after a week as after a minute. One that is not right yet stays until the end.

    Args:
        complain: Called with a description of each violation.
        excuse: Whether a channel's cap may have been another one, since that moment, than balancers knew.
    """

    def __init__(self, complain: Callable[[str], None], excuse: Callable[[str, float], bool]) -> None:
        self._complain = complain
        self._excuse = excuse
        self.entries: dict[str, Entry] = {}
        self.events: Counter[str] = Counter()
        self.again: Counter[str] = Counter()
        self.told: Counter[str] = Counter()
        self.ends: Counter[str] = Counter()
        self.silent: Counter[str] = Counter()
        self.begun = self.accepted = self.taken = 0
        self.full = self.knocks = 0
        self.hung_up = self.hung_up_excused = 0

    again: Counter[str]
    """Errors after which a job was to be sent again."""
    told: Counter[str]
    """What callers heard in the end, of the jobs that are forgotten."""
    ends: Counter[str]
    """What the dispatchers said of the end, of the jobs that are forgotten."""
    silent: Counter[str]
    """Outcomes at the server of jobs that were reported otherwise, and rightly."""
    accepted: int
    """Jobs that the service is known to have taken."""
    taken: int
    """Jobs that the server says it has taken."""
    full: int
    """Refusals because the channel was full."""
    knocks: int
    """Those of them for which no change of the account map is an excuse."""
    hung_up: int
    """Jobs whose answer was not read; it may have been that the channel is full."""
    hung_up_excused: int
    """Those of them for which a change of the account map is an excuse."""

    def begin(self, reply_ref: str, verb: str) -> Entry:
        """Add a job."""
        entry = self.entries[reply_ref] = Entry(reply_ref, verb)
        self.begun += 1
        return entry

    def observe(self, event: Event) -> None:
        """Record an event."""
        self.events[type(event).__name__] += 1
        if isinstance(event, JobEvent):
            # An event of an unknown job, or long after its end, shows as a complaint.
            entry = self.entries.get(event.reply_ref) or self.begin(event.reply_ref, event.verb)
            entry.channel = event.channel
            self._note(entry, event)

    def _note(self, entry: Entry, event: JobEvent) -> None:
        match event:
            case Submitting():
                entry.submitting += 1
                entry.sent_at = event.at
            case Refused():
                entry.refused += 1
                self.again[event.error] += event.again
                if event.error == "ChannelFull":
                    self.full += 1
                    self.knocks += not self._excused(entry)
            case Submitted():
                self.accepted += entry.jobid is None
                entry.jobid = event.jobid
            case Uncertain():
                entry.uncertain += 1
            case Detached():
                entry.detach += 1
                if entry.jobid is None:
                    self.hung_up += 1
                    self.hung_up_excused += self._excused(entry)
            case Ended():
                entry.ends.append(event.status)
            case Failed():
                entry.ends.append(event.error)
            case _:
                pass

    def _excused(self, entry: Entry) -> bool:
        return self._excuse(str(entry.channel), entry.sent_at)

    def learn(self, news: list[tuple[str, str, str]]) -> None:
        """Record jobs that the server has taken: reference, id and outcome of each."""
        for reply_ref, jobid, outcome in news:
            self.taken += 1
            entry = self.entries.get(reply_ref)
            if entry is None:
                self._complain(f"an unknown job, or one whose caller was told its end: {reply_ref} {jobid}")
            elif entry.taken is not None:
                self._complain(f"taken a second time as {jobid}: {entry}")
            else:
                entry.taken = (jobid, outcome)

    def settle(self, *, at_last: bool = False) -> None:
        """Judge the jobs that are over, and forget those that are right; at last complain of the others."""
        for entry in list(self.entries.values()):
            over = not (entry.holders or entry.open)
            entry.rounds = entry.rounds + 1 if over else 0
            if not at_last and entry.rounds < ROUNDS:
                continue
            wrong = list(entry.problems())
            if wrong and not at_last:
                continue
            for problem in wrong:
                self._complain(f"{problem}: {entry}")
            self._forget(entry)

    def _forget(self, entry: Entry) -> None:
        del self.entries[entry.reply_ref]
        self.told[str(entry.told[-1]) if entry.told else "cancelled"] += 1
        self.ends.update(map(str, entry.ends[-1:]))
        if entry.taken is not None and entry.ends != [entry.taken[1]]:
            self.silent[entry.taken[1]] += 1
