"""Install the archives: in empty environments, with the lowest versions, and under other interpreters."""

import json
import os
import re
import shutil
import sys
from collections.abc import Iterable
from email.parser import Parser
from pathlib import Path
from typing import Final

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from tests.release.archives import LICENCE_FILES, in_wheel, unpacked
from tests.release.findings import Findings, Workshop, environment, run

IMPORTS: Final = "import pika_balancer; print(pika_balancer.__version__)"
DEMO: Final = ("demo", "--jobs", "20", "--json")
QUICK: Final = (
    "tests/test_requests.py",
    "tests/test_selector.py",
    "tests/store/test_scripts.py",
    "tests/simulate/test_trace.py",
)
"""Tests that read data files, such as samples and scripts."""
CORE: Final = (
    "tests/test_balancer.py",
    "tests/test_webhook.py",
    "tests/test_client.py",
    "tests/test_client_sockets.py",
    "tests/test_events.py",
    "tests/test_held.py",
    "tests/test_models.py",
    "tests/test_policy.py",
    "tests/test_requests.py",
    "tests/test_responses.py",
    "tests/test_selector.py",
    "tests/test_surface.py",
    "tests/test_wait_queue.py",
    "tests/dispatch",
)
ROOMS: Final = {
    "cli": ("tests/cli/test_output.py", "tests/cli/test_progress.py", "tests/cli/test_watch.py"),
    "redis": ("tests/store",),
    "sim": ("tests/simulate/test_run.py", "tests/simulate/test_differential.py"),
    "plot": ("tests/simulate/test_report.py",),
    "parquet": ("tests/simulate/test_trace.py",),
    "load": ("tests/loadtest",),
    "metrics": ("tests/test_metrics.py",),
}
"""The tests of each extra."""


def metadata(shop: Workshop) -> Findings:
    """Check the metadata that an index shows."""
    found = Findings()
    run(found, sys.executable, "-m", "twine", "check", "--strict", shop.wheel, shop.sdist)
    (name,) = (name for name in in_wheel(shop.wheel) if name.endswith("/METADATA"))
    facts = Parser().parsestr(in_wheel(shop.wheel)[name].decode())
    allowed = SpecifierSet(facts["Requires-Python"])
    named = re.findall(r":: (3\.\d+)$", "\n".join(facts.get_all("Classifier") or ()), re.MULTILINE)
    found.facts.append(f"{facts['Name']} {facts['Version']}, Python {allowed}, of which {', '.join(named)}")
    found.faults += [
        f"Python {version} is named and not allowed" for version in named if version not in allowed
    ]
    if facts["Version"] != shop.wheel.name.split("-")[1]:
        found.faults.append(f"version {facts['Version']} in {shop.wheel.name}")
    return found


def licence(shop: Workshop) -> Findings:
    """Check the licence of the project and of its data files."""
    found = Findings()
    names = [name for name in in_wheel(shop.wheel) if name.rsplit("/", 1)[-1].startswith(LICENCE_FILES)]
    if names:
        found.facts.append(f"in the wheel: {', '.join(names)}")
    else:
        found.open.append("the project has no licence file; its owners must choose one before it can be used")
    notice = (unpacked(shop) / "tests" / "data" / "README.md").read_text()
    if "CC BY 4.0" not in notice or "Azure" not in notice:
        found.faults.append("tests/data/README.md does not tell source and licence of the recorded arrivals")
    return found


def bare(shop: Workshop) -> Findings:
    """Install the wheel with the lowest versions that it allows: alone to import it, then to run the demo."""
    found = Findings()
    alone = environment(found, shop.folder / "alone", str(shop.wheel), *_lowest_of(shop, ""))
    if alone is not None:
        run(found, alone, "-W", "error", "-c", IMPORTS, cwd=shop.folder)
    lowest = _lowest_of(shop, "", "cli")
    python = environment(found, shop.folder / "bare", f"{shop.wheel}[cli]", *lowest)
    if python is None:
        return found
    version = run(found, python, "-W", "error", "-c", IMPORTS, cwd=shop.folder)
    demo = run(found, python.with_name("pika-balancer"), *DEMO, cwd=shop.folder)
    if demo is not None:
        done = json.loads(demo)["completed"]
        found.facts.append(f"{(version or '').strip()} with {', '.join(lowest)}: {done} jobs completed")
    return found


def sdist(shop: Workshop) -> Findings:
    """Run some tests in the unpacked sdist, with the packages installed here."""
    found = Findings()
    _tests(found, Path(sys.executable), shop, QUICK)
    return found


def extras(shop: Workshop) -> Findings:
    """Run the tests of each extra with the lowest versions of all of them."""
    found = Findings()
    lowest = _lowest_of(shop, "", *ROOMS)
    python = environment(found, shop.folder / "lowest", f"{shop.wheel}[test]", *lowest)
    if python is not None:
        found.facts.append(", ".join(lowest))
        _tests(found, python, shop, [path for paths in ROOMS.values() for path in paths])
    return found


def pythons(shop: Workshop) -> Findings:
    """Install the wheel under each interpreter and run the tests of the core."""
    found = Findings()
    for name in shop.interpreters:
        program = shutil.which(name)
        if program is None:
            found.open.append(f"{name} is not installed here")
            continue
        folder = shop.folder / f"env-{Path(name).name}-{len(found.facts)}"
        python = environment(found, folder, f"{shop.wheel}[test]", python=program)
        if python is None:
            continue
        version = run(found, python, "--version", cwd=shop.folder) or ""
        run(found, python, "-W", "error", "-c", IMPORTS, cwd=shop.folder)
        found.facts.append(f"{name} is {version.strip()}")
        _tests(found, python, shop, CORE)
    return found


def _tests(found: Findings, python: Path, shop: Workshop, paths: Iterable[str]) -> None:
    """Run tests of the unpacked sdist and record their number."""
    told = run(
        found,
        python,
        *("-m", "pytest", "-q", "-n", "2", "-p", "no:cacheprovider", *paths),
        cwd=unpacked(shop),
        # Tests need the programs of their own environment.
        env={"PATH": f"{python.parent}{os.pathsep}{os.environ['PATH']}"},
    )
    if told is not None:
        found.facts.append(told.strip().splitlines()[-1])


def _requirements(shop: Workshop) -> list[Requirement]:
    (name,) = (name for name in in_wheel(shop.wheel) if name.endswith("/METADATA"))
    facts = Parser().parsestr(in_wheel(shop.wheel)[name].decode())
    return [Requirement(line) for line in facts.get_all("Requires-Dist") or ()]


def _lowest_of(shop: Workshop, *extras: str) -> list[str]:
    """Return the lowest version of each package that the wheel needs with these extras, "" for none."""
    lowest = (_lowest(needed, extra=extra) for needed in _requirements(shop) for extra in extras)
    return list(dict.fromkeys(pinned for pinned in lowest if pinned))


def _lowest(requirement: Requirement, *, extra: str) -> str | None:
    """Return the lowest version that a requirement allows, pinned; None if the extra does not ask for it."""
    marker = requirement.marker
    if marker is not None and (not extra or not marker.evaluate({"extra": extra})):
        return None
    (bound,) = (part.version for part in requirement.specifier if part.operator == ">=")
    return f"{requirement.name}=={bound}"
