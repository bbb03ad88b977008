"""A job as its submitter sees it: handles, updates, cancellation, buttons, callbacks."""

import asyncio
import gc
from typing import Any

import pytest

from pika_balancer import Closed, InvalidArgument, Job, JobHandle, NoCapacity, NotFound, UnknownChannel
from pika_balancer.events import Ended
from pika_balancer.testing import settle
from tests.dispatch.conftest import ONE, TWO, Answer, ManualWebhook, World, begin, spawn


async def test_every_verb_is_sent_with_its_values(world: World) -> None:
    async with begin(world, 9) as dispatcher:
        await dispatcher.submit("create", prompt="a cat", image=b"png")
        await dispatcher.submit("animate", image=b"png")
        await dispatcher.submit("encrypt_text", message="hi", prompt="p", font="RETRO")
        await dispatcher.submit("encrypt_image", message=b"png", prompt="p")
        parent = world.service.take(ONE)
        world.service.end(parent)
        button = await dispatcher.submit("button", jobid=parent)
        assert [verb for verb, _ in world.service.posts] == [
            "create",
            "animate",
            "encrypt_text",
            "encrypt_image",
            "button",
        ]
        assert world.service.posts[-1][1]["button"] == "retry"
        assert button.channel == ONE
        assert len(set(world.service.refs)) == 5


async def test_a_button_waits_for_the_channel_of_its_job(world: World) -> None:
    async with begin(world, 1, 1) as dispatcher:
        parent = world.service.take(TWO)
        world.service.end(parent)
        busy = await dispatcher.submit("create", prompt="a cat", channel=TWO)
        with pytest.raises(NoCapacity):
            await dispatcher.submit("button", jobid=parent, timeout=0)
        world.service.end_all()
        await world.pass_time(20, lambda: busy.done)
        assert (await dispatcher.submit("button", jobid=parent, timeout=0)).channel == TWO
        with pytest.raises(NotFound):
            await dispatcher.submit("button", jobid="job:unknown")


async def test_a_button_of_a_followed_job_needs_no_look_up(world: World) -> None:
    async with begin(world, 1, 2) as dispatcher:
        parent = await dispatcher.submit("create", prompt="a cat", channel=TWO)
        asked = list(world.service.gets)
        button = await dispatcher.submit("button", jobid=parent.jobid)
        assert (button.channel, world.service.gets) == (TWO, asked)


async def test_a_dispatcher_shows_how_it_stands(world: World) -> None:
    async with begin(world, 1) as dispatcher:
        await dispatcher.submit("create", prompt="a cat")
        assert repr(dispatcher) == "<Dispatcher open, 1 jobs>"
        draining = spawn(dispatcher.drain())
        await settle()
        assert repr(dispatcher) == "<Dispatcher over, 1 jobs>"
        await dispatcher.close()
        assert repr(dispatcher) == "<Dispatcher closed, 0 jobs>"
        assert len(await draining) == 1


async def test_a_handle_tells_each_change_of_status_and_ends_with_the_job(world: World) -> None:
    async with begin(world, 1) as dispatcher:
        handle = await dispatcher.submit("create", prompt="a cat")
        assert (handle.verb, handle.status, handle.done) == ("create", "started", False)
        told: list[str] = []

        async def watch() -> None:
            async for job in handle:
                told.append(job.status)  # noqa: PERF401 - watched while it grows

        first, second = spawn(watch()), spawn(watch())
        await settle()
        world.service.jobs["job:1"]["status"] = "progress"
        await world.pass_time(20, lambda: len(told) == 4)
        second.cancel()
        world.service.end("job:1", "moderated")
        await world.pass_time(20, first.done)
        assert told == ["started", "started", "progress", "progress", "moderated"]
        assert (await handle).status == "moderated"
        assert [job.status async for job in handle] == ["moderated"]
        assert [event.status for event in world.told("Changed")] == ["progress"]


async def test_a_cancelled_waiter_does_not_affect_the_job_and_its_slot(world: World) -> None:
    async with begin(world, 1) as dispatcher:
        running = spawn(dispatcher.run("create", prompt="a cat"))
        await world.until(lambda: bool(dispatcher.handles) and dispatcher.handles[0].jobid is not None)
        handle = dispatcher.handles[0]
        running.cancel()
        await settle()
        assert (running.cancelled(), world.in_flight()) == (True, 1)
        world.service.end_all()
        await world.pass_time(20, lambda: handle.done)
        assert ((await handle).status, world.in_flight()) == ("completed", 0)


async def test_cancelled_waiters_leave_nothing_behind(world: World) -> None:
    async with begin(world, 1) as dispatcher:
        handle = await dispatcher.submit("create", prompt="a cat")
        before = futures()
        for _ in range(50):
            waiting = spawn(ended(handle))
            await settle(3)
            waiting.cancel()
            await settle(3)
        assert futures() < before + 25


def futures() -> int:
    """Return how many futures, tasks not among them, are in memory."""
    gc.collect()
    return sum(type(thing) is asyncio.Future for thing in gc.get_objects())


async def ended(handle: JobHandle) -> Job:
    return await handle


async def test_a_job_whose_caller_is_cancelled_while_waiting_is_never_sent(world: World) -> None:
    async with begin(world, 1) as dispatcher:
        await dispatcher.submit("create", prompt="a cat")
        running = spawn(dispatcher.run("create", prompt="another"))
        await world.until(lambda: len(world.balancer.statistics().waiters) == 1)
        running.cancel()
        world.service.end_all()
        await world.pass_time(20, lambda: world.in_flight() == 0)
        assert len(world.service.posts) == 1


@pytest.mark.parametrize(
    ("answer", "posts"),
    [
        (Answer(200, accepted=True), 1),
        (Answer(429), 1),
        (Answer(500), 1),
        (Answer(500, accepted=True), 1),
        (Answer(422), 1),
    ],
    ids=["accepted", "limited", "unknown", "unknown but accepted", "rejected"],
)
async def test_a_job_whose_caller_is_cancelled_during_the_submit_is_followed(
    world: World, answer: Answer, posts: int
) -> None:
    async with begin(world, 1) as dispatcher:
        gate = asyncio.Event()
        world.service.script.append(Answer(answer.status, accepted=answer.accepted, until=gate))
        running = spawn(dispatcher.run("create", prompt="a cat"))
        await world.until(lambda: len(world.service.posts) == 1)
        running.cancel()
        await settle()
        assert (running.cancelled(), world.in_flight()) == (True, 1)
        gate.set()
        if answer.accepted:
            await world.pass_time(5, lambda: dispatcher.handles[0].jobid is not None)
            assert world.in_flight() == 1
            world.service.end_all()
        await world.pass_time(250, lambda: world.in_flight() == 0 and not dispatcher.handles)
        await world.pass_time(60)
        assert len(world.service.posts) == posts


async def test_the_timeout_is_for_slots_and_counts_over_all_tries(world: World) -> None:
    async with begin(world, 1) as dispatcher:
        world.service.script.append(Answer(429, {}, {"Retry-After": "20"}))
        running = spawn(dispatcher.run("create", prompt="a cat", timeout=15))
        await world.until(lambda: world.cooling_down() is not None)
        await world.pass_time(14)
        assert not running.done()
        await world.pass_time(2, running.done)
        with pytest.raises(NoCapacity) as caught:
            await running
        assert caught.value.reason == "cooling_down"
        with pytest.raises(UnknownChannel):
            await dispatcher.run("create", prompt="a cat", channel="1")


async def test_before_send_can_keep_a_job_from_being_sent(world: World) -> None:
    said: list[tuple[str, str]] = []

    def note(channel: str, reply_ref: str) -> None:
        said.append((channel, reply_ref))
        if len(said) > 1:
            raise OSError("disk full")

    async with begin(world, 1) as dispatcher:
        handle = await dispatcher.submit("create", prompt="a cat", reply_ref="mine 1", before_send=note)
        assert said == [(ONE, "mine 1")]
        world.service.end_all()
        await world.pass_time(20, lambda: handle.done)
        with pytest.raises(OSError, match="disk full"):
            await dispatcher.submit("create", prompt="a cat", before_send=note)
        await world.until(lambda: world.in_flight() == 0)
        assert world.service.refs == ["mine 1"]


async def test_a_reference_in_use_is_refused_before_the_wait_for_a_slot(world: World) -> None:
    async with begin(world, 1) as dispatcher:
        gate = asyncio.Event()
        world.service.script.append(Answer(200, accepted=True, until=gate))
        first = spawn(dispatcher.submit("create", prompt="a cat", reply_ref="mine"))
        await world.until(lambda: len(world.service.posts) == 1)
        with pytest.raises(InvalidArgument, match="in use"):
            await dispatcher.submit("create", prompt="a cat", reply_ref="mine")
        gate.set()
        await first
        assert world.in_flight() == 1


async def test_of_two_waiting_jobs_with_one_reference_one_is_sent(world: World) -> None:
    async with begin(world, 2) as dispatcher:
        await world.balancer.pause(ONE)
        both = [spawn(dispatcher.submit("create", prompt="a", reply_ref="mine")) for _ in range(2)]
        await world.until(lambda: len(world.balancer.statistics().waiters) == 2)
        await world.balancer.resume(ONE)
        await world.until(lambda: all(task.done() for task in both))
        assert sum(isinstance(task.exception(), InvalidArgument) for task in both) == 1
        assert (len(world.service.posts), world.in_flight()) == (1, 1)


async def test_a_callback_ends_a_job_and_the_poll_that_says_the_same_is_ignored(world: World) -> None:
    webhook = ManualWebhook()
    async with begin(world, 1, webhook=webhook) as dispatcher:
        handle = await dispatcher.submit("create", prompt="a cat")
        assert world.service.posts[0][1]["replyUrl"] == webhook.reply_url
        job = Job("job:1", status="completed", channel=ONE, reply_ref=handle.reply_ref)
        world.service.end_all()
        await world.clock.advance(3)
        assert webhook.deliver(job)
        assert not webhook.deliver(job)
        assert await handle == job
        await world.pass_time(40)
        assert [(event.told_by, event.elapsed) for event in world.told(Ended)] == [("callback", 3.0)]
        assert (world.in_flight(), world.service.gets[1:]) == (0, [])
        with pytest.raises(InvalidArgument):
            await dispatcher.submit("create", prompt="x", reply_url="http://elsewhere/")
    assert webhook.take is None


async def test_a_callback_that_comes_before_the_answer_counts(world: World) -> None:
    webhook, gate = ManualWebhook(), asyncio.Event()
    async with begin(world, 1, webhook=webhook) as dispatcher:
        world.service.script.append(Answer(200, accepted=True, until=gate))
        running = spawn(dispatcher.run("create", prompt="a cat"))
        await world.until(lambda: len(world.service.posts) == 1)
        webhook.deliver(Job("job:1", status="completed", channel=ONE, reply_ref=world.service.refs[0]))
        await settle()
        assert world.in_flight() == 0
        gate.set()
        await world.until(running.done)
        assert (await running).status == "completed"
        assert (world.in_flight(), len(world.told("Released"))) == (0, 1)


@pytest.mark.parametrize(
    "answer", [Answer(500), Answer(200, drop=True), Answer(504)], ids=["500", "drop", "504"]
)
async def test_a_callback_clears_up_an_unclear_answer(world: World, answer: Answer) -> None:
    webhook = ManualWebhook()
    async with begin(world, 1, webhook=webhook) as dispatcher:
        world.service.script.append(answer)
        running = spawn(dispatcher.run("create", prompt="a cat"))
        await world.until(lambda: bool(world.told("Uncertain")))
        webhook.deliver(Job("job:7", status="failed", channel=ONE, reply_ref=world.service.refs[0]))
        await world.until(running.done)
        assert ((await running).jobid, (await running).status) == ("job:7", "failed")
        await world.until(lambda: world.in_flight() == 0)
        assert len(world.service.posts) == 1


async def test_callbacks_that_fit_no_job_change_nothing(world: World) -> None:
    webhook = ManualWebhook()
    async with begin(world, 1, webhook=webhook) as dispatcher:
        handle = await dispatcher.submit("create", prompt="a cat")
        assert not webhook.deliver(Job("job:9", status="completed", reply_ref="another's"))
        assert not webhook.deliver(Job("job:9", status="completed"))
        assert webhook.deliver(Job("job:9", status="completed", reply_ref=handle.reply_ref)), (
            "the reference is ours"
        )
        webhook.deliver(Job("job:1", status="started", reply_ref=handle.reply_ref))
        assert (handle.done, handle.jobid, world.in_flight()) == (False, "job:1", 1)


async def test_polls_go_on_through_trouble_and_give_up_only_what_stays_unknown(world: World) -> None:
    async with begin(world, 1) as dispatcher:
        handle = await dispatcher.submit("create", prompt="a cat")
        world.service.down = 500
        await world.pass_time(300)
        assert (handle.done, world.in_flight()) == (False, 1)
        world.service.down = None
        world.service.hidden.add("job:1")
        await world.pass_time(160)
        assert (handle.done, world.in_flight()) == (False, 1)
        world.service.hidden.clear()
        await world.pass_time(40)
        world.service.hidden.add("job:1")
        await world.pass_time(170)
        assert not handle.done
        await world.pass_time(60, lambda: handle.done)
        with pytest.raises(NotFound) as caught:
            await handle
        assert (caught.value.jobid, world.in_flight()) == ("job:1", 0)


async def test_a_client_that_is_closed_under_it_stops_everything_and_keeps_the_records(world: World) -> None:
    async with begin(world, 2) as dispatcher:
        handle = await dispatcher.submit("create", prompt="a cat")
        await world.client.close()
        await world.pass_time(20, lambda: handle.done)
        with pytest.raises(Closed):
            await handle
        with pytest.raises(Closed):
            await dispatcher.submit("create", prompt="another")
        assert [record["jobid"] for record in await dispatcher.drain()] == ["job:1"]
        assert len(world.told("Stopped")) == 1


async def test_entering_fails_cleanly_if_the_service_does_not_tell_what_executes(world: World) -> None:
    world.service.down = 500
    with pytest.raises(Exception, match="500"):
        async with begin(world, 1):
            raise AssertionError
    assert world.balancer.snapshot().in_flight == 0
    with pytest.raises(Closed):
        await world.dispatcher.submit("create", prompt="x")


@pytest.mark.parametrize(
    "wrong",
    [
        {"poll_every": 0},
        {"search_for": float("inf")},
        {"resubmit_after": -1},
        {"name": ""},
        {"name": "x" * 257},
    ],
)
async def test_wrong_settings_are_named(world: World, wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgument) as caught:
        async with begin(world, 1, **wrong):
            raise AssertionError
    assert caught.value.field == next(iter(wrong))
