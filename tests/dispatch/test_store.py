"""A store or a service that fails halfway: what the service has taken stays taken."""

import asyncio
from collections import Counter

import pytest

from pika_balancer import Account, Balancer, Dispatcher, InvalidResponse, Job, Lease, PikaError, ServiceError
from pika_balancer.store import MemoryStore
from tests.dispatch.conftest import ONE, Answer, ManualWebhook, World, spawn


class Store(MemoryStore):
    """Fails to adopt as often as it is told; lets an adoption wait for a gate, by how its key begins."""

    def __init__(self, world: World, cap: int) -> None:
        super().__init__([Account(ONE, cap)], clock=world.clock)
        self.failures = 0
        self.gates: dict[str, asyncio.Event] = {}

    async def adopt(self, channel: str, key: str) -> Lease:
        if self.failures:
            self.failures -= 1
            raise PikaError("the store is away")
        for beginning, gate in self.gates.items():
            if key.startswith(beginning):
                await gate.wait()
        return await super().adopt(channel, key)


async def test_a_store_that_fails_after_the_submit_does_not_make_it_a_failure(world: World) -> None:
    store = Store(world, 1)
    async with (
        Balancer(store=store, clock=world.clock) as balancer,
        Dispatcher(world.client, balancer, clock=world.clock) as dispatcher,
    ):
        store.failures = 1
        handle = await dispatcher.submit("create", prompt="a cat")
        assert balancer.snapshot().in_flight == 1
        world.service.end_all()
        await world.pass_time(20, lambda: handle.done)
        assert ((await handle).status, balancer.snapshot().in_flight) == ("completed", 0)
        assert len(world.service.posts) == 1


async def test_if_the_store_fails_to_count_other_jobs_the_account_cools_down(world: World) -> None:
    store = Store(world, 1)
    async with (
        Balancer(store=store, clock=world.clock) as balancer,
        Dispatcher(world.client, balancer, clock=world.clock) as dispatcher,
    ):
        other = world.service.take(ONE)
        world.service.script.append(Answer(429, {"executingJobs": [other]}))
        store.failures = 1
        running = spawn(dispatcher.submit("create", prompt="a cat"))
        await world.until(lambda: balancer.snapshot().accounts[0].cooldown_until is not None)
        world.service.end(other)
        await world.pass_time(20, running.done)
        await running
        assert len(world.service.posts) == 2
        await dispatcher.close()


async def test_a_look_goes_on_after_a_store_that_failed(world: World) -> None:
    store = Store(world, 3)
    async with (
        Balancer(store=store, clock=world.clock) as balancer,
        Dispatcher(world.client, balancer, clock=world.clock) as dispatcher,
    ):
        world.service.script.append(Answer(500))
        running = spawn(dispatcher.submit("create", prompt="a cat"))
        await world.until(lambda: bool(dispatcher.handles) and len(balancer.adopted()) == 1)
        world.service.take(ONE, dispatcher.handles[0].reply_ref)
        world.service.take(ONE)
        store.failures = 2
        await world.pass_time(40, running.done)
        handle = await running
        assert handle.jobid == "job:1"
        await world.pass_time(20, lambda: balancer.snapshot().in_flight == 2)
        await dispatcher.close()


@pytest.mark.parametrize("order", [("ref", "job"), ("job", "ref")])
async def test_a_slot_that_is_named_twice_at_once_is_one_slot(world: World, order: tuple[str, str]) -> None:
    store = Store(world, 3)
    webhook = ManualWebhook()
    async with (
        Balancer(store=store, clock=world.clock) as balancer,
        Dispatcher(world.client, balancer, clock=world.clock, webhook=webhook) as dispatcher,
    ):
        store.gates = {"ref": asyncio.Event(), "job": asyncio.Event()}
        world.service.script.append(Answer(500, accepted=True))
        running = spawn(dispatcher.submit("create", prompt="a cat"))
        await world.until(lambda: bool(dispatcher.handles) and dispatcher.handles[0].doubt is not None)
        webhook.deliver(Job("job:1", status="progress", channel=ONE, reply_ref=world.service.refs[0]))
        counts: Counter[int] = Counter()
        for beginning in order:
            store.gates[beginning].set()
            await world.until(lambda: True)
            counts[balancer.snapshot().in_flight] += 1
        handle = await running
        assert (counts, list(balancer.adopted())) == ({1: 2}, ["job:1"])
        world.service.end_all()
        await world.pass_time(20, lambda: handle.done)
        assert balancer.snapshot().in_flight == 0


async def test_entering_fails_if_a_job_cannot_be_looked_up(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen, unseen = world.service.take(ONE), world.service.take(ONE)
    ask = world.client.job

    async def job(jobid: str) -> Job:
        if jobid == unseen:
            raise ServiceError("the service failed", status=500)
        return await ask(jobid)

    monkeypatch.setattr(world.client, "job", job)
    async with Balancer([Account(ONE, 3)], clock=world.clock) as balancer:
        with pytest.raises(ServiceError):
            async with Dispatcher(world.client, balancer, clock=world.clock):
                pass
        assert list(balancer.adopted()) == [seen]


async def test_a_malformed_job_does_not_keep_a_dispatcher_from_starting(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken, sound = world.service.take(ONE), world.service.take(ONE)
    ask = world.client.job

    async def job(jobid: str) -> Job:
        if jobid == broken:
            raise InvalidResponse("no job")
        return await ask(jobid)

    monkeypatch.setattr(world.client, "job", job)
    async with (
        Balancer([Account(ONE, 3)], clock=world.clock) as balancer,
        Dispatcher(world.client, balancer, clock=world.clock) as dispatcher,
    ):
        assert list(balancer.adopted()) == [sound]
        await dispatcher.close()
