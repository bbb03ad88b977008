"""A short run of `python -m tests.hostile_http`: hundreds of malformed answers and requests."""

import asyncio
import itertools
import random
import tracemalloc
from collections.abc import Iterable, Iterator

import pytest

from tests.depth import sized
from tests.hostile_http import answers, clients, json_bodies, requests, servers
from tests.hostile_http.__main__ import asked_by_chance, bodies, by_chance, report
from tests.hostile_http.clients import receiver, service
from tests.hostile_http.json_bodies import SAMPLES
from tests.hostile_http.servers import CALLS, MAX_BODY, Stage, Tally, Trial, each

pytestmark = [pytest.mark.no_cover, pytest.mark.deep]  # hundreds of repetitions of what other tests run once

SEED = 7
PEAK = 48 * MAX_BODY
"""Most bytes in use at once for one answer, including those of the server."""


def heavy(trial: Trial) -> bool:
    return bool(trial.bad.more) or "bomb" in trial.name


def some(trials: Iterable[Trial], share: int) -> Iterator[Trial]:
    """Yield every `share`-th trial."""
    return itertools.islice(trials, SEED % share, None, share)


async def played(trials: Iterable[Trial]) -> Tally:
    tally = Tally()
    await servers.attack(trials, tally, group="client")
    assert tally.escapes == [], report(tally)
    assert asyncio.all_tasks() == {asyncio.current_task()}
    return tally


async def test_submit_with_a_malformed_answer_is_sent_once_and_ends_as_promised() -> None:
    tally = await played(some(each(answers.broken(CALLS["create"].good), "create"), sized(2, 1)))
    kinds = {kind for _, kind in tally.outcomes}
    assert kinds >= {"value", "InvalidResponse", "ConnectionLost", "RequestTimeout", "UnexpectedStatus"}


@pytest.mark.parametrize("call", ["accounts", "job", "jobs", "put_account", "animate"])
async def test_other_calls_with_malformed_answers_end_as_promised(call: str) -> None:
    trials = [trial for trial in each(answers.broken(CALLS[call].good), call) if not heavy(trial)]
    await played(some(trials, sized(9, 4)))


async def test_answer_may_be_cut_anywhere() -> None:
    await played(some(each(answers.cuts(CALLS["create"].good), "create", "accounts"), sized(11, 4)))


async def test_body_may_be_malformed_anywhere() -> None:
    def all_of(name: str, call: str) -> Iterator[Trial]:
        made = itertools.chain(json_bodies.mutants(SAMPLES[name]), json_bodies.wholes(SAMPLES[name]))
        return bodies(name, made, call)

    await played(
        itertools.chain(
            some(all_of("job-200-started", "create"), sized(29, 9)),
            some(all_of("accounts-200", "accounts"), sized(29, 9)),
            some(all_of("jobs-200", "jobs"), sized(17, 5)),
            some(all_of("error-429-full", "create"), sized(53, 17)),
        )
    )


async def test_random_answers_end_as_promised() -> None:
    await played(by_chance(random.Random(SEED), sized(60, 200)))


async def test_no_answer_takes_much_memory() -> None:
    trials = [trial for trial in each(answers.broken(CALLS["jobs"].good), "jobs") if heavy(trial)]
    trials = [trial for trial in trials if not trial.bad.drip]
    assert len(trials) > 20
    async with Stage() as stage:
        for trial in some(trials, sized(2, 1)):
            tracemalloc.start()
            outcome = await stage.play(trial)
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
            assert outcome.complaints == []
            assert peak < PEAK, f"{trial.name}: {peak}"


@pytest.mark.parametrize("of", [receiver, service])
async def test_malformed_request_is_answered_and_the_next_one_is_served(of: object) -> None:
    tally = Tally()
    shares = sized((9, 37, 37, 37), (3, 13, 13, 13))
    async with (receiver if of is receiver else service)() as victim:
        for share, (group, ask) in zip(shares, victim.asks.items(), strict=False):
            named = itertools.islice(requests.broken(ask), SEED % share, None, share)
            chance = asked_by_chance(random.Random(SEED), ask, sized(10, 30))
            await clients.attack(victim, itertools.chain(named, chance), tally, group=group)
    assert tally.escapes == [], report(tally)
    assert asyncio.all_tasks() == {asyncio.current_task()}
