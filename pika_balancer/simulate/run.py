"""One question, one answer: `simulate`."""

import importlib.util
import time
import warnings
from collections.abc import Callable
from typing import Literal, get_args

import attrs

from pika_balancer.errors import InvalidArgument
from pika_balancer.simulate.arrivals import Daily, Trace
from pika_balancer.simulate.closed_form import closed_form, unsteady
from pika_balancer.simulate.collector import Collector, Frame
from pika_balancer.simulate.records import Records
from pika_balancer.simulate.reference import Reference
from pika_balancer.simulate.result import Result, conclude
from pika_balancer.simulate.scenario import Scenario
from pika_balancer.simulate.streams import Streams
from pika_balancer.simulate.workload import Workload, start_of

Engine = Literal["auto", "numba", "reference"]

_WARM_UP = 0.1
_MOST_RECORDS = 50_000_000


def simulate(
    scenario: Scenario,
    *,
    jobs: int | None = None,
    duration: float | None = None,
    seed: int = 0,
    records: bool = False,
    engine: Engine = "auto",
    watch: Callable[[int], bool] | None = None,
    timer: Callable[[], float] = time.perf_counter,
) -> Result:
    """Simulate the scenario and return what it found; the same seed gives the same result.

    Ends when `jobs` jobs have come and gone, or after `duration` seconds of simulated time, with whatever is
    unfinished then; a trace ends by itself if neither is given, and no later in any case.

    Args:
        scenario: What to simulate.
        jobs: How many jobs come; the run goes on until each has ended or given up.
        duration: Seconds of simulated time, instead.
        seed: Fixes all chance. Scenarios with the same seed meet the same arrivals, service times and draws.
        records: Whether to keep what became of each job; memory then grows with their number.
        engine: `numba` is fast and `reference` is slow; both decide the same. `auto` takes the fast one if
            the extra `sim` is there, and says so if it is not.
        watch: Told now and then how many jobs have come, in this thread. Where it says False, no more come:
            the run ends with those that are there, and a note says so.
        timer: Reads the real time, in seconds, for `elapsed_s`.

    Raises:
        InvalidArgument: An argument cannot be; `field` names it.
        ImportError: The engine `numba` was asked for and the extra `sim` is missing.
    """
    if not isinstance(scenario, Scenario):
        raise InvalidArgument("scenario must be a Scenario", field="scenario")
    streams = Streams(seed)
    jobs = _length(scenario, jobs, duration)
    began = timer()
    start = start_of(scenario)
    warm_up = scenario.warm_up
    if warm_up is None:
        warm_up = 0.0 if isinstance(scenario.arrivals, Trace | Daily) else _WARM_UP
    frame = Frame.make(
        start=start, duration=duration, jobs=jobs, rate=scenario.arrivals.rate, warm_up=warm_up
    )
    expected = jobs if jobs is not None else frame.horizon * scenario.arrivals.rate
    if records and expected > _MOST_RECORDS and not isinstance(scenario.arrivals, Trace):
        raise InvalidArgument(
            f"records of {expected:.3g} jobs would fill the memory; keep those of at most {_MOST_RECORDS:,}",
            field="records",
        )
    watched = _Watched(watch)
    workload = Workload(scenario, streams, jobs, frame.horizon, watch=watched)
    tally = Collector(frame, len(scenario.accounts))
    kept = Records() if records else None
    name, notes = _engine(scenario, engine)
    if name == "numba":
        from pika_balancer.simulate.kernel import engine as fast  # noqa: PLC0415 - it needs an extra

        fast.run(scenario, workload, tally, kept)
    else:
        Reference(scenario, workload, tally, kept).run()
    if watched.ended:
        notes = (*notes, f"ended early, after {tally.jobs:,} jobs; the figures are of those")
    result = conclude(
        scenario, tally, seed=seed, engine=name, notes=notes, records=kept, elapsed=timer() - began
    )
    return _beside_theory(result)


def _beside_theory(result: Result) -> Result:
    """Return the result with the closed form that holds for it, and a word where there is no steady state."""
    theory, unrest = closed_form(result.scenario), unsteady(result.scenario)
    if unrest is not None:
        return attrs.evolve(result, notes=(*result.notes, unrest))
    if theory is None or (theory.premise and result.gave_up):
        return result
    word = f"{theory.name} holds exactly in the long run" + (
        f", as {theory.premise}" if theory.premise else ""
    )
    return attrs.evolve(result, theory=theory.figures, notes=(*result.notes, word))


class _Watched:
    """Remembers whether the run was ended early."""

    def __init__(self, watch: Callable[[int], bool] | None) -> None:
        self._watch = watch
        self.ended = False

    def __call__(self, jobs: int) -> bool:
        self.ended = self._watch is not None and not self._watch(jobs)
        return not self.ended


def _engine(scenario: Scenario, asked: Engine) -> tuple[str, tuple[str, ...]]:
    """Return the engine to take, and what there is to say about it."""
    if asked not in get_args(Engine):
        raise InvalidArgument(
            f"there is no engine {asked!r}; take one of {', '.join(get_args(Engine))}", field="engine"
        )
    if asked == "reference":
        return asked, ()
    if not isinstance(scenario.policy, str):
        if asked == "numba":
            raise InvalidArgument("a policy of your own needs the engine 'reference'", field="engine")
        return "reference", ("a policy of your own is simulated by the slow engine",)
    missing = [name for name in ("numpy", "numba") if importlib.util.find_spec(name) is None]
    if not missing:
        return "numba", ()
    word = f"{' and '.join(missing)} missing"
    if asked == "numba":
        raise ImportError(f"{word}: pip install 'pika-balancer[sim]'")
    word = (
        f"simulated by the slow engine ({word}): pip install 'pika-balancer[sim]' is some 200 times as fast"
    )
    warnings.warn(word, RuntimeWarning, stacklevel=3)
    return "reference", (word,)


def _length(scenario: Scenario, jobs: int | None, duration: float | None) -> int | None:
    if jobs is not None and duration is not None:
        raise InvalidArgument("state jobs or duration, not both", field="duration")
    if jobs is not None and (type(jobs) is not int or jobs < 1):
        raise InvalidArgument("jobs must be a whole number of at least 1", field="jobs")
    if duration is not None and not 0 < duration < float("inf"):
        raise InvalidArgument("duration must be a finite number of seconds above 0", field="duration")
    if isinstance(scenario.arrivals, Trace):
        if duration is not None:
            return None
        return min(jobs or len(scenario.arrivals), len(scenario.arrivals))
    if jobs is None and duration is None:
        raise InvalidArgument("state jobs=... or duration=..., or how should it end?", field="jobs")
    return jobs
