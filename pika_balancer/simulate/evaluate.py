"""Judge one scenario by targets, with as many jobs as the answer takes and the budget allows."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import attrs

from pika_balancer.simulate.arrivals import Trace
from pika_balancer.simulate.estimate import Estimate
from pika_balancer.simulate.foretell import Theory, foretell, unsteady
from pika_balancer.simulate.result import Result
from pika_balancer.simulate.run import simulate
from pika_balancer.simulate.scenario import Loss, Queue, Scenario
from pika_balancer.simulate.sweep import pool
from pika_balancer.simulate.targets import Target, Verdict, factor, figures_of, together

_GROWTH: Final = 4
_FEWEST_RUNS: Final = 4
_MEMORY: Final = 600.0


@attrs.frozen
class Point:
    """What one size does."""

    size: float
    """Accounts, slots, or jobs per second."""
    slots: int
    """Slots in all."""
    verdict: Verdict
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
class Judge:
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

    def judge(self, scenario: Scenario, size: float) -> Point:
        """Return what the scenario does; looks again with four times the jobs while it is undecided."""
        theory = foretell(scenario)
        if theory is not None and (
            theory.premise or any(t.figure not in theory.figures for t in self.targets)
        ):
            theory = None
        hopeless = unsteady(scenario) is not None and isinstance(scenario.when_full, Queue)
        jobs = self.jobs if hopeless or theory is not None else self._first(scenario)
        while True:
            figures, simulated = self._look(scenario, jobs)
            widening = factor(self.looks)
            verdicts: dict[Target, Verdict] = {t: t.judge(figures[t.figure], widening) for t in self.targets}
            if theory is not None:
                verdicts = {t: _exactly(t, theory) for t in self.targets}
            verdict: Verdict = "fails" if hopeless else together(verdicts)
            if verdict != "undecided" or jobs >= self.most_jobs:
                break
            jobs = min(jobs * _GROWTH, self.most_jobs)
        return Point(
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


def _exactly(target: Target, theory: Theory) -> Verdict:
    return "holds" if theory.figures[target.figure] < target.limit else "fails"
