"""`submit --jobs`: every job once, whatever happens, and the same command goes on where one stopped."""

import asyncio
import io
import json
import os
import signal
import sys
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, cast

import pytest

from pika_balancer import AccountSuspended, Closed, ConnectFailed, PikaClient
from pika_balancer.cli import download, submit_batch
from pika_balancer.cli import job_batch as room
from pika_balancer.cli.exit_codes import Interrupted
from pika_balancer.cli.job_file import one_line
from pika_balancer.cli.output import Output
from pika_balancer.cli.submit_journal import Journal
from pika_balancer.cli.submit_one import SubmitOne
from pika_balancer.clock import SystemClock
from pika_balancer.dispatch import Dispatcher, JobHandle
from pika_balancer.events import Event, RefreshFailed, Submitted
from pika_balancer.testing import ManualClock
from tests.cli.conftest import (
    CANARY,
    FIRST,
    PATIENCE,
    SECOND,
    Limit,
    Passing,
    Run,
    Serve,
    Spawn,
    beside,
    read_until,
    states,
    wait_for,
)
from tests.depth import sized

QUICK = ("--poll", "0.02")
NOWHERE = "12345678901234567"
VERBS = ("create", "animate", "encrypt_text", "encrypt_image", "button")


def write(path: Path, rows: Iterable[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def cats(number: int, **more: Any) -> list[dict[str, Any]]:
    return [{"prompt": f"cat {index}", **more} for index in range(number)]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "jobs.jsonl"


def journal_path(file: Path) -> Path:
    return file.with_name(f"{file.name}.journal.jsonl")


def journal_of(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in journal_path(file).read_text().splitlines()]


def ids(file: Path) -> list[str]:
    """Return the ids of the jobs in the journal."""
    return [row["jobid"] for row in journal_of(file) if row.get("jobid")]


def test_every_job_is_run_once_and_a_second_run_says_the_same(cli: Run, serve: Serve, file: Path) -> None:
    service = serve("2,1")
    jobs = write(file, cats(7))
    ran = cli("submit", "--jobs-file", jobs, *QUICK)
    assert ran.code == 0
    urls = ran.out.splitlines()
    assert len(set(urls)) == 7
    assert all(url.startswith(f"{service.url}/files/job:") for url in urls)
    notes = ran.err.splitlines()
    assert [note.split(":")[0] for note in notes[:7]] == [f"{number} of 7" for number in range(1, 8)]
    assert notes[7:13] == [
        "status     jobs",
        "completed     7",
        "moderated     0",
        "failed        0",
        "refused       0",
        "unknown       0",
    ]
    assert notes[13].startswith("7 of 7 jobs are done in ")
    assert notes[13].endswith(f"; journal: {jobs}.journal.jsonl")
    assert service.prompts(ids(file)) == Counter(row["prompt"] for row in cats(7))
    again = cli("submit", "--jobs-file", jobs, *QUICK)
    assert (again.code, sorted(again.out.splitlines())) == (0, sorted(urls))
    assert "of 7 jobs 7 are done, 0 may be running, 0 are to be sent" in again.err
    assert service.server.statistics().submits == 7


def test_journal_holds_every_step_in_order_and_no_token(cli: Run, serve: Serve, file: Path) -> None:
    serve("1")
    cli("submit", "--jobs-file", write(file, [{"prompt": "a cat", "id": "tom"}]), *QUICK)
    header, *steps = journal_of(file)
    assert (header["journal"], header["file"]) == (1, "jobs.jsonl")
    assert [step["state"] for step in steps] == ["sending", "accepted", "ended"]
    assert (steps[0]["line"], steps[0]["id"], steps[0]["verb"]) == (1, "tom", "create")
    assert steps[2]["status"] == "completed"
    assert len({step["job"] for step in steps}) == 1
    assert CANARY not in json.dumps(steps)


def test_reference_is_on_disk_before_the_job_is_sent(
    cli: Run, serve: Serve, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    serve("1")
    really = PikaClient.send
    seen: list[str] = []

    async def send(self: PikaClient, prepared: Any, **values: str) -> Any:
        seen.append(values["reply_ref"])
        assert journal_of(file)[-1]["ref"] == values["reply_ref"]
        return await really(self, prepared, **values)

    monkeypatch.setattr(PikaClient, "send", send)
    assert cli("submit", "--jobs-file", write(file, cats(2)), *QUICK).code == 0
    assert len(set(seen)) == 2


def test_document_has_every_job_in_the_order_of_the_file(
    cli: Run, serve: Serve, file: Path, tmp_path: Path
) -> None:
    serve("3,3", faults=["fail:0.3", "moderated:0.2", "422:0.2"])
    rows = cats(12)
    rows[3]["id"] = "tom"
    output = tmp_path / "videos"
    ran = cli("submit", "--jobs-file", write(file, rows), "--output", str(output), *QUICK, "--json")
    document = ran.document
    assert ran.code == 1
    assert list(document) == ["jobs", "summary", "journal", "interrupted"]
    assert [job["index"] for job in document["jobs"]] == list(range(12))
    assert [job["line"] for job in document["jobs"]] == list(range(1, 13))
    assert document["jobs"][3]["id"] == "tom"
    statuses = Counter(job["status"] for job in document["jobs"])
    summary = document["summary"]
    assert {word: summary[word] for word in statuses} == statuses
    assert set(statuses) == {"completed", "failed", "moderated", "refused"}
    assert (summary["jobs"], summary["waiting"], summary["running"], summary["unknown"]) == (12, 0, 0, 0)
    for job in document["jobs"]:
        if job["status"] == "completed":
            assert [Path(name).parent for name in job["files"]] == [output]
            assert all(Path(name).read_bytes()[4:8] == b"ftyp" for name in job["files"])
            assert len(job["urls"]) == 1
            assert "error" not in job
        else:
            assert job["files"] == []
            assert job["error"]["message"]
            assert ("jobid" in job) == (job["status"] != "refused")
    assert document["journal"] == str(output / "pika-journal.jsonl")
    assert "ended jobs are not repeated; a line that is changed is a new job" in ran.err


def test_what_ended_badly_is_not_repeated(cli: Run, serve: Serve, file: Path) -> None:
    service = serve("3", faults=["fail:0.5", "422:0.5"])
    jobs = write(file, cats(6))
    first = cli("submit", "--jobs-file", jobs, *QUICK, "--json")
    again = cli("submit", "--jobs-file", jobs, *QUICK, "--json")
    assert (first.code, again.code) == (1, 1)
    assert service.server.statistics().submits == 6

    def facts(ran: Any) -> list[tuple[str, str]]:
        return [(job["status"], job["error"]["message"]) for job in ran.document["jobs"]]

    assert [one for one, _ in facts(first)] == [one for one, _ in facts(again)]
    assert {one for one, _ in facts(again)} == {"failed", "refused"}


def test_all_five_verbs_with_their_files(cli: Run, serve: Serve, tmp_path: Path) -> None:
    service = serve("5", service="fixed:0s")
    parent = cli("submit", "the first", *QUICK, "--json").document["jobid"]
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "cat.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(20))
    table = (
        "verb,prompt,image,message,font,jobid\n"
        ",a cat,pictures/cat.png,,,\n"
        "animate,,pictures/cat.png,,,\n"
        "encrypt_text,a text,,hello,RETRO,\n"
        "encrypt_image,a picture,,pictures/cat.png,,\n"
        f"button,,,,,{parent}\n"
    )
    (tmp_path / "jobs.csv").write_text(table)
    assert cli("submit", "--jobs-file", str(tmp_path / "jobs.csv"), *QUICK).code == 0
    made = Counter(job.verb for job in service.jobs([parent, *ids(tmp_path / "jobs.csv")]))
    assert made == {f"pika-{verb}": 1 + (verb == "create") for verb in VERBS}


def test_whole_file_is_checked_before_anything_is_sent(cli: Run, serve: Serve, file: Path) -> None:
    service = serve("2")
    file.write_text('{"prompt": "fine"}\n{"promt": "a"}\n\n{"prompt": "a", "image": "no.png"}\n')
    ran = cli("submit", "--jobs-file", str(file), "--json")
    assert ran.code == 2
    *listed, last = ran.err.splitlines()
    assert [line.split(":")[0] for line in listed] == ["line 2", "line 2", "line 4"]
    assert "jobs.jsonl has 3 faults, and nothing was sent" in last
    assert [fault["path"] for fault in ran.error["faults"]] == ["line 2", "line 2", "line 4"]
    assert service.server.statistics().submits == 0
    assert [path.name for path in file.parent.iterdir()] == ["jobs.jsonl"]


def test_channels_are_checked_before_anything_is_sent(cli: Run, serve: Serve, file: Path) -> None:
    service = serve("2,1")
    rows = [{"prompt": "a", "channel": SECOND}, {"prompt": "b", "channel": NOWHERE}]
    ran = cli("submit", "--jobs-file", write(file, rows), *QUICK)
    assert ran.code == 2
    assert ran.err.splitlines()[0] == f"line 2: no account has channel {NOWHERE!r}"
    assert service.server.statistics().submits == 0
    rows[1]["channel"] = FIRST
    assert cli("submit", "--jobs-file", write(file, rows), *QUICK).code == 0
    assert [seen.jobs for seen in service.server.statistics().channels.values()] == [1, 1]


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (["a cat", "--jobs-file", "x"], "--jobs-file: 'x' cannot be read: No such file"),
        (["a cat", "--jobs-file", "FILE"], "leave out PROMPT and its options"),
        (["--jobs-file", "FILE", "--reply-ref", "r"], "leave out PROMPT and its options"),
        (["--jobs-file", "-"], "--jobs-file - needs --output DIR, where the journal goes"),
        (["--jobs-file", "FILE", "--concurrency", "0"], "--concurrency: '0' must be a whole number from 1"),
        (["--verb", "animate"], "animate needs image"),
        (["a cat", "--message", "m"], "create takes no message"),
        (["a cat", "--button-of", "j"], "button takes no prompt"),
    ],
)
def test_wrong_command_lines(
    cli: Run, serve: Serve, monkeypatch: pytest.MonkeyPatch, argv: list[str], sentence: str, *, file: Path
) -> None:
    service = serve()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"prompt\na cat\n")))
    jobs = write(file, cats(1))
    ran = cli("submit", *(jobs if word == "FILE" else word for word in argv))
    assert ran.code == 2
    assert sentence in ran.err
    assert service.server.statistics().submits == 0


def test_no_more_jobs_are_in_hand_than_wanted(cli: Run, serve: Serve, file: Path) -> None:
    service = serve("5,5")
    assert cli("submit", "--jobs-file", write(file, cats(8)), *QUICK, "--concurrency", "2").code == 0
    peaks = [seen.peak_in_flight for seen in service.server.statistics().channels.values()]
    assert max(peaks) <= sum(peaks)
    assert max(peaks) <= 2


def test_slots_are_all_used_and_no_cap_is_passed(cli: Run, serve: Serve, file: Path) -> None:
    service = serve("3,2", service="fixed:0.2s")
    assert cli("submit", "--jobs-file", write(file, cats(15)), *QUICK).code == 0
    statistics = service.server.statistics()
    assert [seen.peak_in_flight for seen in statistics.channels.values()] == [3, 2]
    assert (statistics.attempts_when_full, statistics.submits) == (0, 15)


def test_jobs_from_stdin(cli: Run, serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    service = serve("2")
    for _ in range(2):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"prompt\na cat\na dog\n")))
        assert cli("submit", "--jobs-file", "-", "--output", str(tmp_path), *QUICK).code == 0
    assert service.server.statistics().submits == 2
    assert len(list(tmp_path.glob("*.mp4"))) == 2


# --- going on ------------------------------------------------------------------------------------------


def test_changed_file_has_only_its_new_lines_run(cli: Run, serve: Serve, file: Path) -> None:
    service = serve("3")
    cli("submit", "--jobs-file", write(file, cats(3)), *QUICK)
    ran = cli("submit", "--jobs-file", write(file, [{"prompt": "new"}, *cats(5)[1:]]), *QUICK)
    assert ran.code == 0
    assert "the job file has changed since the last run; jobs gone from it: 1" in ran.err
    assert service.prompts(ids(file)) == Counter(["new", *(f"cat {number}" for number in range(5))])
    assert len(ran.out.splitlines()) == 5


def test_missing_results_are_fetched_again(cli: Run, serve: Serve, file: Path, tmp_path: Path) -> None:
    service = serve("3", service="fixed:0s")
    output = tmp_path / "videos"
    command = ("submit", "--jobs-file", write(file, cats(3)), "--output", str(output), *QUICK)
    first = cli(*command)
    gone = Path(first.out.splitlines()[0])
    gone.unlink()
    again = cli(*command)
    assert again.code == 0
    assert sorted(again.out.splitlines()) == sorted(first.out.splitlines())
    assert gone.exists()
    assert service.server.statistics().submits == 3


def test_download_that_fails_is_told_and_made_up_for_later(
    cli: Run, serve: Serve, file: Path, tmp_path: Path, limit: Limit
) -> None:
    service = serve("3", service="fixed:0s")
    command = ("submit", "--jobs-file", write(file, cats(2)), "--output", str(tmp_path / "videos"), *QUICK)
    limit("size of a result", 1)
    ran = cli(*command)
    limit("size of a result", 1 << 30)
    assert ran.code == 1
    assert "its result could not be saved: it is larger" in ran.err
    assert ran.out == ""
    assert cli(*command).code == 0
    assert service.server.statistics().submits == 2
    (tmp_path / "videos" / cli(*command).out.splitlines()[0]).unlink()
    service.stop()
    serve("3")  # knows nothing of these jobs
    ran = cli(*command)
    assert ran.code == 1
    assert "line 1: completed: " in ran.err or "line 2: completed: " in ran.err
    assert len(ran.out.splitlines()) == 1, "only what is there is a result"


def test_one_run_of_a_file_at_a_time(cli: Run, serve: Serve, spawn: Spawn, file: Path) -> None:
    service = serve("1", service="fixed:1h")
    jobs = write(file, cats(2))
    process = spawn("submit", "--jobs-file", jobs, *QUICK)
    wait_for(lambda: service.server.statistics().submits == 1, process)
    ran = cli("submit", "--jobs-file", jobs)
    assert ran.code == 1
    assert "another run keeps the journal" in ran.err
    process.kill()
    process.wait(PATIENCE)


def test_journal_of_another_file_is_not_mixed_in(cli: Run, serve: Serve, file: Path, tmp_path: Path) -> None:
    service = serve("3")
    output = ("--output", str(tmp_path / "videos"))
    cli("submit", "--jobs-file", write(file, cats(1)), *output, *QUICK)
    ran = cli("submit", "--jobs-file", write(file.with_name("other.jsonl"), cats(1)), *output, *QUICK)
    assert ran.code == 1
    assert "belongs to jobs.jsonl; choose another --output for other.jsonl" in ran.err
    assert service.server.statistics().submits == 1


def test_damaged_journal_is_told(cli: Run, serve: Serve, file: Path) -> None:
    service = serve("3")
    jobs = write(file, cats(1))
    file.with_name("jobs.jsonl.journal.jsonl").write_text("{}\n")
    ran = cli("submit", "--jobs-file", jobs, "--json")
    assert (ran.code, ran.error["type"]) == (1, "JournalError")
    assert "line 1 of the journal" in ran.err
    assert service.server.statistics().submits == 0


def test_accepted_is_enough_without_waiting_and_a_later_run_collects(
    cli: Run, serve: Serve, file: Path
) -> None:
    service = serve("3", service="fixed:100s", clock=ManualClock())
    command = ("submit", "--jobs-file", write(file, cats(3)), *QUICK)
    ran = cli(*command, "--no-wait", "--json")
    assert ran.code == 0
    assert {job["status"] for job in ran.document["jobs"]} == {"running"}
    assert all(job["jobid"] for job in ran.document["jobs"])
    service.advance(100)
    ran = cli(*command)
    assert ran.code == 0
    assert len(ran.out.splitlines()) == 3
    assert "3 may be running, 0 are to be sent" in ran.err
    assert service.server.statistics().submits == 3


def test_time_limit_ends_the_run_and_another_goes_on(
    cli: Run, serve: Serve, file: Path, limit: Limit
) -> None:
    limit("drain of a batch", 0.05)
    service = serve("1", service="fixed:100s", clock=ManualClock())
    command = ("submit", "--jobs-file", write(file, cats(2)), *QUICK)
    ran = cli(*command, "--timeout", "1", "--json")
    assert ran.code == 5
    assert ran.error["type"] == "StillRunning"
    assert [job["status"] for job in ran.document["jobs"]] == ["running", "waiting"]
    assert ran.err.splitlines()[-1] == (
        "pika-balancer: time is up; the same command goes on where this one has stopped"
    )
    with Passing(service, journal_path(file)):
        assert cli(*command).code == 0
    assert service.server.statistics().submits == 2


# --- trouble -------------------------------------------------------------------------------------------


def test_refused_subscription_ends_it_with_one_error(cli: Run, serve: Serve, file: Path) -> None:
    service = serve("2", faults=["402:1"])
    command = ("submit", "--jobs-file", write(file, cats(5)), *QUICK)
    ran = cli(*command, "--json")
    assert ran.code == 4
    assert ran.error["type"] == "SubscriptionRequired"
    assert {job["status"] for job in ran.document["jobs"]} == {"waiting"}
    assert ran.err.count("renew it, or use another token") == 1
    assert "followed" not in ran.err
    assert service.server.statistics().submits <= 2
    better = serve("2")
    assert cli(*command).code == 0
    assert better.server.statistics().submits == 5


def test_wrong_token_and_no_accounts_end_it_before_anything_is_sent(
    cli: Run, serve: Serve, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = write(file, cats(2))
    serve("1")
    monkeypatch.setenv("USEAPI_TOKEN", "wrong")
    assert cli("submit", "--jobs-file", jobs).code == 4
    service = serve("1")
    service.delete_account(FIRST)
    assert cli("submit", "--jobs-file", jobs).code == 1
    serve("1")
    assert cli("submit", "--jobs-file", jobs, *QUICK).code == 0


def test_paused_accounts_end_it_instead_of_hanging(cli: Run, serve: Serve, file: Path, limit: Limit) -> None:
    limit("wait for a slot", 0.1)
    service = serve("1,1", faults=["596:1"])
    ran = cli("submit", "--jobs-file", write(file, cats(4)), *QUICK, "--json")
    assert ran.code == 3
    assert (ran.error["type"], ran.error["reason"]) == ("NoCapacity", "never")
    assert ran.err.count("has a pending moderation message and gets no new job") == 2
    assert service.server.statistics().submits == 2
    assert {job["status"] for job in ran.document["jobs"]} == {"waiting"}


def test_paused_account_costs_only_the_jobs_that_want_it(
    cli: Run, serve: Serve, file: Path, monkeypatch: pytest.MonkeyPatch, limit: Limit
) -> None:
    limit("wait for a slot", 0.1)
    serve("1,2")
    really = PikaClient.send

    async def send(self: PikaClient, prepared: Any, **values: str) -> Any:
        if values["channel"] == FIRST:
            raise AccountSuspended("a moderation message is pending", status=596)
        return await really(self, prepared, **values)

    monkeypatch.setattr(PikaClient, "send", send)
    rows = [*cats(2, channel=FIRST), *cats(4, channel=SECOND), {"prompt": "anywhere"}]
    ran = cli("submit", "--jobs-file", write(file, rows), *QUICK, "--json")
    assert ran.code == 1
    assert [job["status"] for job in ran.document["jobs"]] == ["refused"] * 2 + ["completed"] * 5
    assert ran.document["jobs"][0]["error"]["reason"] == "never"
    monkeypatch.setattr(PikaClient, "send", really)
    assert cli("submit", "--jobs-file", str(file), *QUICK).code == 0, (
        "they were never sent, so they may be now"
    )


def test_job_that_was_not_taken_and_waits_for_another_try_is_not_in_doubt(
    cli: Run, serve: Serve, file: Path
) -> None:
    serve("1", faults=["429:1"])
    command = ("submit", "--jobs-file", write(file, cats(1)), *QUICK)
    assert cli(*command, "--timeout", "0.3").code == 5
    assert [step["state"] for step in journal_of(file)[1:]] == ["sending", "unsent"]
    better = serve("1")
    assert cli(*command).code == 0
    assert better.server.statistics().submits == 1


def test_service_that_cannot_be_reached_any_more_ends_it(
    cli: Run, serve: Serve, file: Path, monkeypatch: pytest.MonkeyPatch, limit: Limit
) -> None:
    limit("tries of a submit", 1)
    serve("1")

    async def send(_self: PikaClient, _prepared: Any, **_values: str) -> Any:
        raise ConnectFailed("no connection", maybe_sent=False)

    with monkeypatch.context() as patch:
        patch.setattr(PikaClient, "send", send)
        ran = cli("submit", "--jobs-file", write(file, cats(3)), *QUICK, "--json")
    assert (ran.code, ran.error["type"]) == (5, "ConnectFailed")
    assert {job["status"] for job in ran.document["jobs"]} == {"waiting"}
    better = serve("1")
    assert cli("submit", "--jobs-file", str(file), *QUICK).code == 0
    assert better.server.statistics().submits == 3


def test_unknown_jobs_are_told_and_sent_again_only_if_that_is_wanted(
    cli: Run, serve: Serve, file: Path
) -> None:
    serve("4", faults=["drop:1"])
    command = ("submit", "--jobs-file", write(file, cats(2)), *QUICK)
    ran = cli(*command, "--json")
    assert ran.code == 1
    assert {job["status"] for job in ran.document["jobs"]} == {"unknown"}
    assert (
        "jobs that may or may not have run: 2; they are not sent again, unless with --resubmit-unknown"
        in ran.err
    )
    better = serve("4")
    ran = cli(*command, "--json")
    assert (ran.code, better.server.statistics().submits) == (1, 0)
    assert {job["status"] for job in ran.document["jobs"]} == {"unknown"}
    assert cli(*command, "--resubmit-unknown").code == 0
    assert better.server.statistics().submits == 2
    refs = [step["ref"] for step in journal_of(file) if step.get("state") == "sending"]
    assert len(set(refs)) == 4, "a new reference each time"


def test_job_that_is_sent_again_in_vain_search_gets_a_new_reference(
    cli: Run, serve: Serve, file: Path
) -> None:
    """A journal that ends with `sending`: the job is looked for first, and only then sent anew."""
    service = serve("4")
    jobs = write(file, cats(1))
    cli("submit", "--jobs-file", jobs, *QUICK)
    path = file.with_name("jobs.jsonl.journal.jsonl")
    header, sending, *_ = path.read_text().splitlines(keepends=True)
    path.write_text(header + sending)  # as if killed right after the submit, and the job ended since
    assert cli("submit", "--jobs-file", jobs, *QUICK).code == 1
    path.write_text(header + sending)
    assert cli("submit", "--jobs-file", jobs, *QUICK, "--resubmit-unknown").code == 0
    statistics = service.server.statistics()
    assert (statistics.submits, statistics.duplicate_reply_refs) == (2, 0)


def test_job_that_the_service_has_forgotten_is_unknown(cli: Run, serve: Serve, file: Path) -> None:
    service = serve("4", service="fixed:1h")
    command = ("submit", "--jobs-file", write(file, cats(1)), *QUICK)
    cli(*command, "--no-wait")
    service.stop()
    serve("4")
    ran = cli(*command, "--json")
    assert ran.code == 1
    assert [job["status"] for job in ran.document["jobs"]] == ["unknown"]
    assert ran.document["jobs"][0]["error"]["type"] == "NotFound"


@pytest.mark.deep
@pytest.mark.parametrize("fitting", sized([1, 4, 7], [1, 2, 3, 4, 5, 6, 7, 8]))
def test_full_disk_ends_it_and_no_job_is_lost_or_sent_twice(
    cli: Run, serve: Serve, file: Path, monkeypatch: pytest.MonkeyPatch, fitting: int
) -> None:
    service = serve("2", service="fixed:100s", clock=ManualClock())
    command = ("submit", "--jobs-file", write(file, cats(5)), *QUICK)
    really = os.write
    left = iter(range(fitting))

    def full(fd: int, data: bytes) -> int:
        if next(left, None) is None:
            raise OSError(28, "No space left on device")
        return really(fd, data)

    def let_two_end() -> None:
        # The head of the journal and two lines for each of two jobs.
        if fitting >= 5:
            wait_for(lambda: list(states(journal_path(file)).values()) == ["accepted"] * 2)
            service.advance(100)

    with monkeypatch.context() as patch, beside(let_two_end):
        patch.setattr("pika_balancer.cli.submit_journal.os.write", full)
        ran = cli(*command, "--json")
    assert (ran.code, ran.error["type"]) == (1, "JournalError")
    assert "cannot be written: No space left on device; nothing more is submitted" in ran.err
    with Passing(service, journal_path(file)):
        assert cli(*command).code == 0
    assert service.prompts(ids(file)) == Counter(row["prompt"] for row in cats(5))
    assert service.server.statistics().submits == 5


async def test_nothing_is_sent_once_the_run_has_ended() -> None:
    line = one_line({"prompt": "a cat"})
    journal = Journal(None)
    batch = room.BatchRun(journal, room.BatchSettings(), SubmitOne(line, journal, Output(), None))
    refused: list[Closed] = []

    class Ending:
        """A dispatcher that has a slot for the job only once the run has ended."""

        async def resume(self, _records: object) -> list[JobHandle]:
            return []

        async def reconcile(self) -> None:
            pass

        async def drain(self, _timeout: float) -> None:
            pass

        async def submit(self, *_: object, before_send: Any, **_options: object) -> JobHandle:
            batch.abort(RuntimeError("a bug"))
            try:
                before_send(FIRST, "a reference")
            except Closed as error:
                refused.append(error)
                raise
            raise AssertionError("it may not be sent")

    async with PikaClient("any", base_url="http://127.0.0.1:1/v1") as client:
        await batch.take_over(client, cast("Dispatcher", Ending()), [line])
        with pytest.raises(RuntimeError, match="a bug"):
            await batch.run([line], concurrency=1)
    assert len(refused) == 1
    assert journal[line.key].state == "new"


def test_service_that_does_not_tell_its_accounts_is_mentioned(capsys: pytest.CaptureFixture[str]) -> None:
    out = Output()
    reporter = submit_batch.SubmitBatch([], Journal(None), out, None)
    reporter.observe(RefreshFailed(at=0.0, failures=1, why="no connection"))
    assert "the account map could not be refreshed and is asked for again: no connection" in (
        capsys.readouterr().err
    )


@pytest.mark.parametrize("errors", [0, 1])
@pytest.mark.parametrize("through", [1, 2])
def test_interrupt_promises_to_go_on_only_where_something_is_left(
    capsys: pytest.CaptureFixture[str], errors: int, through: int
) -> None:
    out = Output()
    lines = [one_line({"prompt": prompt}) for prompt in ("a cat", "a dog")]
    journal = Journal(None)
    reporter = submit_batch.SubmitBatch(lines, journal, out, None)
    for line in lines[:through]:
        journal.note(line.key, "ended", status="completed")
        reporter.told(line, None)
    reporter.errors.update({line.key: Closed("no result") for line in lines[:errors]})
    assert reporter.finish(Interrupted("interrupted"), to_the_end=True) == 130
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("pika-balancer: interrupted")
    assert ("goes on" in last) is (through < 2 or errors > 0)


def test_reader_of_stdout_that_leaves_ends_it_and_the_journal_goes_on(
    cli: Run, serve: Serve, spawn: Spawn, file: Path
) -> None:
    service = serve("1", service="fixed:0.2s")
    process = spawn("submit", "--jobs-file", write(file, cats(4)), *QUICK)
    assert process.stdout is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.wait(PATIENCE) == 1
    assert process.stderr is not None
    assert "Traceback" not in process.stderr.read()
    assert cli("submit", "--jobs-file", str(file), *QUICK).code == 0
    assert service.server.statistics().submits == 4


# --- signals -------------------------------------------------------------------------------------------


MOMENTS = [
    (number, moment)
    for moment in ("1 of 6", "3 of 6", "5 of 6")
    for number in (signal.SIGINT, signal.SIGTERM)
]


@pytest.mark.deep
@pytest.mark.parametrize(("number", "moment"), sized([MOMENTS[0], MOMENTS[3]], MOMENTS))
def test_signal_drains_and_the_same_command_goes_on(
    cli: Run, serve: Serve, spawn: Spawn, number: signal.Signals, moment: str, *, file: Path
) -> None:
    service = serve("1,1", service="fixed:0.25s", faults=["slow:0.3:200ms"])
    jobs = write(file, cats(6))
    process = spawn("submit", "--jobs-file", jobs, *QUICK)
    read_until(process.stderr, moment)
    process.send_signal(number)
    out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130
    assert "stopping: nothing new is sent; " in err
    # Where the last job was among those that were still followed, nothing is left to go on with.
    more = "" if "6 of 6: " in err else "; the same command goes on where this one has stopped"
    assert err.splitlines()[-1] == f"pika-balancer: interrupted{more}"
    assert CANARY not in out + err
    # What ran was followed to its end, which came within the patience.
    assert service.server.statistics().submits == len(out.splitlines()) < 7
    ran = cli("submit", "--jobs-file", jobs, *QUICK)
    assert ran.code == 0
    assert len(ran.out.splitlines()) == 6
    assert service.server.statistics().submits == 6


@pytest.fixture
def interrupt_at(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Type Ctrl-C once so many jobs have been accepted."""

    def at(jobs: int) -> None:
        really = room.BatchRun.observe
        accepted = iter(range(1, 1000))

        def observe(self: room.BatchRun, event: Event) -> None:
            really(self, event)
            if isinstance(event, Submitted) and next(accepted) == jobs:
                os.kill(os.getpid(), signal.SIGINT)

        monkeypatch.setattr(room.BatchRun, "observe", observe)

    return at


def test_second_signal_hurries_and_what_runs_is_handed_on(
    cli: Run,
    serve: Serve,
    file: Path,
    monkeypatch: pytest.MonkeyPatch,
    interrupt_at: Callable[[int], None],
    *,
    limit: Limit,
) -> None:
    limit("drain of a batch", PATIENCE)
    serve("2", service="fixed:1h")
    interrupt_at(2)
    really = submit_batch.SubmitBatch.drain_seconds

    def drain_seconds(self: submit_batch.SubmitBatch) -> float:
        os.kill(os.getpid(), signal.SIGINT)
        return really(self)

    monkeypatch.setattr(submit_batch.SubmitBatch, "drain_seconds", drain_seconds)
    ran = cli("submit", "--jobs-file", write(file, cats(3)), *QUICK, "--json")
    assert ran.code == 130
    assert "stopping: nothing new is sent; 2 running jobs are followed for 60 s more" in ran.err
    document = ran.document
    assert document["interrupted"] is True
    assert document["summary"]["elapsed_s"] < PATIENCE
    assert Counter(job["status"] for job in document["jobs"]) == {"running": 2, "waiting": 1}
    assert document["error"]["type"] == "Interrupted"
    assert [step["state"] for step in journal_of(file)[1:]].count("accepted") == 2


def test_patience_with_what_runs_has_an_end(
    cli: Run, serve: Serve, file: Path, interrupt_at: Callable[[int], None], limit: Limit
) -> None:
    limit("drain of a batch", 0.2)
    serve("1", service="fixed:1h")
    interrupt_at(1)
    begun = SystemClock().now()
    ran = cli("submit", "--jobs-file", write(file, cats(3)), *QUICK)
    assert ran.code == 130
    assert SystemClock().now() - begun >= 0.2


@pytest.mark.parametrize(("signals", "files"), [(1, 1), (2, 0)])
def test_download_under_way_is_finished_unless_there_is_a_hurry(
    cli: Run,
    serve: Serve,
    monkeypatch: pytest.MonkeyPatch,
    limit: Limit,
    signals: int,
    *,
    files: int,
    file: Path,
) -> None:
    limit("drain of a batch", PATIENCE)
    serve("1", service="fixed:0s")
    really = download.download
    left = iter(range(signals))

    async def slow(*facts: Any) -> Path:
        for _ in left:
            os.kill(os.getpid(), signal.SIGINT)
            await asyncio.sleep(0.1)
        await asyncio.sleep(0.3 if signals == 1 else 2 * PATIENCE)
        return await really(*facts)

    async def endless(_self: Dispatcher, timeout: float | None = None) -> None:
        await asyncio.sleep(0 if timeout is None else 2 * PATIENCE)

    monkeypatch.setattr(room, "download", slow)
    if signals == 2:  # as if another job ran
        monkeypatch.setattr(Dispatcher, "drain", endless)
    output = file.parent / "videos"
    ran = cli("submit", "--jobs-file", write(file, cats(1)), "--output", str(output), *QUICK, "--json")
    assert ran.code == 130
    assert ran.document["summary"]["elapsed_s"] < PATIENCE
    assert len(list(output.glob("*.mp4"))) == files


def test_signal_before_the_first_job(
    cli: Run, serve: Serve, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = serve("1")

    async def interrupted(_self: PikaClient) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        await asyncio.sleep(60)

    with monkeypatch.context() as patch:
        patch.setattr(PikaClient, "accounts", interrupted)
        ran = cli("submit", "--jobs-file", write(file, cats(2)), *QUICK, "--json")
    assert ran.code == 130
    assert ran.document["summary"]["waiting"] == 2
    assert service.server.statistics().submits == 0
