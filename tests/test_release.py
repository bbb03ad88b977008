"""The release check finds each kind of fault, in archives and metadata made for the test."""

from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from tests.release.archives import faults, for_sdist, for_wheel, in_wheel
from tests.release.findings import Workshop
from tests.release.licences import closure, judged, licence, licences, refusals

KNOWN = (
    "pika_balancer/__init__.py",
    "pika_balancer/py.typed",
    "tests/data/a.csv",
    "README.md",
    ".ci/run",
    "LICENSE",
)
STEM = "pika_balancer-1.0"


def archive(names: Iterable[str], **others: bytes) -> dict[str, bytes]:
    return dict.fromkeys(names, b"fine") | others


def test_archives_with_exactly_what_belongs_are_right() -> None:
    for belongs in (for_wheel(KNOWN, STEM), for_sdist(KNOWN, STEM)):
        assert list(faults(archive(belongs), belongs, ["/home/me"])) == []
    assert f"{STEM}.dist-info/licenses/LICENSE" in for_wheel(KNOWN, STEM)
    assert not any("tests" in name for name in for_wheel(KNOWN, STEM))
    assert for_sdist(KNOWN, STEM) == {f"{STEM}/{name}" for name in (*KNOWN, "PKG-INFO")} - {f"{STEM}/.ci/run"}


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"pika_balancer/__pycache__/a.pyc": b""}, "pika_balancer/__pycache__/a.pyc does not belong there"),
        ({"tests/data/a.csv": b""}, "tests/data/a.csv does not belong there"),
        ({"pika_balancer/__init__.py": b'HERE = "/home/me/pika"'}, "names /home/me, a path of this machine"),
    ],
)
def test_a_foreign_file_in_a_wheel_is_a_fault(change: dict[str, bytes], fault: str) -> None:
    belongs = for_wheel(KNOWN, STEM)
    (found,) = faults(archive(belongs, **change), belongs, ["/home/me", "/"])
    assert fault in found


def test_a_missing_file_is_a_fault() -> None:
    belongs = for_sdist(KNOWN, STEM)
    (found,) = faults(archive(belongs - {f"{STEM}/tests/data/a.csv"}), belongs, [])
    assert found == f"{STEM}/tests/data/a.csv is missing"


def test_a_step_without_an_archive_names_the_step_to_run_first(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="the step build comes first"):
        in_wheel(Workshop(tmp_path).wheel)


@pytest.mark.parametrize(
    ("words", "extra", "fault"),
    [
        ("MIT", "", None),
        ("BSD-3-Clause AND (MIT OR GPL-3.0-only)", "", None),
        ("(MIT OR GPL-3.0-only) AND GPL-3.0-only", "", "which is not on the list"),
        ("MIT, see the file", "", "which is not on the list"),
        ("(MIT", "", "which is not on the list"),
        ("GPL-3.0-only OR Apache-2.0", "redis", None),
        ("MIT AND LGPL-2.1-only", "redis", "a is under MIT AND LGPL-2.1-only, which is not on the list"),
        ("MPL-2.0", "sim", "which is not on the list"),
        ("MPL-2.0", "test", None),
        (None, "cli", "states no licence that is known"),
    ],
)
def test_only_permissive_licences_pass(words: str | None, extra: str, fault: str | None) -> None:
    found = list(refusals({"a": words}, extra))
    assert len(found) == (fault is not None)
    assert all(str(fault) in line for line in found)


def test_the_dependencies_have_permissive_licences(tmp_path: Path) -> None:
    assert licences(Workshop(tmp_path)).faults == []
    names, missing = closure("all")
    assert {"aiohttp", "attrs", "msgspec", "numpy", "redis", "rich"} <= names
    assert not missing
    assert not closure("")[0] & {"numpy", "redis", "rich"}
    assert all(licence(metadata.distribution(name)) for name in names)
    assert "hypothesis" in closure("test")[0]


SKIPPED: dict[str, Any] = {"name": "attrs", "skip_reason": "Dependency not found"}
SOUND: dict[str, Any] = {"name": "attrs", "version": "26.1.0", "vulns": []}
WEAK: dict[str, Any] = SOUND | {"vulns": [{"id": "PYSEC-1", "fix_versions": ["26.2"]}]}


@pytest.mark.parametrize(
    ("entry", "status", "words"),
    [
        (SOUND, "passed", ""),
        (WEAK, "failed", "attrs 26.1.0: PYSEC-1, mended in 26.2"),
        # Its answer, with exit code 0, if its service knows nothing.
        (SKIPPED, "open", "NOT AUDITED"),
    ],
)
def test_an_audit_of_nothing_has_not_passed(entry: dict[str, Any], status: str, words: str) -> None:
    found = judged({"dependencies": [entry, {"name": "pika_balancer", "skip_reason": "editable"}]})
    assert found.status == status
    assert words in "".join(found.faults + found.open)
