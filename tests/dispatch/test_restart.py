"""Start and stop: executing jobs are counted, running ones awaited or recorded, nothing is left behind."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import attrs
import pytest

from pika_balancer import (
    Account,
    Balancer,
    Closed,
    Dispatcher,
    InvalidArgument,
    Job,
    JobHandle,
    Lease,
    NoCapacity,
    SubmissionUnknown,
    SubscriptionRequired,
)
from pika_balancer.testing import settle
from tests.dispatch.conftest import ONE, TWO, Answer, ManualWebhook, World, begin, spawn


async def test_what_executes_at_the_start_takes_its_slot_until_it_has_ended(world: World) -> None:
    others = [world.service.take(ONE), world.service.take(ONE), world.service.take(TWO)]
    async with begin(world, 2, 2) as dispatcher:
        assert (world.in_flight(ONE), world.in_flight(TWO)) == (2, 1)
        assert dispatcher.handles == ()
        with pytest.raises(NoCapacity):
            await dispatcher.submit("create", prompt="a cat", channel=ONE, timeout=0)
        waiting = spawn(dispatcher.submit("create", prompt="a cat", channel=ONE))
        await settle()
        world.service.end(others[0])
        await world.pass_time(20, waiting.done)
        assert (world.in_flight(ONE), world.in_flight(TWO)) == (2, 1)
        world.service.end_all()
        await world.pass_time(20, lambda: world.balancer.snapshot().in_flight == 0)
        seen = len(world.service.gets)
        await world.pass_time(100)
        assert len(world.service.gets) == seen, "it goes on without a reason"


async def test_without_reconcile_nothing_is_asked(world: World) -> None:
    world.service.take(ONE)
    async with begin(world, 2, reconcile=False):
        assert (world.service.gets, world.in_flight()) == ([], 0)


async def test_jobs_of_an_earlier_life_under_the_same_name_get_their_handles_back(world: World) -> None:
    async with begin(world, 3, name="worker 1") as dispatcher:
        first = await dispatcher.submit("create", prompt="a cat")
        await dispatcher.submit("animate", image=b"png")
        assert first.reply_ref.startswith("worker 1.")
        other = world.service.take(ONE, ref="worker 12.x")
    async with begin(world, 3, name="worker 1", reconcile=False) as dispatcher:
        regained = await dispatcher.reconcile()
        assert {handle.jobid for handle in regained} == {"job:1", "job:2"}
        assert {handle.verb for handle in regained} == {"create", "animate"}
        assert set(dispatcher.handles) == set(regained)
        assert world.in_flight() == 3
        assert await dispatcher.reconcile() == ()
        world.service.end_all()
        await world.pass_time(20, lambda: not dispatcher.handles)
        assert [(await handle).status for handle in regained] == ["completed"] * 2
        await world.pass_time(20, lambda: world.in_flight() == 0)
    assert world.service.jobs[other]["status"] == "completed"


async def test_leaving_waits_for_what_runs(world: World) -> None:
    async with begin(world, 2) as dispatcher:
        handle = await dispatcher.submit("create", prompt="a cat")
        leaving = spawn(dispatcher.__aexit__(None, None, None))
        await world.pass_time(30)
        assert not leaving.done()
        with pytest.raises(Closed):
            await dispatcher.submit("create", prompt="too late")
        world.service.end_all()
        await world.pass_time(20, leaving.done)
        assert (await handle).status == "completed"
        assert world.in_flight() == 0


async def test_leaving_with_an_exception_does_not_wait(world: World) -> None:
    async def fail() -> None:
        async with begin(world, 2) as dispatcher:
            handles.append(await dispatcher.submit("create", prompt="a cat"))
            raise ZeroDivisionError

    handles: list[JobHandle] = []
    with pytest.raises(ZeroDivisionError):
        await fail()
    [handle] = handles
    with pytest.raises(Closed) as caught:
        await handle
    assert caught.value.jobid == handle.jobid


async def test_a_drain_fails_the_waiters_and_returns_records_of_running_jobs(world: World) -> None:
    async with begin(world, 1, 1) as dispatcher:
        ends = await dispatcher.submit("create", prompt="ends in time", channel=ONE)
        goes_on = await dispatcher.submit("create", prompt="goes on", channel=TWO)
        waiting = [spawn(dispatcher.run("create", prompt="waits")) for _ in range(3)]
        await world.until(lambda: len(world.balancer.statistics().waiters) == 3)
        draining = spawn(dispatcher.drain(60))
        await world.until(lambda: all(task.done() for task in waiting))
        assert [type(task.exception()) for task in waiting] == [Closed] * 3
        world.service.end("job:1")
        await world.pass_time(59)
        assert ends.done
        assert not draining.done()
        await world.pass_time(2, draining.done)
        records = await draining
        assert json.loads(json.dumps(records)) == [
            {
                "version": 1,
                "verb": "create",
                "reply_ref": goes_on.reply_ref,
                "jobid": "job:2",
                "channel": TWO,
                "status": "started",
            }
        ]
        assert await dispatcher.drain(0) == records
        # The slot of the detached job stays counted.
        assert (world.in_flight(ONE), world.in_flight(TWO)) == (0, 1)
        with pytest.raises(Closed):
            await goes_on


class DrainedAfterTheSecondSlot(Balancer):
    """Drains a dispatcher at the moment at which a job has its second slot and is not sent again yet."""

    dispatcher: Dispatcher
    draining: "asyncio.Task[list[dict[str, Any]]] | None" = None
    grants = 0
    before: Callable[[], object] | None = None
    """What is called right before that."""

    async def acquire(self, channel: str | None = None, timeout: float | None = None) -> Lease:
        lease = await super().acquire(channel, timeout)
        self.grants += 1
        if self.grants == 2:
            if self.before is not None:
                self.before()
            self.draining = asyncio.create_task(self.dispatcher.drain(0))
        return lease


@pytest.mark.parametrize(
    ("status", "resubmit_after"), [(429, None), (500, 10.0)], ids=["refused", "not found afterwards"]
)
async def test_a_drain_between_two_sendings_of_a_job_fails_it_and_frees_its_slot(
    world: World, status: int, resubmit_after: float | None
) -> None:
    balancer = DrainedAfterTheSecondSlot(
        [Account(ONE, 1), Account(TWO, 1)], clock=world.clock, observer=world.events.append
    )
    world.balancer = balancer
    world.service.script.append(Answer(status))
    async with (
        balancer,
        Dispatcher(world.client, balancer, resubmit_after=resubmit_after, clock=world.clock) as dispatcher,
    ):
        balancer.dispatcher = dispatcher
        submitting = spawn(dispatcher.submit("create", prompt="a cat"))
        await world.pass_time(60, submitting.done)
        with pytest.raises(Closed):
            await submitting
        assert balancer.draining is not None
        # The service does not have the job: there is nothing to resume.
        assert await balancer.draining == []
    assert len(world.service.posts) == len(world.told("Refused")) == 1
    assert [event.error for event in world.told("Failed")] == ["Closed"]
    assert world.told("Detached") == []
    assert balancer.snapshot().in_flight == 0


async def test_a_job_that_was_not_sent_when_the_service_refused_all_fails_for_the_reason_its_caller_is_told(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = asyncio.Event()

    async def send(*_args: Any, **_values: Any) -> Job:
        await answer.wait()
        raise SubscriptionRequired("pay first", status=402)

    monkeypatch.setattr(world.client, "send", send)
    balancer = DrainedAfterTheSecondSlot([Account(ONE, 2)], clock=world.clock, observer=world.events.append)
    balancer.before = answer.set
    async with balancer, Dispatcher(world.client, balancer, clock=world.clock) as dispatcher:
        balancer.dispatcher = dispatcher
        first = spawn(dispatcher.submit("create", prompt="a cat"))
        await settle()
        second = spawn(dispatcher.submit("create", prompt="another", reply_ref="second"))
        for submitting in (first, second):
            with pytest.raises(SubscriptionRequired):
                await submitting
    [failed] = [event for event in world.told("Failed") if event.reply_ref == "second"]
    assert failed.error == "SubscriptionRequired"


class SlowToCoolDown(Balancer):
    """Does not return from `cool_down` until it is cancelled, as with a shared store that is away."""

    asked: tuple[str, float] | None = None

    async def cool_down(self, channel: str, seconds: float) -> None:
        self.asked = (channel, seconds)
        await asyncio.Event().wait()


async def test_a_drain_while_the_account_of_a_refused_job_cools_down_leaves_no_record(
    world: World,
) -> None:
    balancer = SlowToCoolDown([Account(ONE, 1)], clock=world.clock, observer=world.events.append)
    world.service.script.append(Answer(429, {"error": "slow down", "code": 429}))
    async with balancer, Dispatcher(world.client, balancer, clock=world.clock) as dispatcher:
        submitting = spawn(dispatcher.submit("create", prompt="a cat"))
        await world.until(lambda: balancer.asked is not None)
        assert await dispatcher.drain(0) == []
        with pytest.raises(Closed):
            await submitting
    assert [(event.error, event.again) for event in world.told("Refused")] == [("RateLimited", False)]
    assert world.told("Failed") == world.told("Detached") == []
    assert balancer.snapshot().in_flight == 0


async def test_a_later_process_resumes_from_records_and_gives_the_slots_back(world: World) -> None:
    async with begin(world, 2) as dispatcher:
        await dispatcher.submit("create", prompt="a cat")
        records = await dispatcher.drain(0)
    async with begin(world, 2, reconcile=False) as dispatcher:
        [handle] = await dispatcher.resume(json.loads(json.dumps(records)))
        assert (handle.jobid, handle.verb, world.in_flight()) == ("job:1", "create", 1)
        assert len(world.told("Submitted")) == 1, "it was submitted once"
        assert await dispatcher.resume(records) == [handle]
        assert world.in_flight() == 1
        world.service.end_all()
        await world.pass_time(20, lambda: handle.done)
        assert ((await handle).status, world.in_flight()) == ("completed", 0)
        assert len(world.service.posts) == 1


async def test_a_second_dispatcher_on_the_same_balancer_counts_nothing_twice(world: World) -> None:
    async with begin(world, 3) as dispatcher:
        await dispatcher.submit("create", prompt="a cat")
        second = Dispatcher(world.client, world.balancer, clock=world.clock)
        async with second:
            assert world.in_flight() == 1
            records = await dispatcher.drain(0)
            [handle] = await second.resume(records)
            assert world.in_flight() == 1
            world.service.end_all()
            await world.pass_time(20, lambda: handle.done)
            assert world.in_flight() == 0


async def test_two_balancers_of_one_store_count_a_job_once_and_free_its_slot_once(world: World) -> None:
    async with begin(world, 3) as dispatcher:
        store = world.balancer.store
        async with Balancer(store=store, clock=world.clock) as beside:
            await dispatcher.submit("create", prompt="a cat")
            async with Dispatcher(world.client, beside, clock=world.clock) as second:
                assert world.in_flight() == 1
                world.service.end_all()
                await world.pass_time(40, lambda: not dispatcher.handles and not beside.adopted())
                assert (world.in_flight(), second.handles) == (0, ())
    assert world.balancer.snapshot().in_flight == 0


@pytest.mark.parametrize("taken", [True, False])
async def test_a_job_on_its_way_at_the_end_becomes_a_record_without_an_id(
    world: World, *, taken: bool
) -> None:
    gate = asyncio.Event()
    async with begin(world, 2) as dispatcher:
        world.service.script.append(Answer(200, accepted=taken, until=gate))
        running = spawn(dispatcher.run("create", prompt="a cat"))
        await world.until(lambda: len(world.service.posts) == 1)
        [record] = await dispatcher.drain(0)
        gate.set()
        assert (record["jobid"], record["reply_ref"], record["channel"]) == (None, world.service.refs[0], ONE)
        assert world.in_flight() == 1
        with pytest.raises(Closed):
            await running
    async with begin(world, 2, reconcile=False) as dispatcher:
        [handle] = await dispatcher.resume([record])
        assert (handle.jobid, world.in_flight()) == (None, 1)
        await world.pass_time(5, (lambda: handle.jobid == "job:1") if taken else None)
        assert world.in_flight() == 1
        world.service.end_all()
        await world.pass_time(250, lambda: handle.done)
        if taken:
            assert (await handle).status == "completed"
        else:
            with pytest.raises(SubmissionUnknown):
                await handle
        assert (world.in_flight(), len(world.service.posts)) == (0, 1)


async def test_an_unclear_job_at_the_end_becomes_a_record_and_keeps_its_slot(world: World) -> None:
    async with begin(world, 1) as dispatcher:
        world.service.script.append(Answer(500))
        running = spawn(dispatcher.run("create", prompt="a cat"))
        await world.until(lambda: bool(world.told("Uncertain")))
        [record] = await dispatcher.drain(0)
        assert (record["jobid"], world.in_flight()) == (None, 1)
        await world.until(running.done)
        assert isinstance(running.exception(), Closed)


async def test_what_a_closed_dispatcher_left_counted_the_next_gives_back(world: World) -> None:
    world.service.take(ONE)
    async with begin(world, 2) as dispatcher:
        await dispatcher.submit("create", prompt="a cat")
        await dispatcher.close()
        assert world.in_flight() == 2
        world.service.end_all()
        async with Dispatcher(world.client, world.balancer, clock=world.clock):
            assert world.in_flight() == 0


async def test_nothing_of_it_is_left_after_the_end(world: World) -> None:
    before = asyncio.all_tasks()
    world.service.take(ONE)
    async with begin(world, 4) as dispatcher:
        world.service.script.extend([Answer(200, accepted=True), Answer(500), Answer(429)])
        jobs = [spawn(dispatcher.run("create", prompt="a cat")) for _ in range(4)]
        await world.until(lambda: len(world.service.posts) == 3)
        await dispatcher.close()
        await asyncio.gather(*jobs, return_exceptions=True)
    await world.client.close()
    # The account's cooldown ends in the store.
    await world.clock.advance(60)
    assert asyncio.all_tasks() - before == set()
    assert world.clock.sleeping == 0


async def test_a_broken_record_is_named_and_none_is_taken_over(world: World) -> None:
    good = {"version": 1, "verb": "create", "reply_ref": "r1", "channel": ONE, "jobid": "job:1"}
    async with begin(world, 2) as dispatcher:
        with pytest.raises(InvalidArgument, match="record 1"):
            await dispatcher.resume([good, {"version": 2}])
        assert (dispatcher.handles, world.in_flight()) == ((), 0)


async def test_an_adopted_lease_that_two_balancers_hold_is_released_once() -> None:
    balancer = Balancer([Account(ONE, 1)])
    async with balancer, Balancer(store=balancer.store) as beside:
        both = [await balancer.adopt(ONE, "job:1"), await beside.adopt(ONE, "job:1")]
        assert both[0] is both[1]
        await beside.release(both[1])
        del both
        await settle()
        [state] = balancer.snapshot().accounts
        assert attrs.evolve(state, cooldown_until=None).in_flight == 0
        async with balancer.lease(timeout=0):
            with pytest.raises(NoCapacity):
                async with beside.lease(timeout=0):
                    raise AssertionError
        assert await balancer.drain(0)


async def test_the_slot_of_a_lost_job_outlives_its_dispatcher_and_the_next_look(
    world: World,
) -> None:
    async with begin(world, 1) as dispatcher:
        world.service.script.append(Answer(504))
        running = spawn(dispatcher.run("create", prompt="a cat"))
        await world.until(lambda: bool(world.told("Uncertain")))
        [record] = await dispatcher.drain(0)
        running.cancel()
        async with Dispatcher(world.client, world.balancer, clock=world.clock) as second:
            await world.pass_time(60)
            assert world.in_flight() == 1
            [handle] = await second.resume([record])
            assert world.in_flight() == 1
            await world.pass_time(250, lambda: handle.done)
            assert world.in_flight() == 0
            await second.close()


async def test_a_slot_that_is_not_resumed_is_freed_after_the_search(world: World) -> None:
    async with begin(world, 1) as dispatcher:
        world.service.script.append(Answer(504))
        running = spawn(dispatcher.run("create", prompt="a cat"))
        await world.until(lambda: bool(world.told("Uncertain")))
        await dispatcher.close()
        running.cancel()
        async with Dispatcher(world.client, world.balancer, clock=world.clock):
            await world.pass_time(170)
            assert world.in_flight() == 1
            await world.pass_time(40, lambda: world.in_flight() == 0)


async def test_a_second_dispatcher_leaves_the_slot_alone_of_a_job_whose_id_only_a_504_named(
    world: World,
) -> None:
    async with begin(world, 1, 1) as dispatcher:
        world.service.take(TWO)
        async with Dispatcher(world.client, world.balancer, clock=world.clock) as second:
            world.service.script.append(Answer(504, {"jobid": "job:late"}))
            handle = await dispatcher.submit("create", prompt="a cat", channel=ONE)
            await world.pass_time(100)
            assert world.in_flight() == 1
            # Once the service is known to have the job, its slot goes by the id.
            world.service.jobs["job:late"] = {"jobid": "job:late", "status": "progress", "channel": ONE}
            await world.pass_time(40, lambda: handle.status == "progress")
            await world.until(lambda: "job:late" in world.balancer.adopted() and world.in_flight() == 1)
            world.service.end("job:late")
            await world.pass_time(20, lambda: handle.done)
            assert world.in_flight() == 0
            await second.close()


async def test_a_job_whose_id_was_in_doubt_is_counted_once_by_who_takes_it_over(world: World) -> None:
    async with begin(world, 2) as dispatcher:
        world.service.script.append(Answer(504, {"jobid": "job:late"}))
        await dispatcher.submit("create", prompt="a cat")
        [record] = await dispatcher.drain(0)
        async with Dispatcher(world.client, world.balancer, clock=world.clock) as second:
            await second.resume([record])
            assert (world.in_flight(), list(world.balancer.adopted())) == (1, ["job:late"])
            await second.close()


async def test_a_second_dispatcher_leaves_the_slots_of_the_firsts_unclear_jobs_alone(world: World) -> None:
    async with begin(world, 2) as dispatcher:
        world.service.script.append(Answer(500))
        running = spawn(dispatcher.run("create", prompt="a cat"))
        await world.until(lambda: bool(world.told("Uncertain")))
        other = world.service.take(ONE)
        async with Dispatcher(world.client, world.balancer, clock=world.clock) as second:
            assert world.in_flight() == 2
            await world.pass_time(100)
            assert world.in_flight() == 2
            world.service.end(other)
            await world.pass_time(20, lambda: world.in_flight() == 1)
            await second.close()
        running.cancel()


async def test_a_job_that_was_regained_and_has_ended_is_not_taken_over_again(world: World) -> None:
    async with begin(world, 2, name="w") as dispatcher:
        await dispatcher.submit("create", prompt="a cat")
        records = await dispatcher.drain(0)
    world.events.clear()
    async with begin(world, 2, name="w") as dispatcher:
        [regained] = dispatcher.handles
        world.service.end_all()
        await world.pass_time(20, lambda: regained.done)
        assert await dispatcher.resume(records) == [regained]
        await world.pass_time(40)
        assert (len(world.told("Ended")), world.in_flight()) == (1, 0)


async def test_a_late_release_does_not_take_the_slot_of_a_job_that_was_adopted_anew() -> None:
    async with Balancer([Account(ONE, 2)]) as balancer:
        first = await balancer.adopt(ONE, "job:1")
        await balancer.release(first)
        second = await balancer.adopt(ONE, "job:1")
        await balancer.release(first)
        assert balancer.adopted() == {"job:1": second}
        await balancer.release(second)
        assert balancer.snapshot().in_flight == 0


async def test_a_job_that_is_known_to_run_is_not_lost_to_its_own_late_answer(world: World) -> None:
    webhook = ManualWebhook()
    async with begin(world, 2, webhook=webhook) as dispatcher:
        world.service.script.append(Answer(200, accepted=True, until=asyncio.Event()))
        running = spawn(dispatcher.run("create", prompt="a cat"))
        await world.until(lambda: len(world.service.posts) == 1)
        ref = world.service.refs[0]
        webhook.deliver(Job("job:1", status="started", channel=ONE, reply_ref=ref))
        webhook.deliver(Job("job:1", status="completed", channel=ONE, reply_ref=ref))
        assert await dispatcher.drain() == []
        assert (await running).status == "completed"


async def test_a_caller_that_was_about_to_wait_for_a_slot_gets_closed(world: World) -> None:
    parent = world.service.take(ONE)
    async with begin(world, 1) as dispatcher:
        world.service.end(parent)
        await world.pass_time(20, lambda: world.in_flight() == 0)
        world.service.hold = asyncio.Event()
        async with world.balancer.lease():
            asking = spawn(dispatcher.submit("button", jobid=parent))
            asked = len(world.service.gets)
            await world.until(lambda: len(world.service.gets) > asked)
            await dispatcher.close()
            world.service.hold.set()
            await world.until(asking.done)
        assert isinstance(asking.exception(), Closed)


async def test_a_record_without_an_id_finds_a_job_counted_as_another_submitters(world: World) -> None:
    jobid = world.service.take(ONE, ref="mine")
    async with begin(world, 2) as dispatcher:
        record = {"version": 1, "verb": "create", "reply_ref": "mine", "jobid": None, "channel": ONE}
        [handle] = await dispatcher.resume([record])
        await world.pass_time(20, lambda: handle.jobid == jobid)
        assert world.in_flight() == 1


async def test_a_resumed_job_that_has_ended_frees_its_slot_soon(world: World) -> None:
    jobid = world.service.take(ONE)
    world.service.end(jobid)
    async with begin(world, 1) as dispatcher:
        record = {"version": 1, "verb": "create", "reply_ref": "mine", "jobid": jobid, "channel": ONE}
        [handle] = await dispatcher.resume([record])
        await world.pass_time(2.1, lambda: handle.done)
        assert (await handle).status == "completed"
        assert world.in_flight() == 0
