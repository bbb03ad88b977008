"""The Lua scripts of the shared store: one file in `lua/` per operation, checked when it is loaded.

An operation's file begins with a comment: what it does, its ARGV, and what it returns. A line `-- include
NAME.lua` is replaced by the text of that file, once per script. The keys and the first arguments are the same
for every operation; `pool.lua` lists them.
"""

import re
from functools import cache
from hashlib import sha1
from importlib.resources import files
from typing import Final

import attrs

KEYS: Final = (
    "meta",
    "accounts",
    "cooldowns",
    "open",
    "slots",
    "leases",
    "queue",
    "waiters",
    "processes",
    "ended",
)
"""The keys of a pool, in the order in which every operation takes them."""

ARGV: Final = ("now", "process", "seq", "ttl", "orphan_ttl", "policy", "u", "verb")
"""The first arguments of every operation."""

_LUA: Final = files("pika_balancer.store.redis") / "lua"
_INCLUDE: Final = re.compile(r"^-- include (\w+\.lua)\n", re.MULTILINE)
_LISTED: Final = {
    "KEYS": re.compile(r"^-- KEYS \(the same for every operation\):\n--   ([\w ]+)$", re.MULTILINE),
    "ARGV": re.compile(r"^-- ARGV \(the first of every operation\):\n--   ([\w ]+)$", re.MULTILINE),
}
_OWN: Final = re.compile(r"^-- ARGV: ([^(\n]+)", re.MULTILINE)
_RETURNS: Final = "\n-- Returns "


@attrs.frozen
class Script:
    """One operation."""

    name: str
    """The file's name without its suffix."""
    text: str = attrs.field(repr=False)
    """Its Lua, includes expanded."""
    sha: str
    """The SHA-1 of the text, for EVALSHA."""
    arguments: tuple[str, ...]
    """Its own arguments, after the common ones; one that ends in `...` repeats."""


@cache
def script(name: str) -> Script:
    """Return the operation of that name.

    Raises:
        ValueError: Its file takes other keys or arguments than this module lists, or it has no header.
    """
    source = _read(f"{name}.lua")
    header = _OWN.search(source)
    if not source.startswith("-- ") or header is None or _RETURNS not in source:
        raise ValueError(f"{name}.lua must begin with what it does, its ARGV and what it returns")
    text = _expand(source, set())
    for what, expected in (("KEYS", KEYS), ("ARGV", ARGV)):
        listed = _LISTED[what].search(text)
        if listed is None or tuple(listed[1].split()) != expected:
            raise ValueError(f"{name}.lua takes other {what} than {' '.join(expected)}")
    arguments = tuple(header[1].split())
    sha = sha1(text.encode(), usedforsecurity=False).hexdigest()
    return Script(name, text, sha, () if arguments == ("-",) else arguments)


def names() -> tuple[str, ...]:
    """Return the names of all operations."""
    every = sorted(entry.name for entry in _LUA.iterdir())
    return tuple(name.removesuffix(".lua") for name in every if _RETURNS in _read(name))


def _expand(text: str, included: set[str]) -> str:
    def expand(found: re.Match[str]) -> str:
        if found[1] in included:
            return ""
        included.add(found[1])
        return _expand(_read(found[1]), included)

    return _INCLUDE.sub(expand, text)


def _read(name: str) -> str:
    return (_LUA / name).read_text(encoding="utf-8")
