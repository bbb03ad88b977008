"""Time per simulated job, compared with other simulators and with the same loop in C.

Each subject simulates five accounts of cap 6 under a load of 25 erlang with loss and the policy `random`.
SimPy is used as in its manual; Ciw has five nodes behind a router; `loop.c` beside this file is compiled
here. Packages that are not installed are left out, with a note.
"""

import importlib
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import attrs

from benchmarks.measure import Row, Subject, compare, count, left_out, peer
from pika_balancer.simulate import Exponential, Loss, Poisson, Queue, Retry, Scenario, simulate

LOAD, ACCOUNTS, CAP = 25.0, 5, 6
OURS = "simulate"
JOBS = 2_000_000
PEAKS = (10**6, 10**8)
ROUNDS = 9
"""Fewer than elsewhere, because each takes long."""

_ANSWER = """
import pathlib, re, sys, time
begin = time.perf_counter()
from pika_balancer.simulate import Exponential, Poisson, Scenario, simulate
simulate(Scenario("5x6", Poisson(25.0), Exponential(1.0)), jobs=int(sys.argv[1]), seed=1)
# Not `ru_maxrss`, which includes the peak of the parent process.
peak = re.search(r"VmHWM:\\s+(\\d+)", pathlib.Path("/proc/self/status").read_text())
print(time.perf_counter() - begin, peak[1])
"""


def ours(jobs: int, when_full: Loss | Queue | Retry, policy: str = "random", load: float = LOAD) -> Subject:
    """Return a round of this simulator."""
    scenario = Scenario(f"{ACCOUNTS}x{CAP}", Poisson(load), Exponential(1.0), when_full, policy=policy)

    def run() -> float:
        begin = time.perf_counter()
        simulate(scenario, jobs=jobs, seed=1)
        return (time.perf_counter() - begin) / jobs

    return run


def in_simpy(jobs: int) -> Subject:
    """Return a round of SimPy: a process for each job, a resource for each account."""
    simpy: Any = importlib.import_module("simpy")

    def run() -> float:
        chance = random.Random(1)
        env = simpy.Environment()
        accounts = [simpy.Resource(env, CAP) for _ in range(ACCOUNTS)]
        refused = 0

        def job() -> Any:
            nonlocal refused
            roomy = [account for account in accounts if account.count < account.capacity]
            if not roomy:
                refused += 1
                return
            with chance.choice(roomy).request() as slot:
                yield slot
                yield env.timeout(chance.expovariate(1.0))

        def arrivals() -> Any:
            for _ in range(jobs):
                yield env.timeout(chance.expovariate(LOAD))
                env.process(job())

        begin = time.perf_counter()
        env.process(arrivals())
        env.run()
        taken = (time.perf_counter() - begin) / jobs
        _check("SimPy", refused / jobs, jobs)
        return taken

    return run


def in_ciw(jobs: int) -> Subject:
    """Return a round of Ciw: a router sends each job to a random node with room."""
    ciw: Any = importlib.import_module("ciw")

    class Router(ciw.routing.NodeRouting):  # type: ignore[misc]  # it has no types
        def next_node(self, _job: Any) -> Any:
            nodes = self.simulation.nodes[2 : 2 + ACCOUNTS]
            roomy = [node for node in nodes if node.number_of_individuals < CAP]
            return random.choice(roomy) if roomy else self.simulation.nodes[-1]

    def run() -> float:
        network = ciw.create_network(
            arrival_distributions=[ciw.dists.Exponential(LOAD), *[None] * ACCOUNTS],
            service_distributions=[ciw.dists.Deterministic(0.0), *[ciw.dists.Exponential(1.0)] * ACCOUNTS],
            number_of_servers=[float("inf"), *[CAP] * ACCOUNTS],
            routing=ciw.routing.NetworkRouting(routers=[Router(), *[ciw.routing.Leave()] * ACCOUNTS]),
        )
        ciw.seed(1)
        simulation = ciw.Simulation(network)
        begin = time.perf_counter()
        simulation.simulate_until_max_time(jobs / LOAD)
        taken = time.perf_counter() - begin
        at_nodes = [record.node for record in simulation.get_all_records()]
        came = at_nodes.count(1)
        _check("Ciw", (2 * came - len(at_nodes)) / came, came)
        return taken / came

    return run


def in_c(jobs: int, folder: Path) -> Subject | None:
    """Return a round of the loop in C, None without a compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        return None
    program = folder / "loop"
    source = Path(__file__).with_name("loop.c")
    subprocess.run([compiler, "-O3", "-o", str(program), str(source), "-lm"], check=True)  # noqa: S603 - our own source

    def run() -> float:
        arguments = [str(program), str(jobs), str(LOAD), str(ACCOUNTS), str(CAP)]
        done = subprocess.run(arguments, check=True, capture_output=True, text=True)  # noqa: S603 - our own program
        refused, _, seconds = done.stdout.split()
        _check("the loop in C", int(refused) / jobs, jobs)
        return float(seconds) / jobs

    return run


def _check(subject: str, refused: float, jobs: int) -> None:
    # Erlang B, within five standard errors; refusals occur in bursts.
    if abs(refused - 0.052603) > 5 * (0.05 * 25 / jobs) ** 0.5:
        raise AssertionError(f"{subject} refuses {refused:.4f}, so it simulates something else")


def whole_process(jobs: int) -> tuple[float, int]:
    """Return seconds and peak memory, in bytes, of a process that simulates once."""
    command = [sys.executable, "-c", _ANSWER, str(jobs)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)  # noqa: S603 - our own literals
    seconds, memory = done.stdout.split()
    return float(seconds), int(memory) * 1024


def rows(rounds: int = ROUNDS) -> list[Row]:
    """Measure and return the rows."""
    question, jobs = "simulate", JOBS
    loss = ours(jobs, Loss())
    subjects: dict[str, Subject] = {OURS: loss}
    missing: list[Row] = []
    for name, make in (("simpy", in_simpy), ("ciw", in_ciw)):
        if peer(name) is None:
            why = f"{name} is not installed; pip install 'pika-balancer[bench]'"
            missing.append(left_out(question, name, why))
        else:
            subjects[name] = make(30_000)
    found = compare(question, subjects, OURS, rounds=rounds) + missing
    name = "the loop in C"
    with tempfile.TemporaryDirectory() as folder:
        loop = in_c(jobs, Path(folder))
        if loop is None:
            found.append(left_out(question, name, "there is no C compiler"))
        else:
            found += compare(question, {name: loop, OURS: loss}, name, rounds=rounds, aims={OURS: 2.0})
    others: dict[str, Subject] = {
        f"{OURS}, queue": ours(jobs, Queue()),
        f"{OURS}, retry": ours(jobs, Retry(1 / 12, 80)),
        f"{OURS}, least_loaded": ours(jobs, Loss(), "least_loaded"),
        f"{OURS}, weighted": ours(jobs, Loss(), "weighted"),
    }
    found += compare(question, {OURS: loss} | others, OURS, rounds=rounds)[1:]
    answer = "a process and its first answer"
    found += compare(question, {answer: lambda: whole_process(100_000)[0]}, answer, rounds=rounds)
    few, many = (count(question, f"peak of memory, {n:,} jobs", whole_process(n)[1], "B") for n in PEAKS)
    return [*found, few, attrs.evolve(many, against=few.subject, ratio=many.seconds / few.seconds)]
