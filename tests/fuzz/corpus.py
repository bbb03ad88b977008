"""Bad input: odd strings, and good input broken at every place.

Generated from the lines below and `tests/samples`, always the same.
"""

import json
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

SAMPLES: Final = Path(__file__).parents[1] / "samples"

ESCAPES: Final = (
    "\x1b[2J\x1b[1;1H",  # clears the screen
    "\x1b]0;title\x07",
    "\x1b]52;c;cm0gLXJmIH4=\x07",  # fills the clipboard
    "\x1b]8;;http://evil.example\x1b\\link\x1b]8;;\x1b\\",
    "\x1bP+q544e\x1b\\",
    "\x9b31m",  # the same in one character
    "\x9d0;title\x9c",
    "\rover what stood here",
    "below\x0b\x0c\x08\x08\x7f",
)
"""Control sequences of terminals."""

NAUGHTY: Final = (
    "",
    " ",
    "\t\r\n ",
    *ESCAPES,
    "two\r\nSet-Cookie: lines=1",
    "a\x00b",
    "../../../../etc/passwd",
    "/",
    ".",
    "C:\\con\\nul",
    "x" * 300,  # above what a file system takes
    "-",
    "--help",
    "%s%n%x%1$s%(prog)s%",
    "{0}{field!r:>9}{",
    "$x^2_$ \\frac{",
    "'; DROP TABLE jobs; --",
    "\" onload='alert(1)'><script>alert(1)</script>",
    "=cmd|'/c calc'!A0",
    "[red]markup[/] :smile: {markup}",
    "none",
    "None",
    "null",
    "true",
    "True",
    "NaN",
    "nan",
    "-inf",
    "Infinity",
    "-0",
    "-1",
    "0",
    "0x10",
    "1e999",
    "1e-999",
    "1e200",
    "1e-200",
    "1_0",
    "٧",  # a digit for Python's int(), and for no other reader here
    "²",
    "7 7",
    "7,7",
    "18446744073709551616",
    "9" * 5000,  # above what int() takes
    "a=b",
    "a:b",
    "a:1..0",
    "@",
    "x:1e300,1e300",
    "=",
    ",",
    ":",
    "\u202eltr\u202c",
    "zero\u200bwidth\u2060\ufeff",
    "\u2028line\u2029paragraph\x85next",
    "e\u0301\u0301\u0301\u0301",
    "👩\u200d👩\u200d👧\u200d👦",
    "\U000e0001\U000e0020tags",
    "\udc80",  # a byte of an argument that was no UTF-8
    "\ud800",
    "\ud83d half",
    "ﬃİıſ",
)
"""Strings that break naive code."""

MEGABYTE: Final = "long " * 209_715

VALUES: Final[tuple[Any, ...]] = (
    None,
    True,
    False,
    0,
    -1,
    7,
    "7",
    "",
    2**64,
    10**400,
    0.5,
    -0.0,
    float("nan"),
    float("inf"),
    [],
    {},
    [None],
    [[]],
    {"": None},
    {"discord": ["x", {"discord": 1}]},
    "\ud800",
    ESCAPES[1],
    "a\x00b",
)
"""JSON values that replace another value."""

_TEXTS: Final = (
    b"1e999",
    b"-1e999",
    b"9" * 5000,
    b"-0",
    b"1e-999",
    b"0.1e",
    b"01",
    b"+1",
    b".5",
    b"NaN",
    b"-Infinity",
    b"nul",
    b"True",
    b"'x'",
    b'"\\ud800"',
    b'"\\u12"',
    b'"\\x"',
    b'"\x01"',
    b'"\xff\xfe"',
    b'"\xed\xa0\x80"',  # a surrogate in UTF-8
    b'"open',
    b"/* */ 1",
    b"[1,]",
    b"[" * 70 + b"]" * 70,
    b"[" * 5000 + b"]" * 5000,
    b"[" * 200_000,
    b'{"a":' * 5000 + b"1" + b"}" * 5000,
    b'{"jobid": 1, "jobid": 2}',
    b'{"discord": "a", "discord": "b"}',
    b"",
)
"""Bytes that are no JSON value, or an extreme one."""

_MARK: Final = "\ue000mark\ue000"
_WRITTEN: Final = json.dumps(_MARK).encode()


def samples() -> dict[str, bytes]:
    """Return the recorded answers of the service, by name."""
    return {path.stem: path.read_bytes() for path in sorted(SAMPLES.glob("*.json"))}


def places(tree: Any, where: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the path of every value in a tree, the root first."""
    yield where
    steps = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for step, item in steps:
        yield from places(item, (*where, step))


def replaced(tree: Any, where: Sequence[Any], value: Any) -> Any:
    """Return a copy of the tree with another value at that path."""
    if not where:
        return value
    copy = list(tree) if isinstance(tree, list) else dict(tree)
    copy[where[0]] = replaced(copy[where[0]], where[1:], value)
    return copy


def bad_trees(body: bytes) -> Iterator[bytes]:
    """Yield the JSON broken at every place: values replaced, removed, added, repeated, or no JSON."""
    tree = json.loads(body)
    for where in places(tree):
        for value in VALUES:
            yield json.dumps(replaced(tree, where, value)).encode()
        marked = json.dumps(replaced(tree, where, _MARK)).encode()
        for text in _TEXTS:
            yield marked.replace(_WRITTEN, text)
        if where:
            yield _written(_removed(tree, where))
        there = _at(tree, where)
        if isinstance(there, dict):
            yield _written(replaced(tree, where, {**there, "": None, "\ud800": 1, ESCAPES[0]: {}}))
            inner = json.dumps(there)[1:-1]
            twice = f"{{{inner}{', ' if inner else ''}{inner}}}".encode()
            yield marked.replace(_WRITTEN, twice)
        elif isinstance(there, list):
            yield _written(replaced(tree, where, [*there, *there, None]))
            yield _written(replaced(tree, where, [there] * 3))


def bad_texts(body: bytes, rng: random.Random, flips: int = 200) -> Iterator[bytes]:
    """Yield the text cut off at every byte, with flipped bits, and in other encodings than UTF-8."""
    for end in range(len(body)):
        yield body[:end]
        if end % 7 == 0:
            yield body[end:]
    for _ in range(flips):
        broken = bytearray(body)
        for _ in range(rng.choice((1, 1, 1, 3, 9))):
            place = rng.randrange(len(broken))
            broken[place] ^= 1 << rng.randrange(8)
        yield bytes(broken)
    text = body.decode()
    yield b"\xef\xbb\xbf" + body
    yield b"\xef\xbb\xbf\xef\xbb\xbf" + body
    yield body + b"\x00"
    yield b"\x00" + body
    yield body * 2
    yield b"<html>\x1b[2J" + body
    for encoding in ("utf-16", "utf-16-le", "utf-32-be", "utf-7", "cp500"):
        yield text.encode(encoding, "replace")


def sprinkled(text: bytes, rng: random.Random) -> Iterator[bytes]:
    """Yield the text with each odd string inserted."""
    for naughty in (*NAUGHTY, '"', "'", ";", "|"):
        place = rng.randrange(len(text) + 1)
        yield text[:place] + naughty.encode("utf-8", "surrogatepass") + text[place:]


def _at(tree: Any, where: Sequence[Any]) -> Any:
    for step in where:
        tree = tree[step]
    return tree


def _removed(tree: Any, where: Sequence[Any]) -> Any:
    *before, last = where
    parent = _at(tree, before)
    kept = (
        [item for place, item in enumerate(parent) if place != last]
        if isinstance(parent, list)
        else {key: item for key, item in parent.items() if key != last}
    )
    return replaced(tree, before, kept)


def _written(tree: Any) -> bytes:
    return json.dumps(tree).encode()
