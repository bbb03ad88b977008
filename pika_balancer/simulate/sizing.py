"""Sizing: the fewest accounts that meet targets, or the largest rate that given accounts can take."""

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, Literal, get_args

import attrs

from pika_balancer.errors import InvalidArgument
from pika_balancer.simulate.arrivals import Trace
from pika_balancer.simulate.closed_form import closed_form, why_unstable
from pika_balancer.simulate.estimate import Estimate
from pika_balancer.simulate.notation import format_target
from pika_balancer.simulate.replicate import pool
from pika_balancer.simulate.report.numbers import count, figure
from pika_balancer.simulate.result import Result
from pika_balancer.simulate.run import simulate
from pika_balancer.simulate.scenario import Loss, Queue, Scenario
from pika_balancer.simulate.targets import FIGURES, Target, Verdict, combined, widening
from pika_balancer.simulate.variants import (
    Burstiness,
    as_poisson,
    burstiness,
    monotone,
    slower,
    with_accounts,
    with_rate,
    with_slots,
    without_largest,
)

Find = Literal["accounts", "slots", "rate"]

_GROWTH: Final = 4
"""Factor by which the jobs of a simulation grow from round to round."""
_TRACE_RUNS: Final = (4, 30)
"""Minimum and maximum number of runs of a trace."""
_MEMORY: Final = 600.0
_RATE_STEP: Final = 1.01
"""Rates are tried in steps of one per cent."""
_RATE_STEPS: Final = 700
"""Number of these steps up and down: a factor of a thousand."""
_STEPS: Final = {"accounts": (-2, -1, 0, 1, 2), "rate": (-20, -10, 0, 10, 20)}
_NEIGHBOURS: Final = _STEPS | {"slots": _STEPS["accounts"]}


@attrs.frozen
class SizePoint:
    """What one size does."""

    size: float
    """Accounts, slots, or jobs per second."""
    slots: int
    """All its slots."""
    verdict: Verdict
    """Whether all targets hold, at 95 %; one fails; or more jobs are needed to decide."""
    figures: Mapping[str, Estimate]
    """Its estimates, by name, with their 95 % confidence intervals."""
    theory: Mapping[str, float]
    """Exact values of the same figures, by name; they decide if they cover every target."""
    decided_by: str
    """The closed form that decided, `no steady state`, or `simulation`."""
    jobs: int
    """Jobs simulated."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON."""
        figures = {name: estimate.to_list() for name, estimate in self.figures.items()}
        return attrs.asdict(self, recurse=False) | {"figures": figures, "theory": dict(self.theory)}


@attrs.frozen
class Evaluator:
    """Evaluates scenarios by the same targets, random numbers and budget of jobs."""

    targets: tuple[Target, ...]
    jobs: int
    """Jobs of the first round."""
    most_jobs: int
    """Jobs of the last round."""
    seed: int
    run: Callable[..., Result] = simulate

    @property
    def rounds(self) -> int:
        """Maximum number of simulations of a scenario."""
        rounds, jobs = 1, self.jobs
        while jobs < self.most_jobs:
            jobs *= _GROWTH
            rounds += 1
        return rounds

    def evaluate(self, scenario: Scenario, size: float) -> SizePoint:
        """Return what the scenario does; simulates four times as many jobs while it is undecided."""
        theory = closed_form(scenario)
        if theory is not None and (
            theory.premise or any(target.figure not in theory.figures for target in self.targets)
        ):
            theory = None
        unstable = isinstance(scenario.when_full, Queue) and why_unstable(scenario) is not None
        jobs = self.jobs if unstable or theory is not None else self._first_jobs(scenario)
        while True:
            figures, simulated = self._simulate(scenario, jobs)
            if unstable:
                verdict: Verdict = "fails"
            elif theory is not None:
                meets = all(theory.figures[target.figure] < target.limit for target in self.targets)
                verdict = "holds" if meets else "fails"
            else:
                factor = widening(self.rounds)
                verdict = combined(t.evaluate(figures[t.figure], factor) for t in self.targets)
            if verdict != "undecided" or jobs >= self.most_jobs:
                break
            jobs = min(jobs * _GROWTH, self.most_jobs)
        return SizePoint(
            size,
            scenario.slots,
            verdict,
            figures,
            theory.figures if theory else {},
            theory.name if theory else ("no steady state" if unstable else "simulation"),
            simulated,
        )

    def _first_jobs(self, scenario: Scenario) -> int:
        """Return the jobs of the first round: enough for batches that are nearly independent.

        A wait queue forgets its state in about 2 / (1 - utilisation)² arrivals; each of 30 batches should
        have ten times that.
        """
        spare = 1 - scenario.offered_load / scenario.total_service_rate
        if isinstance(scenario.when_full, Loss) or spare <= 0:
            return self.jobs
        return max(self.jobs, int(min(self.most_jobs, _MEMORY / spare**2)))

    def _simulate(self, scenario: Scenario, jobs: int) -> tuple[dict[str, Estimate], int]:
        """Return the estimates and the number of jobs simulated."""
        if isinstance(scenario.arrivals, Trace):
            # The arrivals are given; service times and picks vary from run to run.
            fewest, most = _TRACE_RUNS
            runs = max(fewest, min(most, math.ceil(jobs / len(scenario.arrivals))))
            results = [self.run(scenario, seed=self.seed + i) for i in range(runs)]
        else:
            results = [self.run(scenario, jobs=jobs, seed=self.seed)]
        pooled = pool(results)
        return {name: pooled[name] for name in pooled if name in FIGURES}, sum(r.jobs for r in results)


@attrs.frozen
class Plan:
    """The size that meets the targets, with its neighbours and what may go wrong."""

    find: Find
    """What was looked for."""
    targets: tuple[Target, ...]
    answer: float | None
    """The smallest number of accounts or slots, or the largest rate in jobs per second, that meets all
    targets at 95 %; None if no size tried does."""
    undecided: tuple[float, float] | None
    """The best size that may meet them, and the answer, if the job budget was too small to decide; None if
    the answer is certain at 95 %."""
    summary: str
    """The answer as a sentence."""
    points: tuple[SizePoint, ...]
    """Every size that was tried, from the smallest capacity to the largest: the sizing curve."""
    neighbours: tuple[SizePoint, ...]
    """The answer and sizes around it; empty without an answer."""
    sensitivity: tuple[tuple[str, SizePoint], ...]
    """What the answer does if something goes wrong: a case as text, and the figures."""
    burstiness: Burstiness | None
    """How much the arrivals differ from Poisson; None if they are Poisson or too few to tell."""
    poisson_answer: float | None
    """The answer for Poisson arrivals of the same rate, if these are much burstier."""
    warnings: tuple[str, ...]
    """Remarks, as sentences."""
    jobs: int
    """Jobs simulated in all."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON: rates per second, times in seconds, fractions from 0 to 1, null if unknown."""
        return attrs.asdict(self, recurse=False) | {
            "targets": [str(target) for target in self.targets],
            "undecided": None if self.undecided is None else list(self.undecided),
            "points": [point.to_dict() for point in self.points],
            "neighbours": [point.to_dict() for point in self.neighbours],
            "sensitivity": [{"case": case} | point.to_dict() for case, point in self.sensitivity],
            "burstiness": None if self.burstiness is None else attrs.asdict(self.burstiness),
            "warnings": list(self.warnings),
        }


def plan(
    targets: Target | Iterable[Target],
    scenario: Scenario,
    *,
    find: Find = "accounts",
    most: int = 1000,
    jobs: int = 50_000,
    most_jobs: int = 3_200_000,
    seed: int = 0,
    progress: Callable[[SizePoint], object] | None = None,
) -> Plan:
    """Return the smallest number of accounts or slots, or the largest rate, that meets all targets.

    Every size gets the same jobs (common random numbers). A size is simulated with `jobs` jobs first (more if
    a wait queue has a long memory), then with four times as many in each round, until its intervals lie on
    one side of every target or `most_jobs` are spent; the intervals are widened so that all rounds together
    err in 5 %. If a closed form holds and covers every target, it decides. The search is a bisection if more
    capacity can only help; otherwise, as with retries, it tries every number of accounts from 1 on.

    A recorded trace is not varied: the answer is about that log, and service times and picks vary.

    Args:
        targets: The targets to meet.
        scenario: The jobs and the accounts; additional accounts are like its last one.
        find: What to look for; `rate` keeps the accounts and changes the rate of arrivals.
        most: The largest number of accounts or slots to try.
        jobs: Jobs of the first simulation of a size.
        most_jobs: Jobs of the last one.
        seed: Fixes all random numbers.
        progress: Called with every size that has been evaluated.

    Raises:
        InvalidArgument: An argument is out of range; `field` names it.
    """
    wanted = (targets,) if isinstance(targets, Target) else tuple(targets)
    _check(wanted, scenario, find, {"most": most, "jobs": jobs, "most_jobs": most_jobs})
    evaluator = Evaluator(wanted, jobs, max(jobs, most_jobs), seed)
    search = _Search(evaluator, scenario, find, most, progress)
    first, best = search.run()
    answer = None if best is None else search.size(best)
    undecided = None if best is None or first == best else (search.size(first), search.size(best))
    neighbours = () if best is None else search.around(best)
    cases = () if best is None else search.sensitivity(best)
    bursts = burstiness(scenario)
    warnings: tuple[str, ...] = ()
    poisson_answer = None
    if bursts is not None and bursts.significant:
        poisson = as_poisson(scenario)
        if poisson is not None:
            other = _Search(evaluator, poisson, find, most)
            _, best = other.run()
            poisson_answer = None if best is None else other.size(best)
            search.jobs += other.jobs
        warnings = (_burst_warning(find, bursts, answer, poisson_answer),)
    points = tuple(point for _, point in sorted(search.points.items()))
    return Plan(
        find=find,
        targets=wanted,
        answer=answer,
        undecided=undecided,
        summary=_summary(find, wanted, points, answer, undecided),
        points=points,
        neighbours=neighbours,
        sensitivity=cases,
        burstiness=bursts,
        poisson_answer=poisson_answer,
        warnings=warnings,
        jobs=search.jobs,
    )


class _Search:
    """Searches sizes by index, capacity ascending: accounts, slots, or steps of a falling rate."""

    def __init__(
        self,
        evaluator: Evaluator,
        scenario: Scenario,
        find: Find,
        most: int,
        progress: Callable[[SizePoint], object] | None = None,
    ) -> None:
        self._evaluator = evaluator
        self._scenario = scenario
        self._find: Find = find
        self._progress = progress
        self._low, self._high = (-_RATE_STEPS, _RATE_STEPS) if find == "rate" else (0, most)
        self.points: dict[int, SizePoint] = {}
        self.jobs = 0

    def run(self) -> tuple[int, int | None]:
        """Return the first index that may meet the targets, and the first that does."""
        if self._find == "accounts" and not monotone(self._scenario):
            first = None
            for index in range(1, self._high + 1):
                verdict = self._verdict(index)
                if verdict == "undecided" and first is None:
                    first = index
                if verdict == "holds":
                    return first or index, index
            return first or self._high, None
        best = self._edge(lambda index: self._verdict(index) == "holds", self._start())
        if best is None:
            return self._high, None
        first = self._edge(lambda index: self._verdict(index) != "fails", best)
        return (best if first is None else first), best

    def size(self, index: int) -> float:
        """Return the size of an index."""
        return self._scenario.arrivals.rate * _RATE_STEP**-index if self._find == "rate" else float(index)

    def around(self, best: int) -> tuple[SizePoint, ...]:
        """Return the answer and the sizes around it, in order of capacity."""
        indices = (best + step for step in _NEIGHBOURS[self._find])
        return tuple(self._at(index) for index in indices if self._low < index <= self._high)

    def sensitivity(self, best: int) -> tuple[tuple[str, SizePoint], ...]:
        """Return what the answer does when something goes wrong."""
        scenario = self._scenario_at(best)
        cases = (
            ("one account banned", without_largest(scenario)),
            ("jobs run 20 % longer", slower(scenario, 1.2)),
            ("20 % more jobs", with_rate(scenario, 1.2)),
        )
        return tuple((case, self._evaluate(changed, best)) for case, changed in cases if changed is not None)

    def _at(self, index: int) -> SizePoint:
        if index not in self.points:
            self.points[index] = self._evaluate(self._scenario_at(index), index)
        return self.points[index]

    def _evaluate(self, scenario: Scenario, index: int) -> SizePoint:
        point = self._evaluator.evaluate(scenario, self.size(index))
        self.jobs += point.jobs
        if self._progress is not None:
            self._progress(point)
        return point

    def _verdict(self, index: int) -> Verdict:
        return self._at(index).verdict

    def _scenario_at(self, index: int) -> Scenario:
        if self._find == "rate":  # exact, and defined for a trace whose jobs all arrive at once
            return with_rate(self._scenario, _RATE_STEP**-index)
        return at_size(self._scenario, self._find, index)

    def _start(self) -> int:
        if self._find == "rate":
            return 0
        load = self._scenario.offered_load / min(account.speed for account in self._scenario.accounts)
        slots = load if math.isfinite(load) else 1.0
        per = self._scenario.accounts[-1].max_jobs if self._find == "accounts" else 1
        return min(max(1, math.ceil(slots / per)), self._high)

    def _edge(self, meets: Callable[[int], bool], start: int) -> int | None:
        """Return the first index for which `meets` is true and stays so; None if there is none."""
        step = 1
        if meets(start):
            above, below = start, start - 1
            while below > self._low and meets(below):
                above, step = below, 2 * step
                below = max(self._low, above - step)
        else:
            below, above = start, min(self._high, start + 1)
            while not meets(above):
                if above == self._high:
                    return None
                below, step = above, 2 * step
                above = min(self._high, above + step)
        while above - below > 1:
            middle = (above + below) // 2
            if meets(middle):
                above = middle
            else:
                below = middle
        return above


def _check(targets: tuple[Target, ...], scenario: Scenario, find: Find, counts: dict[str, int]) -> None:
    if not targets or not all(isinstance(target, Target) for target in targets):
        raise InvalidArgument(
            "targets must be one Target or several, such as Target('wait.p95', '<', 120)", field="targets"
        )
    if not isinstance(scenario, Scenario):
        raise InvalidArgument("scenario must be a Scenario", field="scenario")
    if find not in get_args(Find):
        raise InvalidArgument(f"find must be one of {', '.join(get_args(Find))}, not {find!r}", field="find")
    for name, value in counts.items():
        if type(value) is not int or value < 1:
            raise InvalidArgument(f"{name} must be a whole number of at least 1, not {value!r}", field=name)


def at_size(scenario: Scenario, find: Find, size: float) -> Scenario:
    """Return the scenario with that many accounts or slots, or that rate of arrivals."""
    if find == "rate":
        return with_rate(scenario, size / scenario.arrivals.rate)
    return (with_accounts if find == "accounts" else with_slots)(scenario, int(size))


def size_text(find: Find, size: float) -> str:
    """Return a size as text: `7 accounts`, `500 jobs/h`."""
    return f"{figure(3600 * size)} jobs/h" if find == "rate" else count(int(size), find.removesuffix("s"))


def _burst_warning(find: Find, bursts: Burstiness, answer: float | None, poisson: float | None) -> str:
    if poisson is None:
        return bursts.text
    if answer is None:
        here = "these need a rate too low to find" if find == "rate" else "no size tried is enough for these"
    else:
        here = f"these {'allow' if find == 'rate' else 'need'} {size_text(find, answer)}"
    verb = "allow" if find == "rate" else "need"
    return f"{bursts.text}; Poisson arrivals would {verb} {size_text(find, poisson)}, {here}"


def _summary(
    find: Find,
    targets: tuple[Target, ...],
    points: tuple[SizePoint, ...],
    answer: float | None,
    undecided: tuple[float, float] | None,
) -> str:
    wanted = " and ".join(map(format_target, targets))
    if answer is None:
        direction = "down" if find == "rate" else "up"
        return f"no size tried, {direction} to {size_text(find, points[-1].size)}, meets {wanted}"
    best = size_text(find, answer)
    if undecided is not None:
        low = size_text(find, undecided[0])
        return f"undecided between {low} and {best} for {wanted}; raise most_jobs (--most-jobs)"
    point = next(point for point in points if point.size == answer)
    slots = "" if find == "slots" else f" ({count(point.slots, 'slot')})"
    verb = "is" if answer == 1 and find != "rate" else "are"
    extreme = "most" if find == "rate" else "fewest"
    sure = "at 95% confidence" if point.decided_by == "simulation" else "exactly"
    return f"{best}{slots} {verb} the {extreme} for {wanted}, {sure}"
