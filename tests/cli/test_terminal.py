"""The live view, on a real terminal."""

import io
import os
import pty
import re
import select
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable

import pytest
from rich.console import Console

from pika_balancer.cli import main
from pika_balancer.cli.frame import Frame, Row
from pika_balancer.cli.terminal import LiveView
from pika_balancer.clock import SystemClock
from tests.cli.conftest import FIRST, ROOT, Serve, Spawn

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there are no pseudo-terminals")

DEMO = ("demo", "--jobs", "20", "--speed", "200")
SUMMARY = "20 of 20 jobs completed"


def watch(
    spawn: Spawn, *argv: str, on: Callable[[str], bool] = lambda _: False, **options: object
) -> tuple[int, str]:
    """Run a command on a terminal; return its exit code and what the terminal was sent.

    Ctrl-C is typed as soon as `on` what was sent so far holds.
    """
    ours, theirs = pty.openpty()
    try:
        process = spawn(*argv, stdin=theirs, stdout=theirs, stderr=theirs, **options)
        os.close(theirs)
        clock = SystemClock()
        deadline = clock.now() + 20
        sent = ""
        typed = False
        while clock.now() < deadline:
            if not select.select([ours], [], [], 0.1)[0]:
                continue
            try:
                chunk = os.read(ours, 65536)
            except OSError:  # how Linux says that the other end is closed
                break
            if not chunk:
                break
            sent += chunk.decode()
            if not typed and on(sent):
                typed = True
                os.killpg(process.pid, signal.SIGINT)
        return process.wait(10), sent
    finally:
        os.close(ours)


@pytest.fixture(autouse=True)
def colourful(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("LINES", "30")
    monkeypatch.setenv("PYTHONIOENCODING", "utf-8")


def test_terminal_gets_slots_line_and_progress_then_the_summary(spawn: Spawn) -> None:
    code, sent = watch(spawn, "demo", "--jobs", "20", "--speed", "50")
    assert code == 0
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", sent)
    assert re.search(rf"{FIRST} +■ ■ ■ ■ ■ +5/5 +\d", text)
    assert re.search(rf"{FIRST} +□ □ □ □ □ +0/5 +\d", text)
    assert re.search(r"in line +● ● ● ● ● 5", text)
    assert re.search(r"progress +[━╸╺]+ +\d+ of 20 +\d+\.\d jobs/s +\d+\.\d s", text)
    assert SUMMARY in text
    assert "\x1b[36m" in sent
    assert sent.rindex("\x1b[?25h") > sent.index("\x1b[?25l"), "the cursor comes back"
    assert sent.rindex(SUMMARY) > sent.rindex("\x1b[2K"), "the summary stands below the erased view"


def test_no_color_is_respected(spawn: Spawn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    code, sent = watch(spawn, *DEMO)
    assert code == 0
    assert "■ ■ ■" in sent
    assert not re.search(r"\x1b\[[0-9;]*m", sent.replace("\x1b[0m", ""))


def test_dumb_terminal_gets_lines(spawn: Spawn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    code, sent = watch(spawn, *DEMO)
    assert code == 0
    assert "\x1b" not in sent
    assert SUMMARY in sent


def test_terminal_without_rich_gets_lines(spawn: Spawn) -> None:
    without = "import sys; sys.modules['rich'] = None; from pika_balancer.cli import entry; entry()"
    ours, theirs = pty.openpty()
    with os.fdopen(ours, "rb", closefd=True):
        process = subprocess.run(
            [sys.executable, "-c", without, *DEMO],
            stdout=subprocess.PIPE,
            stderr=theirs,
            stdin=theirs,
            cwd=ROOT,
            timeout=20,
            check=False,
        )
        os.close(theirs)
    assert process.returncode == 0
    assert SUMMARY in process.stdout.decode()


def test_interrupt_restores_the_terminal(spawn: Spawn) -> None:
    code, sent = watch(spawn, "demo", "--speed", "50", on=lambda sent: "5/5" in sent)
    assert code == 130
    assert "stopping: waiting for what runs" in sent
    assert sent.rindex("\x1b[?25h") > sent.rindex("\x1b[?25l")
    assert re.search(r"stopped early: \d+ of 60 jobs completed", sent)


def test_json_on_a_terminal_keeps_the_view_off_stdout(spawn: Spawn, serve: Serve) -> None:
    serve()
    code, sent = watch(spawn, "accounts", "--json")
    assert code == 0
    assert sent.startswith("{")
    command = " ".join(map(shlex.quote, [sys.executable, "-m", "pika_balancer", *DEMO, "--json"]))
    ours, theirs = pty.openpty()
    with os.fdopen(ours, "rb", closefd=True):
        done = subprocess.run(  # noqa: S602 - a fixed program
            command, shell=True, stdout=subprocess.PIPE, stderr=theirs, cwd=ROOT, timeout=20, check=False
        )
        os.close(theirs)
    assert done.returncode == 0
    assert done.stdout.startswith(b"{")


class Screen(io.TextIOWrapper):
    """A terminal in this process."""

    def __init__(self, encoding: str) -> None:
        self.sent = io.BytesIO()
        super().__init__(self.sent, encoding=encoding)

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("encoding", "glyphs"), [("utf-8", "■□●━"), ("ascii", "#.o-")])
def test_glyphs_suit_the_encoding(monkeypatch: pytest.MonkeyPatch, encoding: str, glyphs: str) -> None:
    screen = Screen(encoding)
    monkeypatch.setattr(sys, "stdout", screen)
    assert main(DEMO) == 0
    sent = screen.sent.getvalue().decode(encoding)
    assert all(glyph in sent for glyph in glyphs)
    assert SUMMARY in sent


def draw(frame: Frame, **options: object) -> list[str]:
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, color_system=None, **options)  # type: ignore[arg-type] # width and height
    console.print(LiveView(console)._render(frame))
    return [re.sub(r"\x1b\[[0-9;]*m", "", line).rstrip() for line in screen.getvalue().splitlines()]


def test_view_never_outgrows_the_screen() -> None:
    rows = tuple(Row(f"11000000000000000{number:02}", 4, 3, 1) for number in range(50))
    frame = Frame(1.0, 100, 50, 0, 5.0, rows, stopping=False)
    for height in (12, 24, 40):
        lines = draw(frame, width=80, height=height)
        assert len(lines) <= height - 1
        shown = sum(line.startswith("  11000") for line in lines)
        rest = 50 - shown
        assert any(line.split() == f"and {rest} more {3 * rest}/{4 * rest} {rest}".split() for line in lines)
    assert not any("more" in line for line in draw(frame, width=80, height=70))


def test_picture_stands_still() -> None:
    def at(in_flight: int, waiting: int, done: int) -> list[str]:
        rows = (Row("1100000000000000001", 10, in_flight, done), Row("22", 1, 1, done))
        return draw(Frame(1.0, 2000, done, waiting, 5.0, rows, stopping=False), width=100, height=30)

    pictures = [at(0, 0, 0), at(10, 3, 5), at(10, 100, 999), at(12, 24, 1000)]
    assert len({len(picture) for picture in pictures}) == 1
    assert len({picture[2].index("/10") for picture in pictures[1:3]}) == 1
    assert {picture[6][:25] for picture in pictures} == {"  progress".ljust(25)}
    assert {picture[2].index("■" if "■" in picture[2] else "□") for picture in pictures} == {25}


def test_channel_from_outside_cannot_steer_the_terminal() -> None:
    rows = (Row("[red]\x1b[2Jx", 1, 0, 0),)
    lines = draw(Frame(0.0, 1, 0, 0, 0.0, rows, stopping=True), width=100, height=30)
    assert any("[red]\\x1b[2Jx" in line for line in lines)
