"""What a simulation found."""

import csv
import importlib
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import attrs

from pika_balancer.errors import InvalidArgument
from pika_balancer.simulate.collector import Collector
from pika_balancer.simulate.estimate import Durations, Estimate, durations, ratio
from pika_balancer.simulate.records import JobFate, Records
from pika_balancer.simulate.scenario import Scenario

Table = Literal["estimates", "series", "jobs"]


@attrs.frozen
class AccountResult:
    """What one account did."""

    channel: str
    """Names it."""
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
    """Mean jobs in flight in pieces of time of equal width, from the start to the last arrival."""

    start: float
    """When the first piece begins, in seconds."""
    width: float
    """Width of a piece, in seconds; the last one may be shorter."""
    in_flight: tuple[float, ...]
    """Mean jobs in flight in each."""


@attrs.frozen
class Result:
    """What a simulation found. Times in seconds, fractions from 0 to 1.

    Counts are of the whole run: `jobs = completed + gave_up + unfinished`. Estimates leave the warm-up out,
    by the rule that `warm_up` states. A job's wait and time in system count when it starts, its end being
    known then. Equal if everything but the time that it took is.
    """

    scenario: Scenario = attrs.field(repr=False)
    """What was simulated."""
    seed: int
    """The seed."""
    jobs: int
    """Jobs that came."""
    completed: int
    """Jobs that ran to their end."""
    refused: int
    """First tries that found every account full."""
    gave_up: int
    """Jobs that were never run: refused under `Loss`, out of patience or line under `Queue`, out of tries."""
    unfinished: int
    """Jobs that were running, waiting or about to be tried again when the run ended."""
    rejected: int
    """429s that were not our doing."""
    doubled: int
    """Runs for nobody: the service took the job and answered 5xx."""
    refused_fraction: Estimate
    """Share of jobs whose first try found every account full."""
    gave_up_fraction: Estimate
    """Share of jobs that were never run."""
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
    """Mean difference in jobs in flight between the fullest and the emptiest account, as a job that gets a
    slot finds it."""
    accounts: tuple[AccountResult, ...]
    """The accounts, in the scenario's order."""
    series: Series = attrs.field(repr=False)
    """Jobs in flight over time."""
    duration: float
    """Simulated time that the estimates are about, in seconds."""
    batches: int
    """How many batches the intervals come from; or independent runs, where there are several."""
    warm_up: str
    """What was left out of the estimates, in words."""
    engine: str
    """`numba` or `reference`."""
    notes: tuple[str, ...] = ()
    """What else should be known, as sentences."""
    theory: Mapping[str, float] = attrs.field(factory=dict[str, float])
    """Closed forms that apply, by name of what they foretell; empty where none does."""
    records: Records | None = attrs.field(default=None, repr=False)
    """What became of each job, if that was asked for."""
    elapsed_s: float = attrs.field(default=math.nan, eq=False)
    """How long the simulation took, in seconds of real time."""

    @property
    def jobs_per_s(self) -> float:
        """Jobs simulated per second of real time."""
        return self.jobs / self.elapsed_s if self.elapsed_s > 0 else math.nan

    def estimate(self, name: str) -> Estimate:
        """Return the estimate of that name: a row of `estimates()`, such as `wait.p95`.

        Raises:
            InvalidArgument: There is none of that name.
        """
        known = dict(self.estimates())
        if name not in known:
            raise InvalidArgument(
                f"there is no estimate {name!r}; take one of {', '.join(known)}", field="name"
            )
        return known[name]

    def estimates(self) -> Iterator[tuple[str, Estimate]]:
        """Yield name and value of every estimate; those of accounts are named by place, as in `share.1`."""
        yield "refused_fraction", self.refused_fraction
        yield "gave_up_fraction", self.gave_up_fraction
        for name, law in (("wait", self.wait), ("time_in_system", self.time_in_system)):
            for field in ("mean", "p50", "p90", "p95", "p99"):
                yield f"{name}.{field}", getattr(law, field)
            yield f"{name}.max", Estimate(law.max)
        yield "attempts", self.attempts
        yield "in_flight", self.in_flight
        yield "utilisation", self.utilisation
        yield "imbalance", self.imbalance
        for place, account in enumerate(self.accounts, 1):
            yield f"utilisation.{place}", account.utilisation
            yield f"share.{place}", account.share

    def to_dict(self) -> dict[str, Any]:
        """Return the figures as plain JSON: times in seconds, fractions from 0 to 1, null where unknown."""
        wait = {name: getattr(self.wait, name) for name in ("mean", "p50", "p90", "p95", "p99")}
        return {
            "jobs": self.jobs,
            "completed": self.completed,
            "refused": self.refused,
            "refused_fraction": _known(self.refused_fraction.value),
            "refused_fraction_ci": _interval(self.refused_fraction),
            "gave_up": self.gave_up,
            "unfinished": self.unfinished,
            "wait": {name: _known(one.value) for name, one in wait.items()} | {"max": _known(self.wait.max)},
            "wait_mean_ci": _interval(self.wait.mean),
            "in_flight_mean": _known(self.in_flight.value),
            "accounts": [
                {
                    "channel": account.channel,
                    "max_jobs": account.max_jobs,
                    "jobs": account.jobs,
                    "utilisation": _known(account.utilisation.value),
                }
                for account in self.accounts
            ],
            "engine": self.engine,
            "elapsed_s": _known(self.elapsed_s),
            "jobs_per_s": _known(self.jobs_per_s),
            "theory": dict(self.theory),
        }

    def to_csv(self, path: str | Path, table: Table = "estimates") -> None:
        """Write the estimates, the jobs in flight over time, or the records of all jobs.

        Raises:
            InvalidArgument: There is no such table, or no records were kept.
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
            InvalidArgument: There is no such table, or no records were kept.
            ImportError: pyarrow is missing.
        """
        columns = self._table(table)
        try:
            pa, pq = (importlib.import_module(name) for name in ("pyarrow", "pyarrow.parquet"))
        except ImportError as error:
            raise ImportError("Parquet needs pyarrow: pip install 'pika-balancer[parquet]'") from error
        with Path(path).open("wb") as file:  # pyarrow itself knows no name that is not UTF-8
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
                raise InvalidArgument("no records were kept; simulate with records=True", field="table")
            channels = [account.channel for account in self.accounts]
            return {
                "arrival": records.arrival,
                "channel": [channels[place] if place >= 0 else None for place in records.account],
                "start": records.start,
                "end": records.end,
                "attempts": records.attempts,
                "outcome": [JobFate(outcome).name.lower() for outcome in records.outcome],
            }
        raise InvalidArgument(f"there is no table {table!r}; take estimates, series or jobs", field="table")


def _known(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _interval(estimate: Estimate) -> list[float] | None:
    return None if math.isnan(estimate.low) else [estimate.low, estimate.high]


def conclude(
    scenario: Scenario,
    tally: Collector,
    *,
    seed: int,
    engine: str,
    notes: Iterable[str],
    records: Records | None,
    elapsed: float,
) -> Result:
    """Return what the tally of a run says."""
    rows = tally.batches

    def counted(column: int) -> list[float]:
        return [float(tally.counts[row][column]) for row in rows]

    arrived, refused, gave_up, started, tries = (counted(column) for column in range(5))
    time = [tally.sums[row][3] for row in rows]
    spread = [tally.sums[row][2] for row in rows]
    flying = [math.fsum(tally.areas[row]) for row in rows]
    slots = scenario.slots
    accounts = tuple(
        AccountResult(
            account.channel,
            account.max_jobs,
            sum(starts[place] for starts in tally.starts),
            ratio([float(tally.starts[row][place]) for row in rows], started, most=1.0, cases=True),
            ratio([tally.areas[row][place] / account.max_jobs for row in rows], time, most=1.0),
        )
        for place, account in enumerate(scenario.accounts)
    )
    in_flight = ratio(flying, time, most=float(slots))
    frame = tally.frame
    return Result(
        scenario=scenario,
        seed=seed,
        jobs=tally.jobs,
        completed=tally.completed,
        refused=tally.refused,
        gave_up=tally.gave_up,
        unfinished=tally.jobs - tally.completed - tally.gave_up,
        rejected=tally.rejected,
        doubled=tally.doubled,
        refused_fraction=ratio(refused, arrived, most=1.0, cases=True),
        gave_up_fraction=ratio(gave_up, arrived, most=1.0, cases=True),
        wait=durations(tally, tally.waits, 0, tally.exact_waits),
        time_in_system=durations(tally, tally.stays, 1, tally.exact_stays),
        attempts=ratio(tries, [a + b for a, b in zip(started, gave_up, strict=True)]),
        in_flight=in_flight,
        utilisation=Estimate(in_flight.value / slots, in_flight.low / slots, in_flight.high / slots),
        imbalance=ratio(spread, started),
        accounts=accounts,
        series=Series(frame.start, tally.piece, tuple(tally.series)),
        duration=tally.elapsed,
        batches=len(rows),
        warm_up=_warm_up(tally),
        engine=engine,
        notes=tuple(notes),
        records=records,
        elapsed_s=elapsed,
    )


def _warm_up(tally: Collector) -> str:
    frame = tally.frame
    if not frame.warm_up:
        return "none: every job counts"
    if not tally.batches.start:
        return "there is nothing else: the run ended within it, and all of it counts"
    of = "simulated time" if frame.by_time else "jobs"
    return f"the first {frame.warm_up:.3g} of the {of} count in no estimate"
