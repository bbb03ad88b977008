"""A job from the lease to its end, by a clock moved by hand."""

import asyncio
from collections.abc import Iterable
from typing import cast

import pytest

from pika_balancer import Account, Balancer, Job, PikaClient
from pika_balancer.cli.carry import carry, follow
from pika_balancer.cli.exits import StillRunning
from pika_balancer.cli.running import Running, ask
from pika_balancer.errors import (
    BadRequest,
    ChannelFull,
    ConnectionLost,
    LostTrack,
    NotFound,
    PikaError,
    RateLimited,
    ServiceError,
    Unauthorized,
)
from pika_balancer.models import Lease
from pika_balancer.testing import ManualClock, settle

STARTED = Job("j", "started", channel="1")
PROGRESS = Job("j", "progress", channel="1")
COMPLETED = Job("j", "completed", channel="1")


class Script:
    """Answers `job()` and `jobs()` as scripted; the last answer stays."""

    def __init__(self, *answers: Job | PikaError, jobs: Iterable[str] = ()) -> None:
        self.answers: list[Job | PikaError] = list(answers)
        self.running = list(jobs)
        self.asked: list[str] = []
        self.at_once = self.most_at_once = 0

    async def job(self, jobid: str) -> Job:
        self.asked.append(jobid)
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        await asyncio.sleep(0)
        self.at_once -= 1
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, PikaError):
            raise answer
        return answer

    async def jobs(self) -> list[str]:
        return self.running

    @property
    def client(self) -> PikaClient:
        return cast("PikaClient", self)


async def accepted(_lease: Lease) -> Job:
    return STARTED


async def test_slot_is_held_to_the_end_of_the_job_and_no_longer() -> None:
    clock = ManualClock()
    balancer = Balancer([Account("1", 1)], clock=clock)
    script = Script(PROGRESS, PROGRESS, COMPLETED)
    seen: list[str] = []
    task = asyncio.create_task(
        carry(
            script.client, balancer, accepted, clock=clock, every=10, saw=lambda job: seen.append(job.status)
        )
    )
    await clock.advance(25)
    assert balancer.snapshot().in_flight == 1
    assert not task.done()
    await clock.advance(5)
    assert (await task) is COMPLETED
    assert balancer.snapshot().in_flight == 0
    assert seen == ["started", "progress", "completed"]
    assert len(script.asked) == 3


@pytest.mark.parametrize("trouble", [ConnectionLost, ServiceError, RateLimited, LostTrack])
async def test_passing_trouble_is_waited_out_but_not_for_ever(trouble: type[PikaError]) -> None:
    clock = ManualClock()
    four = [trouble("x")] * 4
    task = asyncio.create_task(
        follow(Script(*four, PROGRESS, *four, COMPLETED).client, STARTED, clock=clock, every=1)
    )
    await clock.advance(10)
    assert (await task) is COMPLETED
    task = asyncio.create_task(follow(Script(trouble("x")).client, STARTED, clock=clock, every=1))
    await clock.advance(4)
    assert not task.done()
    await clock.advance(1)
    with pytest.raises(trouble):
        await task


@pytest.mark.parametrize("trouble", [Unauthorized("x"), NotFound("x")])
async def test_lasting_trouble_ends_it_at_once(trouble: PikaError) -> None:
    clock = ManualClock()
    task = asyncio.create_task(follow(Script(trouble).client, STARTED, clock=clock, every=1))
    await clock.advance(1)
    with pytest.raises(type(trouble)):
        await task


async def test_deadline_ends_the_following_after_a_last_look() -> None:
    clock = ManualClock()
    script = Script(PROGRESS)
    task = asyncio.create_task(follow(script.client, STARTED, clock=clock, every=10, deadline=25))
    await clock.advance(24.9)
    assert not task.done()
    await clock.advance(0.1)
    with pytest.raises(StillRunning) as caught:
        await task
    assert caught.value.jobid == "j"
    assert len(script.asked) == 3


async def test_full_channel_rests_until_the_next_look() -> None:
    clock = ManualClock()

    async def full(_lease: Lease) -> Job:
        raise ChannelFull("full")

    async with Balancer([Account("1", 2)], clock=clock) as balancer:
        with pytest.raises(ChannelFull):
            await carry(Script(PROGRESS).client, balancer, full, clock=clock, every=10)
        (state,) = balancer.snapshot().accounts
        assert (state.in_flight, state.resting_until) == (0, 10)


async def test_refused_submit_gives_the_slot_back() -> None:
    balancer = Balancer([Account("1", 1)])

    async def refused(_lease: Lease) -> Job:
        raise BadRequest("bad")

    with pytest.raises(BadRequest):
        await carry(Script(PROGRESS).client, balancer, refused, clock=ManualClock(), every=1)
    assert balancer.snapshot().in_flight == 0


async def test_cancelled_submit_is_seen_through_for_the_id() -> None:
    balancer = Balancer([Account("1", 1)])
    answer: asyncio.Future[Job] = asyncio.get_running_loop().create_future()
    seen: list[Job] = []

    async def slow(_lease: Lease) -> Job:
        return await answer

    task = asyncio.create_task(
        carry(Script(PROGRESS).client, balancer, slow, clock=ManualClock(), every=1, saw=seen.append)
    )
    await settle()
    task.cancel()
    await settle()
    assert not task.done()
    answer.set_result(STARTED)
    with pytest.raises(asyncio.CancelledError):
        await task
    assert seen == [STARTED]
    assert balancer.snapshot().in_flight == 0


async def test_submit_that_fails_after_the_cancellation_is_still_a_cancellation() -> None:
    balancer = Balancer([Account("1", 1)])
    answer: asyncio.Future[Job] = asyncio.get_running_loop().create_future()

    async def slow(_lease: Lease) -> Job:
        return await answer

    task = asyncio.create_task(carry(Script(PROGRESS).client, balancer, slow, clock=ManualClock(), every=1))
    await settle()
    task.cancel()
    await settle()
    answer.set_exception(ConnectionLost("lost"))
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_second_cancellation_abandons_the_submit() -> None:
    balancer = Balancer([Account("1", 1)])
    abandoned = asyncio.Event()

    async def hangs(_lease: Lease) -> Job:
        try:
            await asyncio.Event().wait()
            return STARTED
        finally:
            abandoned.set()

    task = asyncio.create_task(carry(Script(PROGRESS).client, balancer, hangs, clock=ManualClock(), every=1))
    for _ in range(2):
        await settle()
        task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert abandoned.is_set()
    assert balancer.snapshot().in_flight == 0


async def test_ask_keeps_the_order_skips_the_forgotten_and_is_never_more_than_eight_at_once() -> None:
    script = Script(*([COMPLETED] * 5), NotFound("gone"), *([COMPLETED] * 34))
    jobs = await ask(script.client, [str(number) for number in range(40)])
    assert len(jobs) == 39
    assert script.asked == [str(number) for number in range(40)]
    assert script.most_at_once == 8


async def test_ask_that_fails_leaves_no_task() -> None:
    script = Script(COMPLETED, Unauthorized("no"))
    before = asyncio.all_tasks()
    with pytest.raises(Unauthorized):
        await ask(script.client, [str(number) for number in range(40)])
    assert asyncio.all_tasks() == before


async def test_books_follow_what_runs() -> None:
    async with Balancer([Account("1", 2), Account("2", 2)]) as balancer:
        script = Script(Job("a", "started", channel="1"), Job("b", "started", channel="2"), jobs=["a", "b"])
        running = Running(script.client, balancer)
        await running.look()
        await running.look()
        assert [account.in_flight for account in balancer.snapshot().accounts] == [1, 1]
        assert script.asked == ["a", "b"]
        script.running = ["b", "c"]
        script.answers = [Job("c", "completed", channel="1")]
        await running.look()
        assert [account.in_flight for account in balancer.snapshot().accounts] == [0, 1]
        script.running = ["d"]
        script.answers = [Job("d", "started")]
        await running.look()
        assert balancer.snapshot().in_flight == 0
