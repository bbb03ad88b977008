"""What does `import pika_balancer` cost against the libraries that it stands on? Whole processes."""

import subprocess
import sys
import time

from benchmarks.measure import ROUNDS, Row, Subject, compare


def process(statement: str) -> Subject:
    """Return a round of one interpreter that runs the statement."""

    def run() -> float:
        begin = time.perf_counter()
        subprocess.run([sys.executable, "-c", statement], check=True)  # noqa: S603 - our own literals
        return time.perf_counter() - begin

    return run


def rows(rounds: int = ROUNDS) -> list[Row]:
    """Measure and return the rows."""
    return compare(
        "import",
        {name: process(name) for name in ("import aiohttp, cattrs", "import pika_balancer")},
        "import aiohttp, cattrs",
        rounds=rounds,
        aims={"import pika_balancer": 1.15},
    )
