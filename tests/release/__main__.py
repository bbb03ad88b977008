"""The command line of the release check."""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import tests.release
from tests.release import archives, environments, licences
from tests.release.findings import Findings, Workshop

STEPS: Final[dict[str, Callable[[Workshop], Findings]]] = {
    "build": archives.build,
    "again": archives.again,
    "contents": archives.contents,
    "metadata": environments.metadata,
    "licence": environments.licence,
    "bare": environments.bare,
    "sdist": environments.sdist,
    "licences": licences.licences,
    "audit": licences.audit,
    "extras": environments.extras,
    "pythons": environments.pythons,
}
PYTHONS: Final = ("python3.11", "python3.12", "python3.13", "python3.14")


def main() -> int:
    """Run the steps, report each, and return 1 unless all have passed."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.release",
        description=tests.release.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("steps", nargs="*", metavar="step", help=f"one of {', '.join(STEPS)} (default: all)")
    parser.add_argument(
        "--pythons", nargs="+", default=PYTHONS, help=f"interpreters to try (default: {' '.join(PYTHONS)})"
    )
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="work in this folder and leave it there")
    args = parser.parse_args()
    if unknown := [step for step in args.steps if step not in STEPS]:
        parser.error(f"no such step: {', '.join(unknown)}")
    with tempfile.TemporaryDirectory(prefix="release-") as scratch:
        folder = (args.keep or Path(scratch)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        shop = Workshop(folder, tuple(args.pythons))
        statuses = [report(name, shop) for name in STEPS if name in (args.steps or STEPS)]
    passed = statuses.count("passed")
    sys.stdout.write(f"\n{passed} of {len(statuses)} steps passed\n")
    return passed != len(statuses)


def report(name: str, shop: Workshop) -> str:
    """Run a step, print its findings, and return its status."""
    began = time.monotonic()
    try:
        found = STEPS[name](shop)
    except OSError as error:
        found = Findings(faults=[str(error)])
    sys.stdout.write(f"\n{name}: {found.status}, {time.monotonic() - began:.1f} s\n")
    for mark, lines in (("", found.facts), ("WRONG ", found.faults), ("OPEN ", found.open)):
        for line in lines:
            sys.stdout.write(f"  {mark}{line}\n")
    sys.stdout.flush()
    return found.status


if __name__ == "__main__":
    sys.exit(main())
