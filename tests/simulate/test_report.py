"""Reports: one page that needs nothing else, whatever is on it."""

import functools
import math
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import attrs
import pytest

from pika_balancer.errors import InvalidArgument
from pika_balancer.simulate import (
    Bursty,
    Constant,
    Daily,
    Empirical,
    Estimate,
    Exponential,
    Failures,
    Faults,
    Gamma,
    Lognormal,
    Loss,
    OnOff,
    Poisson,
    Queue,
    Recorded,
    Regular,
    Result,
    Retry,
    Scenario,
    SimulatedAccount,
    Slowdown,
    Trace,
    Weibull,
    simulate,
    targets,
)
from pika_balancer.simulate.report import numbers, report_of, simulation_page, words
from pika_balancer.simulate.report.numbers import Kind
from tests.depth import sized

ROOT = Path(__file__).parents[2]
LAW = Lognormal(180, 0.7)
HOSTILE = [
    SimulatedAccount("<script>alert(1)</script>", 2),
    SimulatedAccount("$x_{\\bad$", 3, outages=((600, 1200), (5000, math.inf))),
    SimulatedAccount("猫\x1b[2J\ud800" + "x" * 500, 1, speed=0.3),
    SimulatedAccount('"&amp;', 4, failures=Failures(1000, 300)),
]


def run(jobs: int = 400, **fields: Any) -> Result:
    known: dict[str, Any] = {"accounts": "5x6", "arrivals": Poisson(25 / 180), "service": LAW}
    return simulate(Scenario(**(known | fields)), jobs=jobs, seed=1, engine="reference")


@pytest.fixture(scope="module")
def results() -> dict[str, Result]:
    line = run(accounts="2x3", when_full=Queue())
    return {
        "line": attrs.evolve(line, notes=(*line.notes, "beware of <this>")),
        "loss": run(),
        "no waits": run(accounts="9x9", when_full=Retry()),
        "one account": run(accounts="1x6", when_full=Queue(limit=3, patience=Exponential(60))),
        "many accounts": run(accounts="200x1", when_full=Queue()),
        "one job": run(jobs=1),
        "no job": simulate(
            Scenario(accounts="1", arrivals=Poisson(1e-9), service=LAW), duration=1, engine="reference"
        ),
        "hostile": run(
            accounts=HOSTILE,
            when_full=Retry(15, 80, jitter=0.2),
            faults=Faults(0.01, 0.01),
            poll_period=30,
            slowdown=Slowdown(1, 0.1),
        ),
    }


ROOT_RULE = r":root \{[^}]*\}"
CASES = ("line", "loss", "no waits", "one account", "many accounts", "one job", "no job", "hostile")
LIKE_OTHERS = ("loss", "one job")
"""Cases whose pages have no part that others lack."""


class Page(HTMLParser):
    """What is in a page, as a browser sees it."""

    EMPTY = frozenset({"meta", "br", "use", "path", "rect", "line", "circle", "g"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: Counter[str] = Counter()
        self.tags: Counter[str] = Counter()
        self.points_to: set[str] = set()
        self.labels: list[str] = []
        self.words: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert not self._open, self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_startendtag(tag, attrs)
        if tag != "meta":
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        for name, value in attrs:
            assert value is not None
            assert not name.startswith("on")
            if name == "id":
                self.ids[value] += 1
            if name in {"href", "src", "data", "xlink:href"}:
                self.points_to.add(value)
            self.points_to.update(re.findall(r"url\(([^)]*)\)", value))
            if tag == "svg" and name == "aria-label":
                self.labels.append(value)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


@pytest.fixture(scope="module")
def pages(results: dict[str, Result]) -> Callable[[str], str]:
    """Return the page of a case; each is drawn once."""
    return functools.cache(lambda case: report_of(results[case]).html())


@pytest.mark.deep
@pytest.mark.parametrize("case", sized([case for case in CASES if case not in LIKE_OTHERS], CASES))
def test_the_page_is_sound_and_needs_nothing_else(pages: Callable[[str], str], case: str) -> None:
    text = pages(case)
    page = Page(text)
    assert page.tags["script"] == page.tags["link"] == page.tags["img"] == page.tags["iframe"] == 0
    assert "http" not in text
    assert "@import" not in text
    assert {target[0] for target in page.points_to} <= {"#"}
    assert {target[1:] for target in page.points_to} <= page.ids.keys()
    assert max(page.ids.values()) == 1
    assert len(page.labels) == page.tags["svg"] == page.tags["figure"]
    assert all(len(label) > 10 for label in page.labels)
    # Every colour is named once for light and once for dark paper, so that all of it is readable on both.
    light, dark = (set(re.findall(r"(--\w+):", palette)) for palette in re.findall(ROOT_RULE, text))
    assert light == dark
    assert not re.findall(r"#[0-9a-f]{6}\b", re.sub(ROOT_RULE, "", text))


def test_what_came_from_outside_is_text_and_nothing_else(pages: Callable[[str], str]) -> None:
    text = pages("hostile")
    assert "<script" not in text
    assert "\x1b" not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    assert "&quot;&amp;amp;" in text
    text.encode()


def test_the_question_and_the_answer_are_on_the_page(
    results: dict[str, Result], pages: Callable[[str], str]
) -> None:
    page = Page(pages("line"))
    said = " ".join(page.words)
    for _, text in words.question(results["line"].scenario):
        assert text in said
    assert words.answer(results["line"]) in said
    assert "<li>beware of &lt;this&gt;</li>" in pages("line")
    assert {"Jobs in flight", "Waits", "Slots in use, by account", "capacity 6"} <= set(page.words)


def test_the_same_result_makes_the_same_page(
    results: dict[str, Result], pages: Callable[[str], str], tmp_path: Path
) -> None:
    path = tmp_path / "page.html"
    report_of(results["no job"]).write(path)
    assert path.read_text(encoding="utf-8") == pages("no job")


def test_matplotlib_is_left_as_it_was() -> None:
    script = """
import sys
import matplotlib as mpl
from tests.simulate.test_report import run
from pika_balancer.simulate.report import report_of

mpl.rcParams["font.size"] = 23.0
# To read the name of the backend is to choose one.
names = [name for name in mpl.rcParams if name != "backend"]
before = [mpl.rcParams[name] for name in names]
text = report_of(run()).html()
assert [mpl.rcParams[name] for name in names] == before
assert "font-size: 23px" not in text
assert "matplotlib.pyplot" not in sys.modules
"""
    subprocess.run([sys.executable, "-W", "error", "-c", script], check=True, cwd=ROOT)


def test_without_matplotlib_it_is_said_what_to_install(
    results: dict[str, Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r"pip install 'pika-balancer\[plot\]'"):
        report_of(results["loss"]).write(tmp_path / "page.html")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["page", "page.htm", "page.png", "html"])
def test_a_report_of_another_kind_is_refused(results: dict[str, Result], name: str) -> None:
    with pytest.raises(InvalidArgument, match=r"ends in \.html, not") as caught:
        report_of(results["loss"]).write(Path(name))
    assert caught.value.field == "report"


def accounts(caps: str) -> str:
    return words.accounts(Scenario(accounts=caps, arrivals=Poisson(1), service=LAW).accounts)


TEXTS: list[tuple[Callable[[Any], str], Any, str]] = [
    *(
        (numbers.figure, value, text)
        for value, text in [
            (0, "0"),
            (1, "1"),
            (12345.6, "12,346"),
            (999.4, "999"),
            (83.14159, "83.1"),
            (83.0, "83"),
            (0.0526, "0.0526"),
            (1.2e-12, "1.2e-12"),
            (-2.5, "-2.5"),
            (math.nan, "-"),
            (math.inf, "∞"),
        ]
    ),
    (numbers.duration, 0, "0 s"),
    (numbers.duration, 0.25, "0.25 s"),
    (numbers.duration, 119, "119 s"),
    (numbers.duration, 180, "3 min"),
    (numbers.duration, 7200, "2 h"),
    (numbers.duration, 2e6, "23.1 d"),
    (numbers.duration, math.nan, "-"),
    (numbers.rate, 500 / 3600, "500/h"),
    (numbers.rate, 2.0, "2/s"),
    (numbers.rate, 0.15, "9/min"),
    (numbers.rate, 1 / 86400, "1/d"),
    (numbers.rate, 0.1389, "8.33/min"),
    (words.distribution, Constant(90), "90 s each"),
    (words.distribution, Exponential(180), "exponential, mean 3 min"),
    (words.distribution, Lognormal(180, 0.7), "lognormal, mean 3 min, cv 0.7"),
    (words.distribution, Gamma(180, 2), "gamma, mean 3 min, cv 2"),
    (words.distribution, Weibull(180, 0.5), "Weibull, mean 3 min, shape 0.5"),
    (words.distribution, Recorded([1, 3]), "as recorded, mean 2 s, cv 0.5"),
    (words.distribution, Empirical([1, 3]), "drawn from 2 recorded durations, mean 2 s, cv 0.5"),
    (words.distribution, SimpleNamespace(mean=10.0, variance=25.0), "SimpleNamespace, mean 10 s, cv 0.5"),
    (words.arrivals, Poisson(500 / 3600), "500/h, independent of each other (Poisson)"),
    (words.arrivals, Bursty(1, 3), "1/s, with gaps of cv 3 (Poisson has 1)"),
    (words.arrivals, Regular(0.1), "6/min, evenly: one every 10 s"),
    (
        words.arrivals,
        OnOff(1, 600, 1200, 0.1),
        "1/s for 10 min, then 6/min for 20 min, alternating, on average; 24/min in all",
    ),
    (words.arrivals, Daily([0] * 23 + [86400]), "1/s by a daily profile, 24/s in its busiest hour"),
    (words.arrivals, Trace([0, 10, 20]), "3 recorded jobs over 20 s (6/min)"),
    (words.arrivals, Trace([5, 5]), "2 recorded jobs all at once"),
    (words.arrivals, Trace([0, 10, 20], time_scale=0.1), "3 recorded jobs over 2 s (1/s); times × 0.1"),
    (words.arrivals, SimpleNamespace(rate=0.5), "30/min by SimpleNamespace"),
    (words.when_full, Loss(), "a job that finds every account full is lost"),
    (words.when_full, Queue(), "jobs wait, first come first served"),
    (
        words.when_full,
        Queue(limit=5, patience=Constant(60)),
        "jobs wait, first come first served, at most 5 of them; patience 60 s each",
    ),
    (words.when_full, Retry(15, 80), "tried again every 15 s, 80 tries in all"),
    (words.when_full, Retry(15, 1, jitter=0.1), "tried again every 15 s ± 10%, 1 try in all"),
    (
        words.when_full,
        Retry(15, 80, exponential=True),
        "tried again every 15 s on average (exponential), 80 tries in all",
    ),
    (accounts, "1", "1 account with cap 1; 1 slot"),
    (accounts, "5x6", "5 accounts with cap 6; 30 slots"),
    (accounts, "6,6,4", "3 accounts with caps 6, 6, 4; 16 slots"),
    (accounts, "100x6,20x4", "120 accounts with caps 100×6, 20×4; 680 slots"),
    (accounts, ",".join("12" * 20), "40 accounts with caps 1, 2, 1, 2, 1, 2, 1, …; 60 slots"),
]


@pytest.mark.parametrize(("function", "value", "text"), TEXTS)
def test_numbers_and_scenarios_as_text(function: Callable[[Any], str], value: Any, text: str) -> None:
    assert function(value) == text


@pytest.mark.parametrize(
    ("estimate", "kind", "texts"),
    [
        (Estimate(0.0526, 0.05, 0.0552), "share", ("5.26%", "5.00 to 5.52%")),
        (Estimate(0.0526, 0.05259, 0.05261), "share", ("5.260%", "5.259 to 5.261%")),
        (Estimate(0.0, 0.0, 0.0003), "share", ("0%", "0.0000 to 0.0300%")),
        (Estimate(150, 144, 156), "time", ("2.50 min", "2.40 to 2.60 min")),
        (Estimate(0.0, 0.0, 240), "time", ("0 s", "0.00 to 4.00 min")),
        (Estimate(7.0), "number", ("7", "-")),
        (Estimate(math.nan), "time", ("-", "-")),
        (Estimate(1e-13, 0, 2e-13), "number", ("1e-13", "0 to 2e-13")),
    ],
)
def test_an_interval_has_as_many_decimals_as_its_estimate(
    estimate: Estimate, kind: Kind, texts: tuple[str, str]
) -> None:
    assert numbers.with_interval(estimate, kind) == texts


def test_everything_odd_is_in_the_question(results: dict[str, Result]) -> None:
    asked = dict(words.question(results["hostile"].scenario))
    assert asked["account $x_{\\bad$"] == "out from 10 min to 20 min; out from 83.3 min on"
    assert asked['account "&amp;'] == "fails every 16.7 min for 5 min, on average"
    assert asked["slowdown"] == "10% slower for each job above 1 at once"
    assert asked["poll"] == "slots become free at the next poll, every 30 s"
    assert asked["faults"] == "1% of submits answered 429, 1% accepted and answered 5xx"


def test_the_answer_tells_what_there_is_to_tell(results: dict[str, Result]) -> None:
    assert "were lost" in words.answer(results["loss"])
    assert "No job waited" in words.answer(results["no waits"])
    assert "for 95% of the jobs" in words.answer(results["line"])
    assert "gave up" in words.answer(results["one account"])
    assert words.answer(results["no job"]) == "No job arrived."
    cut = simulate(results["line"].scenario, duration=600, engine="reference")
    assert "had not ended when the run did" in words.answer(cut)


def test_figures_stand_beside_the_closed_form(results: dict[str, Result]) -> None:
    known = attrs.evolve(results["line"], theory={"refused_fraction": 0.5, "wait.mean": 90.0})
    exact = {label: exact for label, *_, exact in words.lines(known)}
    assert exact["found every account full"] == "50.00%"
    assert (exact["wait, mean"], exact["gave up"]) == ("90.00 s", "")


def test_every_figure_that_a_target_can_limit_has_a_label() -> None:
    assert set(targets.FIGURES) <= words.FIGURES.keys()


def test_capacity_drops_while_an_account_is_out() -> None:
    scenario = Scenario(
        accounts=[SimulatedAccount("1", 4), SimulatedAccount("2", 2, outages=((10, 20), (90, math.inf)))],
        arrivals=Poisson(1),
        service=LAW,
    )
    assert simulation_page.capacity(scenario, 0, 100) == [(0, 6), (10, 4), (20, 6), (90, 4)]
    assert simulation_page.capacity(scenario, 12, 15) == [(12, 4)]
