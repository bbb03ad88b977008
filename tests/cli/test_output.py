"""What is printed: escaped, aligned, on the right stream; tables and bars by the kind of stream."""

import io
import json
import sys

import pytest

from pika_balancer.cli import main
from pika_balancer.cli.output import Output
from pika_balancer.cli.progress import Gauge, JobProgress, LiveLine

EVIL = "\x1b]0;owned\x07[bold red]x[/] :smile: \u202e\r\n\udc80"


class Screen(io.StringIO):
    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


def on_screen(monkeypatch: pytest.MonkeyPatch, *names: str) -> Screen:
    """Make these streams one terminal."""
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "60")
    screen = Screen()
    for name in names:
        monkeypatch.setattr(sys, name, screen)
    return screen


def test_text_from_outside_cannot_steer_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    out = Output()
    out.say(EVIL)
    out.result(EVIL)
    out.note(EVIL)
    out.table(("name",), [(EVIL,)])
    printed = "".join(capsys.readouterr())
    assert all(char.isprintable() or char == "\n" for char in printed)
    assert printed.count("[bold red]x[/] :smile: \\u202e\\r\\n\\udc80") == 4


def test_document_is_ascii_and_stands_alone_on_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    Output().document({"a": 1})
    out = Output(as_json=True)
    out.say("for people")
    out.result("a URL")
    out.table(("a", "b"), [("x", 1)])
    out.document({"evil": EVIL})
    printed = capsys.readouterr()
    assert printed.out.isascii()
    assert "\x1b" not in printed.out
    assert json.loads(printed.out) == {"evil": EVIL}
    assert printed.err == "for people\na  b\nx  1\n"


@pytest.mark.parametrize(
    ("rows", "printed"),
    [
        ([("123", 7), ("4", 1234)], "account  jobs\n123         7\n4        1234\n"),
        ([("x" * 300, 7)], f"account{' ' * 293}  jobs\n{'x' * 300}     7\n"),
        ([], "account  jobs\n"),
    ],
)
def test_table_aligns_words_left_and_figures_right_at_any_width(
    capsys: pytest.CaptureFixture[str], rows: list[tuple[object, ...]], printed: str
) -> None:
    Output().table(("account", "jobs"), rows)
    assert capsys.readouterr().out == printed


@pytest.mark.parametrize("term", ["dumb", "unknown"])
def test_dumb_terminal_gets_plain_lines(monkeypatch: pytest.MonkeyPatch, term: str) -> None:
    screen = on_screen(monkeypatch, "stdout")
    monkeypatch.setenv("TERM", term)
    out = Output()
    assert not out.console.is_interactive
    out.table(("name",), [("x",)])
    assert screen.getvalue() == "name\nx\n"


def test_terminal_folds_a_table_and_loses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = on_screen(monkeypatch, "stdout")
    Output().table(("job", "n"), [("[red]" + "job:2024-channel:5678" * 6, "7")])
    shown = "".join(screen.getvalue().split())
    assert "[red]" in shown
    assert shown.replace("7", "").count("56") == 6


def test_missing_rich_is_one_message_with_the_command_that_installs_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    assert main(["jobs"]) == 1
    assert (
        capsys.readouterr().err == "pika-balancer: the commands need rich: pip install 'pika-balancer[cli]'\n"
    )
    assert main(["--version"]) == 0


def test_progress_without_a_terminal_is_lines_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    with JobProgress(Output(), 4) as progress:
        progress.show(1)
        progress.say("one")
        progress.mention("two")
        progress.result("https://x")
    with LiveLine(Output()) as line:
        line.show("three")
    assert capsys.readouterr() == ("https://x\nthree\n", "one\ntwo\n")


def test_bar_moves_and_goes_away_and_lines_stay(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    screen = on_screen(monkeypatch, "stderr")
    with JobProgress(Output(), 4) as progress:
        progress.show(3)
        progress.say(EVIL)
        progress.mention("a line that the bar replaces")
        progress.result("https://x")
    shown = screen.getvalue()
    assert "3/4" in shown
    assert "\\x1b]0;owned\\x07[bold red]x[/]" in shown
    assert "replaces" not in shown
    assert shown.rindex("\x1b[?25h") > shown.rindex("\x1b[?25l"), "the cursor comes back"
    assert capsys.readouterr().out == "https://x\n", "stdout is no terminal, and gets the result"


@pytest.mark.parametrize(("as_json", "times"), [(False, 1), (True, 0)])
def test_result_on_the_same_terminal_scrolls_above_the_bar(
    monkeypatch: pytest.MonkeyPatch, *, as_json: bool, times: int
) -> None:
    screen = on_screen(monkeypatch, "stdout", "stderr")
    url = "https://x/" + "y" * 100
    with JobProgress(Output(as_json=as_json), 4) as progress:
        progress.result(url)
    assert screen.getvalue().count(url) == times


def test_gauge_is_a_bar_after_a_moment_and_only_on_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    time = 0.0
    screen = on_screen(monkeypatch, "stderr")
    with Gauge(100, now=lambda: time) as gauge:
        time = 0.6
        gauge.show(20)
        assert screen.getvalue() == ""
        time = 0.8
        gauge.show(30)
    assert "30/100" in screen.getvalue()
    monkeypatch.undo()
    with Gauge(100, now=lambda: -time) as gauge:
        time = -2.0
        gauge.show(20)
    assert capsys.readouterr() == ("", "")
