"""What a submit owes beyond its answer: events, pauses, and the cases in which two things happen at once."""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any

import pytest

from pika_balancer import (
    Closed,
    ConnectFailed,
    Job,
    PikaError,
    PromptRejected,
    RateLimited,
    ServiceError,
    SubmissionUnknown,
    TransportError,
    Unauthorized,
)
from pika_balancer.events import Failed, Refused, Uncertain
from tests.dispatch.conftest import ONE, TWO, Answer, Loaded, ManualWebhook, World, begin, spawn


class Script:
    """Stands before the client's `send`: raises what it was given, one by one, and then sends."""

    def __init__(self, world: World, monkeypatch: pytest.MonkeyPatch, *errors: Exception) -> None:
        self._errors = deque(errors)
        self._send = world.client.send
        self._clock = world.clock
        self.calls: list[float] = []
        monkeypatch.setattr(world.client, "send", self.send)

    async def send(self, *args: Any, **values: Any) -> Job:
        self.calls.append(self._clock.now())
        if self._errors:
            raise self._errors.popleft()
        return await self._send(*args, **values)


def unreachable(times: int) -> list[Exception]:
    return [ConnectFailed("no server", maybe_sent=False) for _ in range(times)]


async def test_a_jobs_life_is_told_step_by_step(world: World) -> None:
    async with begin(world, 1) as dispatcher:
        handle = await dispatcher.submit("create", prompt="a cat")
        world.service.end_all()
        await world.pass_time(20, lambda: handle.done)
        told = [type(event).__name__ for event in world.events if hasattr(event, "reply_ref")]
        assert told == ["Submitting", "Submitted", "Ended"]


async def test_only_a_change_is_told_as_one(world: World) -> None:
    async with begin(world, 1) as dispatcher:
        handle = await dispatcher.submit("create", prompt="a cat")
        await world.pass_time(60)
        world.service.jobs[handle.jobid or ""]["status"] = "progress"
        await world.pass_time(60)
        assert [event.status for event in world.told("Changed")] == ["progress"]


async def test_a_job_that_is_refused_for_good_is_told_as_failed(world: World) -> None:
    async with begin(world, 1) as dispatcher:
        world.service.script.append(Answer(422))
        with pytest.raises(PromptRejected):
            await dispatcher.submit("create", prompt="a cat")
        assert [(event.error, event.status) for event in world.told(Failed)] == [("PromptRejected", 422)]
        [refused] = world.told(Refused)
        assert (refused.error, refused.status, refused.again) == ("PromptRejected", 422, False)


async def test_an_answer_that_says_ended_ends_the_job(world: World) -> None:
    async with begin(world, 1) as dispatcher:
        world.service.script.append(
            Answer(200, {"jobid": "job:quick", "status": "completed", "channel": ONE})
        )
        running = spawn(dispatcher.run("create", prompt="a cat"))
        await world.until(running.done)
        assert (await running).status == "completed"
        assert world.in_flight() == 0
        assert [event.told_by for event in world.told("Ended")] == ["answer"]


@pytest.mark.parametrize("status", [200, 500])
async def test_a_callback_before_the_answer_outweighs_it(world: World, status: int) -> None:
    webhook, gate = ManualWebhook(), asyncio.Event()
    async with begin(world, 1, webhook=webhook) as dispatcher:
        world.service.script.append(Answer(status, accepted=True, until=gate))
        running = spawn(dispatcher.submit("create", prompt="a cat"))
        await world.until(lambda: len(world.service.posts) == 1)
        webhook.deliver(Job("job:1", status="progress", channel=ONE, reply_ref=world.service.refs[0]))
        gate.set()
        handle = await running
        assert (handle.jobid, handle.status) == ("job:1", "progress")
        assert (world.told(Uncertain), world.cooling_down(), world.in_flight()) == ([], None, 1)
        assert len(world.told("Submitted")) == 1


async def test_a_job_is_counted_on_the_channel_where_the_service_runs_it(world: World) -> None:
    async with begin(world, 1, 1) as dispatcher:
        world.service.script.append(Answer(200, {"jobid": "job:moved", "status": "started", "channel": TWO}))
        handle = await dispatcher.submit("create", prompt="a cat", channel=ONE)
        assert (handle.channel, world.in_flight(ONE), world.in_flight(TWO)) == (TWO, 0, 1)


async def test_a_job_that_runs_and_is_not_listed_yet_keeps_its_slot_through_every_look(world: World) -> None:
    async with begin(world, 2) as dispatcher:
        handle = await dispatcher.submit("create", prompt="a cat")
        await world.pass_time(40)
        assert world.service.gets.count("/jobs") == 1, "no pass without a reason"
        world.service.jobs[handle.jobid or ""]["status"] = "created"
        world.service.take(ONE)
        await dispatcher.reconcile()
        assert world.in_flight() == 2
        await world.pass_time(40)
        assert world.in_flight() == 2


async def test_two_reconciles_at_once_return_a_handle_once(world: World) -> None:
    async with begin(world, 2, name="worker", reconcile=False) as dispatcher:
        world.service.take(ONE, "worker.1")
        first, second = await asyncio.gather(dispatcher.reconcile(), dispatcher.reconcile())
        assert [handle.reply_ref for handle in first + second] == ["worker.1"]
        assert world.in_flight() == 1


@pytest.mark.parametrize("error", [Unauthorized, Closed])
async def test_each_detached_job_is_named_by_its_own_error(world: World, error: type[PikaError]) -> None:
    async with begin(world, 2) as dispatcher:
        handles = [await dispatcher.submit("create", prompt="a cat") for _ in range(2)]
        if error is Closed:
            await dispatcher.close()
        world.service.down = 401
        await world.pass_time(40, lambda: all(handle.done for handle in handles))
        for handle in handles:
            with pytest.raises(error) as caught:
                await handle
            assert caught.value.jobid == handle.jobid


async def test_a_service_in_trouble_is_asked_less_and_less(world: World) -> None:
    async with begin(world, 1) as dispatcher:
        handle = await dispatcher.submit("create", prompt="a cat")
        world.service.down = 503
        before = len(world.service.gets)
        await world.pass_time(300)
        assert 3 <= len(world.service.gets) - before <= 7
        assert not handle.done


async def test_a_first_sending_that_turns_up_after_the_second_was_sent_leaves_both_counted(
    world: World,
) -> None:
    webhook, gate = ManualWebhook(), asyncio.Event()
    async with begin(world, 3, webhook=webhook, resubmit_after=1) as dispatcher:
        world.service.script.append(Answer(500))
        world.service.script.append(Answer(200, accepted=True, until=gate))
        running = spawn(dispatcher.submit("create", prompt="a cat"))
        await world.pass_time(90, lambda: len(world.service.posts) == 2)
        late = world.service.take(ONE, world.service.refs[0])
        webhook.deliver(Job(late, status="progress", channel=ONE, reply_ref=world.service.refs[0]))
        gate.set()
        handle = await running
        assert handle.jobid == late
        assert world.in_flight() == 2
        world.service.end_all()
        await world.pass_time(40, lambda: world.in_flight() == 0)


async def test_a_client_that_breaks_is_no_proof_that_nothing_was_sent(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = Script(world, monkeypatch, RuntimeError("user:canary-token"))
    async with begin(world, 1) as dispatcher:
        running = spawn(dispatcher.submit("create", prompt="a cat"))
        await world.pass_time(220, running.done)
        with pytest.raises(SubmissionUnknown) as caught:
            await running
        assert isinstance(caught.value.__cause__, TransportError)
        assert "canary" not in str(caught.value.__cause__)
        assert len(script.calls) == 1


@pytest.mark.parametrize(("end", "usual"), [(min, 0.5), (max, 1.5)])
async def test_what_cannot_be_sent_waits_twice_as_long_each_time_give_or_take_half(
    world: World, monkeypatch: pytest.MonkeyPatch, end: Callable[[float, float], float], usual: float
) -> None:
    script = Script(world, monkeypatch, *unreachable(4))
    async with begin(world, 1, rng=Loaded(end)) as dispatcher:
        running = spawn(dispatcher.submit("create", prompt="a cat"))
        await world.pass_time(40, running.done)
        pauses = [later - earlier for earlier, later in zip(script.calls, script.calls[1:], strict=False)]
        assert pauses == [usual, 2 * usual, 4 * usual, 8 * usual]
        await running


async def test_only_tries_in_a_row_that_cannot_be_sent_are_counted(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    limited = RateLimited("slow down", status=429)
    script = Script(world, monkeypatch, *unreachable(4), limited, *unreachable(4))
    async with begin(world, 1) as dispatcher:
        running = spawn(dispatcher.submit("create", prompt="a cat"))
        await world.pass_time(120, running.done)
        await running
        assert len(script.calls) == 10


async def test_a_server_error_cools_the_account_down_and_a_broken_connection_does_not(world: World) -> None:
    async with begin(world, 3) as dispatcher:
        world.service.script.append(Answer(200, accepted=True, drop=True))
        first = spawn(dispatcher.submit("create", prompt="a cat"))
        await world.until(lambda: len(world.told(Uncertain)) == 1)
        assert world.cooling_down() is None
        world.service.script.append(Answer(503, accepted=True))
        second = spawn(dispatcher.submit("create", prompt="a cat"))
        await world.until(lambda: len(world.told(Uncertain)) == 2)
        assert 10 <= (world.cooling_down() or 0) <= 30
        await world.pass_time(5, lambda: first.done() and second.done())


async def test_a_found_job_is_no_longer_searched_for(world: World) -> None:
    async with begin(world, 1) as dispatcher:
        world.service.script.append(Answer(500, "oops", accepted=True))
        running = spawn(dispatcher.submit("create", prompt="a cat"))
        await world.pass_time(5, running.done)
        lists = world.service.gets.count("/jobs")
        await world.pass_time(60)
        assert world.service.gets.count("/jobs") <= lists + 1
        await running


async def test_while_the_service_tells_nothing_no_job_is_sent_again(world: World) -> None:
    async with begin(world, 1, resubmit_after=10) as dispatcher:
        world.service.script.append(Answer(500))
        world.service.down = 503
        running = spawn(dispatcher.submit("create", prompt="a cat"))
        await world.pass_time(260, running.done)
        with pytest.raises(SubmissionUnknown) as caught:
            await running
        assert (caught.value.slot_held, len(world.service.posts), world.in_flight()) == (True, 1, 1)


async def test_a_refused_job_of_a_cancelled_caller_is_not_reported_as_sent_again(world: World) -> None:
    gate = asyncio.Event()
    async with begin(world, 1) as dispatcher:
        world.service.script.append(Answer(429, until=gate))
        running = spawn(dispatcher.submit("create", prompt="a cat"))
        await world.until(lambda: len(world.service.posts) == 1)
        running.cancel()
        await asyncio.wait([running])
        gate.set()
        await world.until(lambda: bool(world.told(Refused)))
        assert [event.again for event in world.told(Refused)] == [False]
        await world.until(lambda: world.in_flight() == 0)
        assert len(world.service.posts) == 1


async def test_a_store_that_fails_to_pause_or_cool_down_an_account_fails_no_job(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: object) -> None:
        raise PikaError("the store is away")

    async with begin(world, 1, 1) as dispatcher:
        for name in ("pause", "cool_down"):
            monkeypatch.setattr(world.balancer.store, name, fail)
        world.service.script.extend([Answer(596), Answer(429)])
        await dispatcher.submit("create", prompt="a cat")
        assert [event.error for event in world.told(Refused)] == ["AccountSuspended", "RateLimited"]
        assert len(world.service.posts) == 3


async def test_an_unclear_job_that_may_be_sent_again_waits_for_nothing_more(world: World) -> None:
    async with begin(world, 1, poll_every=1.0, resubmit_after=1.0) as dispatcher:
        world.service.script.append(Answer(200, drop=True))
        running = spawn(dispatcher.submit("create", prompt="a cat"))
        await world.pass_time(10, lambda: bool(world.told(Refused)))
        await world.until(running.done)
        assert (await running).reply_ref.endswith(".2")
        [refused] = world.told(Refused)
        assert (refused.error, refused.status, refused.again) == ("ConnectionLost", None, True)


@pytest.mark.parametrize(("poll_every", "given_up"), [(1.0, 10.0), (4.0, 17.0)])
async def test_a_job_that_no_pass_finds_is_given_up_and_its_slot_freed_by_the_next_complete_pass(
    world: World, poll_every: float, given_up: float
) -> None:
    async with begin(world, 1, poll_every=poll_every, search_for=5.0) as dispatcher:
        world.service.script.append(Answer(500))
        world.service.down = 503
        running = spawn(dispatcher.submit("create", prompt="a cat"))
        await world.until(lambda: bool(world.told(Uncertain)))
        await world.pass_time(given_up - 0.5)
        assert not running.done()
        await world.pass_time(0.5, running.done)
        with pytest.raises(SubmissionUnknown) as caught:
            await running
        [uncertain] = world.told(Uncertain)
        assert (uncertain.error, uncertain.status) == ("ServiceError", 500)
        error = caught.value
        assert (error.verb, error.reply_ref, error.status) == ("create", world.service.refs[0], 500)
        assert (error.channel, error.slot_held, type(error.__cause__)) == (ONE, True, ServiceError)
        assert world.in_flight() == 1
        world.service.down = None
        await world.pass_time(5, lambda: world.in_flight() == 0)
