"""The structure of the package and its language: arrows, names, sizes and words."""

import ast
import io
import re
import tokenize
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.structure import PACKAGE, arrows, imports, levels, modules

ROOT = PACKAGE.parent

CENTRE = {"_util.text", "_util.units", "_util.grammar", "_util.validators", "errors", "secret", "models"}
"""Rooms that any other room may import."""

ARROWS: dict[str, set[str]] = {
    "_util.child_process": {"_util.tasks"},
    "_util.network": set(),
    "_util.tasks": {"clock"},
    "balancer": {"_util.tasks", "clock", "events", "selection", "store"},
    "client": {"clock"},
    "clock": set(),
    "dispatch": {"_util.tasks", "balancer", "client", "clock", "events"},
    "distributions": set(),
    "events": set(),
    "loadtest": {"_util.child_process", "clock", "dispatch", "events", "server", "simulate"},
    "metrics": {"balancer", "events"},
    "selection": set(),
    "server": {"_util.network", "_util.tasks", "clock", "distributions"},
    "simulate": {"distributions", "selection"},
    "store": {"_util.tasks", "clock", "events", "selection"},
    "testing": {"clock", "server"},
}
"""Room → the rooms outside the centre that it may import. `cli`, `__main__` and `__init__` may import any
room.
"""

PURE = (
    "selection",
    "simulate/theory",
    "errors.py",
    "models.py",
    "secret.py",
    "distributions.py",
    "_util/text.py",
)
"""Files and folders without event loop, network, files and clock."""

BANNED = re.compile(
    r"\b(whoever|whomever|nobody|somebody|everybody|takes? note|took note|sees? to it|seen through"
    r"|what has to be|what is to be|twinkling|the books|in line|resting|hereby|let go of)\b",
    re.IGNORECASE,
)
"""Words that this project does not use: each has a plain one."""


def files() -> list[Path]:
    return [path for _, path in modules()]


def test_imports_point_inward() -> None:
    for room, targets in arrows().items():
        if room in {"__init__", "__main__", "cli"}:
            continue
        allowed = ARROWS.get(room, set()) | CENTRE if room not in CENTRE else CENTRE
        assert room in ARROWS or room in CENTRE or room == "_util.__init__", f"give {room} its arrows here"
        assert targets <= allowed, f"{room} must not import {targets - allowed}"


def test_no_room_imports_itself_in_a_circle() -> None:
    found = {name: targets - {"__init__"} for name, targets in arrows().items() if name != "__init__"}
    assert levels(found)["cli"] <= 10


def test_every_arrow_is_in_use() -> None:
    found = arrows()
    for room, targets in ARROWS.items():
        assert targets <= found[room], f"{room} does not import {targets - found[room]}: remove the arrow"


@pytest.mark.parametrize("place", PURE)
def test_the_centre_knows_no_event_loop_no_network_and_no_clock(place: str) -> None:
    found = [path for path in files() if path.relative_to(PACKAGE).as_posix().startswith(place)]
    assert found
    for path in found:
        foreign = {name.split(".")[0] for name in imports(path, lazy="numpy" not in path.read_text())}
        assert not foreign & {"asyncio", "aiohttp", "socket", "time", "threading", "os", "numpy"}, path


def test_no_two_public_classes_share_a_name() -> None:
    found: dict[str, list[str]] = defaultdict(list)
    for path in files():
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                found[node.name].append(str(path.relative_to(PACKAGE)))
    assert {name: places for name, places in found.items() if len(places) > 1} == {}


def test_no_two_modules_share_a_name() -> None:
    found: dict[str, list[str]] = defaultdict(list)
    for path in files():
        place = path.relative_to(PACKAGE)
        if place.parts[0] != "cli" and path.stem not in {"__init__", "__main__", "base", "errors"}:
            found[path.stem].append(str(place))
    assert {name: places for name, places in found.items() if len(places) > 1} == {}


def test_no_module_is_longer_than_five_hundred_lines() -> None:
    assert {
        str(path.relative_to(PACKAGE)) for path in files() if len(path.read_text().splitlines()) > 500
    } == set()


def texts(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the comments, docstrings and other strings of a file with their line numbers."""
    if path.suffix != ".py":
        yield from enumerate(path.read_text().splitlines(), 1)
        return
    for token in tokenize.generate_tokens(io.StringIO(path.read_text()).readline):
        if token.type in {tokenize.COMMENT, tokenize.STRING}:
            yield from enumerate(token.string.splitlines(), token.start[0])


def spoken() -> list[Path]:
    """Return the files whose words people read: the package, its Lua and every README."""
    lua = sorted(PACKAGE.rglob("*.lua"))
    return [*files(), *lua, *(path for path in sorted(ROOT.rglob("*.md")) if ".venv" not in path.parts)]


def test_texts_are_in_plain_words() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{number}: {match.group()}"
        for path in spoken()
        for number, line in texts(path)
        if (match := BANNED.search(line)) is not None
    ]
    assert found == []


@pytest.mark.parametrize("word", ["Whoever waits gets it", "have it seen through", "three jobs in line"])
def test_a_banned_word_is_found(word: str) -> None:
    assert BANNED.search(word) is not None
