"""`accounts` and `jobs`: what is there."""

import asyncio
import os
import signal

import pytest

from pika_balancer import Account, PikaClient
from pika_balancer.cli.accounts import as_wire
from pika_balancer.models import Secret
from tests.cli.conftest import FIRST, SECOND, Run, Serve


def test_accounts_are_a_table_with_masked_tokens(cli: Run, serve: Serve) -> None:
    serve("2,10")
    ran = cli("accounts")
    assert ran.code == 0
    assert ran.out.splitlines() == [
        "channel              max jobs  discord",
        f"{FIRST}         2  mad…001",
        f"{SECOND}        10  mad…002",
    ]
    assert ran.err == ""


def test_accounts_as_json_have_the_names_of_the_wire(cli: Run, serve: Serve) -> None:
    serve()
    ran = cli("accounts", "--json")
    assert ran.document == {
        FIRST: {"channel": FIRST, "discord": "mad…001", "maxJobs": 2},
        SECOND: {"channel": SECOND, "discord": "mad…002", "maxJobs": 1},
    }
    assert list(ran.document) == [FIRST, SECOND]


@pytest.mark.parametrize(
    ("token", "shown"), [("abcdefghijkl", "abc…jkl"), ("abcdefghijk", "***"), ("x", "***")]
)
def test_short_tokens_show_nothing(token: str, shown: str) -> None:
    assert as_wire(Account("1", 3, Secret(token)))["discord"] == shown


def test_account_without_a_token_has_no_discord_field() -> None:
    assert as_wire(Account("1", 3)) == {"channel": "1", "maxJobs": 3}


@pytest.mark.parametrize("as_json", [False, True])
def test_wrong_token_exits_4(cli: Run, serve: Serve, *, as_json: bool) -> None:
    serve(token="another")
    ran = cli("accounts", *(["--json"] if as_json else []))
    assert ran.code == 4
    assert "check USEAPI_TOKEN" in ran.err
    assert "--token-file" in ran.err
    if as_json:
        assert (ran.error["type"], ran.error["status"], ran.error["exit_code"]) == ("Unauthorized", 401, 4)


def test_service_without_accounts_is_a_failure_that_says_so(cli: Run, serve: Serve) -> None:
    service = serve("1")
    service.delete_account(FIRST)
    ran = cli("accounts")
    assert ran.code == 1
    assert "no account is configured" in ran.err


def test_empty_map_is_told(cli: Run, serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    serve()

    async def nothing(_self: PikaClient) -> dict[str, Account]:
        return {}

    monkeypatch.setattr(PikaClient, "accounts", nothing)
    assert cli("accounts").out == "no accounts are configured\n"
    assert cli("accounts", "--json").document == {}


@pytest.mark.parametrize("command", ["accounts", "jobs"])
def test_interrupted_command_says_so(
    cli: Run, serve: Serve, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    serve()

    async def interrupted(_self: PikaClient) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        await asyncio.sleep(60)

    monkeypatch.setattr(PikaClient, command, interrupted)
    ran = cli(command, "--json")
    assert (ran.code, ran.err) == (130, "pika-balancer: interrupted\n")
    assert ran.error == {"type": "Interrupted", "message": "interrupted", "exit_code": 130}


def test_jobs_lists_what_runs_on_all_accounts(cli: Run, serve: Serve) -> None:
    serve("2,1", service="fixed:1h")
    assert cli("jobs").out == "no job is running\n"
    assert cli("jobs", "--json").document == []
    jobids = [cli("submit", f"cat {number}", "--no-wait").out.strip() for number in range(3)]
    ran = cli("jobs")
    rows = [line.split() for line in ran.out.splitlines()]
    assert rows[0] == ["job", "status", "channel"]
    assert [row[0] for row in rows[1:]] == jobids
    assert sorted(row[2] for row in rows[1:]) == [FIRST, FIRST, SECOND]
    assert {row[1] for row in rows[1:]} == {"started"}
    listed = cli("jobs", "--json").document
    assert [job["jobid"] for job in listed] == jobids
    assert {job["maxJobs"] for job in listed} == {1, 2}


def test_jobs_shows_one(cli: Run, serve: Serve) -> None:
    serve(service="fixed:0s")
    jobid = cli("submit", "a cat\x1b[2J", "--poll", "0.01", "--json").document["jobid"]
    ran = cli("jobs", jobid)
    assert ran.code == 0
    assert f"job      {jobid}\nstatus   completed\n" in ran.out
    assert "prompt   a cat\\x1b[2J\n" in ran.out
    assert f"/files/{jobid}/" in ran.out
    document = cli("jobs", jobid, "--json").document
    assert document["attachments"][0]["content_type"] == "video/mp4"
    assert None not in document.values()


def test_jobs_of_an_unknown_id_fails(cli: Run, serve: Serve) -> None:
    serve()
    ran = cli("jobs", "job:nope", "--json")
    assert ran.code == 1
    assert (ran.error["type"], ran.error["jobid"]) == ("NotFound", "job:nope")
