"""How many accounts it takes: the smallest size that meets targets, or the largest rate that one bears."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, Literal, get_args

import attrs

from pika_balancer.errors import InvalidArgument
from pika_balancer.simulate.arrivals import Trace
from pika_balancer.simulate.closed_form import Theory, closed_form, unsteady
from pika_balancer.simulate.estimate import Estimate
from pika_balancer.simulate.replicate import pool
from pika_balancer.simulate.result import Result
from pika_balancer.simulate.run import simulate
from pika_balancer.simulate.scenario import Loss, Queue, Scenario
from pika_balancer.simulate.targets import SubmitOutcome, Target, factor, figures_of, together
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

_GROWTH: Final = 4
_FEWEST_RUNS: Final = 4
_MEMORY: Final = 600.0


@attrs.frozen
class SizePoint:
    """What one size does."""

    size: float
    """Accounts, slots, or jobs per second."""
    slots: int
    """Slots in all."""
    verdict: SubmitOutcome
    """Whether all targets hold, at 95 %; one fails; or that takes more jobs."""
    figures: Mapping[str, Estimate]
    """Its estimates, by name, with their 95 % confidence intervals."""
    theory: Mapping[str, float]
    """What closed forms say of the same, by name; the verdict is theirs where they know every target."""
    decided_by: str
    """The closed form that the verdict comes from; `simulation` where it does not."""
    jobs: int
    """Jobs simulated."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON."""
        return {
            "size": self.size,
            "slots": self.slots,
            "verdict": self.verdict,
            "decided_by": self.decided_by,
            "jobs": self.jobs,
            "figures": {
                name: [known(one.value), known(one.low), known(one.high)]
                for name, one in self.figures.items()
            },
            "theory": dict(self.theory),
        }


def known(value: float) -> float | None:
    """Return the value, None if it is not finite."""
    return value if math.isfinite(value) else None


@attrs.frozen
class Evaluator:
    """Evaluates scenarios by the same targets, chance and budget."""

    targets: tuple[Target, ...]
    jobs: int
    """Jobs of the first look at a scenario."""
    most_jobs: int
    """Jobs of the last look."""
    seed: int
    run: Callable[..., Result] = simulate

    @property
    def looks(self) -> int:
        """How many looks at a scenario there are at most."""
        looks, jobs = 1, self.jobs
        while jobs < self.most_jobs:
            jobs *= _GROWTH
            looks += 1
        return looks

    def evaluate(self, scenario: Scenario, size: float) -> SizePoint:
        """Return what the scenario does; looks again with four times the jobs while it is undecided."""
        theory = closed_form(scenario)
        if theory is not None and (
            theory.premise or any(t.figure not in theory.figures for t in self.targets)
        ):
            theory = None
        hopeless = unsteady(scenario) is not None and isinstance(scenario.when_full, Queue)
        jobs = self.jobs if hopeless or theory is not None else self._first(scenario)
        while True:
            figures, simulated = self._look(scenario, jobs)
            widening = factor(self.looks)
            verdicts: dict[Target, SubmitOutcome] = {
                t: t.evaluate(figures[t.figure], widening) for t in self.targets
            }
            if theory is not None:
                verdicts = {t: _exactly(t, theory) for t in self.targets}
            verdict: SubmitOutcome = "fails" if hopeless else together(verdicts)
            if verdict != "undecided" or jobs >= self.most_jobs:
                break
            jobs = min(jobs * _GROWTH, self.most_jobs)
        return SizePoint(
            size,
            scenario.slots,
            verdict,
            figures,
            theory.figures if theory else {},
            theory.name if theory else ("no steady state" if hopeless else "simulation"),
            simulated,
        )

    def _first(self, scenario: Scenario) -> int:
        """Return how many jobs to begin with: so many that one batch has forgotten the one before it.

        A line forgets in about 2 / (1 - utilisation)² arrivals; each of 30 batches should see ten such times.
        """
        strength = math.fsum(account.max_jobs * account.speed for account in scenario.accounts)
        spare = 1 - scenario.offered_load / strength
        if isinstance(scenario.when_full, Loss) or spare <= 0:
            return self.jobs
        return max(self.jobs, int(min(self.most_jobs, _MEMORY / spare**2)))

    def _look(self, scenario: Scenario, jobs: int) -> tuple[dict[str, Estimate], int]:
        if isinstance(scenario.arrivals, Trace):
            # The log is what it is: what varies is how long its jobs run and where, from run to run.
            runs = max(_FEWEST_RUNS, min(30, math.ceil(jobs / len(scenario.arrivals))))
            results: Sequence[Result] = [self.run(scenario, seed=self.seed + i) for i in range(runs)]
            return {name: e for name, e in pool(results).items() if name in figures_of(results[0])}, sum(
                result.jobs for result in results
            )
        result = self.run(scenario, jobs=jobs, seed=self.seed)
        return figures_of(result), result.jobs


def _exactly(target: Target, theory: Theory) -> SubmitOutcome:
    return "holds" if theory.figures[target.figure] < target.limit else "fails"


Find = Literal["accounts", "slots", "rate"]

_RATE_STEP: Final = 1.01
"""Rates are tried in steps of one per cent."""
_RATE_STEPS: Final = 700
"""How many of them up and down: a thousandfold."""
_NEIGHBOURS: Final = {"accounts": (-2, -1, 1, 2), "slots": (-2, -1, 1, 2), "rate": (-20, -10, 10, 20)}


@attrs.frozen
class Plan:
    """The answer to how many it takes, and what surrounds it."""

    find: Find
    """What was looked for."""
    targets: tuple[Target, ...]
    """What had to be met."""
    answer: float | None
    """The smallest number of accounts or slots, or the largest rate in jobs per second, that meets all
    targets at 95 %; None if nothing within reach does."""
    undecided: tuple[float, float] | None
    """The best size that may do, and the answer, where the jobs allowed could not tell; None where the answer
    is certain at 95 %."""
    summary: str
    """The answer in a sentence."""
    points: tuple[SizePoint, ...]
    """Every size that was tried, from the smallest capacity to the largest: the sizing curve."""
    neighbours: tuple[SizePoint, ...]
    """The answer, and what a little less and a little more do; empty without an answer."""
    sensitivity: tuple[tuple[str, SizePoint], ...]
    """What becomes of the answer if something goes wrong: a case in words, and what it does."""
    burstiness: Burstiness | None
    """How unlike Poisson the arrivals are; None if they are Poisson or too few to tell."""
    poisson_answer: float | None
    """The answer for Poisson arrivals of the same rate, where these are much burstier."""
    warnings: tuple[str, ...]
    """What to be careful about, as sentences."""
    jobs: int
    """Jobs simulated in all."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON: rates per second, times in seconds, fractions from 0 to 1, null if unknown."""
        return {
            "find": self.find,
            "targets": [str(target) for target in self.targets],
            "answer": self.answer,
            "undecided": None if self.undecided is None else list(self.undecided),
            "summary": self.summary,
            "points": [point.to_dict() for point in self.points],
            "neighbours": [point.to_dict() for point in self.neighbours],
            "sensitivity": [{"case": case} | point.to_dict() for case, point in self.sensitivity],
            "burstiness": None if self.burstiness is None else attrs.asdict(self.burstiness),
            "poisson_answer": self.poisson_answer,
            "warnings": list(self.warnings),
            "jobs": self.jobs,
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

    Every size meets the same jobs (common random numbers). A size is looked at with `jobs` jobs first (more
    where lines have a long memory), then with four times as many again and again, until its intervals lie on
    one side of every target or `most_jobs` have been spent on it; the intervals are widened so that all looks
    together mislead in 5 %. Where a closed form holds and knows every target, it decides. Where more capacity
    can only help the search halves; where that is not known, as with retries, it tries every number of
    accounts from 1 on.

    A recorded trace is taken as it is: the answer is about that log, and what varies is the rest.

    Args:
        targets: What must be met.
        scenario: The jobs, and what accounts are like: more than it has are like its last one.
        find: What to look for; `rate` keeps the accounts and changes how fast jobs come.
        most: The largest number of accounts or slots to try.
        jobs: Jobs of the first look at a size.
        most_jobs: Jobs of the last one.
        seed: Fixes all chance.
        progress: Called with every size that has been looked at.

    Raises:
        InvalidArgument: An argument cannot be; `field` names it.
    """
    wanted = (targets,) if isinstance(targets, Target) else tuple(targets)
    _check(wanted, scenario, find, {"most": most, "jobs": jobs, "most_jobs": most_jobs})
    evaluate = Evaluator(wanted, jobs, max(jobs, most_jobs), seed)
    search = _Search(evaluate, scenario, find, most, progress)
    first, best = search.run()
    answer = None if best is None else search.size(best)
    undecided = None if best is None or first == best else (search.size(first), search.size(best))
    neighbours = [] if best is None else search.around(best)
    cases = [] if best is None else search.sensitivity(best)
    bursts = burstiness(scenario)
    warnings: list[str] = []
    poisson_answer = None
    if bursts is not None and bursts.significant:
        plain = as_poisson(scenario)
        beside = None if plain is None else _Search(evaluate, plain, find, most)
        poisson_answer = None if beside is None else beside.best()
        search.jobs += 0 if beside is None else beside.jobs
        word = _in_bursts(find, bursts, answer, poisson_answer)
        warnings.append(word)
    return Plan(
        find=find,
        targets=wanted,
        answer=answer,
        undecided=undecided,
        summary=_summary(find, wanted, answer, undecided, most),
        points=tuple(point for _, point in sorted(search.points.items())),
        neighbours=tuple(neighbours),
        sensitivity=tuple(cases),
        burstiness=bursts,
        poisson_answer=poisson_answer,
        warnings=tuple(warnings),
        jobs=search.jobs,
    )


class _Search:
    """Sizes by index, the more capacity the higher: a number of accounts or slots, or a rate that falls."""

    def __init__(
        self,
        evaluate: Evaluator,
        scenario: Scenario,
        find: Find,
        most: int,
        progress: Callable[[SizePoint], object] | None = None,
    ) -> None:
        self._judge = evaluate
        self._scenario = scenario
        self._find = find
        self._progress = progress
        self._low, self._high = (-_RATE_STEPS, _RATE_STEPS) if find == "rate" else (0, most)
        self.points: dict[int, SizePoint] = {}
        self.jobs = 0

    def run(self) -> tuple[int, int | None]:
        """Return the first index that may do, and the first that does."""
        start = self._start()
        if self._find == "accounts" and not monotone(self._scenario):
            best = next((i for i in range(1, self._high + 1) if self._verdict(i) == "holds"), None)
            tried = range(1, self._high + 1 if best is None else best)
            return next((i for i in tried if self._verdict(i) == "undecided"), best or self._high), best
        best = self._edge(lambda index: self._verdict(index) == "holds", start)
        if best is None:
            return self._high, None
        first = self._edge(lambda index: self._verdict(index) != "fails", best)
        return (best if first is None else first), best

    def best(self) -> float | None:
        """Return the first size that does, None if none does."""
        _, best = self.run()
        return None if best is None else self.size(best)

    def size(self, index: int) -> float:
        """Return what an index stands for."""
        return self._scenario.arrivals.rate * _RATE_STEP**-index if self._find == "rate" else float(index)

    def around(self, best: int) -> list[SizePoint]:
        """Return the points beside the answer, and the answer, in order of capacity."""
        steps = (*_NEIGHBOURS[self._find], 0)
        return [self.at(best + step) for step in sorted(steps) if self._low < best + step <= self._high]

    def sensitivity(self, best: int) -> list[tuple[str, SizePoint]]:
        """Return what becomes of the answer when something goes wrong."""
        scenario = self._sized(best)
        cases = [
            ("one account banned", without_largest(scenario)),
            ("jobs run 20 % longer", slower(scenario, 1.2)),
            ("20 % more jobs", with_rate(scenario, 1.2)),
        ]
        return [(case, self._look(changed, best)) for case, changed in cases if changed is not None]

    def at(self, index: int) -> SizePoint:
        """Return the point of an index."""
        if index not in self.points:
            self.points[index] = self._look(self._sized(index), index)
        return self.points[index]

    def _look(self, scenario: Scenario, index: int) -> SizePoint:
        point = self._judge.evaluate(scenario, self.size(index))
        self.jobs += point.jobs
        if self._progress is not None:
            self._progress(point)
        return point

    def _verdict(self, index: int) -> str:
        return self.at(index).verdict

    def _sized(self, index: int) -> Scenario:
        if self._find == "rate":
            return with_rate(self._scenario, _RATE_STEP**-index)
        return (with_accounts if self._find == "accounts" else with_slots)(self._scenario, index)

    def _start(self) -> int:
        if self._find == "rate":
            return 0
        load = self._scenario.offered_load / min(account.speed for account in self._scenario.accounts)
        slots = load if math.isfinite(load) else 1.0
        per = self._scenario.accounts[-1].max_jobs if self._find == "accounts" else 1
        return min(max(1, math.ceil(slots / per)), self._high)

    def _edge(self, does: Callable[[int], bool], start: int) -> int | None:
        """Return the first index that does, where all after it do; None if not even the highest does."""
        step = 1
        if does(start):
            above, below = start, start - 1
            while below > self._low and does(below):
                above, step = below, 2 * step
                below = max(self._low, above - step)
        else:
            below, above = start, min(self._high, start + 1)
            while not does(above):
                if above == self._high:
                    return None
                below, step = above, 2 * step
                above = min(self._high, above + step)
        while above - below > 1:
            middle = (above + below) // 2
            if does(middle):
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
        raise InvalidArgument(
            f"there is nothing to find by {find!r}; take one of {', '.join(get_args(Find))}", field="find"
        )
    for name, value in counts.items():
        if type(value) is not int or value < 1:
            raise InvalidArgument(f"{name} must be a whole number of at least 1, not {value!r}", field=name)


def _in_bursts(find: Find, bursts: Burstiness, answer: float | None, poisson: float | None) -> str:
    word = bursts.words
    if poisson is None:
        return word
    here = "nothing does" if answer is None else f"here it takes {words(find, answer)}"
    if find == "rate":
        here = "none is low enough" if answer is None else f"here the most is {words(find, answer)}"
    return f"{word}; with those, {words(find, poisson)} would seem right, {here}"


def words(find: Find, size: float) -> str:
    """Return a size in words, such as `7 accounts`."""
    if find == "rate":
        return f"{size * 3600:.4g} jobs per hour"
    noun = find if size != 1 else find.removesuffix("s")
    return f"{size:g} {noun}"


def _summary(
    find: Find,
    targets: tuple[Target, ...],
    answer: float | None,
    undecided: tuple[float, float] | None,
    most: int,
) -> str:
    wanted = " and ".join(map(str, targets))
    if answer is None:
        reach = "no rate within a thousandth" if find == "rate" else f"nothing up to {words(find, most)}"
        return f"{reach} meets {wanted}"
    if undecided is None:
        extreme = "most" if find == "rate" else "fewest"
        return f"{words(find, answer)} {'is' if answer == 1 else 'are'} the {extreme} for {wanted}"
    low, high = (words(find, size) for size in undecided)
    return f"undecided between {low} and {high} for {wanted}: give me more jobs (most_jobs)"
