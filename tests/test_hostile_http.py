"""A short run of `python -m tests.hostile_http`: hundreds of bad servers and bad clients."""

import asyncio
import itertools
import random
import tracemalloc
from collections.abc import Iterable, Iterator

import pytest

from tests import hostile_clients, hostile_server, raw_http, raw_json, raw_requests
from tests.hostile_clients import receiver, service
from tests.hostile_http import asked_by_chance, bodies, by_chance, report
from tests.hostile_server import CALLS, MAX_BODY, Stage, Tally, Trial, each
from tests.raw_json import SAMPLES

pytestmark = pytest.mark.no_cover  # by the hundred what other tests run once

SEED = 7
PEAK = 48 * MAX_BODY
"""Maximum memory for one answer in bytes, including the server's."""


def heavy(trial: Trial) -> bool:
    return bool(trial.bad.more) or "bomb" in trial.name


def some(trials: Iterable[Trial], share: int) -> Iterator[Trial]:
    """Yield every n-th case, another share on each call."""
    return itertools.islice(trials, SEED % share, None, share)


async def played(trials: Iterable[Trial]) -> Tally:
    tally = Tally()
    await hostile_server.attack(trials, tally, group="client")
    assert tally.escapes == [], report(tally)
    assert asyncio.all_tasks() == {asyncio.current_task()}
    return tally


async def test_a_submit_is_sent_once_and_ends_as_documented_whatever_the_answer() -> None:
    tally = await played(each(raw_http.broken(CALLS["create"].good), "create"))
    kinds = {kind for _, kind in tally.outcomes}
    assert kinds >= {"value", "InvalidResponse", "ConnectionLost", "RequestTimeout", "UnexpectedStatus"}


@pytest.mark.parametrize("call", ["accounts", "job", "jobs", "put_account", "animate"])
async def test_the_other_calls_end_as_documented_whatever_the_answer(call: str) -> None:
    trials = [trial for trial in each(raw_http.broken(CALLS[call].good), call) if not heavy(trial)]
    await played(some(trials, 4))


async def test_an_answer_may_be_cut_anywhere() -> None:
    await played(some(each(raw_http.cuts(CALLS["create"].good), "create", "accounts"), 4))


async def test_a_body_may_be_broken_anywhere() -> None:
    def all_of(name: str, call: str) -> Iterator[Trial]:
        made = itertools.chain(raw_json.mutants(SAMPLES[name]), raw_json.wholes(SAMPLES[name]))
        return bodies(name, made, call)

    await played(
        itertools.chain(
            some(all_of("job-200-started", "create"), 9),
            some(all_of("accounts-200", "accounts"), 9),
            some(all_of("jobs-200", "jobs"), 5),
            some(all_of("error-429-full", "create"), 17),
        )
    )


async def test_random_answers_end_as_documented() -> None:
    await played(by_chance(random.Random(SEED), 200))


async def test_no_answer_takes_much_memory() -> None:
    trials = [trial for trial in each(raw_http.broken(CALLS["jobs"].good), "jobs") if heavy(trial)]
    trials = [trial for trial in trials if not trial.bad.drip]
    assert len(trials) > 20
    async with Stage() as stage:
        for trial in trials:
            tracemalloc.start()
            outcome = await stage.play(trial)
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
            assert outcome.complaints == []
            assert peak < PEAK, f"{trial.name}: {peak}"


@pytest.mark.parametrize("of", [receiver, service])
async def test_every_request_is_answered_and_the_next_one_is_served(of: object) -> None:
    tally = Tally()
    async with (receiver if of is receiver else service)() as victim:
        for share, (group, ask) in zip((3, 13, 13, 13), victim.asks.items(), strict=False):
            named = itertools.islice(raw_requests.broken(ask), SEED % share, None, share)
            chance = asked_by_chance(random.Random(SEED), ask, 30)
            await hostile_clients.attack(victim, itertools.chain(named, chance), tally, group=group)
    assert tally.escapes == [], report(tally)
    assert asyncio.all_tasks() == {asyncio.current_task()}
