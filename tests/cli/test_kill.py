"""`kill -9` in the middle of `submit`, then the same command again: no job twice, none lost."""

import json
import signal
import subprocess
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from pika_balancer.clock import SystemClock
from pika_balancer.server import FAULTS
from tests.cli.conftest import Run, Serve, Service, Spawn

QUICK = ("--every", "0.05")


def wait_for(condition: Callable[[], bool], process: "subprocess.Popen[str]") -> None:
    """Return as soon as the condition holds, or the process has ended."""
    clock = SystemClock()
    deadline = clock.now() + 10
    while not condition() and process.poll() is None:
        assert clock.now() < deadline


def accepted(service: Service) -> Counter[str | None]:
    """Return how often the service took each prompt."""
    return Counter(job.prompt for job in service.server._jobs._by_id.values())


def kill_at(service: Service, spawn: Spawn, command: tuple[str, ...], submits: int) -> None:
    """Run the command and kill it as soon as the service has seen so many submits, over all runs."""
    process = spawn(*command)
    wait_for(lambda: service.server.statistics().submits >= submits, process)
    process.send_signal(signal.SIGKILL)
    process.wait(10)


# Each a number of submits, over all runs so far, at which the kill comes.
KILLS = [(1, 2, 9, 14), (3, 8, 10, 15, 16), (7, 12, 13)]


@pytest.mark.parametrize("kills", KILLS)
@pytest.mark.parametrize("output", [False, True])
def test_killed_again_and_again_no_job_is_run_twice_and_none_is_lost(
    cli: Run, serve: Serve, spawn: Spawn, tmp_path: Path, kills: tuple[int, ...], *, output: bool
) -> None:
    assert "slow" in FAULTS
    service = serve("4,4", service="fixed:5s", faults=["slow:0.5:150ms"])
    wanted = [f"cat {number}" for number in range(16)]
    jobs = tmp_path / "jobs.jsonl"
    jobs.write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in wanted))
    command = ("submit", "--jobs", str(jobs), *QUICK, *(("--output", str(tmp_path)) if output else ()))
    for submits in kills:
        kill_at(service, spawn, command, submits)
        assert max(accepted(service).values(), default=0) <= 1
    ran = cli(*command, "--json")
    # What was about to be sent at a kill may have been sent or not. The service says which: nobody else can.
    found = {prompt: job["status"] for prompt, job in zip(wanted, ran.document["jobs"], strict=True)}
    assert set(found.values()) <= {"completed", "unknown"}
    assert accepted(service) == Counter(prompt for prompt in wanted if found[prompt] == "completed")
    statistics = service.server.statistics()
    assert (statistics.duplicate_reply_refs, statistics.attempts_when_full) == (0, 0)
    assert statistics.submits == statistics.jobs
    assert all(seen.peak_in_flight <= 4 for seen in statistics.channels.values())
    last = cli(*command, "--resubmit-unknown", "--json")
    assert last.code == 0
    assert accepted(service) == Counter(wanted)
    assert service.server.statistics().submits == 16
    if output:
        files = [name for job in last.document["jobs"] for name in job["files"]]
        assert len(set(files)) == 16
        assert all(Path(name).read_bytes()[4:8] == b"ftyp" for name in files)


def test_kill_between_the_submit_and_its_answer(cli: Run, serve: Serve, spawn: Spawn, tmp_path: Path) -> None:
    """All four jobs are with the service, and not one answer has come: they are found by their references."""
    service = serve("4", service="fixed:3s", faults=["slow:1:1s"])
    jobs = tmp_path / "jobs.csv"
    jobs.write_text("prompt\na\nb\nc\nd\n")
    command = ("submit", "--jobs", str(jobs), *QUICK)
    process = spawn(*command)
    wait_for(lambda: service.server.statistics().in_flight == 4, process)
    process.kill()
    process.wait(10)
    journal = tmp_path / "jobs.csv.journal.jsonl"
    states = [json.loads(line).get("state") for line in journal.read_text().splitlines()]
    assert states == [None, *["sending"] * 4]
    ran = cli(*command, "--json")
    assert ran.code == 0
    assert {job["status"] for job in ran.document["jobs"]} == {"completed"}
    assert service.server.statistics().submits == 4


def single(tmp_path: Path) -> tuple[str, ...]:
    return ("submit", "a cat", "--output", str(tmp_path), *QUICK)


def test_single_job_that_was_killed_is_gone_on_with(
    cli: Run, serve: Serve, spawn: Spawn, tmp_path: Path
) -> None:
    service = serve("4", service="fixed:1.5s")
    process = spawn(*single(tmp_path))
    wait_for(lambda: any("accepted" in path.read_text() for path in tmp_path.glob("*.jsonl")), process)
    process.kill()
    process.wait(10)
    ran = cli(*single(tmp_path), "--json")
    assert ran.code == 0
    assert f"going on with job {ran.document['jobid']}" in ran.err
    assert service.server.statistics().submits == 1
    assert [path.suffix for path in tmp_path.iterdir()] == [".mp4"], "the journal goes with the job"


def test_single_job_that_was_interrupted_is_gone_on_with(
    cli: Run, serve: Serve, spawn: Spawn, tmp_path: Path
) -> None:
    service = serve("4", service="fixed:1.5s")
    process = spawn(*single(tmp_path))
    wait_for(lambda: any("accepted" in path.read_text() for path in tmp_path.glob("*.jsonl")), process)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=10)
    assert process.returncode == 130
    assert "shows it; the same command goes on with it" in err
    assert cli(*single(tmp_path)).code == 0
    assert service.server.statistics().submits == 1


def test_single_job_killed_before_its_answer_is_found_or_left_to_the_user(
    cli: Run, serve: Serve, spawn: Spawn, tmp_path: Path
) -> None:
    first = serve("1", service="fixed:2s", faults=["slow:1:1s"])
    process = spawn(*single(tmp_path))
    wait_for(lambda: first.server.statistics().in_flight == 1, process)
    process.kill()
    process.wait(10)
    first.stop()
    service = serve("1", service="fixed:0s")  # knows nothing of it
    assert cli(*single(tmp_path), "--json").error["type"] == "SubmissionUnknown"
    ran = cli(*single(tmp_path), "--json")
    assert (ran.code, ran.error["type"]) == (5, "SubmissionUnknown")
    assert "--resubmit-unknown sends it again" in ran.err
    assert service.server.statistics().submits == 0
    assert cli(*single(tmp_path), "--resubmit-unknown").code == 0
    assert service.server.statistics().submits == 1


def test_same_job_twice_at_once_is_two_jobs(cli: Run, serve: Serve, spawn: Spawn, tmp_path: Path) -> None:
    service = serve("4", service="fixed:0.7s")
    process = spawn(*single(tmp_path))
    wait_for(lambda: service.server.statistics().in_flight == 1, process)
    assert cli(*single(tmp_path)).code == 0
    assert process.wait(10) == 0
    assert service.server.statistics().submits == 2
    assert [path.suffix for path in tmp_path.iterdir()] == [".mp4", ".mp4"]


@pytest.mark.parametrize("state", ["refused", "saved", "ended"])
def test_journal_of_a_job_that_was_through_does_not_keep_it_from_being_run_again(
    cli: Run, serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: str
) -> None:
    """Killed between the job's last word and the removal of its journal."""
    service = serve("1", service="fixed:0s", faults=["422:1"] if state == "refused" else ())
    with monkeypatch.context() as patch:
        patch.setattr("pika_balancer.cli.submit_journal.Journal.discard", lambda self: self.close())
        assert cli(*single(tmp_path)).code == (1 if state == "refused" else 0)
    (journal,) = tmp_path.glob("*.jsonl")
    if state == "ended":
        lines = journal.read_text().replace('"completed"', '"failed"').splitlines(keepends=True)
        journal.write_text("".join(lines[:-1]))
    assert f'"state": "{state}"' in journal.read_text()
    cli(*single(tmp_path))
    assert service.server.statistics().submits == 2
    assert list(tmp_path.glob("*.jsonl")) == []


def test_result_that_was_not_saved_before_the_kill_is_fetched(
    cli: Run, serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = serve("1", service="fixed:0s")
    with monkeypatch.context() as patch:
        patch.setattr("pika_balancer.cli.download._LARGEST", 1)
        ran = cli(*single(tmp_path), "--json")
    assert (ran.code, ran.error["type"]) == (5, "DownloadFailed")
    ran = cli(*single(tmp_path), "--json")
    assert ran.code == 0
    assert len(ran.document["files"]) == 1
    assert service.server.statistics().submits == 1
