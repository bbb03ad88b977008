"""Each answer to a submit, on a real socket, and its consequences for job, slot and account."""

import asyncio
from typing import Any

import pytest

from pika_balancer import (
    AccountSuspended,
    BadRequest,
    ChannelFull,
    Closed,
    ConnectFailed,
    Job,
    LostTrack,
    NoCapacity,
    NotFound,
    PikaError,
    PromptRejected,
    RateLimited,
    SubmissionUnknown,
    SubscriptionRequired,
    Unauthorized,
    UnexpectedStatus,
    WrongLoop,
)
from pika_balancer.dispatch.submitter import SubmitOutcome, submit_outcome
from pika_balancer.events import Event, Refused, Uncertain
from tests.dispatch.conftest import ONE, THREE, TWO, Answer, CountingClient, World, begin, spawn

SEARCH_FOR = 180.0
NOON = {"Date": "Sun, 06 Nov 2044 12:00:00 GMT"}


async def test_an_accepted_job_is_followed_to_its_end_and_holds_its_slot_until_then(world: World) -> None:
    async with begin(world, 1) as dispatcher:
        running = spawn(dispatcher.run("create", prompt="a cat"))
        await world.until(lambda: bool(dispatcher.handles) and dispatcher.handles[0].jobid is not None)
        assert world.in_flight() == 1
        world.service.end_all()
        assert world.in_flight() == 1
        await world.pass_time(20, running.done)
        job: Job = await running
        assert (job.status, job.channel, world.in_flight()) == ("completed", ONE, 0)
        assert world.service.posts == [
            ("create", {"prompt": "a cat", "channel": ONE, "replyRef": world.service.refs[0]})
        ]
        assert dispatcher.handles == ()


async def test_a_channel_full_of_others_jobs_counts_as_full_and_another_is_tried_at_once(
    world: World,
) -> None:
    async with begin(world, 2, 1) as dispatcher:
        others = [world.service.take(ONE), world.service.take(ONE)]
        world.service.script.append(Answer(429, {"error": "full", "executingJobs": others}))
        handle = await dispatcher.submit("create", prompt="a cat")
        assert world.service.channels == [ONE, TWO]
        assert handle.channel == TWO
        assert (world.in_flight(ONE), world.in_flight(TWO)) == (2, 1)
        assert world.cooling_down(ONE) is None
        # The slots come back when those jobs have ended, and not before.
        world.service.end(others[0])
        await world.pass_time(20, lambda: world.in_flight(ONE) == 1)
        world.service.end(others[1])
        await world.pass_time(20, lambda: world.in_flight(ONE) == 0)
        assert [event.error for event in world.told(Refused)] == ["ChannelFull"]


async def test_an_account_that_only_the_service_counts_as_full_cools_down_until_the_next_pass(
    world: World,
) -> None:
    async with begin(world, 5) as dispatcher:
        other = world.service.take(ONE)
        world.service.script.append(Answer(429, {"error": "full", "executingJobs": [other]}))
        running = spawn(dispatcher.submit("create", prompt="a cat"))
        await world.until(lambda: world.cooling_down() is not None)
        assert world.in_flight() == 1
        assert world.cooling_down() == 15.0
        assert len(world.service.posts) == 1
        world.service.end(other)
        await world.pass_time(16, running.done)
        assert len(world.service.posts) == 2


async def test_a_list_of_all_accounts_jobs_is_not_counted_on_the_one_that_refused(world: World) -> None:
    async with begin(world, 1, 3) as dispatcher:
        others = [world.service.take(TWO), world.service.take(TWO), world.service.take(ONE)]
        world.service.script.append(Answer(429, {"error": "full", "executingJobs": others}))
        running = spawn(dispatcher.submit("create", prompt="a cat", channel=TWO))
        await world.until(lambda: (world.in_flight(ONE), world.in_flight(TWO)) == (0, 3))
        # The next pass finds out where they are.
        await world.pass_time(5, running.done)
        assert (world.in_flight(ONE), world.in_flight(TWO)) == (1, 3)
        assert world.service.channels == [TWO, TWO]


@pytest.mark.parametrize(
    ("headers", "body", "least", "most"),
    [
        ({}, {}, 10, 30),
        ({}, {"executingJobs": []}, 10, 30),
        ({}, {"executingJobs": "job:1"}, 10, 30),
        ({"Retry-After": "40"}, {}, 40, 50),
        ({"Retry-After": "0"}, {}, 10, 30),
        ({"Retry-After": "99999999"}, {}, 3600, 3600),
        (NOON | {"Retry-After": "Sun, 06 Nov 2044 12:00:40 GMT"}, {}, 40, 50),
        (NOON | {"Retry-After": "Sun, 06 Nov 1994 12:00:40 GMT"}, {}, 10, 30),
        (NOON, {"retryAfter": "2044-11-06T12:00:40.000Z"}, 40, 50),
        ({}, {"retryAfter": "in a while"}, 10, 30),
    ],
)
async def test_a_rate_limited_account_cools_down_and_another_is_tried(
    world: World, headers: dict[str, str], body: dict[str, Any], least: float, most: float
) -> None:
    async with begin(world, 1, 1) as dispatcher:
        world.service.script.append(Answer(429, {"error": "slow down"} | body, headers))
        await dispatcher.submit("create", prompt="a cat")
        assert world.service.channels == [ONE, TWO]
        cooldown = world.cooling_down(ONE)
        assert cooldown is not None
        assert least <= cooldown <= most
        assert world.in_flight(ONE) == 0


async def test_faults_in_a_row_double_the_cooldown_and_a_success_resets_it(world: World) -> None:
    async with begin(world, 1) as dispatcher:
        world.service.script.extend([Answer(429, {}, {"Retry-After": "20"})] * 3)
        running = spawn(dispatcher.run("create", prompt="a cat"))
        cooldowns: list[float] = []
        for posts in (1, 2, 3):
            await world.until(lambda: len(world.service.posts) == posts and world.cooling_down() is not None)  # noqa: B023
            cooldown = world.cooling_down()
            assert cooldown is not None
            cooldowns.append(cooldown)
            # An only account is tried again after each cooldown.
            await world.clock.advance(cooldown)
        assert 20 <= cooldowns[0] <= 25
        assert 40 <= cooldowns[1] <= 50
        assert 80 <= cooldowns[2] <= 100
        await world.until(lambda: len(world.service.posts) == 4)
        world.service.end_all()
        await world.pass_time(20, running.done)
        world.service.script.append(Answer(429, {}, {"Retry-After": "20"}))
        running = spawn(dispatcher.submit("create", prompt="a cat"))
        await world.until(lambda: world.cooling_down() is not None)
        assert (world.cooling_down() or 0) <= 25
        running.cancel()


async def test_submits_that_fail_together_are_one_fault(world: World) -> None:
    async with begin(world, 3) as dispatcher:
        gate = asyncio.Event()
        world.service.script.extend([Answer(429, {}, {"Retry-After": "20"}, until=gate)] * 3)
        running = [spawn(dispatcher.submit("create", prompt="a cat")) for _ in range(3)]
        await world.until(lambda: len(world.service.posts) == 3)
        gate.set()
        await world.until(lambda: len(world.told(Refused)) == 3)
        assert 20 <= (world.cooling_down() or 0) <= 25
        for task in running:
            task.cancel()


@pytest.mark.parametrize(("status", "error"), [(401, Unauthorized), (402, SubscriptionRequired)])
async def test_a_refused_token_or_subscription_stops_everything(
    world: World, status: int, error: type[PikaError]
) -> None:
    async with begin(world, 1) as dispatcher:
        first = await dispatcher.submit("create", prompt="runs already")
        assert repr(dispatcher) == "<Dispatcher open, 1 jobs>"
        waiting = [spawn(dispatcher.run("create", prompt="waits")) for _ in range(3)]
        await world.until(lambda: len(world.balancer.statistics().waiters) == 3)
        world.service.script.append(Answer(status, {"error": "no", "code": status}))
        world.service.end_all()
        await world.pass_time(20, lambda: all(task.done() for task in waiting))
        errors = [task.exception() for task in waiting]
        assert [type(caught) for caught in errors] == [error] * 3
        assert len({id(caught) for caught in errors}) == 3
        with pytest.raises(error):
            await dispatcher.submit("create", prompt="comes later")
        assert (await first).status == "completed"
        assert len(world.service.posts) == 2
        assert world.in_flight() == 0
        [stopped] = world.told("Stopped")
        assert (stopped.at, stopped.why) == (world.told("Refused")[0].at, str(errors[0]))
        assert repr(dispatcher) == "<Dispatcher over, 0 jobs>"


async def test_a_token_that_is_refused_while_jobs_run_hands_them_back_with_their_slots(world: World) -> None:
    async with begin(world, 2) as dispatcher:
        handle = await dispatcher.submit("create", prompt="a cat")
        world.service.down = 401
        await world.pass_time(20, lambda: handle.done)
        with pytest.raises(Unauthorized) as caught:
            await handle
        assert caught.value.jobid == handle.jobid
        assert world.in_flight() == 1
        asked = len(world.service.gets)
        await world.pass_time(60)
        assert len(world.service.gets) == asked, "a refused token is not tried over and over"
        records = await dispatcher.drain(0)
        assert [record["jobid"] for record in records] == [handle.jobid]
        assert [event.error for event in world.told("Detached")] == ["Unauthorized"]


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, BadRequest),
        (422, PromptRejected),
        (404, NotFound),
        (403, UnexpectedStatus),
        (307, UnexpectedStatus),
    ],
)
async def test_the_jobs_own_fault_leaves_slot_and_account_unharmed(
    world: World, status: int, error: type[PikaError]
) -> None:
    async with begin(world, 1) as dispatcher:
        world.service.script.append(Answer(status, {"error": "your fault"}))
        with pytest.raises(error) as caught:
            await dispatcher.run("create", prompt="a cat")
        assert caught.value.status == status
        assert (len(world.service.posts), dispatcher.handles) == (1, ())
        await world.until(lambda: world.in_flight() == 0)
        assert world.cooling_down() is None
        await dispatcher.submit("create", prompt="another")


async def test_a_job_moves_on_from_an_account_that_the_service_does_not_know_any_more(world: World) -> None:
    async with begin(world, 1, 1, 1) as dispatcher:
        world.service.script.extend([Answer(404, {"error": "not configured"})] * 2)
        handle = await dispatcher.submit("create", prompt="a cat")
        assert (handle.channel, len(set(world.service.channels)), len(world.service.posts)) == (THREE, 3, 3)
        assert [event.again for event in world.told(Refused)] == [True, True]
        # Other jobs avoid the two for a while.
        assert all(world.cooling_down(channel) for channel in (ONE, TWO))
        assert [world.in_flight(channel) for channel in (ONE, TWO, THREE)] == [0, 0, 1]


async def test_a_job_that_no_account_can_run_is_told_so_after_each_was_tried_once(world: World) -> None:
    async with begin(world, 1, 1, 1) as dispatcher:
        await world.balancer.pause(TWO)
        world.service.script.extend([Answer(404, {"error": "No accounts are configured"})] * 3)
        with pytest.raises(NotFound):
            await dispatcher.submit("create", prompt="a cat")
        assert world.service.channels == [ONE, THREE]
        assert [world.in_flight(channel) for channel in (ONE, TWO, THREE)] == [0, 0, 0]


async def test_a_404_for_a_named_account_or_job_fails_the_job_at_once(world: World) -> None:
    async with begin(world, 1, 1) as dispatcher:
        done = world.service.take(TWO)
        world.service.end(done)
        cases: list[dict[str, Any]] = [
            {"verb": "create", "prompt": "a cat", "channel": ONE},
            {"verb": "button", "jobid": done},
        ]
        for values in cases:
            world.service.script.append(Answer(404, {"error": "gone"}))
            with pytest.raises(NotFound):
                await dispatcher.submit(**values, timeout=0)
        assert world.service.channels == [ONE, TWO]
        assert world.cooling_down(ONE) is world.cooling_down(TWO) is None


async def test_a_blocked_account_is_paused_until_it_is_resumed(world: World) -> None:
    async with begin(world, 1, 1) as dispatcher:
        world.service.script.append(Answer(596, {"error": "a person must look"}))
        handle = await dispatcher.submit("create", prompt="a cat")
        assert (world.service.channels, handle.channel) == ([ONE, TWO], TWO)
        assert [event.channel for event in world.told("Paused")] == [ONE]
        with pytest.raises(NoCapacity):
            await dispatcher.submit("create", prompt="a cat", channel=ONE, timeout=0)
        await world.clock.advance(10_000)
        waiting = spawn(dispatcher.submit("create", prompt="a cat", channel=ONE))
        await world.until(lambda: len(world.balancer.statistics().waiters) == 1)
        await world.balancer.resume(ONE)
        assert (await waiting).channel == ONE


async def test_a_504_with_an_id_is_followed(world: World) -> None:
    async with begin(world, 1) as dispatcher:
        jobid = world.service.take(ONE)
        world.service.script.append(Answer(504, {"error": "lost", "jobid": jobid}))
        handle = await dispatcher.submit("create", prompt="a cat")
        assert (handle.jobid, world.in_flight()) == (jobid, 1)
        assert handle.job == Job(jobid, channel=ONE, reply_ref=world.service.refs[0])
        world.service.end_all()
        await world.pass_time(20, lambda: handle.done)
        assert (await handle).status == "completed"
        assert (len(world.service.posts), world.in_flight()) == (1, 0)


async def test_a_504_with_an_unknown_id_keeps_its_slot_three_minutes(world: World) -> None:
    async with begin(world, 1) as dispatcher:
        world.service.script.append(Answer(504, {"error": "lost", "jobid": "job:gone"}))
        handle = await dispatcher.submit("create", prompt="a cat")
        await world.pass_time(SEARCH_FOR - 1)
        assert (handle.done, world.in_flight()) == (False, 1)
        await world.pass_time(40, lambda: handle.done)
        with pytest.raises(LostTrack) as caught:
            await handle
        assert (caught.value.jobid, caught.value.status) == ("job:gone", 504)
        assert (len(world.service.posts), world.in_flight()) == (1, 0)


@pytest.mark.parametrize("resubmit_after", [None, 10.0])
async def test_a_504_without_an_id_keeps_its_slot_and_is_never_sent_again(
    world: World, resubmit_after: float | None
) -> None:
    async with begin(world, 1, resubmit_after=resubmit_after) as dispatcher:
        world.service.script.append(Answer(504, {"error": "lost"}))
        running = spawn(dispatcher.run("create", prompt="a cat"))
        await world.pass_time(SEARCH_FOR)
        assert (running.done(), world.in_flight()) == (False, 1)
        await world.pass_time(40, running.done)
        with pytest.raises(SubmissionUnknown) as caught:
            await running
        assert caught.value.status == 504
        assert isinstance(caught.value.__cause__, LostTrack)
        assert (len(world.service.posts), world.in_flight()) == (1, 0)


UNKNOWN = [
    Answer(500, {"error": "oops"}),
    Answer(502, "<html>bad gateway</html>"),
    Answer(503, {"error": "busy"}),
    Answer(520, ""),
    Answer(200, drop=True),
    Answer(200, "not json"),
    Answer(200, {"status": "started"}),
]
NAMES = ["500", "502 html", "503", "520 empty", "drop", "200 no json", "200 no id"]


def taken(answer: Answer) -> Answer:
    return Answer(answer.status, answer.body or "?", accepted=True, drop=answer.drop)


@pytest.mark.parametrize("answer", UNKNOWN, ids=NAMES)
async def test_an_unclear_answer_to_a_job_that_was_taken_is_cleared_up_by_a_look(
    world: World, answer: Answer
) -> None:
    async with begin(world, 1) as dispatcher:
        world.service.script.append(taken(answer))
        running = spawn(dispatcher.submit("create", prompt="a cat"))
        await world.until(lambda: bool(world.told(Uncertain)))
        assert world.in_flight() == 1
        await world.pass_time(5, running.done)
        handle = await running
        assert (handle.jobid, handle.channel, world.in_flight()) == ("job:1", ONE, 1)
        world.service.end_all()
        await world.pass_time(20, lambda: handle.done)
        assert (await handle).status == "completed"
        assert (len(world.service.posts), world.in_flight()) == (1, 0)


@pytest.mark.parametrize("answer", UNKNOWN, ids=NAMES)
async def test_an_unclear_answer_to_a_job_that_was_not_taken_is_never_sent_again(
    world: World, answer: Answer
) -> None:
    async with begin(world, 1) as dispatcher:
        world.service.script.append(answer)
        running = spawn(dispatcher.run("create", prompt="a cat"))
        await world.until(lambda: bool(world.told(Uncertain)))
        await world.pass_time(SEARCH_FOR - 1)
        assert (running.done(), world.in_flight()) == (False, 1)
        await world.pass_time(40, running.done)
        with pytest.raises(SubmissionUnknown) as caught:
            await running
        error = caught.value
        assert (error.verb, error.channel, error.slot_held) == ("create", ONE, False)
        assert error.reply_ref == world.service.refs[0]
        assert isinstance(error.__cause__, PikaError)
        assert (len(world.service.posts), world.in_flight()) == (1, 0)
        assert dispatcher.handles == ()


async def test_while_the_service_tells_nothing_an_unclear_job_keeps_its_slot(world: World) -> None:
    async with begin(world, 1) as dispatcher:
        world.service.script.append(Answer(500))
        world.service.down = 503
        running = spawn(dispatcher.run("create", prompt="a cat"))
        await world.pass_time(2 * SEARCH_FOR + 5, running.done)
        with pytest.raises(SubmissionUnknown) as caught:
            await running
        assert (caught.value.slot_held, world.in_flight()) == (True, 1)
        await world.pass_time(100)
        assert world.in_flight() == 1
        world.service.down = None
        await world.pass_time(20, lambda: world.in_flight() == 0)


async def test_an_unclear_job_is_sent_again_where_that_is_allowed_and_nothing_was_found(world: World) -> None:
    async with begin(world, 1, resubmit_after=60) as dispatcher:
        world.service.script.append(Answer(500))
        running = spawn(dispatcher.run("create", prompt="a cat"))
        await world.pass_time(59)
        assert len(world.service.posts) == 1
        await world.pass_time(60, lambda: len(world.service.posts) == 2)
        assert world.service.refs[1] == f"{world.service.refs[0]}.2"
        world.service.end_all()
        await world.pass_time(40, running.done)
        assert (await running).status == "completed"


@pytest.mark.parametrize("resubmit_after", [0, 0.5, 5.0])
async def test_a_job_of_unknown_fate_is_sent_again_even_after_a_short_time(
    world: World, resubmit_after: float
) -> None:
    async with begin(world, 1, resubmit_after=resubmit_after) as dispatcher:
        world.service.script.append(Answer(500))
        running = spawn(dispatcher.submit("create", prompt="a cat"))
        await world.until(lambda: bool(world.told(Uncertain)))
        assert len(world.service.posts) == 1
        # A pass comes within 18 s of the one before it, and the cooldown of the account is over.
        await world.pass_time(55, running.done)
        assert (len(world.service.posts), world.in_flight()) == (2, 1)
        await running


async def test_an_unclear_job_that_executes_is_not_sent_again_even_where_that_is_allowed(
    world: World,
) -> None:
    async with begin(world, 1, resubmit_after=1) as dispatcher:
        world.service.script.append(Answer(500, accepted=True))
        world.service.down = 503
        running = spawn(dispatcher.run("create", prompt="a cat"))
        await world.pass_time(0.9)
        world.service.down = None
        await world.pass_time(5, lambda: dispatcher.handles[0].jobid is not None)
        world.service.end_all()
        await world.pass_time(40, running.done)
        assert (await running).status == "completed"
        assert len(world.service.posts) == 1


async def test_what_cannot_be_sent_is_tried_again_a_few_times_and_frees_its_slot(
    world: World, nowhere: str
) -> None:
    world.client = CountingClient("t", base_url=nowhere, retries=0)
    async with world.client, begin(world, 1, reconcile=False) as dispatcher:
        running = spawn(dispatcher.run("create", prompt="a cat"))
        await world.until(lambda: len(world.told("Refused")) == 1)
        assert world.in_flight() == 0
        await world.pass_time(60, running.done)
        with pytest.raises(ConnectFailed) as caught:
            await running
        assert caught.value.maybe_sent is False
        assert [event.again for event in world.told(Refused)] == [True] * 4 + [False]
        assert (world.in_flight(), world.cooling_down()) == (0, None)


async def test_nothing_is_ever_sent_for_wrong_input(world: World) -> None:
    async with begin(world, 1) as dispatcher:
        wrong: list[dict[str, Any]] = [
            {"verb": "create"},
            {"verb": "create", "prompt": "x" * 1501},
            {"verb": "create", "prompt": "x", "image": b""},
            {"verb": "create", "prompt": "x", "promt": "y"},
            {"verb": "create", "prompt": "x", "discord": "y"},
            {"verb": "paint", "prompt": "x"},
            {"verb": "button"},
            {"verb": "create", "prompt": "x", "timeout": -1},
        ]
        for arguments in wrong:
            with pytest.raises(PikaError) as caught:
                await dispatcher.submit(**arguments)
            assert getattr(caught.value, "field", None) is not None, arguments
        assert (world.service.posts, world.in_flight(), world.told("Acquired")) == ([], 0, [])


async def test_no_event_and_no_error_shows_a_token(world: World) -> None:
    async with begin(world, 1) as dispatcher:
        world.service.script.extend([Answer(422, {"error": "user:canary-token is bad"}), Answer(500)])
        for _ in range(2):
            running = spawn(dispatcher.run("create", prompt="a cat"))
            await world.pass_time(250, running.done)
            assert "canary" not in repr(running.exception()) + str(vars(running.exception() or Event(at=0)))
        assert "canary" not in repr(world.events) + repr(dispatcher)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ChannelFull(status=429), SubmitOutcome.FULL),
        (RateLimited(status=429), SubmitOutcome.LIMITED),
        (AccountSuspended(status=596), SubmitOutcome.BLOCKED),
        (Closed(), SubmitOutcome.REFUSED),
        (WrongLoop(), SubmitOutcome.REFUSED),
        (UnexpectedStatus(status=500), SubmitOutcome.UNKNOWN),
        (UnexpectedStatus(status=700), SubmitOutcome.UNKNOWN),
        (UnexpectedStatus(status=300), SubmitOutcome.OWN_FAULT),
        (UnexpectedStatus(status=499), SubmitOutcome.OWN_FAULT),
        (UnexpectedStatus(status=101), SubmitOutcome.UNKNOWN),
        (UnexpectedStatus(status=0), SubmitOutcome.UNKNOWN),
    ],
)
def test_the_remaining_errors_have_their_outcomes(error: PikaError, expected: SubmitOutcome) -> None:
    assert submit_outcome(error) is expected
