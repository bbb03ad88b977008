"""What becomes of a job, told by time moved by hand."""

import json
import re

import pytest

from tests.server.conftest import FIRST, STRANGER, Rig, Upload, running


async def test_a_job_is_started_then_in_progress_then_completed(rig: Rig) -> None:
    job = (await rig.submit(channel=FIRST, replyRef="my ref", image=Upload())).body
    common = {
        "jobid": "job:20240115021440711-user:1000-channel:0001",
        "verb": "pika-create",
        "created": "2024-01-15T02:14:40.711Z",
        "discord": "mad…001",
        "channel": FIRST,
        "maxJobs": 2,
        "code": 200,
        "prompt": "a cat",
        "replyRef": "my ref",
        "image": {"size": 108, "type": "image/png"},
    }
    assert job == common | {"status": "started", "updated": "2024-01-15T02:14:40.711Z"}
    await rig.clock.advance(1)
    assert await rig.job(job["jobid"]) == job
    await rig.clock.advance(0.5)
    running_job = await rig.job(job["jobid"])
    assert running_job.pop("messageId").isdigit()
    assert running_job == common | {
        "status": "progress",
        "updated": "2024-01-15T02:14:41.711Z",
        "timestamp": "2024-01-15T02:14:41.711Z",
        "content": "a cat (working)",
    }
    await rig.clock.advance(8.499)
    assert (await rig.job(job["jobid"]))["status"] == "progress"
    assert await rig.executing() == [job["jobid"]]
    await rig.clock.advance(0.001)
    ended = await rig.job(job["jobid"])
    attachment = ended["attachments"][0]
    assert ended == common | {
        "status": "completed",
        "updated": "2024-01-15T02:14:50.711Z",
        "timestamp": "2024-01-15T02:14:50.711Z",
        "messageId": ended["messageId"],
        "content": "a cat",
        "buttons": ["retry"],
        "attachments": [attachment],
        "embeds": [],
    }
    assert attachment["content_type"] == "video/mp4"
    assert attachment["url"].endswith("/" + attachment["filename"])
    assert await rig.executing() == []
    assert "null" not in json.dumps([job, running_job, ended])
    assert rig.server.statistics().completed == 1


async def test_a_slot_frees_at_the_end_and_not_before() -> None:
    async with running("1", service="fixed:10s") as rig:
        assert (await rig.submit()).status == 200
        await rig.clock.advance(9.999)
        assert (await rig.submit()).status == 429
        await rig.clock.advance(0.001)
        assert (await rig.submit()).status == 200


async def test_jobs_end_in_the_order_of_their_ends_whenever_they_began() -> None:
    async with running("10", service="exp:30s") as rig:
        for _ in range(8):
            await rig.submit()
            await rig.clock.advance(0.5)
        ends: list[float] = []
        while rig.server.statistics().in_flight:
            before = rig.server.statistics().in_flight
            await rig.clock.advance(0.25)
            ends += [rig.clock.now()] * (before - rig.server.statistics().in_flight)
        assert len(set(ends)) > 4
        assert rig.server.statistics().completed == 8


async def test_the_end_is_noticed_at_the_next_poll_and_only_then() -> None:
    async with running("1", service="fixed:10s", notice=15.0) as rig:
        await rig.clock.advance(7)
        jobid = (await rig.submit()).body["jobid"]
        await rig.clock.advance(22.999)
        assert (await rig.job(jobid))["status"] == "progress"
        assert (await rig.submit()).status == 429
        await rig.clock.advance(0.001)
        ended = await rig.job(jobid)
        assert ended["updated"] == "2024-01-15T02:15:10.711Z"
        assert ended["timestamp"] == "2024-01-15T02:14:57.711Z"
        assert (await rig.submit()).status == 200


async def test_an_end_right_at_a_poll_is_noticed_by_it() -> None:
    async with running("1", service="fixed:30s", notice=15.0) as rig:
        await rig.submit()
        await rig.clock.advance(30)
        assert rig.server.statistics().in_flight == 0


async def test_speed_divides_service_times_and_polls() -> None:
    async with running("1", service="fixed:20s", notice=30.0, speed=10.0) as rig:
        await rig.submit()
        await rig.clock.advance(2.999)
        assert rig.server.statistics().in_flight == 1
        await rig.clock.advance(0.001)
        assert rig.server.statistics().in_flight == 0


async def test_service_times_follow_the_law() -> None:
    async with running("10", service="uniform:10s,60s") as rig:
        for _ in range(10):
            await rig.submit()
        await rig.clock.advance(10)
        assert rig.server.statistics().completed == 0
        await rig.clock.advance(50)
        assert rig.server.statistics().completed == 10


async def test_job_ids_are_unique_and_have_no_slash_even_within_one_millisecond() -> None:
    async with running("10,10", service="fixed:0s") as rig:
        ids = [(await rig.submit(channel=FIRST)).body["jobid"] for _ in range(30)]
        assert len(set(ids)) == 30
        assert all(re.fullmatch(r"job:\d{17}-user:\d+-channel:0001", jobid) for jobid in ids)


async def test_both_spellings_of_the_job_call_work_and_an_unknown_job_is_404(rig: Rig) -> None:
    jobid = (await rig.submit()).body["jobid"]
    for path in ("/jobs", "/jobs/"):
        assert (await rig.call("GET", path, params={"jobid": jobid})).body["jobid"] == jobid
        assert (await rig.call("GET", path)).body == [jobid]
        answer = await rig.call("GET", path, params={"jobid": "job:1"})
        assert (answer.status, answer.body) == (404, {"error": "Job job:1 not found", "code": 404})


async def test_a_result_is_fetched_without_a_token_whole_or_in_ranges(rig: Rig) -> None:
    jobid = (await rig.submit()).body["jobid"]
    await rig.clock.advance(10)
    attachment = (await rig.job(jobid))["attachments"][0]
    async with rig.session.get(attachment["url"]) as response:
        video = await response.read()
        assert (response.status, response.content_type) == (200, "video/mp4")
    assert len(video) == attachment["size"]
    assert video[4:8] == b"ftyp"
    async with rig.session.get(attachment["url"], headers={"Range": "bytes=4-7"}) as response:
        assert (response.status, await response.read()) == (206, b"ftyp")
        assert response.headers["Content-Range"] == f"bytes 4-7/{len(video)}"
    async with rig.session.head(attachment["url"]) as response:
        assert (response.status, response.content_length) == (200, len(video))
    path = attachment["url"].removeprefix(rig.base)
    for bad in (f"bytes={len(video)}-", "bytes=x"):
        answer = await rig.call("GET", path, token=None, headers={"Range": bad})
        assert (answer.status, answer.body["code"]) == (416, 416)
    assert (await rig.call("GET", path + "x", token=None)).status == 404


async def test_a_job_that_has_not_completed_has_no_file(rig: Rig) -> None:
    jobid = (await rig.submit()).body["jobid"]
    await rig.clock.advance(5)
    name = (await rig.job(jobid))["messageId"] + ".mp4"
    assert (await rig.call("GET", f"/files/{jobid}/{name}", token=None)).status == 404
    await rig.clock.advance(5)
    async with rig.session.get(f"{rig.base}/files/{jobid}/{name}") as response:
        assert response.status == 200


async def test_a_button_runs_on_the_channel_of_its_job_and_needs_a_slot_there() -> None:
    async with running("1,10") as rig:
        parent = (await rig.submit(channel=FIRST, prompt="a dog")).body
        await rig.clock.advance(10)
        child = (await rig.submit("button", jobid=parent["jobid"], button="retry")).body
        assert (child["verb"], child["channel"], child["prompt"]) == ("pika-button", FIRST, "a dog")
        assert child["jobid"] != parent["jobid"]
        full = await rig.submit("button", jobid=parent["jobid"], button="retry")
        assert (full.status, full.body["executingJobs"]) == (429, [child["jobid"]])


async def test_a_button_works_on_an_ad_hoc_job_too() -> None:
    async with running(()) as rig:
        parent = (await rig.submit(channel=STRANGER, discord="a-token-of-my-own", maxJobs="1")).body
        await rig.clock.advance(10)
        child = (await rig.submit("button", jobid=parent["jobid"], button="retry")).body
        assert (child["channel"], child["discord"], child["maxJobs"]) == (STRANGER, "a-t…own", 1)


async def test_a_button_of_an_unknown_or_unfinished_job_is_refused(rig: Rig) -> None:
    jobid = (await rig.submit()).body["jobid"]
    unfinished = await rig.submit("button", jobid=jobid, button="retry")
    assert (unfinished.status, unfinished.body["error"]) == (400, f"Job {jobid} is not completed")
    unknown = await rig.submit("button", jobid="job:1", button="retry")
    assert (unknown.status, unknown.body["error"]) == (404, "Job job:1 not found")
    assert rig.server.statistics().jobs == 1


async def test_only_the_newest_ended_jobs_are_kept_and_executing_ones_always() -> None:
    async with running("10", retain=2) as rig:
        ids: list[str] = []
        for _ in range(4):
            ids.append((await rig.submit()).body["jobid"])
            await rig.clock.advance(1)
        await rig.clock.advance(8)
        statuses = [(await rig.call("GET", "/jobs", params={"jobid": jobid})).status for jobid in ids]
        assert statuses == [404, 200, 200, 200]
        assert await rig.executing() == ids[3:]


@pytest.mark.parametrize("law", ["fixed:0s", "uniform:0s,0s"])
async def test_a_job_without_service_time_is_still_started_before_it_ends(law: str) -> None:
    async with running("1", service=law) as rig:
        for _ in range(5):
            answer = await rig.submit()
            assert (answer.status, answer.body["status"]) == (200, "started")
            assert (await rig.job(answer.body["jobid"]))["status"] == "completed"
