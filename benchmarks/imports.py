"""What does `import pika_balancer` cost against the libraries that it stands on? Whole processes.

Alone it brings the selector, the values and the errors; what needs those libraries comes with its first name.
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
