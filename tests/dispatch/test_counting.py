"""Counts that stay true when looks, polls and callbacks cross, and jobs come back from where they went."""

import asyncio

import pytest

from pika_balancer import (
    Account,
    Balancer,
    Dispatcher,
    InvalidArgument,
    Job,
    ServiceError,
    SubmissionUnknown,
)
from pika_balancer.models import Lease
from pika_balancer.store import MemoryStore
from tests.dispatch.conftest import ONE, TWO, Answer, ManualWebhook, World, begin, spawn


def hide(world: World, monkeypatch: pytest.MonkeyPatch, jobid: str) -> None:
    """Have every look at that job fail."""
    ask = world.client.job

    async def job(asked: str) -> Job:
        if asked == jobid:
            raise ServiceError("the service failed", status=500)
        return await ask(asked)

    monkeypatch.setattr(world.client, "job", job)


async def test_a_job_that_one_pass_misses_is_counted_again_by_the_next(world: World) -> None:
    flickers, _stays = world.service.take(ONE), world.service.take(ONE)
    async with begin(world, 3):
        world.service.jobs[flickers]["status"] = "created"
        await world.pass_time(20, lambda: world.in_flight() == 1)
        world.service.jobs[flickers]["status"] = "progress"
        await world.pass_time(20, lambda: world.in_flight() == 2)


@pytest.mark.parametrize(("resubmit_after", "limit"), [(None, 360), (10.0, 190)])
async def test_an_incomplete_pass_decides_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch, resubmit_after: float | None, limit: float
) -> None:
    hide(world, monkeypatch, "job:1")
    async with begin(world, 2, resubmit_after=resubmit_after) as dispatcher:
        world.service.script.append(Answer(500, "oops", accepted=True))
        running = spawn(dispatcher.submit("create", prompt="a cat"))
        await world.pass_time(limit - 1)
        assert (running.done(), len(world.service.posts), world.in_flight()) == (False, 1, 1)
        await world.pass_time(2, running.done)
        with pytest.raises(SubmissionUnknown) as caught:
            await running
        assert (caught.value.slot_held, len(world.service.posts)) == (True, 1)


async def test_a_job_of_ours_in_a_refusal_stays_counted_where_it_runs(world: World) -> None:
    async with begin(world, 1, 1) as dispatcher:
        ours = await dispatcher.submit("create", prompt="a cat", channel=TWO)
        world.service.script.append(Answer(429, {"error": "full", "executingJobs": [ours.jobid]}))
        running = spawn(dispatcher.submit("create", prompt="a cat", channel=ONE))
        await world.until(lambda: bool(world.told("Refused")))
        assert (world.in_flight(ONE), world.in_flight(TWO)) == (0, 1)
        running.cancel()


async def test_a_first_sending_that_a_look_finds_beside_the_second_takes_a_slot_too(world: World) -> None:
    async with begin(world, 3, resubmit_after=1) as dispatcher:
        world.service.script.append(Answer(500))
        running = spawn(dispatcher.submit("create", prompt="a cat"))
        await world.pass_time(90, running.done)
        handle = await running
        assert len(world.service.posts) == 2
        late = world.service.take(ONE, world.service.refs[0])
        await dispatcher.reconcile()
        assert (world.in_flight(), handle.jobid != late) == (2, True)


async def test_only_reconcile_returns_handles_also_of_jobs_counted_before(world: World) -> None:
    world.service.take(ONE)
    async with begin(world, 3, name="w") as dispatcher:
        mine = world.service.take(ONE, "w.1")
        await world.pass_time(40, lambda: world.in_flight() == 2)
        assert dispatcher.handles == ()
        [handle] = await dispatcher.reconcile()
        assert (handle.jobid, world.in_flight()) == (mine, 2)


async def test_a_job_in_doubt_is_given_up_by_the_time_of_its_submit_and_not_of_the_first_poll(
    world: World,
) -> None:
    async with begin(world, 1, poll_every=20.0, search_for=30.0) as dispatcher:
        world.service.script.append(Answer(504, {"jobid": "job:gone"}))
        handle = await dispatcher.submit("create", prompt="a cat")
        await world.pass_time(48.5)
        assert handle.done


async def test_a_job_that_a_callback_ended_is_not_handed_back_by_a_poll_that_is_refused_then(
    world: World,
) -> None:
    webhook = ManualWebhook()
    async with begin(world, 2, webhook=webhook) as dispatcher:
        handle = await dispatcher.submit("create", prompt="a cat")
        world.service.hold = asyncio.Event()
        asked = len(world.service.gets)
        await world.pass_time(20, lambda: len(world.service.gets) > asked)
        webhook.deliver(Job("job:1", status="completed", channel=ONE, reply_ref=handle.reply_ref))
        world.service.down = 401
        world.service.hold.set()
        await world.until(lambda: bool(world.told("Stopped")))
        assert (await handle).status == "completed"
        assert (await dispatcher.drain(), world.told("Detached"), world.in_flight()) == ([], [], 0)


async def test_hours_that_pass_at_once_lose_no_job_and_give_no_slot_back_too_soon(world: World) -> None:
    async with begin(world, 5) as dispatcher:
        running = [await dispatcher.submit("create", prompt="a cat") for _ in range(3)]
        other = world.service.take(ONE)
        world.service.script.append(Answer(500, "oops", accepted=True))
        unclear = spawn(dispatcher.submit("create", prompt="a cat"))
        await world.until(lambda: bool(world.told("Uncertain")))
        await dispatcher.reconcile()
        assert world.in_flight() == 5
        for _ in range(3):
            # As on a machine that was suspended: no timer ran in between.
            world.clock.oversleep(5 * 3600)
            await world.pass_time(1)
            assert (world.in_flight(), [handle.done for handle in running]) == (5, [False] * 3)
        assert len(world.service.posts) == 4
        await unclear
        world.service.end_all()
        await world.pass_time(40, lambda: not dispatcher.handles and world.in_flight() == 0)
        assert world.service.jobs[other]["status"] == "completed"
        assert {(await handle).status for handle in running} == {"completed"}


class Slow(MemoryStore):
    """Takes a turn or two over each adoption, as a store on a network does."""

    async def adopt(self, channel: str, key: str) -> Lease:
        await asyncio.sleep(0.01)
        return await super().adopt(channel, key)


@pytest.mark.parametrize("known", [True, False])
async def test_a_job_taken_over_twice_at_once_has_one_handle(world: World, *, known: bool) -> None:
    jobid = world.service.take(ONE, "w.1")
    record = {"version": 1, "verb": "create", "reply_ref": "w.1", "channel": ONE}
    record |= {"jobid": jobid} if known else {}
    store = Slow([Account(ONE, 3)], clock=world.clock)
    async with (
        Balancer(store=store, clock=world.clock) as balancer,
        Dispatcher(world.client, balancer, name="w", clock=world.clock, reconcile=False) as dispatcher,
    ):
        work = [dispatcher.resume([record]), dispatcher.resume([record]), dispatcher.reconcile()]
        [first], [second], regained = await asyncio.gather(*work)
        assert first is second
        assert (regained, dispatcher.handles) == ((), (first,))
        world.service.end_all()
        await world.pass_time(20, lambda: first.done)
        await world.pass_time(20, lambda: balancer.snapshot().in_flight == 0)
        assert await dispatcher.drain() == []


async def test_a_job_counted_on_another_channel_is_not_taken_over(world: World) -> None:
    record = {"version": 1, "verb": "create", "reply_ref": "w.1", "channel": ONE, "jobid": "job:1"}
    async with begin(world, 1, 1) as dispatcher, Balancer(store=world.balancer.store) as beside:
        await beside.adopt(TWO, "job:1")
        with pytest.raises(InvalidArgument, match="the job 'job:1' is counted on another") as caught:
            await dispatcher.resume([record])
        assert (caught.value.field, dispatcher.handles) == ("records", ())
        assert (world.in_flight(ONE), world.in_flight(TWO)) == (0, 1)
