"""Build the archives and check their contents."""

import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Final

from tests.release.findings import ROOT, Findings, Workshop, run

PACKAGE: Final = "pika_balancer/"
SHIPPED: Final = ("pika_balancer/", "tests/", "benchmarks/")
"""Folders of the checkout that are in the sdist."""
BESIDE: Final = ("README.md", "pyproject.toml", ".gitignore")
"""Files of the checkout that are in the sdist."""
NEEDED: Final = (
    "pika_balancer/py.typed",
    "pika_balancer/store/redis/lua/acquire.lua",
    "tests/data/README.md",
)
"""Files other than code that must be in the wheel."""
METADATA: Final = ("METADATA", "RECORD", "WHEEL", "entry_points.txt")
LICENCE_FILES: Final = ("LICENSE", "LICENCE", "COPYING", "NOTICE")
"""Prefixes of licence files, which go into both archives."""


def build(shop: Workshop) -> Findings:
    """Make the sdist, and the wheel from it."""
    found = Findings()
    if run(found, sys.executable, "-m", "build", "--outdir", shop.dist, ROOT) is not None:
        found.facts += [f"{path.name}, {path.stat().st_size:,} bytes" for path in (shop.sdist, shop.wheel)]
    return found


def again(shop: Workshop) -> Findings:
    """Build both again from the unpacked sdist, in another folder and with other file times."""
    found = Findings()
    folder = shop.folder / "again"
    source = unpacked(shop)
    for path in source.rglob("*"):
        path.touch()
    if run(found, sys.executable, "-m", "build", "--outdir", folder, source) is None:
        return found
    for archive in (shop.sdist, shop.wheel):
        if archive.read_bytes() == (folder / archive.name).read_bytes():
            found.facts.append(f"{archive.name} is the same to the byte")
        else:
            found.faults.append(f"{archive.name} differs when it is made again")
    return found


def unpacked(shop: Workshop) -> Path:
    """Return a folder with the unpacked sdist."""
    folder = shop.folder / "unpacked"
    if not folder.exists():
        with tarfile.open(shop.sdist) as archive:
            archive.extractall(folder, filter="data")
    (inner,) = folder.iterdir()
    return inner


def contents(shop: Workshop) -> Findings:
    """Compare the contents of the archives with the files of the project."""
    found = Findings()
    known = set(_tracked())
    own = [str(ROOT), sys.prefix, str(Path.home())]
    stem = shop.sdist.name.removesuffix(".tar.gz")
    for name, files, belongs in (
        (shop.wheel.name, in_wheel(shop.wheel), for_wheel(known, stem)),
        (shop.sdist.name, in_sdist(shop.sdist), for_sdist(known, stem)),
    ):
        found.faults += [f"{name}: {fault}" for fault in faults(files, belongs, own)]
        found.facts.append(f"{name}: {len(files)} files")
    found.faults += [f"{name} is not in the project" for name in NEEDED if name not in known]
    return found


def faults(files: Mapping[str, bytes], belongs: Iterable[str], own: Iterable[str]) -> Iterator[str]:
    """Yield what is wrong with the files of an archive.

    Args:
        files: Name and content of each.
        belongs: The names that should be there.
        own: Paths of this machine, which must not be in an archive.
    """
    wanted = set(belongs)
    yield from (f"{name} is missing" for name in sorted(wanted - files.keys()))
    yield from (f"{name} does not belong there" for name in sorted(files.keys() - wanted))
    # A home of `/` or one letter would match anything.
    paths = [path.encode() for path in own if len(PurePosixPath(path).parts) > 1]
    for name, content in sorted(files.items()):
        yield from (
            f"{name} names {path.decode()}, a path of this machine" for path in paths if path in content
        )


def in_wheel(wheel: Path) -> dict[str, bytes]:
    """Return name and content of each file of a wheel."""
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def in_sdist(sdist: Path) -> dict[str, bytes]:
    """Return name and content of each file of an sdist."""
    with tarfile.open(sdist) as archive:
        members = {member.name: archive.extractfile(member) for member in archive if not member.isdir()}
        return {name: file.read() if file is not None else b"" for name, file in members.items()}


def for_wheel(known: Iterable[str], stem: str) -> set[str]:
    """Return the names that a wheel of these files must have."""
    info = f"{stem}.dist-info"
    names = set(known)
    return (
        {name for name in names if name.startswith(PACKAGE)}
        | {f"{info}/{name}" for name in METADATA}
        | {f"{info}/licenses/{name}" for name in names if name.startswith(LICENCE_FILES)}
    )


def for_sdist(known: Iterable[str], stem: str) -> set[str]:
    """Return the names that an sdist of these files must have."""
    names = {name for name in known if name.startswith((*SHIPPED, *LICENCE_FILES)) or name in BESIDE}
    return {f"{stem}/{name}" for name in (*names, "PKG-INFO")}


def _tracked() -> Iterator[str]:
    """Yield the files of the project: those under version control, or all files of an sdist."""
    if shutil.which("git") and (ROOT / ".git").exists():
        listed = subprocess.run(
            ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout
        yield from filter(None, listed.split("\0"))
        return
    for path in ROOT.rglob("*"):
        if path.is_file() and path.suffix != ".pyc" and path.name != "PKG-INFO":
            yield path.relative_to(ROOT).as_posix()
