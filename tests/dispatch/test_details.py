"""A cancellation at every turn of the event loop."""

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

import pika_balancer
from pika_balancer import Dispatcher
from tests.depth import sized
from tests.dispatch.conftest import ONE, World, begin, spawn

TURNS = sized(range(0, 41, 4), range(41))


def ours(tasks: "set[asyncio.Task[Any]]") -> "set[asyncio.Task[Any]]":
    """Those that run this package's code: the service and its connections have tasks, too."""
    home = str(Path(pika_balancer.__file__).parent)
    codes = {task: getattr(task.get_coro(), "cr_code", None) for task in tasks}
    return {task for task, code in codes.items() if code is not None and code.co_filename.startswith(home)}


def all_known(dispatcher: Dispatcher) -> bool:
    return all(handle.jobid is not None for handle in dispatcher.handles)


# --- cancelled at every turn -------------------------------------------------------------------------------

NAME = "worker"
Way = Callable[[Dispatcher, World], Coroutine[Any, Any, object]]


async def submit(dispatcher: Dispatcher, _world: World) -> object:
    return await dispatcher.submit("create", prompt="a cat")


async def run(dispatcher: Dispatcher, _world: World) -> object:
    return await dispatcher.run("create", prompt="a cat")


async def many(dispatcher: Dispatcher, _world: World) -> object:
    return [outcome async for outcome in dispatcher.map([{"prompt": "a cat"}] * 5, concurrency=2)]


async def resume(dispatcher: Dispatcher, world: World) -> object:
    record = {"version": 1, "verb": "create", "channel": ONE}
    jobs = [job for job in world.service.jobs.values() if job["status"] == "started"]
    ids = [jobs[0]["jobid"], None]
    records = [
        record | {"reply_ref": job["replyRef"], "jobid": jobid} for job, jobid in zip(jobs, ids, strict=True)
    ]
    return await dispatcher.resume(records)


async def reconcile(dispatcher: Dispatcher, _world: World) -> object:
    return await dispatcher.reconcile()


async def drain(dispatcher: Dispatcher, _world: World) -> object:
    return await dispatcher.drain()


@pytest.mark.deep
@pytest.mark.parametrize("way", [submit, run, many, resume, reconcile, drain])
async def test_a_cancellation_at_any_turn_leaves_the_counts_true_and_nothing_behind(
    world: World, way: Way
) -> None:
    service = world.service
    for turns in TURNS:
        before = asyncio.all_tasks()
        if way in (resume, reconcile):
            for number in range(2):
                service.take(ONE, ref=f"{NAME}.{turns}.{number}")
        async with begin(world, 3, name=NAME, reconcile=False) as dispatcher:
            if way is drain:
                await dispatcher.submit("create", prompt="a cat")
            task = spawn(way(dispatcher, world))
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task], timeout=60)
            assert task.done(), turns
            known = lambda: all(handle.jobid is not None for handle in dispatcher.handles)  # noqa: E731
            await world.pass_time(5, known)
            if way is not drain or not task.cancelled():
                await dispatcher.reconcile()
            assert world.in_flight() == len(service.executing), turns
            await dispatcher.close()
            assert world.in_flight() == len(service.executing), turns
            async with Dispatcher(world.client, world.balancer, clock=world.clock) as later:
                assert world.in_flight() == len(service.executing), turns
                service.end_all()
                await later.reconcile()
                assert world.in_flight() == 0, turns
        assert ours(asyncio.all_tasks() - before) == set(), turns
        assert world.clock.sleeping == 0, turns
    assert len(service.refs) == len(set(service.refs))
