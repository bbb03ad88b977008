"""What became of each job, for those who want more than statistics. Grows with the number of jobs."""

import math
from array import array
from enum import IntEnum

import attrs


class JobFate(IntEnum):
    """How a job ended."""

    UNFINISHED = 0
    COMPLETED = 1
    GAVE_UP = 2


@attrs.define
class Records:
    """One column per fact, one place per job, in the order of arrival. Times are float seconds."""

    arrival: "array[float]" = attrs.field(factory=lambda: array("d"), eq=bytes)
    """When it came."""
    account: "array[int]" = attrs.field(factory=lambda: array("i"), eq=bytes)
    """The place of its account among the scenario's, from 0; -1 if it never started."""
    start: "array[float]" = attrs.field(factory=lambda: array("d"), eq=bytes)
    """When it started; NaN if it never did."""
    end: "array[float]" = attrs.field(factory=lambda: array("d"), eq=bytes)
    """When its slot was free again; may lie beyond the end of the run; NaN if it never started."""
    attempts: "array[int]" = attrs.field(factory=lambda: array("i"), eq=bytes)
    """How often it was submitted; 0 if it was still on its way."""
    outcome: "array[int]" = attrs.field(factory=lambda: array("b"), eq=bytes)
    """An `Outcome`."""

    def __len__(self) -> int:
        """Return the number of jobs."""
        return len(self.arrival)

    def arrive(self, arrival: float) -> None:
        """Add a job."""
        self.arrival.append(arrival)
        self.account.append(-1)
        self.start.append(math.nan)
        self.end.append(math.nan)
        self.attempts.append(0)
        self.outcome.append(JobFate.UNFINISHED)

    def begin(self, job: int, account: int, now: float, end: float, tries: int) -> None:
        """Note that the job started on that account."""
        self.account[job] = account
        self.start[job] = now
        self.end[job] = end
        self.attempts[job] = tries

    def give_up(self, job: int, tries: int) -> None:
        """Note that the job will not be run."""
        self.attempts[job] = tries
        self.outcome[job] = JobFate.GAVE_UP
