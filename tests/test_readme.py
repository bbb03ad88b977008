"""Every command and snippet of the README runs as printed; only addresses, ports and patience differ."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path

import pytest

from benchmarks import measure
from benchmarks.__main__ import QUESTIONS
from tests.redis_servers import Servers

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
SHELL = [text for language, text in BLOCKS if language == "sh"]
PYTHON = [text for language, text in BLOCKS if language == "python"]
SCRIPT = [text for language, text in BLOCKS if language == "js"]


def shell(command: str, env: dict[str, str], cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-euc", command],
        env=env,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        stdin=subprocess.DEVNULL,
        cwd=cwd,
    )


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """Start the server as the README prints it, on a free port and faster, and yield its base URL."""
    command = (
        SHELL[4].strip().replace("8080", "0").replace("pika-balancer", f"{sys.executable} -m pika_balancer")
    )
    server = subprocess.Popen(
        [*command.split(), "--speed", "300"], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    try:
        assert server.stdout is not None
        # It tells its address once it listens there.
        said = server.stdout.readline()
        found = re.search(r"http://\S+", said)
        assert found, said
        yield found.group()
    finally:
        server.send_signal(signal.SIGINT)
        server.communicate(timeout=30)
    assert server.returncode == 130


@pytest.fixture
def env(address: str) -> dict[str, str]:
    """Return an environment in which the commands are on the PATH and the address and token are set."""
    return os.environ | {
        "PIKA_BASE_URL": address,
        "USEAPI_TOKEN": "user:1234-readme",
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
    }


def test_no_block_goes_unread() -> None:
    assert [language for language, _ in BLOCKS].count("sh") == len(SHELL) == 11
    assert (len(PYTHON), len(SCRIPT)) == (9, 1)
    # The rights of a user of the store are a text, which the tests of the store read from here.
    assert len(BLOCKS) == len(SHELL) + len(PYTHON) + len(SCRIPT) + 1


def test_the_first_command_works_in_a_clean_copy(tmp_path: Path) -> None:
    """The second one is how these tests are run wherever a change is examined, so it needs no other test."""
    keep_out = shutil.ignore_patterns(".git", ".venv", ".*_cache", "__pycache__", ".coverage*", ".hypothesis")
    copy = shutil.copytree(ROOT, tmp_path / "copy", ignore=keep_out)
    bare = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("COV_", "COVERAGE", "PYTEST"))
    }
    demo = shell(SHELL[0], bare, cwd=copy)
    assert demo.returncode == 0, demo.stderr
    assert "refus" in demo.stdout
    assert SHELL[1].split("&&")[-1].split() == [
        ".venv/bin/python",
        *["-m", "pytest", "--cov", "-n", "auto", "--dist", "worksteal"],
    ]


def test_every_attack_that_is_named_can_be_had() -> None:
    named = re.findall(r"`python (?:-W error )?-m (tests\.\w+)([^`]*)`", README)
    assert len(named) == 8
    asked = {
        (module, options): subprocess.Popen(
            [sys.executable, "-m", module, "--help"], cwd=ROOT, stdout=subprocess.PIPE, text=True
        )
        for module, options in named
    }
    for (module, options), process in asked.items():
        told, _ = process.communicate(timeout=60)
        assert process.returncode == 0, module
        for word in options.split():
            assert word in told or word.isdigit(), (module, word)


def quicker(snippet: str) -> str:
    """Return the snippet with less patience: nobody wants a test that waits for a quarter of a minute."""
    assert "Dispatcher(client, balancer" in snippet
    return snippet.replace("Dispatcher(client, balancer", "Dispatcher(client, balancer, poll_every=0.05")


def test_the_first_snippet_runs_jobs(env: dict[str, str], tmp_path: Path) -> None:
    snippet = tmp_path / "snippet.py"
    snippet.write_text(quicker(PYTHON[0]))
    done = shell(f"{sys.executable} -W error {snippet}", env)
    assert (done.returncode, done.stderr) == (0, "")
    first, *others = done.stdout.splitlines()
    assert re.fullmatch(r"completed http://127\.0\.0\.1:\d+/\S+\.mp4", first)
    assert sorted(others) == ["0 completed", "1 completed", "2 completed"]


def test_the_worker_hands_on_what_runs_and_takes_it_over(env: dict[str, str], tmp_path: Path) -> None:
    snippet = tmp_path / "snippet.py"
    snippet.write_text(quicker(PYTHON[1]).replace("timeout=2", "timeout=0"))
    left: list[str] = []
    for _ in range(2):
        said: list[str] = []
        worker = subprocess.Popen(
            [sys.executable, "-u", "-W", "error", str(snippet)],
            env=env,
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            assert worker.stdout is not None
            while not said or not said[-1].startswith("submitted: "):
                said.append(worker.stdout.readline().strip())
                assert said[-1], "the worker ended before it had submitted anything"
            worker.send_signal(signal.SIGTERM)
            _, errors = worker.communicate(timeout=30)
        finally:
            worker.kill()
        assert (worker.returncode, errors) == (0, "")
        for line, jobid in zip(said[:-1], left, strict=True):
            # One that was on its way had no id yet; what executes tells it.
            assert line == f"goes on: {jobid}" or jobid is None
        records = json.loads((tmp_path / "worker-1.json").read_text())
        left = [record["jobid"] for record in records]


def test_the_receiver_is_mounted(env: dict[str, str], tmp_path: Path) -> None:
    snippet = tmp_path / "snippet.py"
    snippet.write_text(PYTHON[2] + "print(receiver.reply_url, *app.router.resources())")
    done = shell(f"{sys.executable} -W error {snippet}", env)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("https://worker.example/pika/")
    assert "<PrefixedSubAppResource /pika" in done.stdout


def test_the_collector_shows_the_books(env: dict[str, str], tmp_path: Path) -> None:
    snippet = tmp_path / "snippet.py"
    snippet.write_text(PYTHON[3])
    done = shell(f"{sys.executable} -W error {snippet}", env)
    assert (done.returncode, done.stderr) == (0, "")
    assert "pika_balancer_" in done.stdout


def test_the_plain_snippet_picks(env: dict[str, str], tmp_path: Path) -> None:
    snippet = tmp_path / "snippet.py"
    snippet.write_text(PYTHON[4])
    done = shell(f"{sys.executable} -W error {snippet}", env)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout in {"1001 1 0.5\n", "1002 1 0.5\n"}


def test_two_workers_share_their_counts(env: dict[str, str], tmp_path: Path, servers: Servers) -> None:
    snippet = tmp_path / "snippet.py"
    snippet.write_text(PYTHON[5])
    done = shell(f"{sys.executable} -W error {snippet}", env | {"STORE_URL": servers["valkey"].url})
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("1002 [('1001', ")
    assert done.stdout.count("'1001'") == 2


def test_three_processes_share_a_pool(env: dict[str, str]) -> None:
    del env["PIKA_BASE_URL"], env["USEAPI_TOKEN"]
    env.pop("PIKA_STORE_URL", None)
    done = shell(SHELL[2].strip() + " --speed 100", env)
    assert (done.returncode, done.stderr) == (0, "")
    assert re.search(r"60 of 60 jobs completed", done.stdout)
    assert done.stdout.endswith("0 jobs sent twice (0 expected), no slot left taken in the pool\n")


def test_a_pool_is_looked_at_and_examined(env: dict[str, str], servers: Servers) -> None:
    done = shell(SHELL[3], env | {"PIKA_STORE_URL": servers["valkey"].url})
    assert (done.returncode, done.stderr) == (0, "")
    assert " slots taken, " in done.stdout
    assert "repaired: " in done.stdout
    assert done.stdout.endswith("healthy\n")


def test_requests_reads_the_accounts(env: dict[str, str], tmp_path: Path) -> None:
    snippet = tmp_path / "snippet.py"
    snippet.write_text(PYTHON[6])
    done = shell(f"{sys.executable} {snippet}", env)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("200 {'1")
    assert "'maxJobs': 2" in done.stdout


@pytest.mark.skipif(shutil.which("node") is None, reason="JavaScript needs node on the PATH")
def test_fetch_reads_the_accounts(env: dict[str, str], tmp_path: Path) -> None:
    snippet = tmp_path / "snippet.mjs"
    snippet.write_text(SCRIPT[0])
    done = shell(f"node {snippet}", env)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("200 {")
    assert "maxJobs: 2" in done.stdout


@pytest.mark.skipif(shutil.which("curl") is None, reason="the example needs curl on the PATH")
def test_curl_reads_the_accounts(env: dict[str, str]) -> None:
    done = shell(SHELL[5], env)
    assert (done.returncode, done.stderr) == (0, "")
    assert '"maxJobs": 2' in done.stdout


def test_the_commands_run_as_printed(env: dict[str, str]) -> None:
    done = shell(SHELL[6], env)
    assert done.returncode == 0, done.stderr
    assert "accepted as job:" in done.stderr
    assert "completed" in done.stderr
    assert re.search(r"^http://\S+\.mp4$", done.stdout, re.MULTILINE)
    assert env["USEAPI_TOKEN"] not in done.stdout + done.stderr


def test_a_file_of_jobs_is_run_and_its_results_are_fetched(env: dict[str, str], tmp_path: Path) -> None:
    submit = "pika-balancer submit"
    assert submit in SHELL[7]
    done = shell(SHELL[7].replace(submit, f"{submit} --every 0.1"), env, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "videos").glob("*.mp4"))) == 2
    assert "2 of 2 jobs are through" in done.stderr
    assert "0 jobs running" in done.stdout


def test_a_load_is_measured_and_two_settings_are_compared(env: dict[str, str]) -> None:
    done = shell(SHELL[8], env)
    assert done.returncode == 0, done.stderr
    assert "policy=random: to the end" in done.stdout
    assert "policy=least_loaded against policy=random, turn by turn:" in done.stdout


def test_the_planners_commands_run_as_printed(env: dict[str, str], tmp_path: Path) -> None:
    done = shell(SHELL[9], env, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "of 1,000,000 jobs found every account full" in done.stdout
    assert "7 accounts (42 slots) are the fewest for refused<1% and wait.p95<120s" in done.stdout
    assert (tmp_path / "answer.html").read_text().startswith("<!doctype html>")


def test_the_simulation_says_what_to_expect(env: dict[str, str], tmp_path: Path) -> None:
    snippet = tmp_path / "snippet.py"
    snippet.write_text(PYTHON[7])
    done = shell(f"{sys.executable} -W error {snippet}", env)
    assert (done.returncode, done.stderr) == (0, "")
    assert re.fullmatch(
        r"1\d\.\d% found every account full\n95 % waited no longer than (45|60|75) s\n", done.stdout
    )


def test_the_selector_is_embedded_in_somebody_elses_model(env: dict[str, str], tmp_path: Path) -> None:
    snippet = tmp_path / "snippet.py"
    snippet.write_text(PYTHON[8])
    done = shell(f"{sys.executable} -W error {snippet}", env)
    assert (done.returncode, done.stderr) == (0, "")
    found = re.fullmatch(r"(\d\.\d)% of (\d{5}) jobs refused\n", done.stdout)
    assert found is not None
    # Erlang B for 30 slots and 25 erlang is 5.26 %; four standard errors of a week are less than 1 %.
    assert abs(float(found[1]) - 5.26) < 1


def test_the_benchmarks_run_and_print_the_table(env: dict[str, str]) -> None:
    # Those that take seconds; each of the others says in its own tests what it needs.
    quick = ("lease", "parse", "import")
    assert set(quick) < set(QUESTIONS)
    done = shell(f"{SHELL[10].strip()} {' '.join(quick)} --rounds 2", env)
    assert done.returncode == 0, done.stderr
    for question in quick:
        assert f"| {question}" in done.stdout


def test_the_readmes_table_is_that_of_the_last_run() -> None:
    def table(path: Path) -> list[str]:
        lines = path.read_text().splitlines()
        begin = lines.index(measure.table([]).splitlines()[0])
        return list(takewhile(lambda line: line.startswith("|"), lines[begin:]))

    assert table(ROOT / "README.md") == table(ROOT / "benchmarks" / "README.md")
