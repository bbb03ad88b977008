"""Many jobs: lazily read, told as they end, each with its outcome."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from typing import Any

import pytest

from pika_balancer import BadRequest, InvalidArgument, Unauthorized
from pika_balancer.dispatch import Outcome
from pika_balancer.models import Secret
from tests.dispatch.conftest import Answer, World, begin, spawn


async def test_jobs_are_read_as_they_are_begun_and_told_as_they_end(world: World) -> None:
    read: list[int] = []

    def jobs() -> Iterator[dict[str, Any]]:
        for number in range(6):
            read.append(number)
            yield {"prompt": f"cat {number}"}

    async with begin(world, 9) as dispatcher:
        outcomes: list[Outcome] = []
        batch = dispatcher.map(jobs(), concurrency=2)

        async def collect() -> None:
            async for outcome in batch:
                outcomes.append(outcome)  # noqa: PERF401 - watched while it grows

        collecting = spawn(collect())
        await world.until(lambda: len(world.service.posts) == 2)
        assert read == [0, 1]
        world.service.end("job:2", "failed")
        await world.pass_time(20, lambda: len(world.service.posts) == 3)
        assert [(outcome.index, outcome.job and outcome.job.status) for outcome in outcomes] == [
            (1, "failed")
        ]
        assert (batch.progress.begun, batch.progress.running, batch.progress.ended) == (3, 2, 1)
        while not collecting.done():
            world.service.end_all()
            await world.pass_time(5)
        await collecting
        assert sorted(outcome.index for outcome in outcomes) == list(range(6))
        assert outcomes[0].request == {"prompt": "cat 1"}
        assert (batch.progress.completed, batch.progress.running) == (5, 0)


async def test_one_jobs_fault_is_its_own_outcome_and_a_refusal_ends_all(world: World) -> None:
    async with begin(world, 1) as dispatcher:
        world.service.script.extend([Answer(400), Answer(401)])
        jobs: list[Any] = [
            {"prompt": "bad"},
            {"promt": "typo"},
            "no mapping",
            {"prompt": "x"},
            {"prompt": "y"},
        ]
        outcomes: list[Outcome] = []

        batch = dispatcher.map(jobs, concurrency=1)

        async def collect() -> None:
            async for outcome in batch:
                outcomes.append(outcome)
                assert (batch.progress.failed, batch.progress.running) == (len(outcomes), 0)

        with pytest.raises(Unauthorized):
            await collect()
        assert [type(outcome.error) for outcome in outcomes] == [BadRequest, InvalidArgument, InvalidArgument]
        fields = [getattr(outcome.error, "field", None) for outcome in outcomes]
        assert fields == [None, "promt", "jobs"]
        assert [outcome.request for outcome in outcomes] == jobs[:3]
        assert len(world.service.posts) == 2


async def test_a_slow_source_holds_up_no_outcome(world: World) -> None:
    more = asyncio.Event()

    async def jobs() -> AsyncIterator[dict[str, Any]]:
        yield {"prompt": "first"}
        await more.wait()
        yield {"prompt": "second"}

    async with begin(world, 3) as dispatcher, aclosing(dispatcher.map(jobs())) as batch:
        first = spawn(anext(batch))
        await world.until(lambda: len(world.service.posts) == 1)
        world.service.end_all()
        await world.pass_time(20, first.done)
        assert (await first).index == 0
        more.set()
        second = spawn(anext(batch))
        await world.until(lambda: len(world.service.posts) == 2)
        world.service.end_all()
        await world.pass_time(20, second.done)
        with pytest.raises(StopAsyncIteration):
            await anext(batch)


async def test_a_source_that_is_left_while_it_takes_its_time_is_closed(world: World) -> None:
    closed: list[str] = []

    async def jobs() -> AsyncIterator[dict[str, Any]]:
        try:
            yield {"prompt": "first"}
            await asyncio.Event().wait()
        finally:
            closed.append("closed")

    async with begin(world, 3) as dispatcher:
        async with aclosing(dispatcher.map(jobs())) as batch:
            first = spawn(anext(batch))
            await world.until(lambda: len(world.service.posts) == 1)
            world.service.end_all()
            await world.pass_time(20, first.done)
        assert closed == ["closed"]


async def test_as_many_jobs_are_read_as_there_are_slots(world: World) -> None:
    read: list[int] = []

    def jobs() -> Iterator[dict[str, Any]]:
        for number in range(3):
            read.append(number)
            yield {"prompt": f"cat {number}"}

    async with begin(world, 1) as dispatcher, aclosing(dispatcher.map(jobs())) as batch:
        first = spawn(anext(batch))
        await world.until(lambda: len(world.service.posts) == 1)
        assert read == [0]
        world.service.end_all()
        await world.pass_time(20, first.done)


async def test_a_secret_in_a_job_comes_back_hidden_with_its_outcome(world: World) -> None:
    async with begin(world, 1) as dispatcher:
        world.service.script.append(Answer(400))
        [outcome] = await _collect(dispatcher.map([{"prompt": "a cat", "reply_url": "http://canary/"}]))
        assert isinstance(outcome.request["reply_url"], Secret)
        assert outcome.request["prompt"] == "a cat"
        assert isinstance(outcome.error, BadRequest)


async def test_who_leaves_early_leaves_sent_jobs_to_the_dispatcher_and_sends_no_more(world: World) -> None:
    before = asyncio.all_tasks()
    async with begin(world, 2) as dispatcher:
        async with aclosing(dispatcher.map({"prompt": str(n)} for n in range(9))) as batch:
            first = spawn(anext(batch))
            await world.until(lambda: len(world.service.posts) == 2)
            world.service.end("job:1")
            await world.pass_time(20, first.done)
        assert len(dispatcher.handles) == 1
        assert len(world.service.posts) == 2
        world.service.end_all()
        await world.pass_time(20, lambda: not dispatcher.handles)
        assert (len(world.service.posts), world.in_flight()) == (2, 0)
    assert {task for task in asyncio.all_tasks() - before if "begin" in repr(task)} == set()


@pytest.mark.parametrize(
    "wrong",
    [
        {1: 2},
        {"self": 1, "prompt": "x"},
        {"prompt": "x", "timeout": "3"},
        {"prompt": "x", "timeout": 10**400},
        {"prompt": "x", "verb": ["create"]},
        {"prompt": "x", "before_send": 5},
        {"prompt": "x", "reply_ref": ["mine"]},
        {"prompt": "x", "channel": 7},
        {"prompt": b"x"},
    ],
)
async def test_a_job_that_makes_no_sense_is_its_own_outcome_and_stops_no_other(
    world: World, wrong: dict[Any, Any]
) -> None:
    async with begin(world, 3) as dispatcher:
        jobs = [{"prompt": "one"}, wrong, {"prompt": "two"}]
        collecting = spawn(_collect(dispatcher.map(jobs, concurrency=3)))
        await world.until(lambda: len(world.service.posts) == 2)
        world.service.end_all()
        await world.pass_time(20, collecting.done)
        outcomes = {outcome.index: outcome for outcome in await collecting}
        assert isinstance(outcomes[1].error, InvalidArgument)
        assert [outcomes[index].error for index in (0, 2)] == [None, None]
        assert world.in_flight() == 0


async def _collect(batch: AsyncIterator[Outcome]) -> list[Outcome]:
    return [outcome async for outcome in batch]


@pytest.mark.parametrize("concurrency", [0, -1, 1.5])
async def test_a_wrong_concurrency_is_named(world: World, concurrency: Any) -> None:
    async with begin(world, 1) as dispatcher:
        with pytest.raises(InvalidArgument) as caught:
            dispatcher.map([], concurrency=concurrency)
        assert caught.value.field == "concurrency"
        assert [outcome async for outcome in dispatcher.map([])] == []


async def test_a_broken_source_is_raised_and_leaves_nothing_behind(world: World) -> None:
    def jobs() -> Iterator[dict[str, Any]]:
        yield {"prompt": "first"}
        raise ZeroDivisionError

    async with begin(world, 2) as dispatcher:
        with pytest.raises(ZeroDivisionError):
            await anext(dispatcher.map(jobs()))
        await world.until(lambda: world.in_flight() == len(world.service.executing))
