"""How far a run is: lines without a terminal, a bar on one."""

import io
import sys

import pytest
from rich.console import Console

from pika_balancer.cli.output import Output
from pika_balancer.cli.progress import Bar, Lines, progress

EVIL = "\x1b]0;owned\x07[bold red]x[/]"


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


def bar(out: Output, screen: io.StringIO, total: int = 4) -> Bar:
    return Bar(out, Console(file=screen, force_terminal=True, width=60, markup=False, highlight=False), total)


def test_lines_tell_everything_and_results_go_to_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    with progress(Output(), Output(as_json=True), 4) as view:
        assert isinstance(view, Lines)
        view.show(1)
        view.say("one")
        view.mention("two")
        view.result("https://x")
    assert capsys.readouterr() == ("https://x\n", "one\ntwo\n")


def test_bar_is_for_terminals(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setattr(sys, "stderr", Screen())
    assert isinstance(progress(Output(), Output(as_json=True), 4), Bar)


def test_bar_moves_and_goes_away_and_lines_stay(capsys: pytest.CaptureFixture[str]) -> None:
    screen = io.StringIO()
    with bar(Output(), screen) as view:
        view.show(3)
        view.say(EVIL)
        view.mention("a line that the bar says as well")
        view.result("https://x")
    shown = screen.getvalue()
    assert "3/4" in shown
    assert "\\x1b]0;owned\\x07[bold red]x[/]" in shown
    assert "as well" not in shown
    assert shown.rindex("\x1b[?25h") > shown.rindex("\x1b[?25l"), "the cursor comes back"
    assert capsys.readouterr() == ("https://x\n", ""), "stdout is somebody else's, and gets the result"


@pytest.mark.parametrize(("as_json", "times"), [(False, 1), (True, 0)])
def test_result_on_the_same_terminal_scrolls_above_the_bar(
    monkeypatch: pytest.MonkeyPatch, *, as_json: bool, times: int
) -> None:
    stdout, screen = Screen(), io.StringIO()
    monkeypatch.setattr(sys, "stdout", stdout)
    url = "https://x/" + "y" * 100
    with bar(Output(as_json=as_json), screen) as view:
        view.result(url)
    assert screen.getvalue().count(url) == times
    assert stdout.getvalue() == ""
