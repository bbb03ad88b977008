"""Tries malformed HTTP on client and servers: all named cases, then random ones for the rest of the time.

`python -m tests.hostile_http --seconds 300 --seed 7` prints the number of cases, the outcomes, and the
failures: a foreign error, a hang, a token that is shown, or an unsolicited answer that is accepted.
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

from tests.hostile_http import answers, clients, json_bodies, requests, servers
from tests.hostile_http.answers import Bad, answer
from tests.hostile_http.clients import receiver, service
from tests.hostile_http.json_bodies import SAMPLES
from tests.hostile_http.servers import CALLS, Tally, Trial, each

TURN: Final = 400
"""Random cases for one set of servers before the next set."""
_SHOWN: Final = 40
_FITTING: Final = {
    "account": "put_account",
    "accounts": "accounts",
    "job": "job",
    "jobs": "jobs",
    "error": "create",
}


def bodies(name: str, made: Iterable[tuple[str, bytes]], *calls: str) -> Iterator[Trial]:
    """Yield trials of bodies in well-formed answers with the status of the sample."""
    status = b"HTTP/1.1 %s X" % name.split("-")[1].encode()
    for what, body in made:
        for call in calls:
            yield Trial(f"{name}: {what}", Bad(answer(body, status=status)), call)


def named() -> Iterator[tuple[str, Iterable[Trial]]]:
    """Yield all named trials of the client, by group."""
    for call, made in CALLS.items():
        yield f"client, answers to {call}", each(answers.broken(made.good), call)
    for call in ("create", "accounts", "job", "jobs"):
        yield f"client, cut answers to {call}", each(answers.cuts(CALLS[call].good), call)
    for name, sample in SAMPLES.items():
        calls = {_FITTING[name.split("-", maxsplit=1)[0]], "create", "accounts"}
        yield f"client, bodies like {name}", bodies(name, json_bodies.mutants(sample), *sorted(calls))
        yield f"client, bodies like {name}", bodies(name, json_bodies.wholes(sample), *sorted(calls))


def by_chance(rng: random.Random, count: int) -> Iterator[Trial]:
    """Yield random trials of the client; the name of each has the seed that reproduces it."""
    for _ in range(count):
        seed = rng.getrandbits(32)
        chance = random.Random(seed)
        call = chance.choice(list(CALLS))
        if chance.random() < 0.7:
            bad = answers.by_chance(chance, CALLS[call].good)
        else:
            name = chance.choice(list(SAMPLES))
            status = b"HTTP/1.1 %s X" % name.split("-")[1].encode()
            bad = Bad(answer(json_bodies.by_chance(chance, SAMPLES[name]), status=status))
        yield Trial(f"seed {seed}", bad, call)


def asked_by_chance(rng: random.Random, ask: requests.Ask, count: int) -> Iterator[tuple[str, requests.Raw]]:
    """Yield random variants of a good request; the name of each has the seed that reproduces it."""
    for _ in range(count):
        seed = rng.getrandbits(32)
        yield f"seed {seed}", requests.by_chance(random.Random(seed), ask)


async def attack(tally: Tally, *, seconds: float, seed: int) -> None:
    """Try the named cases, then random ones until the time is over."""
    until = time.monotonic() + seconds
    rng = random.Random(seed)
    for group, trials in named():
        if time.monotonic() < until:
            await servers.attack(trials, tally, group=group)
    for victim_of in (receiver, service):
        async with victim_of() as victim:
            for group, ask in victim.asks.items():
                if time.monotonic() < until:
                    await clients.attack(victim, requests.broken(ask), tally, group=f"server, {group}")
    memory = 0
    while time.monotonic() < until:
        await servers.attack(by_chance(rng, TURN), tally, group="client, by chance")
        for victim_of in (receiver, service):
            async with victim_of() as victim:
                for group, ask in victim.asks.items():
                    cases = asked_by_chance(rng, ask, TURN // 4)
                    await clients.attack(victim, cases, tally, group=f"server, {group} by chance")
        gc.collect()
        memory = memory or _memory()
    if memory:
        grown = (_memory() - memory) / 2**20
        sys.stdout.write(f"memory after the first turn {memory / 2**20:.0f} MB, since then {grown:+.1f} MB\n")


def _memory() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def report(tally: Tally) -> str:
    """Return a table of the outcomes by group, and the failures below it."""
    lines: list[str] = []
    for group in sorted({group for group, _ in tally.outcomes}):
        ends = {kind: count for (each, kind), count in sorted(tally.outcomes.items()) if each == group}
        told = ", ".join(f"{kind} {count}" for kind, count in ends.items())
        lines.append(f"{group:45} {sum(ends.values()):7}  {told}")
    lines.append(f"{tally.tried} cases tried, {len(tally.escapes)} escapes")
    lines += tally.escapes[:_SHOWN]
    return "\n".join(lines)


def main() -> int:
    """Run the attack, print the report, and return 1 if anything failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.hostile_http", description=__doc__)
    parser.add_argument("--seconds", type=float, default=300.0, help="how long to run")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    args = parser.parse_args()
    sys.stdout.write(f"seed {args.seed}\n")
    tally = Tally()
    asyncio.run(attack(tally, seconds=args.seconds, seed=args.seed))
    sys.stdout.buffer.write((report(tally) + "\n").encode("ascii", "backslashreplace"))
    return bool(tally.escapes)


if __name__ == "__main__":
    sys.exit(main())
