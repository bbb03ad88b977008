"""`submit`: one job, never above a cap, never twice, never lost."""

import json
import os
import signal
from pathlib import Path

import attrs
import pytest

from pika_balancer import Account, Balancer, Dispatcher, Job, NoCapacity, PikaClient
from pika_balancer.cli.exit_codes import StillRunning
from pika_balancer.cli.job_file import one_line
from pika_balancer.cli.output import Output
from pika_balancer.cli.submit_journal import Journal
from pika_balancer.cli.submit_one import SubmitOne
from tests.cli.conftest import CANARY, FIRST, PATIENCE, SECOND, Limit, Run, Serve, Service, Spawn, read_until
from tests.depth import sized

QUICK = ("--poll", "0.02")


def jobs_on(service: Service, channel: str) -> int:
    return service.server.statistics().channels[channel].jobs


def test_url_goes_to_stdout_and_the_story_to_stderr(cli: Run, serve: Serve) -> None:
    service = serve("1")
    ran = cli("submit", "a cat", *QUICK)
    assert ran.code == 0
    story = ran.err.splitlines()
    assert story[0] == f"submitting on channel {FIRST}"
    assert story[1].startswith("accepted as job:")
    assert story[-1] == "completed"
    assert ran.out.startswith(f"{service.url}/files/job:")
    assert ran.out.endswith(".mp4\n")


def test_json_is_the_ended_job(cli: Run, serve: Serve) -> None:
    serve("1")
    job = cli("submit", "a cat", *QUICK, "--json").document
    assert (job["status"], job["prompt"], job["channel"]) == ("completed", "a cat", FIRST)


def test_all_parameters_arrive(cli: Run, serve: Serve, tmp_path: Path) -> None:
    service = serve("2,1", service="fixed:0s")
    image = tmp_path / "cat.png"
    image.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(20))
    options = ["--image", str(image), "--channel", SECOND, "--reply-ref", "ref 1"]
    options += ["--reply-url", "http://127.0.0.1:9/hook"]
    job = cli("submit", "a cat", *options, *QUICK, "--json").document
    assert (job["channel"], job["replyRef"]) == (SECOND, "ref 1")
    assert job["replyUrl"] == "http://127.0.0.1:9/hook"
    assert job["image"] == {"size": 28, "type": "image/png"}
    assert jobs_on(service, FIRST) == 0


def test_no_wait_prints_the_id_of_the_running_job(cli: Run, serve: Serve) -> None:
    service = serve("1", service="fixed:1h")
    ran = cli("submit", "a cat", "--no-wait")
    assert ran.code == 0
    assert service.server.statistics().in_flight == 1
    assert cli("jobs", ran.out.strip()).code == 0


def test_no_wait_as_json(cli: Run, serve: Serve) -> None:
    serve("1", service="fixed:1h")
    assert cli("submit", "a cat", "--no-wait", "--json").document["status"] == "started"


def test_what_runs_already_is_counted(cli: Run, serve: Serve) -> None:
    service = serve("2,1,3", service="fixed:1h")
    for number in range(6):
        assert cli("submit", f"cat {number}", "--no-wait").code == 0
    statistics = service.server.statistics()
    assert [seen.in_flight for seen in statistics.channels.values()] == [2, 1, 3]
    assert statistics.attempts_when_full == 0


def test_full_accounts_are_waited_for_and_time_runs_out(cli: Run, serve: Serve) -> None:
    service = serve("1", service="fixed:1h")
    cli("submit", "first", "--no-wait")
    ran = cli("submit", "second", "--timeout", "0.2", *QUICK, "--json")
    assert ran.code == 3
    assert ran.error["reason"] == "full"
    assert "no slot is free; waiting for one" in ran.err
    assert ran.err.count("waiting for one") == 1
    assert service.server.statistics().submits == 1


async def test_time_that_runs_out_just_as_a_slot_frees_is_still_no_capacity() -> None:
    one = SubmitOne(one_line({"prompt": "a cat"}), Journal(None), Output(), None)
    async with Balancer([Account("1")]) as balancer:
        one.begin(balancer)
        with pytest.raises(NoCapacity, match="no slot in time"):
            one.finish(StillRunning("time is up"), to_the_end=True)


def test_slot_that_frees_meanwhile_is_taken(cli: Run, serve: Serve) -> None:
    service = serve("1", service="fixed:0.3s")
    cli("submit", "first", "--no-wait")
    assert cli("submit", "second", *QUICK).code == 0
    statistics = service.server.statistics()
    assert (statistics.completed, statistics.attempts_when_full) == (2, 0)


@pytest.fixture
def blind(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the first look at what runs see nothing, as if others submitted just after it."""

    async def reconcile(_self: Dispatcher) -> tuple[()]:
        return ()

    monkeypatch.setattr(Dispatcher, "reconcile", reconcile)


def test_channel_that_others_filled_is_counted_and_another_account_tried(
    cli: Run, serve: Serve, blind: None
) -> None:
    service = serve("6x1", service="fixed:1h")
    for channel in list(service.server.statistics().channels)[:5]:
        cli("submit", "a cat", "--no-wait", "--channel", channel)
    assert cli("submit", "the sixth", "--no-wait", "--poll", "30").code == 0
    statistics = service.server.statistics()
    assert [seen.in_flight for seen in statistics.channels.values()] == [1] * 6
    assert all(seen.refused <= 1 for seen in statistics.channels.values())
    assert statistics.submits == 6 + statistics.attempts_when_full


def test_pinned_channel_that_others_filled_is_tried_again(cli: Run, serve: Serve, blind: None) -> None:
    service = serve("1,1", service="fixed:0.3s")
    cli("submit", "first", "--no-wait", "--channel", FIRST)
    ran = cli("submit", "second", "--channel", FIRST, *QUICK)
    assert ran.code == 0
    assert "the channel has just become full" in ran.err
    assert service.server.statistics().attempts_when_full == 1
    assert jobs_on(service, FIRST) == 2


def test_unknown_channel_is_a_usage_error(cli: Run, serve: Serve) -> None:
    serve()
    ran = cli("submit", "a cat", "--channel", "12345")
    assert ran.code == 2
    assert "no account has channel '12345'" in ran.err


def test_prompt_that_is_too_long_is_refused_before_it_is_sent(cli: Run, serve: Serve) -> None:
    service = serve()
    ran = cli("submit", "x" * 1501)
    assert ran.code == 2
    assert service.server.statistics().submits == 0


FAULTS: list[tuple[str, int, str, int]] = [
    ("422", 1, "Prompt moderated or invalid", 1),
    ("402", 4, "no subscription", 1),
    ("429", 3, "every account is cooling down or paused", 2),
    ("596", 3, "every account is paused", 2),
    ("500", 5, "it is unknown whether the service has", 1),
    ("500-but-accepted", 0, "the job may be running (ServiceError); searching for it", 1),
    ("504", 5, "it is unknown whether", 1),
    ("drop", 5, "it is unknown whether", 1),
    ("drop-accepted", 0, "searching for it", 1),
    ("html", 5, "it is unknown whether", 1),
    ("fail", 1, "the job ended as failed; the service says: ", 1),
    ("moderated", 1, "the job ended as moderated; the service says: ", 1),
    ("cancel", 1, "the job ended as cancelled; the service says: ", 1),
]


@pytest.mark.parametrize(("fault", "code", "sentence", "submits"), FAULTS)
def test_trouble_ends_in_its_exit_code_and_no_second_job(
    cli: Run,
    serve: Serve,
    limit: Limit,
    fault: str,
    code: int,
    *,
    sentence: str,
    submits: int,
) -> None:
    service = serve("2,1", faults=[f"{fault}:1"], service="fixed:0.6s")
    limit("wait for a slot", 0.1)
    timeout = ("--timeout", "0.5") if fault == "429" else ()
    ran = cli("submit", "a cat", *QUICK, *timeout, "--json")
    assert ran.code == code
    assert sentence in ran.err
    assert code == 0 or ran.error["exit_code"] == code
    statistics = service.server.statistics()
    assert (statistics.submits, statistics.jobs <= 1) == (submits, True)


FAULTS_AT = {"submitting": ["drop:1"]}


def test_failed_job_is_in_the_error_document(cli: Run, serve: Serve) -> None:
    serve("1", faults=["fail:1"])
    error = cli("submit", "a cat", *QUICK, "--json").error
    assert error["type"] == "NotCompleted"
    assert error["job"]["status"] == "failed"
    assert error["jobid"] == error["job"]["jobid"]


def test_job_that_outlasts_the_timeout_is_named(cli: Run, serve: Serve) -> None:
    serve("1", service="fixed:1h")
    ran = cli("submit", "a cat", "--timeout", "0.2", *QUICK, "--json")
    assert ran.code == 5
    assert ran.error["type"] == "StillRunning"
    assert f"`pika-balancer jobs {ran.error['jobid']}`" in ran.err


INTERRUPTED = [
    ("submitting", "interrupted during the submit: the job may run; `pika-balancer jobs` lists what runs"),
    ("accepted", "interrupted; the job goes on: `pika-balancer jobs job:"),
    ("completed", "interrupted; the job has ended as completed: `pika-balancer jobs job:"),
    ("full", "interrupted; nothing was submitted"),
]


@pytest.mark.parametrize(("moment", "farewell"), INTERRUPTED)
def test_interrupt_at_any_moment_tells_what_became_of_the_job(
    cli: Run, serve: Serve, monkeypatch: pytest.MonkeyPatch, moment: str, farewell: str
) -> None:
    # With the answer dropped, the job is looked for and not found.
    serve("1", service="fixed:1h" if moment == "full" else "fixed:0.1s", faults=FAULTS_AT.get(moment, ()))
    if moment == "full":
        cli("submit", "first", "--no-wait")
    really = Output.note

    def note(self: Output, text: str) -> None:
        really(self, text)
        if text.startswith("no slot is free" if moment == "full" else moment):
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(Output, "note", note)
    ran = cli("submit", "a cat", *QUICK, "--json")
    assert ran.code == 130
    assert farewell in ran.err.splitlines()[-1]
    assert ran.error["type"] == "Interrupted"
    assert ("jobid" in ran.error) == ("pika-balancer jobs job:" in farewell)


def test_completed_job_without_a_result_is_told(
    cli: Run, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    serve("1", service="fixed:0s")
    really = PikaClient.job

    async def bare(self: PikaClient, jobid: str) -> Job:
        return attrs.evolve(await really(self, jobid), attachments=())

    monkeypatch.setattr(PikaClient, "job", bare)
    ran = cli("submit", "a cat", *QUICK)
    assert (ran.code, ran.out) == (0, "")
    assert "the service names no result" in ran.err


def test_result_is_downloaded(cli: Run, serve: Serve, tmp_path: Path) -> None:
    serve("1", service="fixed:0s")
    directory = tmp_path / "new" / "videos"
    ran = cli("submit", "a cat", *QUICK, "--output", str(directory), "--json")
    assert ran.code == 0
    (file,) = directory.iterdir()
    assert ran.document["files"] == [str(file)]
    assert file.read_bytes()[4:8] == b"ftyp"
    assert f"saved {file}" in ran.err
    assert cli("submit", "a cat", *QUICK, "--output", str(directory)).code == 0, "wanted again, it runs again"
    assert len(list(directory.iterdir())) == 2


def test_other_verbs(cli: Run, serve: Serve, tmp_path: Path) -> None:
    service = serve("4", service="fixed:0s")
    image = tmp_path / "cat.png"
    image.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(20))
    parent = cli("submit", "--verb", "animate", "--image", str(image), *QUICK, "--json").document
    text = ("--verb", "encrypt_text", "--message", "hello", "--font", "RETRO")
    assert cli("submit", "a cat", *text, *QUICK).code == 0
    assert cli("submit", "a cat", "--verb", "encrypt_image", "--message", str(image), *QUICK).code == 0
    button = cli("submit", "--button-of", parent["jobid"], *QUICK, "--json").document
    assert [parent["verb"], button["verb"]] == ["pika-animate", "pika-button"]
    assert service.server.statistics().completed == 4


def test_time_that_runs_out_during_the_submit_leaves_the_id(cli: Run, serve: Serve) -> None:
    serve("1", service="fixed:1h", faults=["slow:1:500ms"])
    ran = cli("submit", "a cat", "--timeout", "0.1", *QUICK, "--json")
    assert (ran.code, ran.error["type"]) == (5, "StillRunning")
    assert ran.error["jobid"].startswith("job:")


def test_time_that_runs_out_while_a_lost_job_is_looked_for(cli: Run, serve: Serve) -> None:
    serve("1", faults=["drop:1"])
    ran = cli("submit", "a cat", "--timeout", "0.3", "--poll", "1", "--json")
    assert (ran.code, ran.error["type"]) == (5, "StillRunning")
    assert "the job may run" in ran.error["message"]


def test_directory_that_cannot_be_made_is_refused_before_anything_is_paid_for(
    cli: Run, serve: Serve, tmp_path: Path
) -> None:
    service = serve("1")
    (tmp_path / "file").touch()
    ran = cli("submit", "a cat", "--output", str(tmp_path / "file"))
    assert ran.code == 2
    assert "--output: that directory cannot be made: File exists" in ran.err
    assert service.server.statistics().submits == 0


def test_directory_that_cannot_be_written_to_is_refused(
    cli: Run, serve: Serve, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    service = serve("1")
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write everywhere
    ran = cli("submit", "a cat", "--output", str(tmp_path))
    assert ran.code == 2
    assert "that directory cannot be written to" in ran.err
    assert service.server.statistics().submits == 0


ENDINGS = [(number, as_json) for as_json in (False, True) for number in (signal.SIGINT, signal.SIGTERM)]


@pytest.mark.deep
@pytest.mark.parametrize(("number", "as_json"), sized([ENDINGS[0], ENDINGS[3]], ENDINGS))
def test_interrupt_after_the_submit_leaves_the_id(
    serve: Serve, spawn: Spawn, number: signal.Signals, *, as_json: bool
) -> None:
    service = serve("1", service="fixed:1h")
    process = spawn("submit", "a cat", *(["--json"] if as_json else []))
    accepted = read_until(process.stderr, "accepted as ").split()[-1]
    process.send_signal(number)
    out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130
    assert f"interrupted; the job goes on: `pika-balancer jobs {accepted}` shows it" in err
    assert CANARY not in out + err
    if as_json:
        assert json.loads(out)["error"]["jobid"] == accepted
    else:
        assert out == ""
    assert service.server.statistics().submits == 1


def test_interrupt_during_the_submit_waits_for_the_id(serve: Serve, spawn: Spawn) -> None:
    serve("1", service="fixed:1h", faults=["slow:1:700ms"])
    process = spawn("submit", "a cat")
    read_until(process.stderr, "submitting on channel")
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130
    assert "accepted as job:" in err
    assert "the job goes on: `pika-balancer jobs job:" in err


def test_interrupt_in_the_line_says_that_nothing_was_submitted(cli: Run, serve: Serve, spawn: Spawn) -> None:
    serve("1", service="fixed:1h")
    cli("submit", "first", "--no-wait")
    process = spawn("submit", "second")
    read_until(process.stderr, "no slot is free")
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130
    assert "interrupted; nothing was submitted" in err
