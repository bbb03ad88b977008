"""Cost of a pick, compared with a lower bound and with naive code.

The lower bound, `floor`, is one `random.choice`, two writes to a list and one small object: a pick without
checks. The naive filter lists the accounts with capacity at each pick.
"""

import random
import time

from benchmarks import litellm
from benchmarks.measure import ROUNDS, Row, Subject, compare, count
from pika_balancer import Account, Lease, Selector

SIZES = (10, 100, 1000, 10_000)


class _Token:
    __slots__ = ("channel", "number")

    def __init__(self, channel: int, number: int) -> None:
        self.channel = channel
        self.number = number


def floor(accounts: int, pairs: int) -> Subject:
    """Return a round of the floor."""
    channels, busy, choice = list(range(accounts)), [0] * accounts, random.Random(1).choice

    def run() -> float:
        begin = time.perf_counter()
        for number in range(pairs):
            channel = choice(channels)
            busy[channel] += 1
            token = _Token(channel, number)
            busy[token.channel] -= 1
        return (time.perf_counter() - begin) / pairs

    return run


def naive(accounts: int, pairs: int) -> Subject:
    """Return a round of filter-then-choose."""
    caps, busy, choice = [6] * accounts, [0] * accounts, random.Random(1).choice

    def run() -> float:
        begin = time.perf_counter()
        for number in range(pairs):
            channel = choice([i for i in range(accounts) if busy[i] < caps[i]])
            busy[channel] += 1
            token = _Token(channel, number)
            busy[token.channel] -= 1
        return (time.perf_counter() - begin) / pairs

    return run


def pair(accounts: int, pairs: int, policy: str = "random") -> Subject:
    """Return a round of acquire and release."""
    selector = Selector([Account(str(i), 6) for i in range(accounts)], rng=random.Random(1), policy=policy)
    acquire, release = selector.try_acquire, selector.release

    def run() -> float:
        begin = time.perf_counter()
        for _ in range(pairs):
            lease = acquire()
            if lease is not None:
                release(lease)
        return (time.perf_counter() - begin) / pairs

    return run


def rows(rounds: int = ROUNDS) -> list[Row]:
    """Measure and return the rows."""
    pairs = 50_000
    against_floor = compare(
        "selector",
        {"floor": floor(10, pairs), **{f"acquire + release, {n:,} accounts": pair(n, pairs) for n in SIZES}},
        "floor",
        rounds=rounds,
        aims={f"acquire + release, {n:,} accounts": 1.7 for n in SIZES},
    )
    flat = compare(
        "selector",
        {f"acquire + release, {n:,} accounts": pair(n, pairs) for n in SIZES},
        "acquire + release, 10 accounts",
        rounds=rounds,
        aims={f"acquire + release, {n:,} accounts": 1.15 for n in SIZES[1:]},
    )[1:]
    against_naive = [
        row
        for n in SIZES[:3]
        for row in compare(
            "selector",
            {
                f"naive filter, {n:,} accounts": naive(n, 100_000 // n),
                f"acquire + release, {n:,} accounts": pair(n, pairs),
            },
            f"naive filter, {n:,} accounts",
            rounds=rounds,
        )
    ]
    rules = compare(
        "selector",
        {
            f"{name}, 10 accounts": pair(10, 10_000, name)
            for name in ("random", "two_choices", "round_robin", "least_loaded", "weighted")
        },
        "random, 10 accounts",
        rounds=rounds,
    )
    return [
        *against_floor,
        *flat,
        *against_naive,
        *rules,
        *litellm.rows(rounds),
        *misses(litellm.full_picks()),
    ]


def misses(peers: dict[str, int]) -> list[Row]:
    """Return for each balancer the number of picks of an account that is full."""
    return [
        count("selector", f"{name}: picks sent to a full account, of {litellm.PICKS:,}", sent, "picks")
        for name, sent in ({"Selector": full_picks()} | peers).items()
    ]


def full_picks() -> int:
    """Return how often the selector picks a full account while few slots are free."""
    accounts = [Account(str(i), litellm.CAP) for i in range(litellm.ACCOUNTS)]
    selector = Selector(accounts, rng=random.Random(1))
    leases: list[Lease] = []
    sent, chance = 0, random.Random(2)
    for _ in range(litellm.PICKS):
        while len(leases) >= litellm.BUSY:
            selector.release(leases.pop(chance.randrange(len(leases))))
        before = {state.channel: state.in_flight for state in selector.snapshot().accounts}
        lease = selector.try_acquire()
        if lease is None:
            raise RuntimeError("a slot is free, and the selector found none")
        sent += before[lease.channel] >= litellm.CAP
        leases.append(lease)
    return sent
