"""Reports about followed jobs: whose job it is, where it is counted, when it is given up."""

import pytest

from pika_balancer import Closed, Job, NotFound, SubmissionUnknown
from pika_balancer.models import Lease
from tests.dispatch.conftest import ONE, Loaded, World, begin

RECORD = {"version": 1, "verb": "create", "channel": ONE}


async def test_a_job_with_our_reference_and_another_id_is_counted_as_anothers(world: World) -> None:
    async with begin(world, 5) as dispatcher:
        handle = await dispatcher.submit("create", prompt="a cat")
        world.service.take(ONE, handle.reply_ref)
        world.service.take(ONE)
        assert await dispatcher.reconcile() == ()
        assert (dispatcher.handles, handle.jobid, world.in_flight()) == ((handle,), "job:1", 3)
        assert sorted(world.balancer.adopted()) == ["job:1", "job:2", "job:3"]


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
    # A poll every 15 seconds.
    async with begin(world, 1, rng=Loaded(max), poll_every=12.5, search_for=29.5) as dispatcher:
        handle = await dispatcher.submit("create", prompt="a cat")
        await world.pass_time(1000)
        world.service.jobs.clear()
        # It is missed at 1005 and 1020, and given up at 1035.
        await world.pass_time(34)
        early = handle.done
        await world.pass_time(2)
        assert (early, handle.done) == (False, True)
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
        await world.pass_time(20)
        assert (named, world.in_flight()) == ([], 1)
        assert handle.lease is not None
        await world.balancer.release(handle.lease)
        await world.pass_time(20)
        assert (named, world.in_flight()) == (["job:1"], 1)
