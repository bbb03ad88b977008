"""Endless bad input: servers and clients that break HTTP, first the named cases, then random ones.

`python -m tests.hostile_http --seconds 300 --seed 7` prints the number of cases, their outcomes and the
failures: an error of another library, a hang, a token that shows, an answer accepted without a request.
"""

import argparse
import asyncio
import gc
import os
import random
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from tests import hostile_clients, hostile_server, raw_http, raw_json, raw_requests
from tests.hostile_clients import receiver, service
from tests.hostile_server import CALLS, Tally, Trial, each
from tests.raw_http import Bad, answer
from tests.raw_json import SAMPLES

TURN: Final = 400
"""Random cases per set of servers."""
_SHOWN: Final = 40
_FITTING: Final = {
    "account": "put_account",
    "accounts": "accounts",
    "job": "job",
    "jobs": "jobs",
    "error": "create",
}


def bodies(name: str, made: Iterable[tuple[str, bytes]], *calls: str) -> Iterator[Trial]:
    """Yield trials with bad bodies in otherwise good answers, with the status of the sample."""
    status = b"HTTP/1.1 %s X" % name.split("-")[1].encode()
    for what, body in made:
        for call in calls:
            yield Trial(f"{name}: {what}", Bad(answer(body, status=status)), call)


def named() -> Iterator[tuple[str, Iterable[Trial]]]:
    """Yield all named trials of the client, by group."""
    for call, made in CALLS.items():
        yield f"client, answers to {call}", each(raw_http.broken(made.good), call)
    for call in ("create", "accounts", "job", "jobs"):
        yield f"client, cut answers to {call}", each(raw_http.cuts(CALLS[call].good), call)
    for name, sample in SAMPLES.items():
        calls = {_FITTING[name.split("-", maxsplit=1)[0]], "create", "accounts"}
        yield f"client, bodies like {name}", bodies(name, raw_json.mutants(sample), *sorted(calls))
        yield f"client, bodies like {name}", bodies(name, raw_json.wholes(sample), *sorted(calls))


def by_chance(rng: random.Random, count: int) -> Iterator[Trial]:
    """Yield random trials of the client; each has its own seed."""
    for _ in range(count):
        seed = rng.getrandbits(32)
        chance = random.Random(seed)
        call = chance.choice(list(CALLS))
        if chance.random() < 0.7:
            bad = raw_http.by_chance(chance, CALLS[call].good)
        else:
            name = chance.choice(list(SAMPLES))
            status = b"HTTP/1.1 %s X" % name.split("-")[1].encode()
            bad = Bad(answer(raw_json.by_chance(chance, SAMPLES[name]), status=status))
        yield Trial(f"seed {seed}", bad, call)


def asked_by_chance(
    rng: random.Random, ask: raw_requests.Ask, count: int
) -> Iterator[tuple[str, raw_requests.Raw]]:
    """Yield random requests similar to a good one; each has its own seed."""
    for _ in range(count):
        seed = rng.getrandbits(32)
        yield f"seed {seed}", raw_requests.by_chance(random.Random(seed), ask)


async def attack(tally: Tally, *, seconds: float, seed: int) -> None:
    """Run the named cases, then random ones until the time is up."""
    until = time.monotonic() + seconds
    rng = random.Random(seed)
    for group, trials in named():
        if time.monotonic() < until:
            await hostile_server.attack(trials, tally, group=group)
    for victim_of in (receiver, service):
        async with victim_of() as victim:
            for group, ask in victim.asks.items():
                if time.monotonic() < until:
                    requests = raw_requests.broken(ask)
                    await hostile_clients.attack(victim, requests, tally, group=f"server, {group}")
    memory = 0
    while time.monotonic() < until:
        await hostile_server.attack(by_chance(rng, TURN), tally, group="client, by chance")
        for victim_of in (receiver, service):
            async with victim_of() as victim:
                for group, ask in victim.asks.items():
                    requests = asked_by_chance(rng, ask, TURN // 4)
                    await hostile_clients.attack(victim, requests, tally, group=f"server, {group} by chance")
        gc.collect()
        memory = memory or _memory()
    if memory:
        grown = (_memory() - memory) / 2**20
        sys.stdout.write(f"memory after the first turn {memory / 2**20:.0f} MB, since then {grown:+.1f} MB\n")


def _memory() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def report(tally: Tally) -> str:
    """Return a table of the groups and their outcomes, followed by the failures."""
    lines: list[str] = []
    for group in sorted({group for group, _ in tally.outcomes}):
        ends = {kind: count for (each, kind), count in sorted(tally.outcomes.items()) if each == group}
        told = ", ".join(f"{kind} {count}" for kind, count in ends.items())
        lines.append(f"{group:45} {sum(ends.values()):7}  {told}")
    lines.append(f"{tally.tried} cases tried, {len(tally.escapes)} escapes")
    lines += tally.escapes[:_SHOWN]
    return "\n".join(lines)


def main() -> int:
    """Run the command line, print the outcomes, and return 1 if anything failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.hostile_http", description=__doc__)
    parser.add_argument("--seconds", type=float, default=300.0, help="how long to go on")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    args = parser.parse_args()
    sys.stdout.write(f"seed {args.seed}\n")
    tally = Tally()
    asyncio.run(attack(tally, seconds=args.seconds, seed=args.seed))
    sys.stdout.buffer.write((report(tally) + "\n").encode("ascii", "backslashreplace"))
    return bool(tally.escapes)


if __name__ == "__main__":
    sys.exit(main())
