"""Admission: the documented balancing rule, caps that hold, and the counts."""

import asyncio
import random
from collections import Counter

import pytest

from pika_balancer.server.state import State
from tests.chi_square import p_value
from tests.depth import sized
from tests.server.conftest import FIRST, SECOND, STRANGER, THIRD, running
from tests.server.test_params import GOOD


@pytest.mark.deep
async def test_an_unnamed_job_goes_to_an_account_with_room_each_as_likely_whatever_its_cap() -> None:
    async with running("1,10,10", service="fixed:0s", rng=random.Random(7)) as rig:
        picked: Counter[str] = Counter()
        for _ in range(sized(300, 900)):
            picked[(await rig.submit()).body["channel"]] += 1
            await rig.clock.advance(0)
        assert rig.server.statistics().in_flight == 0
    assert p_value([picked[channel] for channel in (FIRST, SECOND, THIRD)], [sized(100.0, 300.0)] * 3) > 0.001


async def test_full_accounts_are_left_out_before_the_draw_so_no_slot_stays_free_in_vain() -> None:
    async with running("1,1,10") as rig:
        for _ in range(12):
            assert (await rig.submit()).status == 200
        full = await rig.submit()
        assert full.status == 429
        assert sorted(full.body["executingJobs"]) == sorted(await rig.executing())
        assert len(full.body["executingJobs"]) == 12
        statistics = rig.server.statistics()
    assert [seen.in_flight for seen in statistics.channels.values()] == [1, 1, 10]
    assert (statistics.attempts_when_full, statistics.submits, statistics.jobs) == (1, 13, 12)


async def test_the_same_seed_makes_the_same_choices() -> None:
    async def choices(seed: int) -> list[str]:
        async with running("10,10,10", service="exp:30s", rng=random.Random(seed)) as rig:
            return [(await rig.submit()).body["channel"] for _ in range(20)]

    assert await choices(3) == await choices(3) != await choices(4)


@pytest.mark.deep
async def test_concurrent_submits_never_go_above_a_cap() -> None:
    submits = sized(150, 500)
    async with running("6,6,4") as rig:
        answers = await asyncio.gather(
            *(
                rig.submit(**({"channel": (FIRST, SECOND, THIRD)[n % 3]} if n % 2 else {}))
                for n in range(submits)
            )
        )
        statistics = rig.server.statistics()
    assert Counter(answer.status for answer in answers) == {200: 16, 429: submits - 16}
    assert [seen.peak_in_flight for seen in statistics.channels.values()] == [6, 6, 4]
    assert statistics.attempts_when_full == submits - 16
    assert 0 < sum(seen.refused for seen in statistics.channels.values()) < submits - 16
    assert all(answer.body["executingJobs"] for answer in answers if answer.status == 429)


async def test_a_full_named_channel_tells_its_own_jobs_and_leaves_the_others_alone() -> None:
    async with running("2,1") as rig:
        first = [(await rig.submit(channel=FIRST)).body["jobid"] for _ in range(2)]
        second = (await rig.submit(channel=SECOND)).body["jobid"]
        full = await rig.submit(channel=FIRST)
        assert (full.status, full.body["executingJobs"]) == (429, first)
        assert await rig.executing() == [*first, second]
        assert rig.server.statistics().channels[FIRST].refused == 1
        assert rig.server.statistics().channels[SECOND].refused == 0


async def test_jobs_count_on_their_channel_whoever_submitted_them() -> None:
    async with running("2,1") as rig:
        mine = {"channel": FIRST, "discord": "a-token-of-my-own", "maxJobs": "2"}
        for _ in range(2):
            job = await rig.submit(**mine)
            assert (job.status, job.body["discord"], job.body["maxJobs"]) == (200, "a-t…own", 2)
        assert (await rig.submit(channel=FIRST)).status == 429
        assert (await rig.submit(**mine)).status == 429
        assert (await rig.submit()).body["channel"] == SECOND


async def test_an_ad_hoc_account_needs_no_configuration_and_has_the_cap_of_the_call() -> None:
    async with running(()) as rig:
        own = {"channel": STRANGER, "discord": "a-token-of-my-own"}
        assert (await rig.submit(channel=STRANGER)).status == 404
        assert (await rig.submit(**own, maxJobs="1")).body["maxJobs"] == 1
        assert (await rig.submit(**own, maxJobs="1")).status == 429
        assert (await rig.submit(**own)).body["maxJobs"] == 10
        seen = rig.server.statistics().channels[STRANGER]
        assert (seen.max_jobs, seen.jobs, seen.in_flight, seen.refused) == (None, 2, 2, 1)


async def test_empty_discord_and_channel_mean_absent() -> None:
    async with running("2,1") as rig:
        answer = await rig.submit(discord="", channel="", maxJobs="", replyUrl="", replyRef="")
        assert answer.status == 200
        assert answer.body.keys().isdisjoint({"replyUrl", "replyRef"})


async def test_unknown_channels_and_no_accounts_are_404_and_take_nothing() -> None:
    async with running("2,1") as rig:
        answer = await rig.submit(channel=STRANGER)
        assert (answer.status, answer.body) == (
            404,
            {"error": f"Channel {STRANGER} is not configured", "code": 404},
        )
        assert rig.server.statistics().jobs == 0
    async with running(()) as rig:
        answer = await rig.submit()
        assert (answer.status, answer.body) == (404, {"error": "No accounts are configured", "code": 404})


async def test_reply_refs_of_accepted_jobs_that_come_again_are_counted() -> None:
    async with running("2,1") as rig:
        statuses = [(await rig.submit(replyRef=ref)).status for ref in ("a", "b", "a", "a")]
        assert statuses == [200, 200, 200, 429]
        assert rig.server.statistics().duplicate_reply_refs == 1


def test_the_memory_for_reply_refs_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pika_balancer.server.state._REFS_REMEMBERED", 2)
    state = State({}, save=lambda _accounts: None)
    for number, ref in enumerate("abcab"):
        state.job_accepted(FIRST, str(number), ref)
    assert state.statistics().duplicate_reply_refs == 0
    state.job_accepted(FIRST, "5", "a")
    assert state.statistics().duplicate_reply_refs == 1


@pytest.mark.parametrize("verb", GOOD)
async def test_every_verb_takes_a_slot_of_the_same_cap(verb: str) -> None:
    async with running("1") as rig:
        assert (await rig.submit()).status == 200
        assert (await rig.submit(verb, GOOD[verb])).status == 429
