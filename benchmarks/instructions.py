"""Number of instructions that the hot paths execute: the same on a busy machine as on an idle one.

Bytecode instructions of this package's own code, which need no tool and differ only between minor versions of
Python, are what `baseline.json` keeps: `python -m benchmarks.instructions` compares, `--record` writes anew.
Machine instructions, counted by valgrind where there is one, also see what happens below the bytecode.
"""

import argparse
import asyncio
import json
import os
import random
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import FrameType
from typing import Any, Final

from benchmarks.measure import ROUNDS, Row, count, left_out
from pika_balancer import Account, Balancer, Selector

BASELINE: Final = Path(__file__).with_name("baseline.json")
ALLOWED: Final = 0.1
"""Allowed increase over the baseline, as a fraction."""
VERSION: Final = f"{sys.version_info.major}.{sys.version_info.minor}"
PACKAGE: Final = str(Path(sys.modules["pika_balancer"].__file__ or "").parent)
FEW: Final = 6
"""With fewer rounds, measurements that take a minute are left out."""

Work = Callable[[int], None]
"""Runs an operation a given number of times."""


def pair(times: int, policy: str = "random") -> None:
    """Acquire and release at once, over ten accounts."""
    selector = Selector([Account(str(i), 6) for i in range(10)], rng=random.Random(1), policy=policy)
    for _ in range(times):
        lease = selector.try_acquire()
        if lease is not None:
            selector.release(lease)


def lease(times: int, timeout: float | None = None) -> None:
    """Enter and leave a lease of a free slot."""

    async def work() -> None:
        balancer = Balancer([Account("1", 5)])
        for _ in range(times):
            async with balancer.lease(timeout=timeout):
                pass

    asyncio.run(work())


def crowd(times: int) -> None:
    """Enter and leave leases from ten tasks that wait for one slot."""

    async def work() -> None:
        balancer = Balancer([Account("1", 1)])

        async def one() -> None:
            for _ in range(times // 10):
                async with balancer.lease():
                    await asyncio.sleep(0)

        await asyncio.gather(*(one() for _ in range(10)))

    asyncio.run(work())


def acquire(times: int) -> None:
    """Acquire and release, with leak detection."""

    async def work() -> None:
        balancer = Balancer([Account("1", 5)])
        for _ in range(times):
            await balancer.release(await balancer.acquire())

    asyncio.run(work())


HOT: Final[Mapping[str, Work]] = {
    "acquire + release": pair,
    "acquire + release, two_choices": lambda times: pair(times, "two_choices"),
    "acquire + release, least_loaded": lambda times: pair(times, "least_loaded"),
    "lease": lease,
    "lease with timeout": lambda times: lease(times, 30.0),
    "lease, 10 tasks on 1 slot": crowd,
    "Balancer.acquire + release": acquire,
}


def bytecodes(work: Work) -> int:
    """Return the average number of the package's bytecode instructions per operation."""
    return round((_executed(work, 300) - _executed(work, 100)) / 200)


def _executed(work: Work, times: int) -> int:
    executed = 0

    def inside(_frame: FrameType, event: str, _argument: Any) -> Any:
        nonlocal executed
        executed += event == "opcode"
        return inside

    def enter(frame: FrameType, _event: str, _argument: Any) -> Any:
        if not frame.f_code.co_filename.startswith(PACKAGE):
            return None
        frame.f_trace_opcodes = True
        return inside

    # Restore the tracer of a coverage measurement or debugger.
    before = sys.gettrace()
    sys.settrace(enter)
    try:
        work(times)
    finally:
        sys.settrace(before)
    return executed


def measured() -> dict[str, int]:
    """Return the bytecode instructions of each hot path."""
    return {name: bytecodes(work) for name, work in HOT.items()}


def recorded() -> dict[str, int] | None:
    """Return the baseline of this version of Python, None if there is none."""
    found: dict[str, dict[str, int]] = json.loads(BASELINE.read_text(encoding="utf-8"))
    return found.get(VERSION)


def complaints(now: Mapping[str, int], before: Mapping[str, int]) -> list[str]:
    """Return a sentence for every hot path that exceeds the baseline by more than is allowed."""
    return [
        f"{name} executes {now[name]} bytecode instructions, {now[name] / was - 1:.0%} more than the {was} "
        f"of the baseline; at most {ALLOWED:.0%} more pass. Make it cheaper, or record the new cost with "
        "`python -m benchmarks.instructions --record` and say in the commit what it buys."
        for name, was in before.items()
        if now[name] > was * (1 + ALLOWED)
    ]


MACHINE: Final[Mapping[str, str]] = {
    "floor": "benchmarks.selector floor(10, times)()",
    "acquire + release": "benchmarks.selector pair(10, times)()",
    "Semaphore": "benchmarks.lease uncontended(semaphore, times)()",
    "lease": "benchmarks.lease uncontended(lease, times)()",
}
"""Operations whose machine instructions are counted: module and expression."""


def machine(subject: str, times: int) -> int:
    """Return the machine instructions of a process that runs its operation `times` times."""
    module, _, call = MACHINE[subject].partition(" ")
    # Without the package's `__init__`, which would import aiohttp: twenty seconds under valgrind.
    script = (
        "import sys, types\n"
        "house = types.ModuleType('pika_balancer')\n"
        f"house.__path__ = [{PACKAGE!r}]\n"
        "sys.modules['pika_balancer'] = house\n"
        "from pika_balancer.models import Account, Lease\n"
        "from pika_balancer.selection.selector import Selector\n"
        "from pika_balancer.balancer.balancer import Balancer\n"
        "vars(house).update(Account=Account, Lease=Lease, Selector=Selector, Balancer=Balancer)\n"
        f"from {module} import *\n"
        f"times = {times}\n"
        f"{call}\n"
    )
    command = [
        "valgrind",
        "--tool=callgrind",
        f"--callgrind-out-file={os.devnull}",
        sys.executable,
        "-c",
        script,
    ]
    environment = os.environ | {"PYTHONHASHSEED": "0", "PYTHONPATH": str(BASELINE.parent.parent)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)  # noqa: S603 - our own literals
    found = re.search(r"Collected : (\d+)", done.stderr)
    if found is None:
        raise RuntimeError(f"valgrind printed no count: {done.stderr[-300:]!r}")
    return int(found[1])


def rows(rounds: int = ROUNDS) -> list[Row]:
    """Count and return the rows."""
    before = recorded() or {}
    found: list[Row] = []
    for name, now in measured().items():
        row = count("instructions", name, now, "bytecodes")
        if name in before:
            was = f"the baseline's {before[name]}"
            row = Row("instructions", name, now, 0.0, was, now / before[name], 1 + ALLOWED, unit="bytecodes")
        found.append(row)
    if shutil.which("valgrind") is None:
        return [*found, left_out("instructions", "machine instructions", "valgrind is not installed")]
    if rounds < FEW:
        return [*found, left_out("instructions", "machine instructions", f"they take {FEW} rounds or more")]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        ends = {name: [pool.submit(machine, name, times) for times in (1000, 3000)] for name in MACHINE}
        counts = {name: (high.result() - low.result()) / 2000 for name, (low, high) in ends.items()}
    machined = {name: f"{name}, machine" for name in MACHINE}
    floor = count("instructions", machined["floor"], counts["floor"], "instructions")
    alone = count("instructions", machined["Semaphore"], counts["Semaphore"], "instructions")
    ours = count(
        "instructions", machined["acquire + release"], counts["acquire + release"], "instructions", floor
    )
    held = count("instructions", machined["lease"], counts["lease"], "instructions", alone)
    return [*found, floor, ours, alone, held]


def main() -> int:
    """Compare with the baseline, or record it; return 1 if a hot path costs too much more than it did."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.instructions", description=__doc__)
    parser.add_argument("--record", action="store_true", help="write the baseline of this version of Python")
    args = parser.parse_args()
    now = measured()
    if args.record:
        kept: dict[str, Any] = json.loads(BASELINE.read_text(encoding="utf-8")) if BASELINE.exists() else {}
        BASELINE.write_text(
            json.dumps(kept | {VERSION: now}, indent=2, sort_keys=True) + "\n", encoding="utf-8"
        )
    before = recorded()
    if before is None:
        print(f"no baseline for Python {VERSION}; record one with --record")
        return 0
    for name, executed in now.items():
        print(f"{executed:6} {name} (baseline: {before.get(name, 'none')})")
    told = complaints(now, before)
    print(*told, sep="\n", file=sys.stderr)
    return 1 if told else 0


if __name__ == "__main__":
    sys.exit(main())
