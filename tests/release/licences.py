"""Licences and known vulnerabilities of the dependencies."""

import importlib.util
import json
import re
import subprocess
import sys
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from importlib import metadata
from typing import Any, Final

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.release.findings import Findings, Workshop

PROJECT: Final = "pika-balancer"
PERMISSIVE: Final = {
    "0BSD",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "CC0-1.0",
    "CNRI-Python",
    "HPND",
    "ISC",
    "MIT",
    "MIT-0",
    "MIT-CMU",
    "PSF-2.0",
    "Unlicense",
    "Zlib",
}
"""Licences whose only condition is that their text is passed on."""
FOR_OURSELVES: Final = {"MPL-2.0"}
"""Licences allowed in extras for developers: they apply only to their own files."""
DEVELOPERS: Final = {"test", "bench"}
"""Extras for developers."""
WORDS: Final = {
    "3-clause BSD License": "BSD-3-Clause",
    "Apache 2": "Apache-2.0",
    "Apache 2.0": "Apache-2.0",
    "Apache License 2.0": "Apache-2.0",
    "Apache License, Version 2.0": "Apache-2.0",
    "Apache Software License": "Apache-2.0",
    "BSD 3-Clause License": "BSD-3-Clause",
    "BSD License": "BSD",
    "Historical Permission Notice and Disclaimer (HPND)": "HPND",
    "ISC License (ISCL)": "ISC",
    "MIT License": "MIT",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "Python Software Foundation License": "PSF-2.0",
    "The MIT License (MIT)": "MIT",
    "The Unlicense (Unlicense)": "Unlicense",
}
"""SPDX names of licences in classifiers and in free text of older metadata."""
ASK: Final = {"Ciw": "MIT", "python-dateutil": "Apache-2.0 OR BSD-3-Clause"}
"""Licences that the metadata do not state; looked up in the files."""


def licences(_shop: Workshop) -> Findings:
    """List the licences of the dependencies of each extra, as installed here."""
    found = Findings()
    base, _ = closure("")
    for extra in ("", *sorted(_extras())):
        names, missing = closure(extra)
        if extra:
            names -= base
        told = {name: licence(metadata.distribution(name)) for name in sorted(names)}
        found.faults += [f"{extra or 'base'}: {word}" for word in refusals(told, extra)]
        found.open += [f"{extra}: {name} is not installed here" for name in sorted(missing)]
        found.facts.append(
            f"{extra or 'base'}: " + ", ".join(f"{name} {words}" for name, words in told.items())
        )
    return found


def refusals(told: Mapping[str, str | None], extra: str) -> Iterator[str]:
    """Yield a fault for each distribution whose licence is not allowed."""
    allowed = PERMISSIVE | FOR_OURSELVES if extra in DEVELOPERS else PERMISSIVE
    for name, words in told.items():
        if words is None:
            yield f"{name} states no licence that is known; look it up and add it to ASK or WORDS"
        elif not permits(words, allowed):
            yield f"{name} is under {words}, which is not on the list"


def permits(words: str, allowed: Iterable[str]) -> bool:
    """Return whether the allowed licences satisfy an SPDX expression."""
    known = set(allowed)
    tokens = deque(re.findall(r"[()]|[^()\s]+(?:\s+WITH\s+[^()\s]+)?", words))

    def either() -> bool:
        met = both()
        while tokens and tokens[0] == "OR":
            tokens.popleft()
            met = both() or met
        return met

    def both() -> bool:
        met = one()
        while tokens and tokens[0] == "AND":
            tokens.popleft()
            met = one() and met
        return met

    def one() -> bool:
        token = tokens.popleft() if tokens else ""
        if token != "(":
            return token in known
        met = either()
        return bool(tokens) and tokens.popleft() == ")" and met

    return either() and not tokens


def licence(distribution: metadata.Distribution) -> str | None:
    """Return the SPDX expression of a distribution's licence; None if it states no known one."""
    facts = distribution.metadata
    stated = _field(facts, "License-Expression") or ASK.get(distribution.name)
    if stated:
        return stated
    classified = [
        WORDS.get(line.rsplit(" :: ", 1)[-1]) or str(line)
        for line in facts.get_all("Classifier") or ()
        if line.startswith("License :: ")
    ]
    if classified:
        return " AND ".join(classified)
    first = _field(facts, "License").strip().split("\n", 1)[0].strip()
    return WORDS.get(first, first) or None


def _field(facts: metadata.PackageMetadata, name: str) -> str:
    # The field may exist and be None.
    return "".join(part for part in facts.get_all(name) or () if part)


def closure(extra: str) -> tuple[set[str], set[str]]:
    """Return the names of an extra's dependencies: those installed here, and those missing."""
    wanted = [(PROJECT, extra)]
    seen: set[tuple[str, str]] = set()
    here: set[str] = set()
    missing: set[str] = set()
    while wanted:
        name, part = wanted.pop()
        if (name, part) in seen:
            continue
        seen.add((name, part))
        try:
            distribution = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            missing.add(name)
            continue
        here.add(name)
        for line in distribution.requires or ():
            requirement = Requirement(line)
            if requirement.marker is None or requirement.marker.evaluate({"extra": part}):
                inner = canonicalize_name(requirement.name)
                wanted += [(inner, asked) for asked in ("", *requirement.extras)]
    return here - {PROJECT}, missing


def _extras() -> set[str]:
    return set(metadata.metadata(PROJECT).get_all("Provides-Extra") or ()) - {"all"}


def audit(_shop: Workshop) -> Findings:
    """Query known vulnerabilities of the installed packages."""
    found = Findings()
    if importlib.util.find_spec("pip_audit") is None:
        found.open.append("pip-audit is not installed: pip install --group audit")
        return found
    done = subprocess.run(
        [sys.executable, "-m", "pip_audit", "--format", "json", "--progress-spinner", "off"],
        capture_output=True,
        text=True,
        check=False,
    )
    try:
        answer: dict[str, Any] = json.loads(done.stdout)
    except ValueError:
        last = done.stderr.strip().splitlines()[-1:]
        found.open.append(f"NOT AUDITED: pip-audit could not ask its service: {' '.join(last)}")
        return found
    return judged(answer)


def judged(answer: Mapping[str, Any]) -> Findings:
    """Return the findings of pip-audit's JSON.

    It passes, and says that nothing is known, when its service knows none of the packages, as where an index
    is reached without it: then nothing was looked at.
    """
    found = Findings()
    entries = [entry for entry in answer["dependencies"] if canonicalize_name(entry["name"]) != PROJECT]
    skipped = [entry["name"] for entry in entries if "skip_reason" in entry]
    for entry in entries:
        for known in entry.get("vulns", ()):
            mended = ", ".join(known["fix_versions"]) or "no version yet"
            found.faults.append(f"{entry['name']} {entry['version']}: {known['id']}, mended in {mended}")
    found.facts.append(f"{len(entries) - len(skipped)} of {len(entries)} distributions audited")
    if skipped:
        found.open.append(f"NOT AUDITED, the service does not answer for them: {', '.join(skipped)}")
    return found
