"""The findings of a step, and a helper that runs commands."""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Literal

import attrs

ROOT: Final = Path(__file__).parent.parent.parent
"""The checkout, or the unpacked sdist."""
EPOCH: Final = "1700000000"
"""`SOURCE_DATE_EPOCH` of the archives, for reproducible builds."""
_LAST_LINES: Final = 15

Status = Literal["passed", "failed", "open"]


@attrs.define
class Findings:
    """The findings of one step."""

    facts: list[str] = attrs.Factory(list[str])
    """Facts to print."""
    faults: list[str] = attrs.Factory(list[str])
    """Faults."""
    open: list[str] = attrs.Factory(list[str])
    """Checks that could not run here, and decisions for people."""

    @property
    def status(self) -> Status:
        """The worst finding as a word."""
        return "failed" if self.faults else "open" if self.open else "passed"


@attrs.frozen
class Workshop:
    """The folders and interpreters that the steps use."""

    folder: Path
    """Folder for all files that the steps create."""
    interpreters: tuple[str, ...] = ()
    """Interpreters to test the wheel with."""

    @property
    def dist(self) -> Path:
        """Folder of the archives."""
        return self.folder / "dist"

    def archive(self, ending: str) -> Path:
        """Return the archive whose name ends so.

        Raises:
            FileNotFoundError: There is not exactly one.
        """
        found = list(self.dist.glob(f"*{ending}"))
        if len(found) != 1:
            raise FileNotFoundError(
                f"{len(found)} archives *{ending} instead of one: the step build comes first"
            )
        return found[0]

    @property
    def wheel(self) -> Path:
        """The wheel."""
        return self.archive(".whl")

    @property
    def sdist(self) -> Path:
        """The sdist."""
        return self.archive(".tar.gz")


def run(
    findings: Findings, *command: str | Path, cwd: Path = ROOT, env: Mapping[str, str] | None = None
) -> str | None:
    """Run a command and return what it printed; None, and a fault, if it failed."""
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env={**os.environ, "SOURCE_DATE_EPOCH": EPOCH, **(env or {})},
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    if done.returncode:
        last = "\n".join((done.stdout + done.stderr).splitlines()[-_LAST_LINES:])
        findings.faults.append(f"{' '.join(map(str, command))} exited with {done.returncode}:\n{last}")
        return None
    return done.stdout


def environment(
    findings: Findings, folder: Path, *requirements: str, python: str = sys.executable
) -> Path | None:
    """Create an environment with these requirements; return its interpreter, or None and a fault."""
    if run(findings, python, "-m", "venv", folder) is None:
        return None
    made = folder / "bin" / "python"
    if run(findings, made, "-m", "pip", "install", "--quiet", *requirements) is None:
        return None
    return made
