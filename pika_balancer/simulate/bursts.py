"""By how much bursts in a recorded trace change what a Poisson model of the same rate would say."""

import math
from typing import Final

from pika_balancer.simulate.closed_form import closed_form, unsteady
from pika_balancer.simulate.result import Result
from pika_balancer.simulate.run import simulate
from pika_balancer.simulate.scenario import Loss, Queue, Retry
from pika_balancer.simulate.variants import as_poisson, burstiness

_STEADY: Final = 100_000
"""Jobs after which the long run of a Poisson model is known well enough for a comparison."""

_FIGURES: Final = {
    Loss: ("refused_fraction",),
    Queue: ("wait.mean",),
    Retry: ("refused_fraction", "wait.mean"),
}
"""What is compared, by what a job does that finds every account full."""


def in_bursts(result: Result) -> str | None:
    """Return how bursty the jobs of a result come and what Poisson arrivals of the same rate would have done.

    None where they are not burstier than Poisson arrivals are by chance.
    """
    scenario = result.scenario
    bursts = burstiness(scenario)
    if bursts is None or not bursts.significant:
        return None
    plain = as_poisson(scenario)
    if plain is None:
        return bursts.words
    theory = closed_form(plain)
    known = dict(theory.figures) if theory is not None and not theory.premise else {}
    names = _FIGURES[type(scenario.when_full)]
    if any(name not in known for name in names):
        fast = result.engine != "reference"
        jobs = max(result.jobs, _STEADY) if fast and unsteady(plain) is None else result.jobs
        other = simulate(plain, jobs=jobs, seed=result.seed, engine="auto" if fast else "reference")
        known = {name: estimate.value for name, estimate in other.estimates()}
    said = [_said(name, known[name], result.estimate(name).value) for name in names]
    return f"{bursts.words}; with those, at the same rate, {' and '.join(said)}"


def _said(name: str, poisson: float, here: float) -> str:
    times = f", {here / poisson:.3g} times as much" if poisson > 0 and math.isfinite(here) else ""
    if name == "wait.mean":
        return f"the mean wait would be {poisson:.3g} s, here it is {here:.3g} s{times}"
    return f"{poisson:.3%} would find every account full, here {here:.3%} do{times}"
