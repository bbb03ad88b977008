"""`plan`: how many it takes, what surrounds the answer, and how it says that there is none."""

import json
import signal
from pathlib import Path
from typing import Any

import pytest

from pika_balancer.simulate.sizing import SizePoint, plan
from tests.cli.conftest import Run

LAW = ("--arrivals", "poisson:500/h", "--service", "lognormal:mean=180s,cv=0.7")
ASKED = ("plan", "--account-cap", "6", *LAW)
QUICK = ("--jobs", "5000", "--most-jobs", "20000")


def test_the_smallest_number_that_meets_the_target_is_found(cli: Run) -> None:
    ran = cli(*ASKED, "--target", "refused<1%", "--json", *QUICK)
    assert (ran.code, ran.err) == (0, "")
    found = ran.document
    # Erlang B at 25 erlang: 5.26 % with 30 slots, 0.80 % with 36.
    assert (found["answer"], found["undecided"], found["find"]) == (6, None, "accounts")
    refused = {point["size"]: point["theory"]["refused_fraction"] for point in found["points"]}
    assert refused[5] == pytest.approx(0.0526, abs=1e-4)
    assert refused[6] == pytest.approx(0.00802, abs=1e-5)
    assert [point["size"] for point in found["neighbours"]] == [4, 5, 6, 7, 8]
    assert [case["case"] for case in found["sensitivity"]] == [
        "one account banned",
        "jobs run 20 % longer",
        "20 % more jobs",
    ]
    assert found["scenario"]["targets"] == "refused<1%"
    assert found["seed"] == 0


def test_people_get_the_answer_its_neighbours_and_what_may_go_wrong(cli: Run) -> None:
    ran = cli(*ASKED, "--target", "refused<1%", "--target", "utilisation<85%", *QUICK)
    assert (ran.code, ran.err) == (0, "")
    for text in (
        "targets    refused<1% and utilisation<85%\n",
        "accounts   as many as needed, with cap 6\n",
        "6 accounts (36 slots) are the fewest for refused<1% and utilisation<85%, exactly.\n",
        "95% interval",
        "meets the targets\n",
        "5 accounts     30",
        "If something goes wrong with 6 accounts:\n",
        "one account banned",
        "5 sizes tried",
    ):
        assert text in ran.out


def test_a_line_is_planned_by_its_waits(cli: Run) -> None:
    found = cli(*ASKED, "--when-full", "queue", "--target", "wait.p95<2min", "--json", *QUICK).document
    assert found["answer"] == 5
    assert found["neighbours"][0]["verdict"] == "fails"


def test_the_largest_rate_is_found(cli: Run) -> None:
    asked = ("plan", "--find", "rate", "--accounts", "5x6", *LAW, "--target", "refused<1%", *QUICK)
    found = cli(*asked, "--json").document
    # Erlang B: 30 slots bear 20.34 erlang at 1 %.
    assert 3600 * found["answer"] == pytest.approx(20.34 * 20, rel=0.01)
    ran = cli(*asked)
    assert "406 jobs/h (30 slots) are the most for refused<1%, exactly." in ran.out
    assert "faster or slower than 500/h" in ran.out


def test_slots_are_found_one_by_one(cli: Run) -> None:
    asked = (*ASKED, "--find", "slots", "--target", "refused<1%", *QUICK)
    assert cli(*asked, "--json").document["answer"] == 36
    assert "\n36 slots are the fewest for refused<1%, exactly.\n" in cli(*asked).out


def test_nothing_in_reach_is_said_and_exits_with_no_capacity(cli: Run, tmp_path: Path) -> None:
    path = tmp_path / "none.html"
    asked = (*ASKED, "--most", "3", "--target", "refused<1%", *QUICK)
    ran = cli(*asked, "--report", str(path))
    assert (ran.code, ran.err) == (3, "")
    assert "No size tried, up to 3 accounts, meets refused<1%." in ran.out
    assert "34.30%" in ran.out
    assert "No size tried" in path.read_text()
    ran = cli(*asked, "--json")
    assert (ran.code, ran.document["answer"]) == (3, None)


BURSTY = ("plan", "--account-cap", "1", "--arrivals", "bursty:500/h,cv=3", "--service", "exp:180s")


def test_undecided_is_said_and_bursts_are_warned_of(cli: Run, tmp_path: Path) -> None:
    path = tmp_path / "answer.html"
    few = ("--jobs", "1000", "--most-jobs", "1000", "--most", "60", "--report", str(path))
    ran = cli(*BURSTY, "--when-full", "queue", "--target", "wait.p95<60s", *few)
    assert ran.code == 0
    assert "Undecided between " in ran.out
    assert "raise most_jobs (--most-jobs)" in ran.out
    assert "note: jobs come in bursts: " in ran.out
    assert "Poisson arrivals would need " in ran.out
    text = path.read_text()
    assert "Undecided between " in text
    assert "jobs come in bursts" in text


def test_a_trace_is_planned_as_it_is(cli: Run, tmp_path: Path) -> None:
    path = tmp_path / "jobs.csv"
    path.write_text("arrival,duration\n" + "".join(f"{10 * n},{25 + n % 7}\n" for n in range(200)))
    asked = ("plan", "--account-cap", "1", "--trace", str(path), "--target", "refused<1%", "--json")
    # Every 10 s a job of 25 to 31 s: three at once at least, and a fourth for those above 30 s.
    assert cli(*asked).document["answer"] == 4
    assert cli(*asked, "--time-scale", "4").document["answer"] == 1


def test_a_report_has_the_curve_and_the_chosen_size(cli: Run, tmp_path: Path) -> None:
    path = tmp_path / "answer.html"
    ran = cli(*ASKED, "--target", "refused<1%", *QUICK, "--report", str(path))
    assert (ran.code, ran.err) == (0, "")
    text = path.read_text()
    for words in ("How many accounts?", "by size", "chosen", "exact", "Slots in use, by account"):
        assert words in text
    assert '<tr class="chosen"><th scope="row">6 accounts</th>' in text


TARGET = ("--target", "refused<1%")
WRONG = [
    (("plan", *LAW, *TARGET), "one of the arguments --account-cap --accounts is required"),
    (("plan", "--account-cap", "6", "--accounts", "5x6", *LAW, *TARGET), "not allowed with argument"),
    (ASKED, "the following arguments are required: --target"),
    (
        (*ASKED, "--target", "refused<1"),
        "argument --target: 'refused<1' is no target; did you mean refused<1%?",
    ),
    (
        (*ASKED, "--target", "refuse<1%"),
        "argument --target: 'refuse<1%' is no target; did you mean refused<1%?",
    ),
    (
        (*ASKED, "--target", "refused>1%"),
        "argument --target: 'refused>1%' is no target; did you mean refused<1%?",
    ),
    ((*ASKED, "--target", "wait.p95<2m"), "argument --target: '2m' is no duration; did you mean 2min?"),
    ((*ASKED, *TARGET, "--find", "days"), "argument --find: invalid choice"),
    ((*ASKED, *TARGET, "--most", "0"), "argument --most: '0' must be a whole number from 1"),
    ((*ASKED, *TARGET, "--jobs", "many"), "argument --jobs: 'many' is no whole number"),
    (
        (*ASKED, *TARGET, "--most-jobs", "1M"),
        "argument --most-jobs: '1M' is no whole number; did you mean 1e6?",
    ),
    ((*ASKED, *TARGET, "--outage", "1:1h.."), "unknown option --outage"),
]


@pytest.mark.parametrize(("argv", "sentence"), WRONG)
def test_nonsense_is_refused_with_what_would_be_right(cli: Run, argv: tuple[str, ...], sentence: str) -> None:
    ran = cli(*argv)
    assert (ran.code, ran.out, ran.err.count("\n")) == (2, "", 1)
    assert sentence in ran.err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("looked", [0, 2])
def test_a_signal_ends_it_with_the_sizes_that_were_looked_at(
    cli: Run, monkeypatch: pytest.MonkeyPatch, number: signal.Signals, looked: int
) -> None:
    def interrupted(*args: Any, progress: Any, **options: Any) -> Any:
        seen: list[SizePoint] = []

        def watched(point: SizePoint) -> None:
            progress(point)
            seen.append(point)
            if len(seen) == looked:
                signal.raise_signal(number)

        if not looked:
            signal.raise_signal(number)
        return plan(*args, progress=watched, **options)

    monkeypatch.setattr("pika_balancer.cli.plan.plan", interrupted)
    before = signal.getsignal(number)
    ran = cli(*ASKED, *TARGET, *QUICK, "--json")
    assert signal.getsignal(number) is before
    assert ran.code == 130
    assert ran.document["interrupted"] is True
    assert len(ran.document["points"]) == looked
    assert f"interrupted; {looked} sizes were evaluated" in ran.err
    assert json.dumps(ran.document)
