"""Scripted faults, each on a real socket: what comes back, and whether a slot is taken."""

import asyncio
import random

import aiohttp
import pytest

from pika_balancer.errors import InvalidArgument
from pika_balancer.server import FAULTS, LocalServer, ScriptedFault, parse_fault
from pika_balancer.testing import settle, wait_until
from tests.chi_square import p_value
from tests.depth import sized
from tests.server.conftest import FIRST, Rig, form, running


async def submit_raw(rig: Rig) -> tuple[int, str, bytes]:
    """Submit, whatever comes back."""
    headers = {"Authorization": "Bearer any"}
    async with rig.session.post(rig.base + "/create", data=form(prompt="a cat"), headers=headers) as response:
        return response.status, response.content_type, await response.read()


@pytest.mark.parametrize("name", ["402", "422", "500", "502", "503", "596"])
async def test_a_refusing_fault_answers_its_status_as_json_and_takes_no_slot(name: str) -> None:
    async with running(faults=[f"{name}:1"]) as rig:
        answer = await rig.submit()
        assert (answer.status, answer.body) == (
            int(name),
            {"error": FAULTS[name].error, "code": int(name)},
        )
        statistics = rig.server.statistics()
        assert (statistics.jobs, statistics.submits, dict(statistics.faults)) == (0, 1, {name: 1})
        assert await rig.executing() == []


async def test_402_speaks_in_the_documented_words() -> None:
    async with running(faults=["402:1"]) as rig:
        error = "Account has no subscription or subscription expired"
        assert (await rig.submit()).body == {"error": error, "code": 402}


async def test_429_says_how_long_to_wait_in_header_and_body_and_names_no_jobs() -> None:
    async with running(faults=["429:1:12.5s"]) as rig:
        answer = await rig.submit()
        assert answer.status == 429
        assert answer.headers["Retry-After"] == "13"
        assert answer.body == {
            "error": "Rate limited by Discord",
            "code": 429,
            "retryAfter": "2024-01-15T02:14:53.211Z",
        }
        assert rig.server.statistics().attempts_when_full == 0
    async with running(faults=["429:1"], speed=10.0) as rig:
        answer = await rig.submit()
        assert (answer.headers["Retry-After"], answer.body["retryAfter"]) == ("2", "2024-01-15T02:14:42.211Z")


async def test_500_but_accepted_is_a_job_like_any_other() -> None:
    async with running(faults=["500-but-accepted:1"]) as rig:
        assert (await rig.submit()).status == 500
        [jobid] = await rig.executing()
        await rig.clock.advance(10)
        assert (await rig.job(jobid))["status"] == "completed"


async def test_504_holds_a_slot_for_three_minutes_and_is_never_a_result() -> None:
    async with running("1", faults=["504:1"], service="fixed:1s") as rig:
        answer = await rig.submit()
        assert (answer.status, answer.body["code"]) == (504, 504)
        [jobid] = await rig.executing()
        await rig.clock.advance(179.999)
        full = await rig.submit()
        assert (full.status, full.body["executingJobs"]) == (429, [jobid])
        assert (await rig.call("GET", "/jobs", params={"jobid": jobid})).status == 404
        await rig.clock.advance(0.001)
        statistics = rig.server.statistics()
        assert (statistics.jobs, statistics.in_flight, statistics.completed) == (1, 0, 0)
        assert (await rig.call("GET", "/jobs", params={"jobid": jobid})).status == 404


async def test_504_is_held_for_its_parameter_divided_by_speed_without_waiting_for_a_poll() -> None:
    async with running(faults=["504:1:1min"], speed=10.0, notice=45.0) as rig:
        await rig.submit()
        await rig.clock.advance(5.999)
        assert rig.server.statistics().in_flight == 1
        await rig.clock.advance(0.001)
        assert rig.server.statistics().in_flight == 0


@pytest.mark.parametrize(("name", "jobs"), [("drop", 0), ("drop-accepted", 1)])
async def test_a_dropped_connection_brings_no_byte_back(name: str, jobs: int) -> None:
    async with running(faults=[f"{name}:1"]) as rig:
        with pytest.raises(aiohttp.ServerDisconnectedError):
            await submit_raw(rig)
        body = b"prompt=a+cat"
        request = (
            b"POST /v1/pika/create HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer any\r\n"
            b"Content-Type: application/x-www-form-urlencoded\r\nContent-Length: %d\r\n\r\n" % len(body)
        )
        assert await rig.raw(request + body) == b""
        assert rig.server.statistics().jobs == jobs * 2


async def test_html_is_a_500_with_a_page_and_no_job() -> None:
    async with running(faults=["html:1"]) as rig:
        status, content_type, body = await submit_raw(rig)
        assert (status, content_type) == (500, "text/html")
        assert body.startswith(b"<!DOCTYPE html>")
        assert rig.server.statistics().jobs == 0


async def test_slow_answers_late_about_a_job_taken_at_once() -> None:
    async with running(faults=["slow:1:40s"], speed=10.0, service="fixed:60s") as rig:
        submit = asyncio.create_task(rig.submit())
        await wait_until(lambda: rig.server.statistics().jobs == 1)
        await rig.clock.advance(3.999)
        await settle()
        assert not submit.done()
        await rig.clock.advance(0.001)
        answer = await submit
        assert (answer.status, answer.body["status"]) == (200, "started")
        assert await rig.executing() == [answer.body["jobid"]]


@pytest.mark.parametrize(
    ("name", "status", "code"),
    [("fail", "failed", 500), ("moderated", "moderated", 422), ("cancel", "cancelled", 499)],
)
async def test_a_job_that_is_to_end_badly_runs_its_time_and_says_why(
    name: str, status: str, code: int
) -> None:
    async with running("1", faults=[f"{name}:1"]) as rig:
        answer = await rig.submit()
        assert (answer.status, answer.body["status"]) == (200, "started")
        await rig.clock.advance(9.9)
        assert rig.server.statistics().in_flight == 1
        await rig.clock.advance(0.1)
        job = await rig.job(answer.body["jobid"])
        assert (job["status"], job["code"]) == (status, code)
        assert job["error"]
        assert "attachments" not in job
        assert (rig.server.statistics().in_flight, rig.server.statistics().completed) == (0, 0)


async def test_faults_meet_job_submits_with_good_parameters_only() -> None:
    async with running(faults=["503:1"]) as rig:
        assert (await rig.call("GET", "/account")).status == 200
        assert (await rig.call("GET", "/jobs")).status == 200
        assert (await rig.submit(prompt="x" * 1501)).status == 400
        assert (await rig.submit(token=None)).status == 401
        assert rig.server.statistics().faults == {}


@pytest.mark.deep
async def test_faults_happen_as_often_as_scripted_and_exclude_each_other() -> None:
    faults, submits = ["429:0.2", "503:0.1", "fail:0.3"], sized(200, 600)
    async with running("10", faults=faults, service="fixed:0s", rng=random.Random(5)) as rig:
        for _ in range(submits):
            await rig.submit(channel=FIRST)
        seen = rig.server.statistics().faults
    none = submits - sum(seen.values())
    observed = [*(seen[name] for name in ("429", "503", "fail")), none]
    assert p_value(observed, [submits * share for share in (0.2, 0.1, 0.3, 0.4)]) > 0.001


def test_a_fault_is_read_from_its_text() -> None:
    assert parse_fault("429:0.1:15s") == parse_fault("429:10%:15s") == ScriptedFault("429", 0.1, 15.0)
    assert parse_fault(" slow:1:500ms ") == ScriptedFault("slow", 1.0, 0.5)
    assert parse_fault("504:0.02").seconds == 180.0
    assert parse_fault("500-but-accepted:0") == ScriptedFault("500-but-accepted", 0.0)
    assert parse_fault("fail:1").seconds == 0.0


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("flood:0.1", "known faults: 429, 402, 422, 500, 500-but-accepted, 502, 503, 504, 596, slow, drop, "),
        ("", "known faults: "),
        ("dorp:0.1", r"did you mean drop\?"),
        ("429", "write NAME:PROB"),
        ("429:", "write NAME:PROB"),
        ("429:often", "is no share; write it as 1%"),
        ("429:nan", "is no share"),
        ("429:1.1", "did you mean 1.1%"),
        ("429:-0.1", "is no share"),
        ("429:0.1:soon", "is no duration"),
        ("429:0.1:", "is no duration"),
        ("fail:0.1:3s", "takes no parameter"),
    ],
)
def test_a_bad_fault_is_explained(text: str, problem: str) -> None:
    with pytest.raises(InvalidArgument, match=problem) as caught:
        parse_fault(text)
    assert caught.value.field == "faults"


@pytest.mark.parametrize("param", [-1.0, float("inf"), float("nan")])
def test_a_fault_made_by_hand_is_checked_too(param: float) -> None:
    with pytest.raises(InvalidArgument, match="a duration of at least 0"):
        ScriptedFault("slow", 1.0, param)


def test_probabilities_that_add_up_to_more_than_one_are_refused() -> None:
    with pytest.raises(InvalidArgument, match=r"add up to 1\.1"):
        LocalServer(faults=["429:0.6", "503:0.5"])
    LocalServer(faults=["429:0.1"] * 10)
