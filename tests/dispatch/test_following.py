"""What is told of a job that is in care already: whose it is, where it is counted, when it is lost."""

import attrs
import pytest

from pika_balancer import Closed, Job, NotFound, SubmissionUnknown
from pika_balancer.models import Lease
from pika_balancer.testing import settle
from tests.dispatch.conftest import ONE, World, begin

RECORD = {"version": 1, "verb": "create", "channel": ONE}


async def test_a_claim_tells_whether_the_job_is_ours(world: World) -> None:
    async with begin(world, 1) as dispatcher:
        handle = await dispatcher.submit("create", prompt="a cat")
        claim = dispatcher._following.claim
        ours = Job("job:1", status="started", channel=ONE, reply_ref=handle.reply_ref)
        assert await claim(ours) is True
        assert await claim(attrs.evolve(ours, jobid="job:2")) is False
        assert await claim(Job("job:3", channel=ONE)) is False


async def test_a_job_that_is_regained_without_a_word_of_what_it_makes_is_a_create(world: World) -> None:
    mine = world.service.take(ONE, "w.1")
    del world.service.jobs[mine]["verb"]
    async with begin(world, 2, name="w") as dispatcher:
        [handle] = dispatcher.handles
        assert (handle.jobid, handle.verb) == (mine, "create")


async def test_a_job_that_was_taken_over_is_known_by_its_record_and_handed_on_in_its_turn(
    world: World,
) -> None:
    jobid = world.service.take(ONE, "first")
    records = [
        RECORD | {"reply_ref": "first", "jobid": jobid, "status": "created"},
        RECORD | {"reply_ref": "second", "jobid": None, "status": "unknown"},
    ]
    async with begin(world, 2, reconcile=False) as dispatcher:
        handles = await dispatcher.resume(records)
        told = Job(jobid, channel=ONE, reply_ref="first")
        assert [(handle.channel, handle.job) for handle in handles] == [(ONE, told), (ONE, None)]
        assert await dispatcher.drain(0) == records
        for handle in handles:
            with pytest.raises(Closed):
                await handle
        assert world.in_flight() == 2


async def test_a_job_that_was_taken_over_is_never_sent_again_even_where_that_is_allowed(
    world: World,
) -> None:
    async with begin(world, 1, poll_every=1.0, search_for=5.0, resubmit_after=2.0) as dispatcher:
        [handle] = await dispatcher.resume([RECORD | {"reply_ref": "mine", "jobid": None}])
        await world.pass_time(20, lambda: handle.done)
        with pytest.raises(SubmissionUnknown):
            await handle
        assert (world.service.posts, world.told("Refused"), world.in_flight()) == ([], [], 0)


async def test_a_job_is_lost_once_it_has_been_missing_for_so_long_however_long_it_had_run(
    world: World,
) -> None:
    async with begin(world, 1, poll_every=1e6, search_for=30.0) as dispatcher:
        handle = await dispatcher.submit("create", prompt="a cat")
        world.service.jobs.clear()
        for seconds in (1000.0, 29.5, 0.5):
            assert not handle.done
            await world.clock.advance(seconds)
            await dispatcher._following.poll("job:1")
        assert handle.done
        with pytest.raises(NotFound):
            await handle


async def test_a_slot_is_named_anew_only_if_the_store_has_given_it_up(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    named: list[str] = []

    async def adopting(channel: str, key: str) -> Lease:
        named.append(key)
        return await adopt(channel, key)

    async with begin(world, 1) as dispatcher:
        handle = await dispatcher.submit("create", prompt="a cat")
        adopt = world.balancer.store.adopt
        monkeypatch.setattr(world.balancer.store, "adopt", adopting)
        await dispatcher._following.poll("job:1")
        await settle()
        assert (named, world.in_flight()) == ([], 1)
        assert handle.lease is not None
        await world.balancer.release(handle.lease)
        await dispatcher._following.poll("job:1")
        await settle()
        assert (named, world.in_flight()) == (["job:1"], 1)
