"""Run every question, or those named, and print one table: `python -m benchmarks [QUESTION ...]`."""

import argparse
import datetime as dt
import importlib
import platform
import sys

from benchmarks.measure import Row, table

QUESTIONS = {
    "selector": "selector",
    "lease": "lease",
    "parse": "parse",
    "import": "imports",
    "dispatch": "dispatch",
    "store": "store",
    "simulate": "simulate",
}


def main() -> int:
    """Measure what was asked for; return 0, since a slow machine is no failure."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("questions", nargs="*", metavar="QUESTION", help=f"of {', '.join(QUESTIONS)}")
    parser.add_argument("--rounds", type=int, default=15, help="rounds of each measurement (default: 15)")
    args = parser.parse_args()
    asked = args.questions or list(QUESTIONS)
    if unknown := set(asked) - set(QUESTIONS):
        parser.error(f"no such question: {', '.join(sorted(unknown))}; take of {', '.join(QUESTIONS)}")
    if args.rounds < 2:
        parser.error("--rounds must be at least 2, to tell a spread")
    rows: list[Row] = []
    for question in asked:
        print(f"measuring {question} …", file=sys.stderr)
        rows += importlib.import_module(f"benchmarks.{QUESTIONS[question]}").rows(args.rounds)
    today = dt.datetime.now(tz=dt.UTC).date()
    print(f"Python {platform.python_version()}, {platform.system()} {platform.machine()}, {today}\n")
    print(table(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
