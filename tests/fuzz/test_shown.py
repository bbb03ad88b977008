"""Control sequences and markup in names are escaped wherever names are shown."""

import datetime as dt
import html.parser
import io
import json
import sys
from pathlib import Path

import pytest

from pika_balancer.cli.demo_report import AccountCounts, DemoFrame, DemoView
from pika_balancer.cli.output import Output
from pika_balancer.cli.progress import JobProgress, LiveLine
from pika_balancer.cli.views import View, WatchView, service_view
from pika_balancer.models import Account, Job
from pika_balancer.simulate import Exponential, Poisson, Scenario, SimulatedAccount, simulate
from pika_balancer.simulate.report import report_of
from tests.fuzz.corpus import ESCAPES, NAUGHTY

NAMES = [text for text in NAUGHTY if text and not any("\ud800" <= char <= "\udfff" for char in text)]
PAYLOADS = ("\x1b]", "\x1bP", "\x9b", "\x9d", "\x07", "\x00", "\x7f", "\x0b", "\u202e", "\u2028", "\x1b[2J")
"""Control characters that rich never writes in these views."""


def check(written: str) -> None:
    assert "title" in written or "\\x" in written, "nothing of it was shown"
    assert not [payload for payload in PAYLOADS if payload in written]


def view() -> View:
    accounts = [Account(name, 3) for name in NAMES]
    jobs = [
        Job(name, status=name, channel=name, prompt=name, created="2024-01-15T02:14:40.711Z", error=name)
        for name in NAMES
    ]
    return service_view(accounts, jobs, dt.datetime(2024, 1, 15, 2, 15, tzinfo=dt.UTC))


class Screen(io.StringIO):
    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


def test_live_views_escape_what_they_show(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Screen()
    for name, value in (("TERM", "xterm-256color"), ("COLUMNS", "200"), ("LINES", "400")):
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "stdout", screen)
    monkeypatch.setattr(sys, "stderr", screen)
    out = Output()
    with WatchView(out, 10) as watch:
        watch.show(view())
        watch.show(view(), trouble="".join(ESCAPES))
    with DemoView(out) as demo:
        accounts = tuple(AccountCounts(name, 1, 3, 3, 3) for name in NAMES)
        demo.show(DemoFrame(1.0, 3, 1, 1, 1.0, accounts, stopping=False))
    with LiveLine(out) as line, JobProgress(Output(as_json=True), 3) as progress:
        for escape in ESCAPES:
            line.show(escape)
            progress.say(escape)
            progress.result(escape)
    check(screen.getvalue())


def test_tables_and_lines_escape_what_they_show(capsys: pytest.CaptureFixture[str]) -> None:
    out = Output()
    view().show(out)
    for escape in ESCAPES:
        out.note(escape)
        out.pairs([(escape, escape)])
    captured = capsys.readouterr()
    for written in (captured.out, captured.err):
        check(written)
        assert all(char.isprintable() or char == "\n" for char in written)
    Output(as_json=True).document({name: name for name in NAMES})
    document = capsys.readouterr().out
    assert document.isascii()
    assert json.loads(document) == {name: name for name in NAMES}


class Page(html.parser.HTMLParser):
    """Collects tags and event attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.events: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.events += [name for name, _ in attrs if name.startswith("on")]


def test_a_report_escapes_names(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    names = [name for name in NAMES if len(name) < 100]
    accounts = tuple(SimulatedAccount(name, 1) for name in names)
    scenario = Scenario(accounts=accounts, arrivals=Poisson(1.0), service=Exponential(20.0))
    result = simulate(scenario, jobs=100, seed=1, engine="reference")
    path = tmp_path / "report.html"
    report_of(result).write(path)
    text = path.read_text(encoding="utf-8")
    page = Page()
    page.feed(text)
    assert "script" not in page.tags
    assert not page.events
    assert not [payload for payload in PAYLOADS if payload in text]
    assert "&lt;script&gt;alert(1)" in text
