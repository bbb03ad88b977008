"""Every option of every command gets every odd value; the parsers list the options.

The commands run as they are, up to where a server would be started: those that talk to a service find one
that refuses their token, and those that talk to a store find no server. No command line can hold a NUL or
half of a character, so those are left out.
"""

import argparse
import asyncio
import io
import itertools
import os
import sys
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest

from pika_balancer import cli
from pika_balancer.cli import COMMANDS, build_parser, main
from tests.cli.conftest import CANARY, Ran, Service
from tests.fuzz.corpus import MEGABYTE, NAUGHTY

pytestmark = pytest.mark.no_cover  # by the hundred what other tests run once


def can_be_given(text: str) -> bool:
    try:
        os.fsencode(text)
    except UnicodeEncodeError:
        return False
    return True


VALUES = [text for text in NAUGHTY if "\0" not in text and can_be_given(text)]
TOO_LONG = "x" * 300
"""As the name of a file."""
EACH = 7
"""Step through the values; each option starts at another one."""
CODES = {0, 1, 2, 3, 4, 5, 6, 130}
NEEDED = {
    "simulate": [
        "--accounts=2x1", "--arrivals=poisson:1/s", "--service=exp:1s", "--jobs=20", "--engine=reference",
    ],
    "plan": [
        "--account-cap=1", "--target=refused<50%", "--arrivals=poisson:1/s", "--service=exp:1s", "--jobs=10",
        "--most-jobs=10", "--most=2",
    ],
    "store": ["doctor", "--store=redis://127.0.0.1:1/0"],
    "watch": ["--once"],
    "submit": ["a cat"],
    "serve": ["--port=0"],
    "bench": ["--jobs=4"],
    "demo": ["--jobs=2"],
}  # fmt: skip
"""Arguments with which a command gets as far as possible."""
WITH_TRACE = {"trace", "time_scale", "arrival_column", "duration_column"}
WITHOUT_PROMPT = {"button_of", "jobs", "message", "font"}


@attrs.frozen
class Option:
    """An option, or a positional argument."""

    command: str
    action: argparse.Action
    rivals: tuple[argparse.Action, ...]
    """Options that exclude it."""

    @property
    def words(self) -> set[str]:
        """Names by which an error may mention it."""
        dest = self.action.dest
        return {*self.action.option_strings, dest, *dest.split("_"), dest.replace("_", " ")}

    def line(self, value: str) -> list[str]:
        """Return the command line with this value."""
        names = [name for rival in (self.action, *self.rivals) for name in rival.option_strings]
        needed = [word for word in NEEDED.get(self.command, ()) if word.partition("=")[0] not in names]
        dest = self.action.dest
        if self.command in ("simulate", "plan") and dest in WITH_TRACE:
            needed = [word for word in needed if not word.startswith("--arrivals")]
            needed += [] if dest == "trace" else ["--trace=trace.csv"]
        if self.command == "submit" and dest in WITHOUT_PROMPT:
            needed = ["--verb=encrypt_text", "a cat"] if dest in ("message", "font") else []
            needed += ["--message=hi"] if dest == "font" else []
        if self.command == "bench" and dest in ("base_url", "token"):
            needed += ["--base-url=http://127.0.0.1:1"] if dest == "token" else []
            needed += ["--duration=1s", "--jobs-are-billed"]
        if self.action.option_strings:
            return [self.command, *needed, f"{self.action.option_strings[0]}={value}"]
        places = [word for word in needed if not word.startswith("--")]
        return [self.command, *(word for word in needed if word not in places), "--", value]


def options(command: str) -> Iterator[Option]:
    [commands] = [a for a in build_parser([command])._actions if isinstance(a, argparse._SubParsersAction)]
    parser: argparse.ArgumentParser = commands.choices[command]
    for action in parser._actions:
        if action.nargs != 0:
            groups = [group._group_actions for group in parser._mutually_exclusive_groups]
            rivals = [one for group in groups if action in group for one in group if one is not action]
            yield Option(command, action, tuple(rivals))


def soon(start: Callable[[], Coroutine[Any, Any, int]]) -> int:
    """Run a command that serves, and interrupt it as soon as it waits."""

    async def run() -> int:
        task = asyncio.ensure_future(start())
        await asyncio.wait([task], timeout=0.02)
        task.cancel()
        return await task

    return asyncio.run(run())


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    running = Service().start()
    yield running
    running.stop()


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, service: Service) -> None:
    """Work in a temporary folder, without slow steps."""
    (tmp_path / "trace.csv").write_text("ts,took\n0,1\n1,1\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PIKA_STORE_URL", raising=False)
    monkeypatch.setenv("USEAPI_TOKEN", "refused")
    monkeypatch.setenv("PIKA_BASE_URL", service.url)

    def stopped(*_: object, **__: object) -> None:
        raise asyncio.CancelledError

    demo = ("demo.LocalServer", "demo._run_worker")
    for name in ("bench.ServerProcess.run", "simulate.replicate", *demo):
        monkeypatch.setattr(f"pika_balancer.cli.{name}", stopped)
    # Nothing is compiled.
    monkeypatch.setitem(sys.modules, "numba", None)


def complaints(option: Option, ran: Ran) -> Iterator[str]:
    both = ran.out + ran.err
    if ran.code not in CODES:
        yield f"ends with {ran.code}"
    if ran.code and ("this is a bug" in ran.err or "Traceback" in ran.err):
        yield "is not taken for what it is"
    if CANARY in both:
        yield "shows a secret"
    if not all(char.isprintable() or char == "\n" for char in both):
        yield "goes to the terminal raw"
    said = ran.err.splitlines()
    # The service says so of one; the machine has no such address, or no such directory, for the others.
    if ran.code == 1 and option.action.dest not in ("jobid", "host", "accounts_file"):
        yield "fails where it should have been refused"
    if ran.code == 2:
        if len(said) != 1 and option.action.dest != "jobs":
            yield f"takes {len(said)} lines to refuse"
        if len(said[-1]) > 1000:
            yield f"is refused with {len(said[-1])} characters"
        if not any(word in said[-1].lower() for word in option.words):
            yield "is refused without a word of which option it is"


@pytest.mark.usefixtures("place")
@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_takes_or_refuses_every_value(
    command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if command == "serve":
        monkeypatch.setattr(cli, "supervise", soon)
    seen = 0
    wrong: list[str] = []
    for number, option in enumerate(options(command)):
        for value in (
            *itertools.islice(VALUES, number % EACH, None, EACH),
            *([MEGABYTE] if number % 3 == 0 else [TOO_LONG]),
        ):
            seen += 1
            code = main(option.line(value))
            out, err = capsys.readouterr()
            ran = Ran(code, out, err)
            wrong += [
                f"{option.action.dest} {value!r:.40} {what}: {ran.code}, {ran.err[:300]!r}"
                for what in complaints(option, ran)
            ]
    assert not wrong, "\n".join(wrong)
    assert seen >= len(VALUES) // EACH


@pytest.mark.usefixtures("place")
@pytest.mark.parametrize("command", COMMANDS)
def test_as_json_an_error_is_one_document_in_ascii(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    for value in ("\x1b]0;title\x07\u202e", "9" * 5000, "\udc80"):
        line = [command, "--json", f"--{value}"]
        code = main(line)
        out, err = capsys.readouterr()
        ran = Ran(code, out, err)
        assert ran.code == 2
        assert ran.out.isascii()
        assert ran.error["exit_code"] == 2
        assert all(char.isprintable() or char == "\n" for char in ran.out + ran.err)


@pytest.mark.usefixtures("place")
@pytest.mark.parametrize(
    "line",
    [
        ["demo", "--workers=18446744073709551616"],
        ["demo", "--processes=100000"],
        ["demo", "--speed=1e-200"],
        ["submit", "--jobs-file=-", "--concurrency=1000001"],
        ["simulate", *NEEDED["simulate"][:3], "--duration=1e200"],
    ],
)
def test_values_that_would_take_forever_or_all_memory_are_refused(
    line: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"")))
    assert main(line) == 2
    assert line[-1].partition("=")[0] in capsys.readouterr().err
