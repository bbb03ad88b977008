"""`simulate`: what it prints, for people and for programs, and how it refuses nonsense."""

import csv
import importlib
import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pika_balancer.cli import progress, scenario_options, simulate
from pika_balancer.cli.progress import Gauge
from pika_balancer.selection.policy import POLICIES
from pika_balancer.simulate import Exponential, Poisson, Pooled, Scenario
from tests.cli.conftest import ROOT, Run

ASKED = ("simulate", "--accounts", "5x6", "--arrivals", "poisson:500/h", "--service", "exp:180s")
SCENARIO = Scenario("5x6", Poisson(500 / 3600), Exponential(180))
KEYS = [
    *("jobs", "completed", "refused", "refused_fraction", "refused_fraction_ci", "gave_up", "unfinished"),
    *("wait", "wait_mean_ci", "in_flight_mean", "accounts", "engine", "elapsed_s", "jobs_per_s", "theory"),
]


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    """Return a log of three jobs: with two slots, the third waits for a second."""
    path = tmp_path / "jobs.csv"
    path.write_text("arrival,duration\n0,10\n5,12\n9,3\n")
    return path


def test_the_document_has_every_key_and_adds_up(cli: Run) -> None:
    ran = cli(*ASKED, "--jobs", "20000", "--seed", "1", "--json")
    assert (ran.code, ran.err) == (0, "")
    found = ran.document
    assert list(found)[: len(KEYS)] == KEYS
    assert list(found["wait"]) == ["mean", "p50", "p90", "p95", "p99", "max"]
    assert list(found["accounts"][0]) == ["channel", "max_jobs", "jobs", "utilisation"]
    assert found["jobs"] == 20000 == found["completed"] + found["gave_up"] + found["unfinished"]
    assert found["completed"] == sum(account["jobs"] for account in found["accounts"])
    low, high = found["refused_fraction_ci"]
    assert low < found["refused_fraction"] < high
    assert found["theory"]["refused_fraction"] == pytest.approx(0.052603, abs=1e-6)
    assert abs(found["refused_fraction"] - 0.052603) < 0.01
    assert (found["engine"], found["seed"]) == ("numba", 1)


def test_people_get_the_question_the_answer_and_two_tables(cli: Run) -> None:
    ran = cli(*ASKED, "--jobs", "20000", "--when-full", "queue")
    assert (ran.code, ran.err) == (0, "")
    for text in (
        "accounts   5 accounts with cap 6; 30 slots\n",
        "arrivals   500/h, independent of each other (Poisson)\n",
        "of 20,000 jobs found every account full (95% interval ",
        "note: exact value: Erlang C\n",
        "estimate",
        "95% interval",
        "exact\n",
        "wait, 95% within",
        "slots in use",
        "20,000 jobs in ",
    ):
        assert text in ran.out


def test_the_seed_fixes_everything_but_the_time_it_takes(cli: Run) -> None:
    def found(seed: str) -> dict[str, Any]:
        document: dict[str, Any] = cli(*ASKED, "--jobs", "2000", "--seed", seed, "--json").document
        return {key: value for key, value in document.items() if key not in {"elapsed_s", "jobs_per_s"}}

    assert found("7") == found("7") != found("8")


def test_every_policy_refuses_the_same_jobs(cli: Run) -> None:
    other = cli(*ASKED, "--jobs", "5000", "--engine", "reference", "--json").document
    assert other["engine"] == "reference"
    for policy in POLICIES:
        found = cli(*ASKED, "--jobs", "5000", "--policy", policy, "--json").document
        assert (policy, found["refused"]) == (policy, other["refused"])


def test_a_trace_brings_its_own_service_times(cli: Run, trace: Path) -> None:
    asked = ("simulate", "--accounts", "2", "--trace", str(trace), "--when-full", "queue", "--json")
    found = cli(*asked).document
    assert (found["jobs"], found["refused"], found["wait"]["max"]) == (3, 1, 1.0)
    # Twice as slow, the third job comes after the first has ended; their durations stay as they are.
    slower = cli(*asked, "--time-scale", "2").document
    assert (slower["refused"], slower["wait"]["max"]) == (0, 0.0)
    assert cli(*asked, "--service", "exp:1h", "--jobs", "2").document["jobs"] == 2


def test_what_a_trace_leaves_open_is_said(cli: Run, trace: Path) -> None:
    trace.write_text("time,duration\n2023-11-16T18:00:00,60\n2023-11-16T18:00:09,60\n")
    ran = cli("simulate", "--accounts", "2", "--trace", str(trace), "--json")
    word = "jobs.csv: dates without a zone are taken as UTC"
    assert word in ran.document["notes"]
    assert f"note: {word}\n" in cli("simulate", "--accounts", "2", "--trace", str(trace)).out
    planned = cli("plan", "--trace", str(trace), "--account-cap", "1", "--target", "refused<50%", "--json")
    assert word in planned.document["warnings"]


def test_bursts_of_a_trace_are_warned_of(cli: Run, trace: Path) -> None:
    came = "".join(f"{100 * burst + place}\n" for burst in range(50) for place in range(6))
    trace.write_text(f"arrival\n{came}")
    command = ("simulate", "--accounts", "4", "--service", "fixed:10s", "--trace", str(trace))
    assert "of jobs that find every account full (here 33.3%" in cli(*command, "--json").document["notes"][-1]
    assert "note: jobs come in bursts: " in cli(*command).out


@pytest.mark.parametrize(
    "command", [("simulate", "--accounts", "2"), ("plan", "--target", "refused<1%", "--account-cap", "6")]
)
def test_a_trace_that_cannot_be_read_is_named(cli: Run, tmp_path: Path, command: tuple[str, ...]) -> None:
    for name, fault in (("gone.csv", "No such file or directory"), ("", "Is a directory")):
        ran = cli(*command, "--trace", str(tmp_path / name))
        assert (ran.code, ran.out) == (2, "")
        assert ran.err == f"pika-balancer: --trace: {(name or tmp_path.name)!r} cannot be read: {fault}\n"


def test_a_column_of_another_name_can_be_named(cli: Run, tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text("\ufeffid;start;secs\r\na;0;10\r\n\r\nb;5;12\r\n", encoding="utf-8")
    asked = ("simulate", "--accounts", "1", "--trace", str(path), "--json")
    refused = cli(*asked)
    assert refused.code == 2
    assert "its columns are id, start, secs" in refused.err
    found = cli(*asked, "--arrival-column", "start", "--duration-column", "secs").document
    assert (found["jobs"], found["refused"]) == (2, 1)


def test_accounts_come_from_a_map_too(cli: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "accounts.json"
    accounts = {
        channel: {"channel": channel, "discord": "made-up-discord-token-1", "maxJobs": cap}
        for channel, cap in (("1001", 6), ("1002", 20))
    }
    path.write_text(json.dumps(accounts), encoding="utf-8-sig")
    work = ("--arrivals", "poisson:500/h", "--service", "exp:180s", "--jobs", "100", "--json")
    found = cli("simulate", "--accounts", str(path), *work).document["accounts"]
    assert [(account["channel"], account["max_jobs"]) for account in found] == [("1001", 6), ("1002", 20)]
    with path.open() as file:
        monkeypatch.setattr(sys, "stdin", file)
        assert cli("simulate", "--accounts", "-", *work).code == 0


def test_trouble_is_told_and_counts(cli: Run) -> None:
    calm = cli(*ASKED, "--jobs", "5000", "--json").document
    for trouble, told in (
        (("--account-speed", "2:0.3"), ("account 2", "speed 0.3")),
        (("--outage", "all:1h..2h"), ("account 1", "out from 60 min to 2 h")),
        (("--outage", "3:1h..", "--outage", "3:10min..20min"), ("account 3", "out from 10 min to 20 min; ")),
        (("--failures", "1:mean_up=1h,mean_down=30min"), ("account 1", "fails every 60 min for 30 min")),
        (("--slowdown", "above=3,each=10%"), ("slowdown", "10% slower for each job above 3")),
        (("--poll", "30s"), ("poll", "slots become free at the next poll, every 30 s")),
        (("--faults", "rate_limited=5%"), ("faults", "5% of submits answered 429")),
        (("--faults", "accepted=5%"), ("faults", "5% accepted and answered 5xx")),
    ):
        found = cli(*ASKED, "--jobs", "5000", *trouble, "--json").document
        heading, text = told
        assert text in found["scenario"][heading]
        assert found["gave_up"] > calm["gave_up"]


def test_a_run_may_last_so_long_instead(cli: Run) -> None:
    found = cli(*ASKED, "--duration", "1d", "--warm-up", "0%", "--json").document
    assert 10_000 < found["jobs"] < 14_000
    assert found["unfinished"] > 0
    assert found["warm_up"] == "none: every job counts"


def test_tables_go_into_files(cli: Run, tmp_path: Path) -> None:
    pq: Any = importlib.import_module("pyarrow.parquet")  # not typed
    rows: dict[str, int] = {}
    for table in ("estimates", "series", "jobs"):
        path = tmp_path / f"{table}.csv"
        other = path.with_suffix(".parquet")
        files = ("--csv", str(path), "--parquet", str(other), "--table", table)
        assert cli(*ASKED, "--jobs", "500", *files).code == 0
        with path.open(newline="") as file:
            lines = list(csv.reader(file))
        rows[table] = len(lines) - 1
        assert pq.read_table(other).column_names == lines[0]
        assert pq.read_metadata(other).num_rows == rows[table]
    assert rows["jobs"] == 500


def test_a_report_is_written(cli: Run, tmp_path: Path) -> None:
    path = tmp_path / "answer.html"
    ran = cli(*ASKED, "--jobs", "300", "--when-full", "retry:15s,80", "--report", str(path))
    assert (ran.code, ran.err) == (0, "")
    assert path.stat().st_size > 10_000


JOBS = ("--arrivals", "poisson:500/h", "--service", "exp:180s")
WRONG = [
    (("simulate",), "the following arguments are required: --accounts"),
    (
        ("simulate", "--accounts", "5y6", *JOBS),
        "argument --accounts: '5y6' is no list of accounts; did you mean 5x6?",
    ),
    (("simulate", "--accounts", "nowhere.json", *JOBS), "argument --accounts: nowhere.json cannot be read"),
    (("simulate", "--accounts", "5x6"), "one of the arguments --arrivals --trace is required"),
    ((*ASKED, "--trace", "jobs.csv"), "argument --trace: not allowed with argument --arrivals"),
    (ASKED[:-2], "state how long jobs run: --service, such as exp:180s"),
    ((*ASKED, "--time-scale", "2"), "--time-scale goes with --trace"),
    ((*ASKED, "--arrivals", "poisson:500"), "argument --arrivals: '500' is no rate; did you mean 500/h?"),
    ((*ASKED, "--service", "exp:3m"), "argument --service: '3m' is no duration; did you mean 3min?"),
    ((*ASKED, "--when-full", "retry:15,many"), "argument --when-full: "),
    ((*ASKED, "--jobs", "1k"), "argument --jobs: '1k' is no whole number; did you mean 1e3?"),
    ((*ASKED, "--jobs", "9", "--duration", "1h"), "argument --duration: not allowed with argument --jobs"),
    ((*ASKED, "--policy", "best"), "argument --policy: invalid choice"),
    ((*ASKED, "--account-speed", "2"), "argument --account-speed: '2' names no account; write it as 2:0.33"),
    (
        (*ASKED, "--account-speed", "9:2"),
        "argument --account-speed: there is no account '9'; there are 1, 2, 3, 4, 5",
    ),
    ((*ASKED, "--outage", "2:1h"), "argument --outage: '1h' is no span of time; write it as 1h..90min"),
    ((*ASKED, "--outage", "2:2h..1h"), "argument --outage: '2h..1h' ends before it begins"),
    ((*ASKED, "--failures", "2:mean_up=8h"), "argument --failures: "),
    ((*ASKED, "--failures", "8h"), "argument --failures: '8h' names no account; write it as all:mean_up"),
    ((*ASKED, "--slowdown", "3"), "argument --slowdown: "),
    ((*ASKED, "--faults", "accepted=120%"), "argument --faults: "),
    ((*ASKED, "--report", "answer.doc"), "argument --report: a report ends in .html, not"),
    ((*ASKED, "--report", "nowhere/a.html"), "argument --report: there is no directory 'nowhere'"),
    ((*ASKED, "--csv", "."), "argument --csv: '.' is a directory"),
    ((*ASKED, "--replications", "0"), "argument --replications: '0' must be a whole number from 1"),
    ((*ASKED, "--processes", "2"), "--processes needs --replications"),
    ((*ASKED, "--replications", "2", "--table", "jobs"), "--table jobs needs a single run"),
    ((*ASKED, "--seed", "-1"), "argument --seed: '-1' is no whole number"),
    ((*ASKED, "--warm-up", "95%"), "warm_up must be a number from 0 to 0.9"),
]


@pytest.mark.parametrize(("argv", "sentence"), WRONG)
def test_nonsense_is_refused_with_what_would_be_right(cli: Run, argv: tuple[str, ...], sentence: str) -> None:
    ran = cli(*argv)
    assert (ran.code, ran.out, ran.err.count("\n")) == (2, "", 1)
    assert sentence in ran.err


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("arrival,duration\n0,x\n", "jobs.csv: line 2: duration 'x' is no number of at least 0"),
        ("arrival,duration\n0,-1\n", "jobs.csv: line 2: duration '-1' is no number of at least 0"),
        ("arrival,duration\n", "jobs.csv has no jobs"),
        ("when,what\n1,2\n", "jobs.csv has no column 'arrival', nor one such as"),
        ("arrival\n1\n", "jobs.csv does not say how long jobs run: name its column with --duration-column"),
        ("arrival,duration\n0,\x1b[2J\n", "jobs.csv: line 2: duration "),
    ],
)
def test_a_bad_trace_is_told_by_its_lines(cli: Run, trace: Path, content: str, sentence: str) -> None:
    trace.write_text(content)
    ran = cli("simulate", "--accounts", "2", "--trace", str(trace))
    assert (ran.code, ran.out, ran.err.count("\n")) == (2, "", 1)
    assert sentence in ran.err


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("[6, 6]", "is no account map as `pika-balancer accounts --json` prints it: $: must be an object"),
        ('{"1": {"channel": "1", "maxJobs": 0}}', "$['1'].maxJobs"),
        ("{}", "accounts must have at least one account"),
        ("not JSON", "is no account map"),
    ],
)
def test_a_file_that_is_no_account_map_is_refused(
    cli: Run, tmp_path: Path, content: str, sentence: str
) -> None:
    path = tmp_path / "accounts.json"
    path.write_text(content)
    ran = cli("simulate", "--accounts", str(path), *JOBS)
    assert (ran.code, ran.out, ran.err.count("\n")) == (2, "", 1)
    assert sentence in ran.err


def without(*names: str) -> list[str]:
    """Return a command line of Python that runs the command where these packages are not installed."""
    script = (
        "import importlib.util, sys\n"
        f"missing = {names!r}\n"
        "find = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name, *more: None if name in missing else find(name, *more)\n"
        "for name in missing: sys.modules[name] = None\n"
        "from pika_balancer.cli import entry\n"
        "entry()\n"
    )
    return [sys.executable, "-W", "error", "-c", script]


@pytest.mark.parametrize("missing", [("numba",), ("numba", "numpy")])
def test_without_the_fast_engine_the_slow_one_does_it_and_says_so(missing: tuple[str, ...]) -> None:
    done = subprocess.run(
        [*without(*missing), *ASKED, "--jobs", "1000"], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "note: simulated by the slow engine" in done.stdout
    assert "pip install 'pika-balancer[sim]'" in done.stdout


@pytest.mark.parametrize(
    ("missing", "options", "code", "sentence"),
    [
        ("numba", ("--engine", "numba"), 1, "numba missing: pip install 'pika-balancer[sim]'"),
        (
            "matplotlib",
            ("--report", "a.html"),
            2,
            "reports need matplotlib: pip install 'pika-balancer[plot]'",
        ),
        (
            "pyarrow",
            ("--parquet", "a.parquet"),
            2,
            "Parquet needs pyarrow: pip install 'pika-balancer[parquet]'",
        ),
    ],
)
def test_what_an_extra_is_needed_for_names_it(
    missing: str, options: tuple[str, ...], code: int, sentence: str
) -> None:
    argv = [*without(missing), *ASKED, "--jobs", "1000", *options]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, cwd=ROOT)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (code, "", 1)
    assert sentence in done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_with_what_was_found(
    cli: Run, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    def interrupted(_gauge: Gauge, done: int) -> None:
        if done and next(first, False):
            signal.raise_signal(number)

    first = iter([True])
    monkeypatch.setattr(Gauge, "show", interrupted)
    ran = cli(*ASKED, "--jobs", "1e9", "--json")
    assert ran.code == 130
    found = ran.document
    assert any("ended early" in note for note in found["notes"])
    assert 0 < found["jobs"] == found["completed"] + found["gave_up"] + found["unfinished"]


def test_replications_are_the_same_on_any_number_of_processes(cli: Run) -> None:
    def found(processes: str) -> dict[str, Any]:
        command = (*ASKED, "--jobs", "3000", "--seed", "4", "--replications", "5", "--json")
        ran = cli(*command, "--processes", processes)
        assert (ran.code, ran.err) == (0, "")
        return {key: value for key, value in ran.document.items() if key not in {"elapsed_s", "jobs_per_s"}}

    one, two = found("1"), found("2")
    assert one == two
    alone = cli(*ASKED, "--jobs", "3000", "--seed", "4", "--json").document
    assert set(alone) - {"elapsed_s", "jobs_per_s"} == set(one)
    assert (one["jobs"], one["seed"]) == (15_000, 4)
    assert one["completed"] == sum(account["jobs"] for account in one["accounts"])
    low, high = one["refused_fraction_ci"]
    assert low < one["refused_fraction"] < high


def test_a_signal_keeps_the_replications_that_have_ended(cli: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(_gauge: Gauge, done: int) -> None:
        if done == 2:
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(Gauge, "show", interrupted)
    command = (*ASKED, "--jobs", "500", "--replications", "9", "--processes", "1", "--json")
    ran = cli(*command)
    assert ran.code == 130
    assert ran.document["jobs"] == 1000
    assert ran.document["notes"][-1] == "interrupted; the result is of the 2 of 9 runs that ended"


def test_a_signal_before_any_replication_has_ended_says_so(cli: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(*_args: object, **_options: object) -> Pooled:
        return Pooled(SCENARIO, (), {}, {}, interrupted=True)

    monkeypatch.setattr(simulate, "replicate", gone)
    ran = cli(*ASKED, "--replications", "2")
    assert (ran.code, ran.err) == (130, "pika-balancer: interrupted before any run ended\n")


def test_a_second_signal_does_not_wait() -> None:
    before = signal.getsignal(signal.SIGINT)
    with progress.stopping() as stop:
        asked = [stop.asked]
        signal.raise_signal(signal.SIGINT)
        asked.append(stop.asked)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert asked == [False, True]
    assert signal.getsignal(signal.SIGINT) is before


def test_a_signal_before_it_begins_leaves_nothing_behind(
    cli: Run, trace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slow(*_args: object, **_options: object) -> object:
        signal.raise_signal(signal.SIGTERM)
        return scenario_options.Work(Poisson(1.0), Exponential(1.0))

    monkeypatch.setattr(simulate, "work_of", slow)
    ran = cli("simulate", "--accounts", "2", "--trace", str(trace))
    assert (ran.code, ran.out, ran.err) == (130, "", "pika-balancer: interrupted\n")
