"""Compares the selector with LiteLLM's Router: time per pick, and picks of full accounts.

The Router's public coroutine returns a deployment; nothing is sent. `simple-shuffle` counts nothing;
`least-busy` gets the begin and end of each call through LiteLLM's own callbacks.
"""

import asyncio
import os
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any, Final

import attrs

from benchmarks.measure import ROUNDS, Row, Subject, compare, left_out, peer
from pika_balancer import Account, Selector

SIZES: Final = {10: 100, 100: 20, 1000: 3, 10_000: 1}
"""LiteLLM's picks in a round, by the number of accounts: one among 10,000 takes a second."""
STRATEGIES: Final = ("simple-shuffle", "least-busy")
FEW: Final = 6
"""With fewer rounds the large sizes are left out; the largest never gets more."""
MISSING: Final = "litellm is not installed; pip install 'pika-balancer[bench]'"

ACCOUNTS: Final = 10
CAP: Final = 6
BUSY: Final = 54
"""Slots of 60 that are taken before each counted pick."""
PICKS: Final = 2000

Pick = Callable[[], Awaitable[Any]]


def router(accounts: int, strategy: str) -> Any | None:
    """Return a router over `accounts` deployments; None if LiteLLM is not installed."""
    # Without this it downloads a list of prices at import.
    os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
    module = peer("litellm")
    if module is None:
        return None
    deployments = [
        {
            "model_name": "pika",
            "litellm_params": {"model": "openai/pika", "api_key": "none", "max_parallel_requests": CAP},
            "model_info": {"id": str(i)},
        }
        for i in range(accounts)
    ]
    return module.Router(model_list=deployments, routing_strategy=strategy)


def pick(router: Any) -> Pick:
    """Return a call that picks a deployment."""
    return lambda: router.async_get_available_deployment(model="pika", request_kwargs={})


def ours(accounts: int) -> Pick:
    """Return an acquire and release in a coroutine, as LiteLLM's pick is one."""
    selector = Selector([Account(str(i), CAP) for i in range(accounts)], rng=random.Random(1))

    async def pair() -> None:
        lease = selector.try_acquire()
        if lease is not None:
            selector.release(lease)

    return pair


def of(runner: asyncio.Runner, work: Pick, turns: int) -> Subject:
    """Return a round of picks, one after the other; seconds per pick."""

    async def picks() -> float:
        begin = time.perf_counter()
        for _ in range(turns):
            await work()
        return (time.perf_counter() - begin) / turns

    return lambda: runner.run(picks())


def rows(rounds: int = ROUNDS) -> list[Row]:
    """Measure and return the rows."""
    if router(1, STRATEGIES[0]) is None:
        return [left_out("selector", "LiteLLM Router", MISSING)]
    with asyncio.Runner() as runner:
        return [row for size in SIZES for row in at(runner, size, rounds)]


def at(runner: asyncio.Runner, size: int, rounds: int) -> list[Row]:
    """Measure `size` accounts; the ratio is LiteLLM's time divided by ours."""
    if size >= 1000 and rounds < FEW:
        why = f"making its Router takes a minute; ask for {FEW} rounds or more"
        return [left_out("selector", f"LiteLLM Router, {size:,} accounts", why)]
    mine = f"acquire + release in a coroutine, {size:,} accounts"
    subjects = {mine: of(runner, ours(size), 5000)}
    for strategy in STRATEGIES:
        name = f"LiteLLM {strategy}, pick alone, {size:,} accounts"
        subjects[name] = of(runner, pick(router(size, strategy)), SIZES[size])
    few = size == max(SIZES) and rounds > FEW
    found = compare("selector", subjects, mine, rounds=FEW if few else rounds)
    return [attrs.evolve(row, note=f"{FEW} rounds") for row in found] if few else found


def full_picks() -> dict[str, int]:
    """Return how many picks each strategy sends to a full deployment, with a few slots free each time."""
    found: dict[str, int] = {}
    for strategy in STRATEGIES:
        made = router(ACCOUNTS, strategy)
        if made is not None:
            found[f"LiteLLM {strategy}"] = asyncio.run(_full(made, strategy))
    return found


async def _full(router: Any, strategy: str) -> int:
    random.seed(1)  # used by LiteLLM
    chance, busy, running = random.Random(2), Counter[str](), list[str]()
    told = router.leastbusy_logger if strategy == "least-busy" else None
    ask, sent = pick(router), 0
    for _ in range(PICKS):
        while len(running) >= BUSY:
            ended = running.pop(chance.randrange(len(running)))
            busy[ended] -= 1
            if told is not None:
                await told.async_log_success_event(_call(ended), None, None, None)
        chosen = (await ask())["model_info"]["id"]
        if busy[chosen] >= CAP:
            sent += 1  # refused by the service, so it never runs
            continue
        busy[chosen] += 1
        running.append(chosen)
        if told is not None:
            told.log_pre_api_call("openai/pika", [], _call(chosen))
    return sent


def _call(deployment: str) -> dict[str, Any]:
    return {"litellm_params": {"metadata": {"model_group": "pika"}, "model_info": {"id": deployment}}}
