"""Run one simulation: `simulate`."""

import importlib.util
import time
import warnings
from collections.abc import Callable
from typing import Literal, get_args

import attrs

from pika_balancer.errors import InvalidArgument
from pika_balancer.simulate.arrivals import Daily, Trace
from pika_balancer.simulate.closed_form import closed_form, why_unstable
from pika_balancer.simulate.collector import Collector, Frame, Records
from pika_balancer.simulate.reference import Reference
from pika_balancer.simulate.result import Result, result_of
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
) -> Result:
    """Simulate the scenario and return its result; the same seed gives the same result.

    Ends when `jobs` jobs have arrived and left, or after `duration` seconds of simulated time; a trace ends
    by itself if neither is given, and no later in any case.

    Args:
        scenario: The scenario to simulate.
        jobs: Number of jobs; the run lasts until each has ended or given up.
        duration: Seconds of simulated time, instead.
        seed: Fixes all random numbers. Scenarios with the same seed get the same arrivals, service times and
            draws.
        records: Whether to record what became of each job; memory then grows with their number.
        engine: `numba` is fast and `reference` slow; both make the same decisions. `auto` uses the fast one
            if the extra `sim` is installed, and otherwise warns.
        watch: Called now and then, in this thread, with the number of jobs so far. If it returns False, no
            more jobs arrive: the run ends with the present ones, and a note says so.

    Raises:
        InvalidArgument: An argument is out of range; `field` names it.
        ImportError: `engine` is `numba` and the extra `sim` is missing.
    """
    if not isinstance(scenario, Scenario):
        raise InvalidArgument("scenario must be a Scenario", field="scenario")
    streams = Streams(seed)
    jobs = _length(scenario, jobs, duration)
    began = time.perf_counter()
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
            f"records of {expected:.3g} jobs would fill the memory; the maximum is {_MOST_RECORDS:,}",
            field="records",
        )
    ended_early = False

    def goes_on(count: int) -> bool:
        nonlocal ended_early
        ended_early = watch is not None and not watch(count)
        return not ended_early

    workload = Workload(scenario, streams, jobs, frame.horizon, watch=goes_on)
    collector = Collector(frame, len(scenario.accounts))
    written = Records() if records else None
    name, note = _engine(scenario, engine)
    if name == "numba":
        from pika_balancer.simulate.kernel import engine as fast  # noqa: PLC0415 - needs an extra

        fast.run(scenario, workload, collector, written)
    else:
        Reference(scenario, workload, collector, written).run()
    elapsed = time.perf_counter() - began
    notes = [note] if note else []
    if ended_early:
        notes.append(f"ended early, after {collector.jobs:,} jobs; the figures are of those")
    theory, no_steady_state = closed_form(scenario), why_unstable(scenario)
    if no_steady_state is not None or (theory is not None and theory.premise and collector.gave_up):
        theory = None
    if no_steady_state is not None:
        notes.append(no_steady_state)
    if theory is not None:
        notes.append(f"exact value: {theory.name}" + (f", as {theory.premise}" if theory.premise else ""))
    result = result_of(
        scenario, collector, seed=seed, engine=name, notes=notes, records=written, elapsed=elapsed
    )
    return result if theory is None else attrs.evolve(result, theory=theory.figures)


def _engine(scenario: Scenario, engine: Engine) -> tuple[str, str]:
    """Return the engine to use, and a note about it."""
    if engine not in get_args(Engine):
        raise InvalidArgument(
            f"there is no engine {engine!r}; use one of {', '.join(get_args(Engine))}", field="engine"
        )
    if engine == "reference":
        return engine, ""
    if not isinstance(scenario.policy, str):
        if engine == "numba":
            raise InvalidArgument("a policy of your own needs the engine 'reference'", field="engine")
        return "reference", "a policy of your own is simulated by the slow engine"
    missing = " and ".join(name for name in ("numpy", "numba") if importlib.util.find_spec(name) is None)
    if not missing:
        return "numba", ""
    if engine == "numba":
        raise ImportError(f"{missing} missing: pip install 'pika-balancer[sim]'")
    note = f"simulated by the slow engine ({missing} missing): pip install 'pika-balancer[sim]' for speed"
    warnings.warn(note, RuntimeWarning, stacklevel=3)
    return "reference", note


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
        raise InvalidArgument("state jobs=... or duration=...: the arrivals have no end", field="jobs")
    return jobs
