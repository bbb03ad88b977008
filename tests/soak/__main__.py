"""The command line of the soak."""

import argparse
import asyncio
import json
import random
import sys
from typing import get_args

import tests.soak
from tests.soak.report import document, table
from tests.soak.whole import Mode, soak


def main() -> int:
    """Run a soak as the command line says, print its report, and return 1 if there are complaints."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.soak",
        description=tests.soak.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--jobs", type=int, default=10_000, help="jobs to have accepted (default: 10000)")
    parser.add_argument("--minutes", type=float, help="go on for so long, whatever the number of jobs")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    parser.add_argument(
        "--mode", choices=get_args(Mode), default="shared", help="what workers have in common"
    )
    parser.add_argument(
        "--speed", type=float, default=800.0, help="service time over wall time (default: 800)"
    )
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    args = vars(parser.parse_args())
    as_json = args.pop("json")
    sys.stderr.write(f"seed {args['seed']}\n")
    whole = asyncio.run(soak(**args))
    facts = document(whole)
    sys.stdout.write((json.dumps(facts, indent=2) if as_json else table(facts)) + "\n")
    return bool(whole.complaints)


if __name__ == "__main__":
    sys.exit(main())
