"""The result of a simulation."""

import csv
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal

import attrs

from pika_balancer.errors import InvalidArgument
from pika_balancer.simulate.collector import Collector, JobFate, Records
from pika_balancer.simulate.estimate import (
    LEVELS,
    Durations,
    Estimate,
    finite,
    ratio,
    time_in_system_of,
    wait_of,
)
from pika_balancer.simulate.scenario import Scenario
from pika_balancer.simulate.trace import import_pyarrow

Table = Literal["estimates", "series", "jobs"]

ESTIMATES: Final = (
    "refused_fraction",
    "gave_up_fraction",
    "attempts",
    "in_flight",
    "utilisation",
    "imbalance",
)
"""Fields of a result that are estimates."""


@attrs.frozen
class AccountResult:
    """What one account did."""

    channel: str
    max_jobs: int
    """Its cap."""
    jobs: int
    """Jobs that started on it, in the whole run."""
    share: Estimate
    """Its share of the jobs that started."""
    utilisation: Estimate
    """Mean share of its slots in use."""


@attrs.frozen
class Series:
    """Mean jobs in flight in time bins of equal width, from the start to the last arrival."""

    start: float
    """When the first bin begins, in seconds."""
    width: float
    """Width of a bin, in seconds; the last one may be shorter."""
    in_flight: tuple[float, ...]
    """Mean jobs in flight in each bin."""


@attrs.frozen
class Result:
    """The result of a simulation. Times in seconds, fractions from 0 to 1.

    Counts cover the whole run: `jobs = completed + gave_up + unfinished`. Estimates leave out the warm-up,
    which `warm_up` states. A job's wait and time in system count when it starts, because its end is known
    then. Results compare equal regardless of `elapsed_s`.
    """

    scenario: Scenario = attrs.field(repr=False)
    """The scenario simulated."""
    seed: int
    jobs: int
    """Jobs that arrived."""
    completed: int
    """Jobs that ran to their end."""
    refused: int
    """First tries that found every account full."""
    gave_up: int
    """Jobs that never ran: refused under `Loss`, out of patience or of room under `Queue`, out of tries."""
    unfinished: int
    """Jobs that were running, waiting or about to be tried again when the run ended."""
    rejected: int
    """Submits answered 429 although the account had a free slot."""
    doubled: int
    """Runs that the service started although it answered 5xx; their worker submitted the job again."""
    refused_fraction: Estimate
    """Share of jobs whose first try found every account full."""
    gave_up_fraction: Estimate
    """Share of jobs that never ran."""
    wait: Durations
    """From arrival to start, of the jobs that started."""
    time_in_system: Durations
    """From arrival to end, of the jobs that started."""
    attempts: Estimate
    """Mean submits per job, first one included."""
    in_flight: Estimate
    """Mean slots in use."""
    utilisation: Estimate
    """Mean share of slots in use."""
    imbalance: Estimate
    """Mean of max − min jobs in flight over the accounts, as seen by each job that gets a slot."""
    accounts: tuple[AccountResult, ...]
    """The accounts, in the scenario's order."""
    series: Series = attrs.field(repr=False)
    """Jobs in flight over time."""
    duration: float
    """Simulated time behind the estimates, in seconds."""
    batches: int
    """Number of batches, or of independent runs, that the intervals come from."""
    warm_up: str
    """What the estimates leave out, as text."""
    engine: str
    """`numba` or `reference`."""
    notes: tuple[str, ...] = ()
    """Remarks, as sentences."""
    theory: Mapping[str, float] = attrs.field(factory=dict[str, float])
    """Exact values, by name of the estimate; empty if no closed form applies."""
    records: Records | None = attrs.field(default=None, repr=False)
    """What became of each job, if requested."""
    elapsed_s: float = attrs.field(default=math.nan, eq=False)
    """Real time that the simulation took, in seconds."""

    @property
    def jobs_per_s(self) -> float:
        """Jobs simulated per second of real time."""
        return self.jobs / self.elapsed_s if self.elapsed_s > 0 else math.nan

    def estimate(self, name: str) -> Estimate:
        """Return an entry of `estimates()`, such as `wait.p95`.

        Raises:
            InvalidArgument: There is no such estimate.
        """
        known = dict(self.estimates())
        if name not in known:
            raise InvalidArgument(
                f"there is no estimate {name!r}; use one of {', '.join(known)}", field="name"
            )
        return known[name]

    def estimates(self) -> Iterator[tuple[str, Estimate]]:
        """Yield name and value of every estimate; those of accounts are numbered, as in `share.1`."""
        for name in ESTIMATES[:2]:
            yield name, getattr(self, name)
        for name, durations in (("wait", self.wait), ("time_in_system", self.time_in_system)):
            for field in ("mean", *LEVELS):
                yield f"{name}.{field}", getattr(durations, field)
            yield f"{name}.max", Estimate(durations.max)
        for name in ESTIMATES[2:]:
            yield name, getattr(self, name)
        for place, account in enumerate(self.accounts, 1):
            yield f"utilisation.{place}", account.utilisation
            yield f"share.{place}", account.share

    def to_dict(self) -> dict[str, Any]:
        """Return the figures as plain JSON: times in seconds, fractions from 0 to 1, null where unknown."""
        wait = {name: finite(getattr(self.wait, name).value) for name in ("mean", *LEVELS)}
        return {
            "jobs": self.jobs,
            "completed": self.completed,
            "refused": self.refused,
            "refused_fraction": finite(self.refused_fraction.value),
            "refused_fraction_ci": _interval(self.refused_fraction),
            "gave_up": self.gave_up,
            "unfinished": self.unfinished,
            "wait": wait | {"max": finite(self.wait.max)},
            "wait_mean_ci": _interval(self.wait.mean),
            "in_flight_mean": finite(self.in_flight.value),
            "accounts": [
                {
                    "channel": account.channel,
                    "max_jobs": account.max_jobs,
                    "jobs": account.jobs,
                    "utilisation": finite(account.utilisation.value),
                }
                for account in self.accounts
            ],
            "engine": self.engine,
            "elapsed_s": finite(self.elapsed_s),
            "jobs_per_s": finite(self.jobs_per_s),
            "theory": dict(self.theory),
        }

    def to_csv(self, path: str | Path, table: Table = "estimates") -> None:
        """Write the estimates, the jobs in flight over time, or the records of all jobs.

        Raises:
            InvalidArgument: There is no such table, or the run has no records.
        """
        columns = self._table(table)
        with Path(path).open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(columns)
            for row in zip(*columns.values(), strict=True):
                writer.writerow(
                    ["" if isinstance(cell, float) and math.isnan(cell) else cell for cell in row]
                )

    def to_parquet(self, path: str | Path, table: Table = "estimates") -> None:
        """Write the same tables as Parquet; needs the extra `parquet`.

        Raises:
            InvalidArgument: There is no such table, or the run has no records.
            ImportError: pyarrow is missing.
        """
        columns = self._table(table)
        pa, pq = import_pyarrow()
        with Path(path).open("wb") as file:  # pyarrow rejects file names that are not UTF-8
            pq.write_table(pa.table({name: list(column) for name, column in columns.items()}), file)

    def _table(self, table: Table) -> Mapping[str, Sequence[Any]]:
        if table == "estimates":
            names, values = zip(*self.estimates(), strict=True)
            return {"estimate": names} | {
                end: [getattr(one, end) for one in values] for end in ("value", "low", "high")
            }
        if table == "series":
            begins = [self.series.start + k * self.series.width for k in range(len(self.series.in_flight))]
            return {"begin": begins, "in_flight": self.series.in_flight}
        if table == "jobs":
            records = self.records
            if records is None:
                raise InvalidArgument("the run has no records; simulate with records=True", field="table")
            channels = [account.channel for account in self.accounts]
            return {
                "arrival": records.arrival,
                "channel": [channels[place] if place >= 0 else None for place in records.account],
                "start": records.start,
                "end": records.end,
                "attempts": records.attempts,
                "outcome": [JobFate(outcome).name.lower() for outcome in records.outcome],
            }
        raise InvalidArgument(f"there is no table {table!r}; use estimates, series or jobs", field="table")


def _interval(estimate: Estimate) -> list[float] | None:
    return None if math.isnan(estimate.low) else [estimate.low, estimate.high]


def result_of(
    scenario: Scenario,
    collector: Collector,
    *,
    seed: int,
    engine: str,
    notes: Iterable[str],
    records: Records | None,
    elapsed: float,
) -> Result:
    """Return the result of a run from its collector."""
    arrived, refused, gave_up, started, tries = (
        collector.by_batch(collector.counts, column) for column in range(5)
    )
    spread, time = (collector.by_batch(collector.sums, column) for column in (2, 3))
    slots = scenario.slots
    accounts = tuple(
        AccountResult(
            account.channel,
            account.max_jobs,
            sum(starts[place] for starts in collector.starts),
            ratio(collector.by_batch(collector.starts, place), started, most=1.0, cases=True),
            ratio(
                [area / account.max_jobs for area in collector.by_batch(collector.areas, place)],
                time,
                most=1.0,
            ),
        )
        for place, account in enumerate(scenario.accounts)
    )
    busy = [math.fsum(collector.areas[phase]) for phase in collector.batches]
    in_flight = ratio(busy, time, most=float(slots))
    return Result(
        scenario=scenario,
        seed=seed,
        jobs=collector.jobs,
        completed=collector.completed,
        refused=collector.refused,
        gave_up=collector.gave_up,
        unfinished=collector.jobs - collector.completed - collector.gave_up,
        rejected=collector.rejected,
        doubled=collector.doubled,
        refused_fraction=ratio(refused, arrived, most=1.0, cases=True),
        gave_up_fraction=ratio(gave_up, arrived, most=1.0, cases=True),
        wait=wait_of(collector),
        time_in_system=time_in_system_of(collector),
        attempts=ratio(tries, [a + b for a, b in zip(started, gave_up, strict=True)]),
        in_flight=in_flight,
        utilisation=Estimate(in_flight.value / slots, in_flight.low / slots, in_flight.high / slots),
        imbalance=ratio(spread, started),
        accounts=accounts,
        series=Series(collector.frame.start, collector.bin_width, tuple(collector.series)),
        duration=collector.elapsed,
        batches=len(collector.batches),
        warm_up=_warm_up(collector),
        engine=engine,
        notes=tuple(notes),
        records=records,
        elapsed_s=elapsed,
    )


def _warm_up(collector: Collector) -> str:
    frame = collector.frame
    if not frame.warm_up:
        return "none: every job counts"
    if not collector.batches.start:
        return "the run ended within its warm-up, and all of it counts"
    of = "simulated time" if frame.by_time else "jobs"
    return f"the first {frame.warm_up:.3g} of the {of} count in no estimate"
