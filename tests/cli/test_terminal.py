"""The live views, on a real terminal."""

import datetime as dt
import io
import os
import pty
import re
import select
import signal
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from pika_balancer.cli import main
from pika_balancer.cli.demo_report import AccountCounts, DemoFrame, DemoView
from pika_balancer.cli.output import Output
from pika_balancer.cli.views import View, WatchView, service_view
from pika_balancer.clock import SystemClock
from pika_balancer.models import Account, Job
from tests.cli.conftest import FIRST, PATIENCE, Serve, Spawn
from tests.depth import examples

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there are no pseudo-terminals")

DEMO = ("demo", "--jobs", "20", "--speed", "100")
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
        deadline = clock.now() + PATIENCE
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
        return process.wait(PATIENCE), sent
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
    assert re.search(r"waiting +● ● ● ● ● 5", text)
    assert re.search(r"progress +[━╸╺]+ +\d+ of 20 +\d+\.\d jobs/s +\d+\.\d s", text)
    assert SUMMARY in text
    assert "\x1b[36m" in sent
    assert sent.rindex("\x1b[?25h") > sent.index("\x1b[?25l"), "the cursor comes back"
    assert sent.rindex(SUMMARY) > sent.rindex("\x1b[2K"), "the summary stands below the erased view"


class Screen(io.TextIOWrapper):
    """A terminal in this process."""

    def __init__(self, encoding: str) -> None:
        self.sent = io.BytesIO()
        super().__init__(self.sent, encoding=encoding)

    def isatty(self) -> bool:
        return True

    @property
    def text(self) -> str:
        """What it was sent."""
        self.flush()
        return self.sent.getvalue().decode(self.encoding)


def as_stdout(monkeypatch: pytest.MonkeyPatch, encoding: str = "utf-8") -> Screen:
    """Make stdout a terminal."""
    screen = Screen(encoding)
    monkeypatch.setattr(sys, "stdout", screen)
    return screen


def test_no_color_is_respected(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = as_stdout(monkeypatch)
    monkeypatch.setenv("NO_COLOR", "1")
    assert main(DEMO) == 0
    assert "■ ■ ■" in screen.text
    assert not re.search(r"\x1b\[[0-9;]*m", screen.text.replace("\x1b[0m", ""))


def test_dumb_terminal_gets_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = as_stdout(monkeypatch)
    monkeypatch.setenv("TERM", "dumb")
    assert main(DEMO) == 0
    assert "\x1b" not in screen.text
    assert SUMMARY in screen.text


def test_interrupt_restores_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = as_stdout(monkeypatch)
    really = DemoView.show

    def show(self: DemoView, frame: DemoFrame) -> None:
        really(self, frame)
        if frame.accounts[0].in_flight == 5 and not frame.stopping:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(DemoView, "show", show)
    assert main(["demo", "--speed", "50"]) == 130
    assert "stopping; following the running jobs" in screen.text
    assert screen.text.rindex("\x1b[?25h") > screen.text.rindex("\x1b[?25l")
    assert re.search(r"stopped early: \d+ of 60 jobs completed", screen.text)


def test_json_on_a_terminal_keeps_the_view_off_stdout(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    serve()
    with monkeypatch.context() as patch:
        screen = as_stdout(patch)
        assert main(["accounts", "--json"]) == 0
    assert screen.text.startswith("{")
    view = Screen("utf-8")
    monkeypatch.setattr(sys, "stderr", view)
    assert main([*DEMO, "--json"]) == 0
    assert capsys.readouterr().out.startswith("{")
    assert "\x1b[2K" in view.text


@pytest.mark.parametrize(("encoding", "glyphs"), [("utf-8", "■□●━"), ("ascii", "#.o-")])
def test_glyphs_suit_the_encoding(monkeypatch: pytest.MonkeyPatch, encoding: str, glyphs: str) -> None:
    screen = as_stdout(monkeypatch, encoding)
    assert main(DEMO) == 0
    assert all(glyph in screen.text for glyph in glyphs)
    assert SUMMARY in screen.text


def picture(
    make: Callable[[Output], AbstractContextManager[Any]],
    *shown: object,
    encoding: str = "utf-8",
    width: int = 80,
    height: int = 24,
) -> list[str]:
    """Return the lines on a terminal of this size while the view shows this."""
    screen = Screen(encoding)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (("TERM", "xterm-256color"), ("COLUMNS", width), ("LINES", height)):
            patch.setenv(name, str(value))
        patch.setenv("NO_COLOR", "1")
        patch.setattr(sys, "stdout", screen)
        with make(Output()) as live:
            before = len(screen.text)
            live.show(*shown)
            sent = screen.text[before:]
    return [line.rstrip() for line in re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", sent).lstrip("\r").split("\n")]


def account(channel: str, max_jobs: int, in_flight: int, done: int) -> AccountCounts:
    return AccountCounts(channel, max_jobs, in_flight + done, max_jobs, in_flight)


def test_demo_never_outgrows_the_screen() -> None:
    accounts = tuple(account(f"11000000000000000{number:02}", 4, 3, 1) for number in range(50))
    frame = DemoFrame(1.0, 100, 50, 0, 5.0, accounts, stopping=False)
    for height in (12, 24, 40):
        lines = picture(DemoView, frame, height=height)
        assert len(lines) <= height - 1
        shown = sum(line.startswith("  11000") for line in lines)
        rest = 50 - shown
        assert any(line.split() == f"and {rest} more {3 * rest}/{4 * rest} {rest}".split() for line in lines)
    assert not any("more" in line for line in picture(DemoView, frame, height=70))


def test_picture_of_the_demo_stands_still() -> None:
    def at(in_flight: int, waiting: int, done: int) -> list[str]:
        accounts = (account("1100000000000000001", 10, in_flight, done), account("22", 1, 1, done))
        frame = DemoFrame(1.0, 2000, done, waiting, 5.0, accounts, stopping=False)
        return picture(DemoView, frame, width=100, height=30)

    pictures = [at(0, 0, 0), at(10, 3, 5), at(10, 100, 999), at(12, 24, 1000)]
    assert len({len(picture) for picture in pictures}) == 1
    assert len({picture[2].index("/10") for picture in pictures[1:3]}) == 1
    assert {picture[6][:25] for picture in pictures} == {"  progress".ljust(25)}
    assert {picture[2].index("■" if "■" in picture[2] else "□") for picture in pictures} == {25}


def test_channel_from_outside_cannot_steer_the_terminal() -> None:
    frame = DemoFrame(0.0, 1, 0, 0, 0.0, (account("[red]\x1b[2Jx", 1, 0, 0),), stopping=True)
    assert any("[red]\\x1b[2Jx" in line for line in picture(DemoView, frame, width=100, height=30))


# --- watch ----------------------------------------------------------------------------------------------

NOON = dt.datetime(2026, 1, 2, 12, 0, 0, tzinfo=dt.UTC)
TROUBLE = "12:00:10  no connection to 127.0.0.1:8080: Connection refused; check --base-url or PIKA_BASE_URL"


def some(accounts: int, jobs: int, **facts: Any) -> View:
    defaults: dict[str, Any] = {"status": "progress", "verb": "pika-create", "prompt": "a cat on a surfboard"}
    return service_view(
        [Account(f"1193054500145942{number:03}", 3) for number in range(accounts)],
        [
            Job(
                f"job:20260102{number:09}-user:1234-channel:1193054500145942000",
                **(defaults | facts),
                channel=f"1193054500145942{number % 5:03}",
                created=f"2026-01-02T11:{59 - number // 60 % 60:02}:{59 - number % 60:02}.000Z",
            )
            for number in range(jobs)
        ],
        NOON,
    )


def watching(out: Output) -> WatchView:
    return WatchView(out, 10)


def test_watch_shows_accounts_and_jobs() -> None:
    lines = picture(watching, some(2, 3), None, width=120)
    assert lines[:4] == [
        "",
        "  12:00:00  2 of 6 slots taken, 3 jobs running   every 10 s; Ctrl-C ends",
        "",
        "  channel              cap  in flight  free",
    ]
    assert lines[4] == "  1193054500145942000    3          1     2"
    assert lines[6] == "  1193054500145942002    -          1     -"
    assert lines[8].split() == ["job", "status", "channel", "verb", "age", "prompt"]
    assert re.fullmatch(r"  job:20260102000000000-user:\S*…  progress  1193054500145942000 .*", lines[9])
    assert lines[9].endswith("  create   1s  a cat on a surfboard")


@pytest.mark.parametrize("width", [44, 60, 80])
def test_figures_and_whole_channels_fit_a_narrow_terminal(width: int) -> None:
    lines = picture(watching, some(6, 4), None, width=width, height=14)
    assert lines[3].split() == ["channel", "cap", "in", "flight", "free"]
    assert all(cell_len(line) <= width for line in lines)
    for number in range(2):
        assert lines[4 + number].split() == [f"119305450014594200{number}", "3", "1", "2"]
    assert lines[6].split() == ["and", "4", "more"]


def test_empty_view_says_so_and_trouble_stands_below_the_head() -> None:
    lines = picture(watching, some(0, 0), TROUBLE)
    assert lines[2].startswith("  12:00:10  no connection to 127.0.0.1:8080: Connection refused")
    assert lines[4].strip() == "no accounts are configured"
    assert lines[-1] == ""


@pytest.mark.deep
@examples(12, 400)
@given(
    st.integers(0, 60),
    st.integers(0, 60),
    st.integers(50, 200),
    st.integers(12, 60),
    st.sampled_from([None, TROUBLE, "12:00:10  " + "trouble " * 40]),
)
def test_view_fits_the_screen_and_tells_what_it_leaves_out(
    accounts: int, jobs: int, width: int, height: int, trouble: str | None
) -> None:
    view = some(accounts, jobs)
    lines = picture(watching, view, trouble, width=width, height=height)
    assert len(lines) <= height - 1
    assert all(cell_len(line) <= width for line in lines)
    visible = [section for section in view.sections if section.rows]
    parts = "\n".join(lines).split("\n\n")[-len(visible) :] if visible else []
    for part, section in zip(parts, visible, strict=True):
        more = re.search(r"and (\d+) more", part)
        shown = len(re.findall(r"^  .*11930\S+ ", part, re.MULTILINE))
        assert shown + int(more[1] if more else 0) == len(section.rows)
    # No line is wasted while something is left out.
    if "more" in "".join(parts):
        assert len(lines) == height - 1


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "latin-1"])
def test_text_from_outside_can_neither_steer_the_screen_nor_break_the_picture(encoding: str) -> None:
    evil = "[red]\x1b[2J\r\n猫がサーフィンをしている👩‍👩‍👧\u202e" * 9
    for facts in ({"prompt": evil}, {"status": evil}, {"verb": evil}):
        lines = picture(watching, some(3, 4, **facts), f"12:00:10  {evil}", encoding=encoding)
        assert len(lines) == len(picture(watching, some(3, 4), TROUBLE))
        assert all(cell_len(line) <= 80 for line in lines)
        assert not any(char in line for line in lines for char in "\x1b\r\u202e")
        assert any("[red]" in line for line in lines)


def test_watch_redraws_in_place_until_ctrl_c(spawn: Spawn, serve: Serve) -> None:
    serve("2,1", service="fixed:1h").submit("a cat\x1b[2J")
    code, sent = watch(spawn, "watch", "--poll", "0.1", on=lambda sent: sent.count("slots taken") == 4)
    assert code == 130
    assert "interrupted" not in sent
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", sent)
    assert re.search(rf"{FIRST} +2 ", text)
    assert "1 of 3 slots taken, 1 job running" in text
    assert "a cat\\x1b[2J" in text
    assert sent.count("\x1b[2K") > 3
    assert sent.rindex("\x1b[?25h") > sent.rindex("\x1b[?25l"), "the cursor comes back"


def test_watch_tells_trouble_on_the_terminal_and_goes_on(spawn: Spawn, serve: Serve) -> None:
    service = serve("2,1")

    def gone(sent: str) -> bool:
        if "slots taken" in sent:
            service.stop()
        return sent.count("no connection to") == 2

    code, sent = watch(spawn, "watch", "--poll", "0.1", on=gone)
    assert code == 130
    assert "\x1b[33m" in sent


def test_once_on_a_terminal_is_a_table_that_stays(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    serve("2,1")
    screen = as_stdout(monkeypatch)
    assert main(["watch", "--once"]) == 0
    assert "0 of 3 slots taken" in screen.text
    assert "\x1b[2K" not in screen.text
