"""`kill -9` in the middle of `submit`, then the same command again: no job twice, none lost."""

import json
import signal
import subprocess
from collections import Counter
from pathlib import Path

import pytest

from pika_balancer.testing import ManualClock
from tests.cli.conftest import (
    PATIENCE,
    Limit,
    Passing,
    Run,
    Serve,
    Service,
    Spawn,
    beside,
    states,
    wait_for,
)
from tests.depth import sized

QUICK = ("--poll", "0.05")
LASTS = 100


def kill_at(service: Service, process: "subprocess.Popen[str]", submits: int) -> None:
    """Kill the run as soon as the service has seen so many submits, over all runs."""
    wait_for(lambda: service.server.statistics().submits >= submits, process)
    process.kill()
    process.wait(PATIENCE)


def is_settled(known: dict[str, str], jobs: int) -> bool:
    """Return whether the journal has every job, and none of them is on its way."""
    return len(known) == jobs and "sending" not in known.values()


# Each a number of submits, over all runs so far, at which the kill comes.
KILLS: list[tuple[int, ...]] = sized([(2, 6)], [(1, 2, 9, 14), (3, 8, 10, 15, 16), (7, 12, 13)])
OUTPUT = sized([True], [False, True])
CAP = sized(2, 4)


@pytest.mark.deep
@pytest.mark.parametrize("kills", KILLS)
@pytest.mark.parametrize("output", OUTPUT)
def test_killed_again_and_again_no_job_is_run_twice_and_none_is_lost(
    cli: Run, serve: Serve, spawn: Spawn, tmp_path: Path, kills: tuple[int, ...], *, output: bool
) -> None:
    slots, jobs = 2 * CAP, 4 * CAP
    service = serve(f"{CAP},{CAP}", service=f"fixed:{LASTS}s", faults=["slow:0.5:1s"], clock=ManualClock())
    wanted = [f"cat {number}" for number in range(jobs)]
    file = tmp_path / "jobs.jsonl"
    file.write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in wanted))
    journal = tmp_path / ("pika-journal.jsonl" if output else "jobs.jsonl.journal.jsonl")
    command = ("submit", "--jobs-file", str(file), *QUICK, *(("--output", str(tmp_path)) if output else ()))
    for submits in kills:
        process = spawn(*command)
        if service.server.statistics().submits <= slots < submits:
            # Half of the answers come a second late. Then each slot gets its second job.
            wait_for(lambda: service.server.statistics().submits == slots, process)
            service.advance(1)
            wait_for(lambda: list(states(journal).values()).count("accepted") == slots, process)
            service.advance(LASTS)
        # A job that a kill caught between journal and service stays unknown: then fewer are ever sent.
        wait_for(
            lambda n=submits: service.server.statistics().submits >= n or is_settled(states(journal), jobs),  # type: ignore[misc]  # a bound loop variable
            process,
        )
        process.kill()
        process.wait(PATIENCE)
    with Passing(service, journal):
        ran = cli(*command, "--json")
    # What was about to be sent at a kill may have been sent or not. The service says which: no one else can.
    found = ran.document["jobs"]
    assert {job["status"] for job in found} <= {"completed", "unknown"}
    accepted = service.prompts(job["jobid"] for job in found if job["status"] == "completed")
    assert accepted == Counter(
        prompt for prompt, job in zip(wanted, found, strict=True) if job["status"] == "completed"
    )
    statistics = service.server.statistics()
    assert (statistics.duplicate_reply_refs, statistics.attempts_when_full) == (0, 0)
    assert statistics.submits == statistics.jobs
    assert all(seen.peak_in_flight <= CAP for seen in statistics.channels.values())
    with Passing(service, journal):
        last = cli(*command, "--resubmit-unknown", "--json")
    assert last.code == 0
    assert service.prompts(job["jobid"] for job in last.document["jobs"]) == Counter(wanted)
    assert service.server.statistics().submits == jobs
    if output:
        files = [name for job in last.document["jobs"] for name in job["files"]]
        assert len(set(files)) == jobs
        assert all(Path(name).read_bytes()[4:8] == b"ftyp" for name in files)


def test_kill_between_the_submit_and_its_answer(cli: Run, serve: Serve, spawn: Spawn, tmp_path: Path) -> None:
    """All four jobs are with the service, and not one answer has come: they are found by their references."""
    service = serve("4", service=f"fixed:{LASTS}s", faults=["slow:1:1s"], clock=ManualClock())
    jobs = tmp_path / "jobs.csv"
    jobs.write_text("prompt\na\nb\nc\nd\n")
    command = ("submit", "--jobs-file", str(jobs), *QUICK)
    kill_at(service, spawn(*command), 4)
    journal = tmp_path / "jobs.csv.journal.jsonl"
    assert list(states(journal).values()) == ["sending"] * 4
    with Passing(service, journal):
        ran = cli(*command, "--json")
    assert ran.code == 0
    assert {job["status"] for job in ran.document["jobs"]} == {"completed"}
    assert service.server.statistics().submits == 4


def single(tmp_path: Path) -> tuple[str, ...]:
    return ("submit", "a cat", "--output", str(tmp_path), *QUICK)


def is_accepted(directory: Path) -> bool:
    return any("accepted" in states(path).values() for path in directory.glob("*.jsonl"))


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_single_job_whose_run_was_ended_by_a_signal_is_gone_on_with(
    cli: Run, serve: Serve, spawn: Spawn, tmp_path: Path, number: signal.Signals
) -> None:
    service = serve("4", service=f"fixed:{LASTS}s", clock=ManualClock())
    process = spawn(*single(tmp_path))
    wait_for(lambda: is_accepted(tmp_path), process)
    process.send_signal(number)
    _, err = process.communicate(timeout=PATIENCE)
    if number == signal.SIGINT:
        assert process.returncode == 130
        assert "shows it; the same command resumes it" in err
    service.advance(LASTS)
    ran = cli(*single(tmp_path), "--json")
    assert ran.code == 0
    assert f"resuming job {ran.document['jobid']}" in ran.err
    assert service.server.statistics().submits == 1
    assert [path.suffix for path in tmp_path.iterdir()] == [".mp4"], "the journal goes with the job"


def test_single_job_killed_before_its_answer_is_found_or_left_to_the_user(
    cli: Run, serve: Serve, spawn: Spawn, tmp_path: Path
) -> None:
    first = serve("1", service=f"fixed:{LASTS}s", faults=["slow:1:1s"], clock=ManualClock())
    kill_at(first, spawn(*single(tmp_path)), 1)
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
    service = serve("4", service=f"fixed:{LASTS}s", clock=ManualClock())
    process = spawn(*single(tmp_path))
    wait_for(lambda: is_accepted(tmp_path), process)
    (journal,) = tmp_path.glob("*.jsonl")

    def other_is_accepted() -> bool:
        return any("accepted" in states(path).values() for path in set(tmp_path.glob("*.jsonl")) - {journal})

    def end_both() -> None:
        wait_for(other_is_accepted, process)
        service.advance(LASTS)

    with beside(end_both):
        assert cli(*single(tmp_path)).code == 0
    assert process.wait(PATIENCE) == 0
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
    cli: Run, serve: Serve, tmp_path: Path, limit: Limit
) -> None:
    service = serve("1", service="fixed:0s")
    limit("size of a result", 1)
    ran = cli(*single(tmp_path), "--json")
    assert (ran.code, ran.error["type"]) == (5, "DownloadFailed")
    limit("size of a result", 1 << 30)
    ran = cli(*single(tmp_path), "--json")
    assert ran.code == 0
    assert len(ran.document["files"]) == 1
    assert service.server.statistics().submits == 1
