"""The `serve` command: options, output, exit."""

import argparse
import asyncio
import json
import re
from pathlib import Path

import aiohttp
import pytest

from pika_balancer.cli import build_parser, main
from pika_balancer.cli.exit_codes import Usage
from pika_balancer.server import LocalServer
from pika_balancer.testing import ManualClock, wait_until
from tests.server.conftest import ANY, FIRST, Rig, running

CANARY = "user:1234-c4n4ry"


def parse(*arguments: str) -> argparse.Namespace:
    return build_parser(["serve"]).parse_args(["serve", *arguments])


async def started(
    capsys: pytest.CaptureFixture[str], *arguments: str
) -> tuple["asyncio.Task[int]", str, list[str]]:
    """Start the command, and return its task, the base URL and the lines of its greeting."""
    capsys.readouterr()
    args = parse("--port", "0", *arguments)
    task = asyncio.create_task(args.run(args))
    lines: list[str] = []

    def greeted() -> bool:
        captured = capsys.readouterr()
        lines.extend((captured.err if args.json else captured.out).splitlines())
        assert not (args.json and captured.out)
        return task.done() or len(lines) >= 2

    await wait_until(greeted)
    match = re.search(r"http://\S+/v1/pika", lines[0])
    assert match is not None
    return task, match[0], lines


async def stopped(task: "asyncio.Task[int]") -> None:
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def submit(base: str, token: str = ANY, **fields: str) -> int:
    async with aiohttp.ClientSession() as session:
        # The command's own server is out of reach; this one only fills the place.
        rig = Rig(LocalServer(), ManualClock(), base, session)
        return (await rig.submit(token=token, **fields)).status


async def test_serve_tells_where_it_is_and_how_to_call_it_and_in_the_end_what_it_saw(
    capsys: pytest.CaptureFixture[str],
) -> None:
    task, base, lines = await started(capsys, "--accounts", "2,1", "--service", "fixed:0s", "--seed", "1")
    assert lines == [
        f"Pika API on {base} (2 accounts, 3 slots); Ctrl-C stops it",
        f'curl -H "Authorization: Bearer any" -F prompt="a cat" {base}/create',
    ]
    await submit(base, channel=FIRST)
    await stopped(task)
    table = capsys.readouterr().out.splitlines()
    assert [line.split() for line in table[:2]] == [
        ["channel", "jobs", "in", "flight", "peak", "cap", "refused"],
        [FIRST, "1", "0", "1", "2", "0"],
    ]
    assert table[-1] == "1 submits, 1 jobs completed, 0 attempts when full, 0 duplicate replyRefs"


async def test_json_is_one_document_on_stdout_and_talk_goes_to_stderr(
    capsys: pytest.CaptureFixture[str],
) -> None:
    options = ("--json", "--accounts", "1", "--service", "fixed:1h", "--fault", "fail:1")
    task, base, _ = await started(capsys, *options)
    assert [await submit(base), await submit(base)] == [200, 429]
    await stopped(task)
    document = json.loads(capsys.readouterr().out)
    assert (document["submits"], document["jobs"], document["in_flight"]) == (2, 1, 1)
    assert (document["attempts_when_full"], document["faults"]) == (1, {"fail": 1})
    assert document["channels"][FIRST]["peak_in_flight"] == 1


async def test_a_token_is_insisted_on_and_never_printed(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "token"
    path.write_text(f"{CANARY}\n")
    for option in (("--token", CANARY), ("--token-file", str(path))):
        assert CANARY not in repr(parse(*option))
        task, base, lines = await started(capsys, *option)
        assert "Bearer $USEAPI_TOKEN" in lines[1]
        assert [await submit(base), await submit(base, CANARY)] == [401, 200]
        await stopped(task)
        captured = capsys.readouterr()
        assert CANARY not in "".join(lines) + captured.out + captured.err


async def test_options_reach_the_server(capsys: pytest.CaptureFixture[str]) -> None:
    options = ("--service", "fixed:1h", "--speed", "1e6", "--poll", "10h", "--fault", "504:1:1ms")
    task, base, _ = await started(capsys, *options)
    assert await submit(base) == 504
    await stopped(task)
    assert "faults: 504 1" in capsys.readouterr().out


async def test_a_port_in_use_exits_1_and_says_what_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    async with running() as rig:
        for more in ((), ("--json",)):
            args = parse("--port", str(rig.port), *more)
            assert await args.run(args) == 1
            captured = capsys.readouterr()
            problem = (
                f"cannot serve on port {rig.port} of 127.0.0.1: it is in use; --port 0 takes a free port"
            )
            assert captured.err == f"pika-balancer: {problem}\n"
            if more:
                assert json.loads(captured.out)["error"]["message"] == problem
            else:
                assert captured.out == ""


async def test_an_address_of_another_machine_exits_1(capsys: pytest.CaptureFixture[str]) -> None:
    args = parse("--host", "192.0.2.1", "--port", "0")
    assert await args.run(args) == 1
    assert "cannot serve on port 0 of 192.0.2.1" in capsys.readouterr().err


async def test_an_open_server_without_a_token_is_warned_about(capsys: pytest.CaptureFixture[str]) -> None:
    args = parse("--host", "0.0.0.0", "--port", "0")  # noqa: S104 - what the warning is about
    task = asyncio.create_task(args.run(args))
    errors: list[str] = []

    def warned() -> bool:
        errors.append(capsys.readouterr().err)
        return "other machines can reach this server and any token is accepted" in "".join(errors)

    await wait_until(warned)
    await stopped(task)


async def test_accounts_are_kept_in_the_file(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "accounts.json"
    for accounts in ("6,4", "1"):
        task, _, lines = await started(capsys, "--accounts", accounts, "--accounts-file", str(path))
        assert "(2 accounts, 10 slots)" in lines[0]
        await stopped(task)
    path.write_text("{}x")
    args = parse("--accounts-file", str(path))
    with pytest.raises(Usage, match=r"accounts\.json': expected"):
        await args.run(args)
    args = parse("--accounts-file", str(tmp_path / "nowhere" / "accounts.json"))
    with pytest.raises(FileNotFoundError):
        await args.run(args)


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--port", "65536"], "must be a whole number from 0 to 65,535"),
        (["--port", "x"], "--port: 'x' is no whole number"),
        (["--accounts", "2;1"], "--accounts: "),
        (["--service", "often"], "--service: "),
        (["--speed", "0"], "--speed: must be above 0"),
        (["--poll", "soon"], "--poll: "),
        (["--fault", "flood:1"], "known faults: 429, "),
        (["--fault", "429:2"], "is no share"),
        (["--fault", "429:0.6", "--fault", "503:0.6"], "add up to 1.2"),
        (["--seed", "x"], "--seed: "),
        (["--token", ""], "--token: a token is one word"),
        (["--token", "a\nb"], "--token: a token is one word"),
        (["--token-file", "/nowhere/token"], "--token-file: that file cannot be read: No such file"),
    ],
)
def test_a_bad_option_exits_2_with_its_name(
    capsys: pytest.CaptureFixture[str], arguments: list[str], problem: str
) -> None:
    assert main(["serve", *arguments]) == 2
    assert problem in capsys.readouterr().err


@pytest.mark.parametrize("content", ["", "  \n", "two words", "tab\tbed"])
def test_a_bad_token_in_a_file_is_not_quoted(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, content: str
) -> None:
    path = tmp_path / "f"
    path.write_text(content, encoding="utf-8")
    assert main(["serve", "--token-file", str(path)]) == 2
    error = capsys.readouterr().err
    assert "must hold one token" in error
    assert not content.strip() or content not in error


def test_one_token_is_enough(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text(CANARY)
    assert main(["serve", "--token", CANARY, "--token-file", str(path)]) == 2
    error = capsys.readouterr().err
    assert "not allowed with argument" in error
    assert CANARY not in error


def test_help_has_an_example_and_names_every_fault(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "--help"]) == 0
    text = capsys.readouterr().out
    assert "pika-balancer serve --accounts 6,6,4" in text
    for name in ("500-but-accepted", "drop-accepted", "moderated"):
        assert f"  {name} " in text
