"""Cost of reading the account map, compared with `json.loads` of the same bytes, which checks nothing."""

import json
import time
from collections.abc import Callable

from benchmarks.measure import ROUNDS, Row, Subject, compare
from pika_balancer import Account
from pika_balancer.client.responses import read_accounts

AIMS = {100: 1.1, 10_000: 1.5}


def body(count: int, *, extra: bool = False) -> bytes:
    """Return an account map as the service sends it, with `extra` with an unknown field."""
    accounts = {
        str(10**17 + i): {
            "channel": str(10**17 + i),
            "discord": f"MTA{i:021d}.G{i:05d}.{i:038d}",
            "maxJobs": 1 + i % 10,
        }
        | ({"note": "x"} if extra else {})
        for i in range(count)
    }
    return json.dumps(accounts).encode()


def by_hand(data: bytes) -> dict[str, Account]:
    """Read the map by hand: the constructor checks types, and no code checks the keys."""
    return {key: Account(key, entry["maxJobs"], entry["discord"]) for key, entry in json.loads(data).items()}


def of(read: Callable[[bytes], object], data: bytes, count: int) -> Subject:
    """Return a round that reads 10,000 accounts in several maps; seconds per account."""
    turns = max(1, 10_000 // count)

    def run() -> float:
        begin = time.perf_counter()
        for _ in range(turns):
            read(data)
        return (time.perf_counter() - begin) / (turns * count)

    return run


def rows(rounds: int = ROUNDS) -> list[Row]:
    """Measure and return the rows."""
    found: list[Row] = []
    for count, aim in AIMS.items():
        data, odd = body(count), body(count, extra=True)
        plain, ours = f"json.loads, {count:,} accounts", f"read_accounts, {count:,} accounts"
        found += compare(
            "parse",
            {
                plain: of(json.loads, data, count),
                ours: of(read_accounts, data, count),
                f"{ours}, unknown field": of(read_accounts, odd, count),
                f"json.loads + Account(), {count:,} accounts": of(by_hand, data, count),
            },
            plain,
            rounds=rounds,
            aims={ours: aim},
        )
    return found
