"""Capacity planning: what the accounts will do with the jobs that come, by the shipped selector.

    from pika_balancer.simulate import Exponential, Poisson, Retry, Scenario, simulate

    scenario = Scenario("5x6", Poisson(500 / 3600), Exponential(180), Retry(15, attempts=80))
    result = simulate(scenario, jobs=1_000_000, seed=1)
    print(result.refused_fraction, result.wait.p95)

The map, from the centre outwards:

    checks, streams             what a field may be; chance, the same for every engine and policy
    laws, arrivals, moments,    what is simulated
      trace, scenario
    workload                    its jobs and outages, a block at a time
    tally, records, estimate,   what is counted, and what that says
      result
    reference                   the truth: an event loop around the shipped selector
    state, kernel, engine       the same, compiled
    theory, foretell            what is known exactly in closed form, and what of it holds for a scenario
    run                         `simulate`
    executors, sweep            many runs, on any executor
    targets, variants,          how many accounts it takes
      evaluate, plan
    bursts                      what bursts in a trace change
    forms                       scenarios and targets in words
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
from pika_balancer.simulate.bursts import in_bursts
from pika_balancer.simulate.estimate import Durations, Estimate
from pika_balancer.simulate.records import JobFate, Records
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
