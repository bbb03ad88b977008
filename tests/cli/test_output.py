"""What is printed: escaped, aligned, on the right stream."""

import io
import json
import sys

import pytest

from pika_balancer.cli.output import Output
from pika_balancer.cli.terminal import Terminal

EVIL = "\x1b]0;owned\x07[bold red]x[/] :smile: \u202e\r\n\udc80"


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


def test_document_is_for_json_alone(capsys: pytest.CaptureFixture[str]) -> None:
    Output().document({"a": 1})
    assert capsys.readouterr() == ("", "")


def test_table_aligns_words_left_and_figures_right(capsys: pytest.CaptureFixture[str]) -> None:
    Output().table(("account", "jobs"), [("123", 7), ("4", 1234)])
    assert capsys.readouterr().out == "account  jobs\n123         7\n4        1234\n"


def test_table_without_rows_is_its_header(capsys: pytest.CaptureFixture[str]) -> None:
    Output().table(("account", "jobs"), [])
    assert capsys.readouterr().out == "account  jobs\n"


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("term", ["dumb", "unknown"])
def test_dumb_terminal_gets_plain_lines(monkeypatch: pytest.MonkeyPatch, term: str) -> None:
    monkeypatch.setattr(sys, "stdout", Screen())
    monkeypatch.setenv("TERM", term)
    assert Output().terminal is None


def test_terminal_without_rich_gets_plain_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", Screen())
    monkeypatch.setenv("TERM", "xterm-256color")
    assert Output().terminal is not None
    monkeypatch.setitem(sys.modules, "pika_balancer.cli.terminal", None)
    assert Output().terminal is None


def test_terminal_table_shows_markup_as_text_and_loses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "30")
    screen = Screen()
    Terminal(screen).table(("job", "n"), [("[red]" + "job:2024-channel:5678" * 3, "7")], (False, True))
    shown = "".join(screen.getvalue().split())
    assert "[red]" in shown
    assert ("job:2024-channel:5678" * 3)[:20] in shown
    assert shown.replace("7", "").count("56") == 3
