"""The tests of selector and balancer catch small changes to the code: two by hand, a sample with `--deep`."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import attrs
import pytest

from tests.depth import sized
from tests.mutation import ROOT

pytestmark = pytest.mark.no_cover  # it runs in processes of its own


@attrs.frozen
class Change:
    """A piece of the package that stands there once, what replaces it, and a test that has to fail then."""

    file: str
    before: str
    after: str
    test: str


BY_HAND = (
    Change(
        "selection/selector.py",
        "        if not lease.held:\n            return False\n",
        "",
        "a_second_release",
    ),
    Change(
        "selection/selector.py", "self._free[self.row] <= 0", "self._free[self.row] < 0", "unavailability_is"
    ),
)
LEAST = 80.0
"""Percent of a sample that tests have to catch."""


@pytest.fixture(scope="module")
def copied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the package and its tests."""
    folder = tmp_path_factory.mktemp("mutants")
    for name in ("pika_balancer", "tests"):
        shutil.copytree(
            ROOT / name, folder / name, ignore=lambda _, names: [n for n in names if n == "__pycache__"]
        )
    shutil.copy(ROOT / "pyproject.toml", folder)
    return folder


@pytest.mark.parametrize("change", BY_HAND, ids=lambda change: change.test)
def test_a_change_by_hand_is_caught(change: Change, copied: Path) -> None:
    file = copied / "pika_balancer" / change.file
    source = file.read_text()
    assert source.count(change.before) == 1
    file.write_text(source.replace(change.before, change.after))
    command = ["-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-k", change.test]
    try:
        done = subprocess.run(
            [sys.executable, *command, "tests/test_selector.py"],
            cwd=copied,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
    finally:
        file.write_text(source)
    assert done.returncode == 1, done.stdout + done.stderr
    assert re.search(rf"^FAILED tests/test_selector.py::test_{change.test}", done.stdout, re.MULTILINE), (
        done.stdout
    )


@pytest.mark.deep
@pytest.mark.skipif(not sized(short=False, deep=True), reason="runs with --deep only")
@pytest.mark.parametrize("room", ["selector", "balancer"])
def test_most_changes_of_a_sample_are_caught(room: str, tmp_path: Path) -> None:
    pytest.importorskip("mutmut")
    command = [
        sys.executable,
        "-m",
        "tests.mutation",
        room,
        "--sample=40",
        "--workers=2",
        f"--work={tmp_path}",
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=1200, check=False)
    told = re.search(r"^all: .*, ([\d.]+)% noticed$", done.stdout, re.MULTILINE)
    assert told is not None, done.stdout + done.stderr
    assert float(told[1]) >= LEAST, done.stdout
