"""The command line as such: commands, help, wrong options, errors of all kinds."""

import asyncio
import inspect
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import pika_balancer
from pika_balancer.cli import COMMANDS, build_parser, demo, main
from tests.cli.conftest import CANARY, PATIENCE, ROOT, Ran, Run, Serve, Spawn


@pytest.mark.parametrize("command", COMMANDS)
def test_help_ends_with_examples_that_parse(cli: Run, command: str) -> None:
    examples = re.findall(r"^  pika-balancer (.+)$", cli(command, "--help").out, re.MULTILINE)
    assert examples
    for example in examples:
        args = build_parser().parse_args(shlex.split(example))
        assert shlex.split(example)[0] == command
        assert inspect.iscoroutinefunction(args.run)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_is_printed_for_every_command(cli: Run, command: str) -> None:
    ran = cli(command, "--help")
    assert (ran.code, ran.err) == (0, "")
    assert "--json" in ran.out


def test_help_lists_every_command_and_exit_code(cli: Run) -> None:
    ran = cli("--help")
    assert ran.code == 0
    assert all(re.search(rf"^    {command} +\w", ran.out, re.MULTILINE) for command in COMMANDS)
    assert all(f"{code} " in ran.out for code in (0, 1, 2, 3, 4, 5, 6, 130))


def test_version(cli: Run) -> None:
    assert cli("--version").out == f"pika-balancer {pika_balancer.__version__}\n"


WRONG = [
    ([], "name a command"),
    (["--json"], "name a command first; there are demo, serve, accounts, jobs, submit"),
    (["frobnicate"], "no such command; there are demo,"),
    (
        ["demo", "--jobs", "0"],
        "argument --jobs: '0' must be a whole number from 1 to 1,000,000; see `pika-balancer demo",
    ),
    (["demo", "--jobs", "many"], "argument --jobs: 'many' is no whole number"),
    (["demo", "--workers", "-1"], "argument --workers: '-1' is no whole number"),
    (["demo", "--accounts", "6;6"], "argument --accounts: '6;6' is no list of caps; write 2,1 or 5x6"),
    (["demo", "--accounts", "11"], "caps go from 1 to 10"),
    (
        ["demo", "--service", "slow"],
        "argument --service: 'slow' is no distribution; write it as fixed:10s",
    ),
    (["demo", "--speed", "0"], "argument --speed: must be above 0"),
    (["demo", "--speed", "nan"], "argument --speed: 'nan' is no number"),
    (["demo", "--policy", "best"], "argument --policy: invalid choice"),
    (["demo", "--seed", "x"], "argument --seed"),
    (["demo", "--job", "3"], "unknown option --job"),
    (["demo", "extra"], "too many arguments"),
    (["jobs"], "no API token: set USEAPI_TOKEN, or name the file that holds it with --token-file"),
    (["submit"], "the following arguments are required: PROMPT"),
    (["submit", "a cat", "--image", "nowhere.png"], "argument --image: there is no file 'nowhere.png'"),
    (["submit", "a cat", "--timeout", "-3"], "argument --timeout: '-3' is no duration"),
    (["submit", "a cat", "--token", CANARY], "tokens do not go on the command line"),
    (["accounts", f"--token={CANARY}"], "tokens do not go on the command line"),
    (["--token", CANARY, "accounts"], "name a command first"),
    ([CANARY], "no such command"),
    (["accounts", CANARY], "too many arguments"),
    (["accounts", "--token-file", CANARY], "argument --token-file: that file cannot be read"),
]


@pytest.mark.parametrize(("argv", "sentence"), WRONG)
@pytest.mark.parametrize("as_json", [False, True])
def test_wrong_command_line_exits_2_with_one_helpful_line(
    cli: Run, argv: list[str], sentence: str, *, as_json: bool
) -> None:
    ran = cli(*argv, *(["--json"] if as_json and "--json" not in argv else []))
    assert ran.code == 2
    assert ran.err.count("\n") == 1
    assert ran.err.startswith("pika-balancer: ")
    assert sentence in ran.err
    if as_json or "--json" in argv:
        assert ran.error["exit_code"] == 2
        assert sentence in ran.error["message"]
    else:
        assert ran.out == ""


def test_json_behind_two_dashes_is_no_option(cli: Run) -> None:
    ran = cli("submit", "--", "--json")
    assert (ran.code, ran.out) == (2, "")


def test_bad_base_url_is_a_usage_error(cli: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("USEAPI_TOKEN", CANARY)
    ran = cli("jobs", "--base-url", f"ftp://user:{CANARY}@host")
    assert ran.code == 2
    assert "base_url must be http" in ran.err


def test_bug_is_one_line_with_the_place_and_no_values(cli: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(_args: object) -> int:
        raise RuntimeError(CANARY)

    monkeypatch.setattr(demo, "run", broken)
    ran = cli("demo", "--json")
    assert ran.code == 1
    assert re.search(r"unexpected RuntimeError at test_main.py:\d+; this is a bug", ran.err)
    assert ran.error["type"] == "RuntimeError"


def test_markup_and_escapes_in_errors_are_harmless(cli: Run) -> None:
    ran = cli("demo", "--accounts", "\x1b[2J[red]\u202e")
    assert "\\x1b[2J[red]\\u202e" in ran.err or "\\\\x1b" in ran.err


def test_a_command_imports_neither_rich_nor_other_commands() -> None:
    code = "import sys; from pika_balancer.cli import main; main(['accounts']); print('and', *sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    modules = done.stdout.split()
    assert "pika_balancer.cli.accounts" in modules
    assert not {"rich", "aiohttp.web", "pika_balancer.server", "pika_balancer.cli.demo"} & set(modules)


def test_reader_that_leaves_early_ends_the_command_quietly(spawn: Spawn) -> None:
    process = spawn("demo", "--speed", "10")
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.wait(PATIENCE) == 1
    assert process.stderr.read() == ""


@pytest.mark.parametrize("argv", [["demo"], ["--help"]])
def test_full_disk_is_told_once(spawn: Spawn, monkeypatch: pytest.MonkeyPatch, argv: list[str]) -> None:
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)
    with Path("/dev/full").open("w", encoding="utf-8") as full:
        process = spawn(*argv, stdout=full)
    _, err = process.communicate(timeout=PATIENCE)
    assert (process.returncode, err) == (1, "pika-balancer: No space left on device\n")


@pytest.mark.parametrize("name", ["stdout", "stderr"])
def test_broken_pipe_is_a_quiet_failure_and_the_pipe_is_replaced(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    serve("1", service="fixed:0s")
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as pipe:
        monkeypatch.setattr(sys, name, pipe)
        assert main(["submit", "a cat", "--poll", "0.01"]) == 1
        print("the interpreter's own last flush", file=pipe, flush=True)


def test_closed_streams_do_not_matter(serve: Serve) -> None:
    serve()
    command = f"{shlex.quote(sys.executable)} -m pika_balancer accounts <&- >&- 2>&-"
    assert subprocess.run(["/bin/sh", "-c", command], cwd=ROOT, check=False).returncode == 0


def test_terminal_without_unicode_gets_escapes(
    serve: Serve, spawn: Spawn, monkeypatch: pytest.MonkeyPatch
) -> None:
    serve()
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    process = spawn("accounts")
    out, err = process.communicate(timeout=PATIENCE)
    assert (process.returncode, err) == (0, "")
    assert "mad\\u2026001" in out


def test_command_that_lets_its_cancellation_pass_has_said_its_word(
    cli: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def cancelled(_args: object) -> int:
        raise asyncio.CancelledError

    monkeypatch.setattr(demo, "run", cancelled)
    assert cli("demo", "--json") == Ran(130, "", "")


def test_main_returns_and_never_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_run: Any) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr("pika_balancer.cli.supervise", refuse)
    assert main(["demo"]) == 130
