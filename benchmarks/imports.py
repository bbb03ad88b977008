"""Cost of `import pika_balancer`, compared with the libraries that it needs; whole processes.

The import alone loads the selector, the values and the errors; the rest is loaded on first use.
"""

import subprocess
import sys
import time
from typing import Final

from benchmarks.measure import ROUNDS, Row, Subject, compare

AIM: Final = 1.15


def process(statement: str) -> Subject:
    """Return a round of one interpreter that runs the statement."""

    def run() -> float:
        begin = time.perf_counter()
        subprocess.run([sys.executable, "-c", statement], check=True)  # noqa: S603 - our own literals
        return time.perf_counter() - begin

    return run


def rows(rounds: int = ROUNDS) -> list[Row]:
    """Measure and return the rows."""
    base, alone = "import aiohttp, msgspec", "import pika_balancer"
    whole = "from pika_balancer import Balancer, PikaClient"
    statements = (base, alone, whole)
    aims = {alone: AIM, whole: AIM}
    return compare("import", {name: process(name) for name in statements}, base, rounds=rounds, aims=aims)
