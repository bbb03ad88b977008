"""`bench`: a bounded load, measured, printed, compared and interrupted."""

import json
import signal
import socket
import sys
from typing import Any

import pytest

from pika_balancer.cli.bench_report import BenchProgress, BenchReport, Side, span
from pika_balancer.cli.bench_setting import Setting, caps
from pika_balancer.cli.output import Output
from pika_balancer.cli.progress import LiveLine
from pika_balancer.distributions import parse_distribution
from pika_balancer.loadtest.recorder import Recorder
from pika_balancer.server import parse_accounts
from pika_balancer.testing import ManualClock
from tests.cli.conftest import (
    CANARY,
    FIRST,
    PATIENCE,
    SECOND,
    Run,
    Serve,
    Spawn,
    group_lives,
    read_until,
    wait_for,
)
from tests.cli.test_terminal import watch
from tests.depth import sized

QUICK = ("--duration", "1s", "--service", "fixed:60ms", "--accounts", "2x5", "--seed", "7")


def test_document_has_everything_and_adds_up(cli: Run) -> None:
    ran = cli("bench", "--rate", "40/s", "--arrivals", "even", *QUICK, "--json")
    assert ran.code == 0, ran.err
    document = ran.document
    assert list(document) == ["seed", "seconds", "turns", "sides", "ratios", "interrupted"]
    assert (document["seed"], document["turns"], document["ratios"]) == (7, 1, [])
    (side,) = document["sides"]
    assert side["setting"] == {
        "policy": "random",
        "rate": "40/s",
        "closed": None,
        "arrivals": "even",
        "poll": None,
        "accounts": "2x5",
        "service": "fixed:60ms",
    }
    assert (side["jobs"], side["statuses"], side["failures"]) == (39, {"completed": 39}, {})
    assert (side["refused"], side["unfinished"], side["ended_by"]) == (0, 0, "duration")
    # A tenth is warm-up: 36 jobs in nine tenths of a second.
    assert side["offered_per_s"] == pytest.approx(36 / side["window_s"], rel=0.1)
    assert side["completed_per_s"] > 0
    ended = side["latency"]["ended"]
    assert list(ended) == ["count", "mean_s", "p50_s", "p90_s", "p99_s", "p99.9_s", "max_s", "histogram"]
    assert side["latency"]["accepted"]["count"] == ended["count"] == 36
    assert 0.06 <= ended["p50_s"] <= ended["p90_s"] <= ended["p99_s"] <= ended["max_s"]
    assert side["latency"]["accepted"]["p50_s"] < ended["p50_s"]
    assert side["counted_by"] == "server"
    assert [seat["channel"] for seat in side["accounts"]] == [FIRST, SECOND]
    assert sum(seat["jobs"] for seat in side["accounts"]) == 39
    assert all(1 <= seat["peak_in_flight"] <= seat["max_jobs"] == 5 for seat in side["accounts"])
    assert side["server"]["submits"] == side["server"]["completed"] == 39
    assert sum(point["jobs"] for point in side["over_time"]) == 36


def test_people_get_tables(cli: Run) -> None:
    ran = cli("bench", "--closed", "4", *QUICK)
    assert (ran.code, ran.err) == (0, "")
    lines = ran.out.splitlines()
    assert lines[0].startswith("closed loop, 4 jobs at a time on http://127.0.0.1:")
    assert lines[0].endswith(": 2 accounts, 10 slots, policy random")
    assert lines[1] == "for 1 s; seed 7; Ctrl-C stops"
    assert [line.split()[0] for line in lines if line.startswith((FIRST, SECOND))] == [FIRST, SECOND]
    assert any(line.startswith("to the end") for line in lines)
    assert any(line.endswith("; 0 submits refused (429)") for line in lines)


def test_closed_loop_bounded_by_jobs_keeps_so_many_in_flight(cli: Run) -> None:
    ran = cli("bench", "--closed", "4", "--jobs", "30", *QUICK, "--json")
    (side,) = ran.document["sides"]
    assert (ran.code, side["jobs"], side["ended_by"]) == (0, 30, "jobs")
    assert side["peak_in_flight"] == 4


def test_refusals_and_errors_are_told_by_class(cli: Run) -> None:
    options = ("--fault", "429:0.05:10ms", "--fault", "422:0.2", "--fault", "fail:0.2", "--accounts", "9x5")
    ran = cli("bench", "--rate", "60/s", *QUICK, *options, "--json")
    (side,) = ran.document["sides"]
    assert ran.code == 0
    assert side["refused"] == side["submit_errors"]["RateLimited"] == side["server"]["faults"]["429"] > 0
    assert side["failures"]["PromptRejected"] == side["server"]["faults"]["422"] > 0
    assert side["statuses"]["failed"] == side["server"]["faults"]["fail"] > 0
    known = sum(side["statuses"].values()) + sum(side["failures"].values()) + side["unfinished"]
    assert known == side["jobs"]


@pytest.mark.deep
def test_two_settings_take_turns_with_the_same_arrivals(cli: Run) -> None:
    options = ("--rate", "60/s", *QUICK, "--jobs", "20", "--vs", "policy=least_loaded", "--json")
    documents = [cli("bench", *options).document for _ in range(sized(1, 2))]
    for document in documents:
        assert (document["turns"], [side["label"] for side in document["sides"]]) == (
            6,
            ["policy=random", "policy=least_loaded"],
        )
        one, other = document["sides"]
        assert one["jobs"] == other["jobs"] <= 20
        assert one["url"] != other["url"]
        assert {ratio["figure"] for ratio in document["ratios"]} >= {"ended p50", "accepted p99"}
        assert all(ratio["low"] <= ratio["median"] <= ratio["high"] for ratio in document["ratios"])
    assert len({tuple(side["jobs"] for side in document["sides"]) for document in documents}) == 1


def test_comparison_is_told_to_people(cli: Run) -> None:
    options = ("--fault", "422:0.1", "--vs", "closed=4", "--vs", "service=fixed:0.2s")
    ran = cli("bench", "--closed", "2", *QUICK, "--duration", "3s", *options)
    assert ran.code == 0
    title = "closed=4 service=fixed:0.2s against closed=2 service=fixed:60ms, turn by turn:"
    assert title in ran.out
    assert "closed=4 service=fixed:0.2s: to the end" in ran.out
    row = next(line for line in ran.out.splitlines() if line.startswith("ended p50"))
    assert row.endswith("differs")
    assert "submits not answered with a job: PromptRejected" in ran.out


def test_interrupt_ends_orderly_with_what_is_measured(spawn: Spawn) -> None:
    process = spawn("bench", "--rate", "50/s", "--duration", "1h", "--jobs", "99999", "--seed", "3", "--json")
    read_until(process.stderr, "Ctrl-C stops")
    read_until(process.stderr, " 0 refused")
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130
    assert "Traceback" not in err
    document = json.loads(out)
    assert document["interrupted"] is True
    assert document["sides"][0]["counted_by"] == "server"
    assert not group_lives(process)


def test_server_does_not_outlive_a_load_that_is_killed(spawn: Spawn) -> None:
    process = spawn("bench", "--rate", "5/s", "--duration", "1min", "--json")
    greeting = read_until(process.stderr, "http://")
    port = greeting.split("127.0.0.1:")[1].split("/")[0]
    process.kill()
    process.wait()

    def is_gone() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", int(port))) != 0

    wait_for(is_gone)


def test_foreign_server_is_loaded_only_when_confirmed_and_bounded(cli: Run, serve: Serve) -> None:
    service = serve("2,1", service="fixed:0.01s")
    named = ("bench", "--base-url", service.url, "--rate", "20/s", "--poll", "50ms")
    bounds = ("--jobs", "8", "--duration", "1s")
    for missing in (named, (*named, "--jobs", "8")):
        assert "with both --jobs and --duration" in cli(*missing).err
    ran = cli(*named, *bounds)
    assert ran.code == 2
    assert "confirm that with --jobs-are-billed" in ran.err
    assert service.server.statistics().submits == 0
    ran = cli(*named, *bounds, "--jobs-are-billed", "--json")
    assert ran.code == 0, ran.err
    (side,) = ran.document["sides"]
    assert (side["jobs"], side["statuses"], side["counted_by"]) == (8, {"completed": 8}, "client")
    assert side["server"] is None
    assert sum(seat["jobs"] for seat in side["accounts"]) == service.server.statistics().submits == 8
    assert all(seat["peak_in_flight"] <= seat["max_jobs"] for seat in side["accounts"])


def test_environment_alone_loads_no_foreign_server(cli: Run, serve: Serve) -> None:
    service = serve()
    assert cli("bench", "--closed", "2", "--jobs", "4", *QUICK).code == 0
    assert service.server.statistics().submits == 0


def test_refused_token_ends_the_load_with_its_exit_code(cli: Run, serve: Serve) -> None:
    service = serve("2", service="fixed:0.01s", faults=["402:1"])
    options = ("--jobs", "5", "--duration", "1s", "--closed", "1", "--jobs-are-billed")
    ran = cli("bench", "--base-url", service.url, *options, "--json")
    assert ran.code == 4
    assert (ran.error["type"], ran.document["sides"][0]["jobs"]) == ("SubscriptionRequired", 1)
    people = cli("bench", "--base-url", service.url, *options)
    assert "ended early: " in people.err


WRONG = [
    (["--rate", "200"], "'200' is no rate; did you mean 200/h?"),
    (["--rate", "0/s"], "argument --rate: must be above 0"),
    (["--rate", "5/s", "--closed", "3"], "not allowed with"),
    (["--duration", "5m"], "did you mean 5min?"),
    (["--duration", "0s"], "argument --duration: must be above 0"),
    (["--closed", "none"], "argument --closed: 'none' is no whole number"),
    (["--closed", "2", "--arrivals", "even"], "--arrivals is for the open loop"),
    (["--arrivals", "poison"], "did you mean poisson?"),
    (["--policy", "least-loaded"], "did you mean least_loaded?"),
    (["--service", "slow"], "is no distribution"),
    (["--accounts", "6;6"], "is no list of caps"),
    (["--fault", "999:1"], "argument --fault"),
    (["--vs", "policy"], "is no NAME=VALUE"),
    (["--vs", "polcy=random"], "there is no setting 'polcy'; did you mean policy?"),
    (["--vs", "rate=5"], "did you mean 5/h?"),
    (["--vs", "policy=random"], "--vs changes nothing"),
    (["--vs", "rate=5/s", "--vs", "closed=3"], "either open (rate) or closed"),
    (["--vs", "closed=3", "--jobs", "5"], "--vs needs 6 --jobs at least"),
    (["--warm-up", "95%"], "--warm-up must be at most 90%"),
    (["--rate", "1000/s", "--duration", "1h"], "that would be 3,600,000 jobs"),
    (["--base-url", "http://127.0.0.1:1/v1", "--vs", "closed=3"], "--vs is for the local server"),
    (["--base-url", "http://127.0.0.1:1/v1", "--accounts", "2"], "--accounts is for the local server"),
    (["--token", CANARY], "tokens do not go on the command line"),
]


@pytest.mark.parametrize(("argv", "message"), WRONG, ids=lambda value: str(value)[:40])
def test_wrong_input_is_refused_with_the_right_form(cli: Run, argv: list[str], message: str) -> None:
    ran = cli("bench", *argv)
    assert (ran.code, ran.out) == (2, "")
    assert message in ran.err


def test_missing_extra_is_named_before_anything_is_loaded(cli: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "hdrh.histogram", None)
    ran = cli("bench")
    assert ran.code == 1
    assert "pip install 'pika-balancer[load]'" in ran.err


def test_terminal_gets_one_line_that_is_written_over(spawn: Spawn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "120")
    code, sent = watch(spawn, "bench", "--closed", "4", *QUICK)
    assert code == 0
    assert "in flight 4" in sent
    assert sent.rindex("to the end") > sent.rindex("\x1b[2K"), "the table stands below the erased line"


def setting(**changes: Any) -> Setting:
    values: dict[str, Any] = {
        "policy": "random",
        "rate": 5.0,
        "closed": None,
        "arrivals": "even",
        "poll": None,
        "accounts": parse_accounts("2x6,4"),
        "service": parse_distribution("fixed:1s"),
    }
    return Setting(**(values | changes))


def test_setting_tells_itself_in_the_words_of_vs() -> None:
    assert caps(parse_accounts("2x6,4,6")) == "2x6,4,6"
    other = setting().changed([("closed", 3)])
    assert (other.rate, other.closed, other.told(["closed"]), setting().told(["closed"])) == (
        None,
        3,
        "closed=3",
        "rate=5/s",
    )
    assert setting(poll=0.5).told(["poll", "policy"]) == "poll=0.5s policy=random"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "0 ms"),
        (9.73e-7, "0 ms"),
        (9.996e-7, "1 µs"),
        (0.00041, "410 µs"),
        (0.00412, "4.12 ms"),
        (0.9994, "999 ms"),
        (0.9996, "1 s"),
        (1.5, "1.5 s"),
        (125.0, "125 s"),
        (999.6, "1000 s"),
        (4000.0, "4000 s"),
    ],
)
def test_spans(seconds: float, text: str) -> None:
    assert span(seconds) == text


def report(**changes: Any) -> BenchReport:
    recorder = Recorder(seconds=10.0)
    job = recorder.start(0.0, 0.5)
    recorder.job_accepted(job, 1.0)
    recorder.job_ended(job, 2.0, "completed")
    values: dict[str, Any] = {
        **dict.fromkeys(("driver", "dispatcher", "server")),
        "setting": setting(),
        "label": "",
        "url": "",
        "accounts": (),
        "turns": [recorder],
    }
    made = BenchReport(seconds=10.0, seed=1, foreign=False)
    made.sides.append(Side(**(values | changes)))
    return made


def test_exit_code_says_whether_the_load_was_as_asked(capsys: pytest.CaptureFixture[str]) -> None:
    assert report().exit_code == 0
    behind = report(ended_by="backlog")
    assert behind.exit_code == 1
    recorder = behind.sides[0].turns[0]
    recorder.job_cut(recorder.start(1.0, 1.0), 5.0)
    behind.print(Output())
    shown = capsys.readouterr().out
    assert "the server does not keep up" in shown
    assert "this machine was busy: starts were up to 500 ms late" in shown
    assert "1 jobs had not ended" in shown
    nothing = report(turns=[Recorder(seconds=1.0)])
    assert nothing.exit_code == 1
    nothing.print(Output())
    assert "no job was measured" in capsys.readouterr().out


async def test_few_lines_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    clock = ManualClock()
    out = Output()
    with LiveLine(out) as line:
        progress = BenchProgress(line, report(), often=False, clock=clock)
        for _ in range(40):
            progress.show()
            await clock.advance(0.25)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 10
    assert (
        lines[4] == "  4.0 of 10 s  1 started  in flight 0  waiting 0  1 ended  last 2 s  0 refused  0 failed"
    )
