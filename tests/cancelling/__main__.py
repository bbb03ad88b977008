"""`python -W error -m tests.cancelling [NAME …]`: run the scenarios, and print how often each struck."""

import argparse
import asyncio
import sys
import time
import traceback
from collections import Counter

from tests.cancelling import SCENARIOS
from tests.cancelling.cancel_point import HOWS, How, at_every_await, every_way
from tests.redis_servers import running


def main(wanted: list[str]) -> int:
    """Run what is wanted, or everything; return how many scenarios failed."""
    scenarios = {scenario: None for registered in SCENARIOS.values() for scenario in registered}
    total: Counter[How] = Counter()
    failures = 0
    print(f"{'':40}", *(f"{how:>10}" for how in HOWS))
    with running() as servers:
        for scenario in scenarios:
            name = scenario.__name__
            if wanted and not any(part in name for part in wanted):
                continue
            began = time.process_time()
            try:
                struck = asyncio.run(at_every_await(scenario, servers["valkey"], every_way(HOWS)))
            except Exception as error:  # noqa: BLE001 - the others are still to be seen
                failures += 1
                traceback.print_exception(error, chain=False)
                print(f"{name:40} FAILED")
                continue
            total += struck
            took = time.process_time() - began
            print(f"{name:40}", *(f"{struck[how]:>10}" for how in HOWS), f"{took:6.2f} s")
    seen = f"{len(SCENARIOS)} coroutines, {len(scenarios)} scenarios"
    print(f"{seen}, {total.total()} cancellations, {failures} failures")
    return failures


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.cancelling", description=__doc__)
    parser.add_argument("name", nargs="*", help="only scenarios with this in their name")
    sys.exit(bool(main(parser.parse_args().name)))
