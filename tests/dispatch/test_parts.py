"""Cooldowns, the shutdown gate, a job's handle and its record."""

import asyncio
from typing import Any

import pytest

from pika_balancer.dispatch.cooldown import Cooldown
from pika_balancer.dispatch.handle import JobHandle, read_records
from pika_balancer.dispatch.submitter import ShutdownGate
from pika_balancer.errors import Closed, InvalidArgument, NotFound, Unauthorized
from pika_balancer.models import Job
from pika_balancer.testing import settle
from tests.dispatch.conftest import Loaded

# --- cooldowns ---------------------------------------------------------------------------------------------


def test_a_cooldown_doubles_with_each_fault_in_a_row_up_to_five_minutes() -> None:
    short, long = Cooldown(Loaded(min)), Cooldown(Loaded(max))
    moments = [float(moment) for moment in range(1, 8)]
    assert [short.fault("a", began=at - 0.5, now=at) for at in moments] == [10, 20, 40, 80, 160, 300, 300]
    assert [long.fault("a", began=at - 0.5, now=at) for at in moments] == [30, 60, 120, 240, 300, 300, 300]
    assert short.fault("b", began=6.5, now=7.0) == 10
    assert {short.fault("a", began=8.0 + i, now=8.5 + i) for i in range(1100)} == {300}


def test_a_cooldown_is_never_shorter_than_the_service_asks_for() -> None:
    short, long = Cooldown(Loaded(min)), Cooldown(Loaded(max))
    assert long.fault("a", began=0.0, now=1.0, retry_after=100.0) == 125
    assert short.fault("a", began=0.0, now=1.0, retry_after=100.0) == 100
    assert short.fault("a", began=2.0, now=3.0, retry_after=100.0) == 200
    assert short.fault("a", began=4.0, now=5.0, retry_after=400.0) == 400
    assert short.fault("b", began=0.0, now=1.0, retry_after=0.0) == 10


def test_submits_under_way_together_count_as_one_fault() -> None:
    health = Cooldown(Loaded(min))
    assert [health.fault("a", began=began, now=5.0 + began) for began in (-9.0, -9.0, -8.0)] == [10, 10, 10]
    assert health.fault("a", began=-4.0, now=6.0) == 10  # the cooldown began at -4
    assert health.fault("a", began=-3.9, now=6.0) == 20
    health.success("a", began=6.0)
    assert health.fault("a", began=6.1, now=7.0) == 40
    health.success("a", began=7.1)
    health.success("b", began=7.1)
    assert health.fault("a", began=7.2, now=8.0) == 10


# --- the gate ----------------------------------------------------------------------------------------------


async def test_an_open_gate_passes_results_and_errors() -> None:
    gate = ShutdownGate()
    gate.check()
    assert await gate.wait(lambda: asyncio.sleep(0, "slot")) == "slot"

    async def late() -> None:
        raise TimeoutError("of its own")

    with pytest.raises(TimeoutError, match="of its own"):
        await gate.wait(late)
    gate.shut(Closed("later"))  # fails if it still has the time limit of a wait that is over


async def test_a_gate_that_is_shut_ends_all_waits_with_the_first_reason() -> None:
    gate, why = ShutdownGate(), Unauthorized("no", status=401)
    begun: list[asyncio.Future[None]] = []

    def begin() -> asyncio.Future[None]:
        begun.append(asyncio.get_running_loop().create_future())
        return begun[-1]

    waits = [asyncio.create_task(gate.wait(begin)) for _ in range(2)]
    await settle()
    gate.shut(why)
    gate.shut(Closed("later"))
    told: list[Any] = await asyncio.gather(*waits, return_exceptions=True)
    assert [(type(error), str(error), error.status) for error in told] == [(Unauthorized, "no", 401)] * 2
    assert told[0] is not told[1]
    assert all(future.cancelled() for future in begun)
    with pytest.raises(Unauthorized) as caught:
        gate.check()
    assert caught.value is not why
    with pytest.raises(Unauthorized):
        await gate.wait(begin)
    assert len(begun) == 2


# --- a handle ----------------------------------------------------------------------------------------------


async def test_a_handle_tells_what_is_known_of_its_job() -> None:
    handle = JobHandle("create", "r")
    handle.channel = "5"
    assert (handle.status, handle.key, handle.done) == ("unknown", "ref r", False)
    assert repr(handle) == "<JobHandle create 'r' on '5': unknown>"
    handle.jobid = "job:1"
    handle.update(Job("job:1", status="started"))
    assert (handle.status, handle.key) == ("started", "job:1")
    assert repr(handle) == "<JobHandle create 'job:1' on '5': started>"
    assert handle.record() == {
        "version": 1,
        "verb": "create",
        "reply_ref": "r",
        "jobid": "job:1",
        "channel": "5",
        "status": "started",
    }
    # In doubt, its id is no key: others would not find the job, and free the slot.
    handle.doubt = NotFound()
    assert handle.key == "ref r"


async def test_a_job_in_doubt_is_sent_again_under_another_reference_only() -> None:
    handle = JobHandle("create", "r")
    handle.renew()
    assert (handle.reply_ref, handle.earlier_refs) == ("r", [])
    for expected in ("r.2", "r.3"):
        handle.doubt = NotFound()
        for _ in range(2):  # the second time there is no doubt any more
            handle.renew()
        assert (handle.reply_ref, handle.key) == (expected, f"ref {expected}")
    assert handle.earlier_refs == ["r", "r.2"]


async def test_a_handle_yields_each_change_and_returns_the_ended_job() -> None:
    handle = JobHandle("create", "r")
    seen: list[str] = []

    async def watch() -> None:
        async for job in handle:
            seen.append(job.status)  # noqa: PERF401 - what came before an error counts

    watching, waiting, leaving = (
        asyncio.ensure_future(work) for work in (watch(), wait(handle), wait(handle))
    )
    await settle()
    leaving.cancel()
    await settle()
    for status in ("started", "started", "progress"):
        handle.update(Job("job:1", status=status))
        await settle()
    ended = Job("job:1", status="completed")
    handle.update(ended, done=True)
    assert handle.done
    assert await waiting is ended
    await watching
    assert seen == ["started", "progress", "completed"]
    assert await handle is handle.job is ended
    assert leaving.cancelled()


async def wait(handle: JobHandle) -> Job:
    return await handle


async def test_a_job_that_was_given_up_raises_the_reason_after_all_that_was_told() -> None:
    handle, error = JobHandle("create", "r"), NotFound("gone")
    handle.update(Job("job:1", status="started"))
    handle.update(None, done=True, error=error)
    assert handle.done
    changes = aiter(handle)
    assert (await anext(changes)).status == "started"
    for _ in range(2):
        with pytest.raises(NotFound) as caught:
            await handle
        assert caught.value is error
    with pytest.raises(NotFound):
        await anext(changes)


RECORD = {"version": 1, "verb": "create", "reply_ref": "r", "jobid": "job:1", "channel": "5"}


def test_records_are_read_whole_before_any_is_acted_on() -> None:
    lacking = {name: value for name, value in RECORD.items() if name != "jobid"}
    read = read_records(iter([RECORD, lacking, RECORD | {"jobid": None, "status": "started"}]))
    assert read == [RECORD, RECORD | {"jobid": None}, RECORD | {"jobid": None, "status": "started"}]
    assert "jobid" not in lacking


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"version": 2}, "is not of version 1"),
        ({"version": None}, "is not of version 1"),
        ({"verb": ""}, "verb must be"),
        ({"verb": None}, "verb must be"),
        ({"reply_ref": 5}, "reply_ref must be"),
        ({"channel": ""}, "channel must be"),
        ({"jobid": ""}, "jobid must be"),
        ({"jobid": 5}, "jobid must be"),
        (None, "is not of version 1"),
    ],
)
def test_a_wrong_record_is_refused_with_its_place(change: dict[str, Any] | None, problem: str) -> None:
    wrong: Any = "text" if change is None else RECORD | change
    with pytest.raises(InvalidArgument, match=f"^record 1: {problem}") as caught:
        read_records([RECORD, wrong])
    assert caught.value.field == "records"


def test_what_is_no_list_of_records_is_refused_as_one() -> None:
    wrong: Any = 5
    with pytest.raises(InvalidArgument, match="must be a list") as caught:
        read_records(wrong)
    assert caught.value.field == "records"
