"""The operations of the shared store, as Lua in `lua/`: one file each, checked when it is loaded.

A file begins with a comment: what it does, then its ARGV, and what it returns. A line `-- include NAME.lua`
stands for the text of that file; within a branch it costs only those who take the branch. The keys and the
first arguments are the same for every operation, and are listed at the top of `pool.lua`.
"""

import re
from functools import cache
from hashlib import sha1
from importlib.resources import files
from typing import Final, Protocol

import attrs

KEYS: Final = ("meta", "accounts", "rests", "open", "slots", "held", "line", "waits", "procs", "gone")
"""The keys of a pool, in the order in which every operation takes them."""

ARGV: Final = ("now", "process", "seq", "ttl", "orphan_ttl", "policy", "u", "verb")
"""The first arguments of every operation."""

SHARED: Final = frozenset(
    {
        "check.lua",
        "each.lua",
        "enter.lua",
        "join.lua",
        "line.lua",
        "news.lua",
        "pick.lua",
        "pool.lua",
        "rarely.lua",
        "rules.lua",
        "settle.lua",
        "survey.lua",
        "tend.lua",
    }
)
"""The files that others include."""

_INCLUDE: Final = re.compile(r"^ *-- include (\w+\.lua)$", re.MULTILINE)
_LISTED: Final = {
    "KEYS": re.compile(r"^-- KEYS \(the same for every operation\):\n--   ([\w ]+)$", re.MULTILINE),
    "ARGV": re.compile(r"^-- ARGV \(the first of every operation\):\n--   ([\w ]+)$", re.MULTILINE),
}
_OWN: Final = re.compile(r"-- ARGV: ([^(\n]+)")


class Runner(Protocol):
    """What runs a script: a client of redis-py or valkey-py, or a node of one."""

    async def execute_command(self, *args: object) -> object:
        """Send a command and return its answer."""
        ...


@attrs.frozen
class Script:
    """One operation."""

    name: str
    """The file, without its ending."""
    text: str = attrs.field(repr=False)
    """Its Lua, with what it includes."""
    sha: str
    """By which the server knows it."""
    arguments: tuple[str, ...]
    """Its own arguments, after the common ones; one that ends in `...` stands for any number."""


@cache
def script(name: str) -> Script:
    """Return the operation of that name.

    Raises:
        ValueError: Its file and this side disagree about keys or arguments, or it has no header.
    """
    source = _read(f"{name}.lua")
    header = _OWN.search(source)
    if not source.startswith("-- ") or header is None or "\n-- Returns " not in source:
        raise ValueError(f"{name}.lua must begin with what it does, its ARGV and what it returns")
    text = _complete(source)
    for what, expected in (("KEYS", KEYS), ("ARGV", ARGV)):
        listed = _LISTED[what].search(text)
        if listed is None or tuple(listed[1].split()) != expected:
            raise ValueError(f"{name}.lua takes other {what} than {' '.join(expected)}")
    arguments = tuple(header[1].split())
    sha = sha1(text.encode(), usedforsecurity=False).hexdigest()
    return Script(name, text, sha, () if arguments == ("-",) else arguments)


def names() -> tuple[str, ...]:
    """Return the names of all operations."""
    every = (entry.name for entry in (files("pika_balancer.store.redis") / "lua").iterdir())
    return tuple(sorted(name.removesuffix(".lua") for name in every if name not in SHARED))


def _complete(text: str) -> str:
    return _INCLUDE.sub(lambda found: _complete(_read(found[1])), text)


def _read(name: str) -> str:
    return (files("pika_balancer.store.redis") / "lua" / name).read_text(encoding="utf-8")
