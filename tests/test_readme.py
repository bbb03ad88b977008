"""Every command and snippet of every README runs as printed, against a local server and a shared store.

Only poll periods differ: the server runs fast here. Blocks in `sh` and `python` run; `text` shows output or
files.
"""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.depth import sized
from tests.redis_servers import Servers

ROOT = Path(__file__).parent.parent
TOP = ROOT / "README.md"
READMES = [
    TOP,
    *sorted(
        path for room in ("pika_balancer", "tests", "benchmarks") for path in (ROOT / room).rglob("README.md")
    ),
]
RUNNERS = {
    "sh": ["bash", "-euc"],
    "python": [sys.executable, "-W", "error", "-c"],
    "js": ["node", "--input-type=module", "-e"],
}
HANGS = 300
"""Seconds after which a block counts as hanging."""


class Block(NamedTuple):
    """A fenced block of a README."""

    path: Path
    language: str
    text: str


def blocks(path: Path) -> list[Block]:
    found = re.findall(r"^```(\w*)\n(.*?)^```$", path.read_text(), re.MULTILINE | re.DOTALL)
    return [Block(path, language, text) for language, text in found]


TOP_SHELL = [block for block in blocks(TOP) if block.language == "sh"]
DEMO, TESTS = (block.text.strip() for block in TOP_SHELL[:2])
RUN = [
    block
    for path in READMES
    for block in blocks(path)
    if block.language in RUNNERS and block not in TOP_SHELL[:2]
]


def name(block: Block) -> str:
    first = next(line for line in block.text.splitlines() if line.strip())
    return f"{block.path.parent.relative_to(ROOT)}-{block.language}-{first[:30]}"


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """Start the local server on a free port, three hundred times as fast, and yield its base URL."""
    command = [
        sys.executable,
        "-m",
        "pika_balancer",
        "serve",
        "--port",
        "0",
        "--accounts",
        "2,1",
        "--service",
        "exp:30s",
    ]
    server = subprocess.Popen([*command, "--speed", "300"], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        said = server.stdout.readline()
        found = re.search(r"http://\S+", said)
        assert found, said
        yield found.group()
    finally:
        server.terminate()
        server.communicate(timeout=HANGS)


@pytest.fixture
def env(address: str, servers: Servers, tmp_path: Path) -> dict[str, str]:
    """Return an environment with the commands on the PATH, a server, a token and a store."""
    commands = tmp_path / "bin"
    commands.mkdir()
    command = commands / "pika-balancer"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m pika_balancer "$@"\n')
    command.chmod(0o755)
    return os.environ | {
        "PIKA_BASE_URL": address,
        "USEAPI_TOKEN": "user:1234-readme",
        "PIKA_STORE_URL": servers["valkey"].url,
        "STORE_URL": servers["valkey"].url,
        "PATH": f"{commands}:{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
    }


def faster(block: Block) -> str:
    """Return the block with short poll periods."""
    text = re.sub(
        r"Dispatcher\((client|service), balancer", r"Dispatcher(\1, balancer, poll_every=0.05", block.text
    )
    return re.sub(r"pika-balancer (submit|watch) ", r"pika-balancer \1 --poll 0.1 ", text)


@pytest.mark.parametrize("block", RUN, ids=name)
def test_each_block_runs_as_printed(block: Block, env: dict[str, str], tmp_path: Path) -> None:
    runner = RUNNERS[block.language]
    if shutil.which(runner[0]) is None:
        pytest.skip(f"{runner[0]} is not installed")
    folder = tmp_path / "work"
    folder.mkdir()
    done = subprocess.run(
        [*runner, faster(block)],
        env=env,
        cwd=ROOT if "python -m" in block.text else folder,
        capture_output=True,
        text=True,
        timeout=HANGS,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert env["USEAPI_TOKEN"] not in done.stdout + done.stderr


@pytest.mark.deep
def test_the_first_command_works_in_a_clean_copy(tmp_path: Path) -> None:
    if not sized(short=False, deep=True):
        assert DEMO.endswith(".venv/bin/pika-balancer demo")
        return
    ignored = shutil.ignore_patterns(".git", ".venv", ".*_cache", "__pycache__", ".coverage*", ".hypothesis")
    copy = shutil.copytree(ROOT, tmp_path / "copy", ignore=ignored)
    env = {
        key: value for key, value in os.environ.items() if not key.startswith(("COV_", "COVERAGE", "PYTEST"))
    }
    done = subprocess.run(
        ["sh", "-c", DEMO], cwd=copy, env=env, capture_output=True, text=True, timeout=HANGS, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "0 submits refused (0 expected), 0 accounts above their cap (0 expected)" in done.stdout


def test_the_second_command_is_the_one_that_runs_these_tests() -> None:
    assert TESTS.split("&&")[-1].split() == [
        ".venv/bin/python",
        *["-m", "pytest", "--cov", "-n", "auto", "--dist", "worksteal"],
    ]


def test_the_readme_is_short() -> None:
    assert len(TOP.read_bytes()) <= 9_000


def test_every_link_leads_to_a_file() -> None:
    for path in READMES:
        for target in re.findall(r"\]\(([^)#:]+)\)", path.read_text()):
            assert (path.parent / target).exists(), f"{path.relative_to(ROOT)} links to {target}"


@pytest.mark.parametrize("path", READMES, ids=lambda path: str(path.parent.relative_to(ROOT)))
def test_every_command_for_longer_attacks_exists(path: Path) -> None:
    for module in sorted(
        set(re.findall(r"python (?:-W error )?-m ((?:tests|benchmarks)\b[\w.]*)", path.read_text()))
    ):
        place = ROOT / module.replace(".", "/")
        assert place.with_suffix(".py").exists() or (place / "__main__.py").exists(), module
