"""Capacity planning: simulate the accounts under a load, with the shipped selector.

    from pika_balancer.simulate import Exponential, Poisson, Retry, Scenario, simulate

    scenario = Scenario("5x6", Poisson(500 / 3600), Exponential(180), Retry(15, attempts=80))
    result = simulate(scenario, jobs=1_000_000, seed=1)
    print(result.refused_fraction, result.wait.p95)

The modules, from the centre outwards:

    streams                      random numbers, the same for every engine and policy
    arrivals, scenario           the input; notation is its text form
    timestamps, trace            recorded logs
    workload                     jobs and outages, a block at a time
    collector, estimate, result  counts, estimates with intervals, the result
    reference                    the reference engine: an event loop around the shipped selector
    kernel                       the same, compiled
    theory, closed_form          exact formulas, and which of them applies to a scenario
    run                          `simulate`
    replicate                    many runs, on any executor
    variants, targets, sizing    how many accounts it takes
    report                       HTML pages
"""

from pika_balancer.distributions import (
    Constant,
    Distribution,
    Empirical,
    Exponential,
    Gamma,
    Lognormal,
    Recorded,
    UniformDistribution,
    Weibull,
)
from pika_balancer.simulate.arrivals import Arrivals, Bursty, Daily, OnOff, Poisson, Regular, Trace
from pika_balancer.simulate.collector import JobFate, Records
from pika_balancer.simulate.estimate import Durations, Estimate
from pika_balancer.simulate.replicate import Pooled, replicate, sweep
from pika_balancer.simulate.result import AccountResult, Result, Series
from pika_balancer.simulate.run import simulate
from pika_balancer.simulate.scenario import (
    Failures,
    Faults,
    Loss,
    Queue,
    Retry,
    Scenario,
    SimulatedAccount,
    Slowdown,
)
from pika_balancer.simulate.sizing import Plan, plan
from pika_balancer.simulate.targets import Target
from pika_balancer.simulate.theory import erlang_b, erlang_c
from pika_balancer.simulate.trace import Recording, read_trace
from pika_balancer.simulate.variants import in_bursts

__all__ = [
    "AccountResult",
    "Arrivals",
    "Bursty",
    "Constant",
    "Daily",
    "Distribution",
    "Durations",
    "Empirical",
    "Estimate",
    "Exponential",
    "Failures",
    "Faults",
    "Gamma",
    "JobFate",
    "Lognormal",
    "Loss",
    "OnOff",
    "Plan",
    "Poisson",
    "Pooled",
    "Queue",
    "Recorded",
    "Recording",
    "Records",
    "Regular",
    "Result",
    "Retry",
    "Scenario",
    "Series",
    "SimulatedAccount",
    "Slowdown",
    "Target",
    "Trace",
    "UniformDistribution",
    "Weibull",
    "erlang_b",
    "erlang_c",
    "in_bursts",
    "plan",
    "read_trace",
    "replicate",
    "simulate",
    "sweep",
]
