"""Malformed JSON bodies: every sample, with every value and key replaced in many ways."""

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from tests.leaks import STORED, TOKEN

SAMPLES: Final = {
    path.stem: path.read_bytes() for path in sorted((Path(__file__).parents[1] / "samples").glob("*.json"))
}
"""The recorded answers by name: `job-200-started` is one of a job, with the status 200."""

VALUES: Final = {
    "null": b"null",
    "true": b"true",
    "zero": b"0",
    "minus one": b"-1",
    "a number with a point": b"1.5",
    "a whole number with a point": b"3.0",
    "an exponent": b"1e2",
    "1e999": b"1e999",
    "NaN": b"NaN",
    "an infinity": b"-Infinity",
    "2**64": b"18446744073709551616",
    "5000 digits": b"9" * 5000,
    "zeros in front": b"007",
    "an empty string": b'""',
    "a space": b'" "',
    "a number in a string": b'"7"',
    "a token": json.dumps(TOKEN).encode(),
    "a token in an object": b'{"discord": "%s", "x": "%s"}' % (STORED.encode(), STORED.encode()),
    "100 kB": b'"' + b"x" * 100_000 + b'"',
    "half a character": b'"\\ud83d"',
    "NUL": b'"\\u0000"',
    "terminal escapes": b'"\\u001b]0;x\\u0007\\u001b[31m\\u009b2J"',
    "line ends": b'"\\r\\n\\u2028\\u0085"',
    "right to left": b'"\\u202e\\u2066"',
    "a raw control character": b'"\x1b[2J\x07"',
    "a raw line end": b'"\r\n"',
    "bytes": b'"\xff\xfe"',
    "an overlong encoding": b'"\xc0\xae"',
    "a surrogate in UTF-8": b'"\xed\xa0\x80"',
    "a bad escape": b'"\\x41"',
    "an open string": b'"abc',
    "an empty list": b"[]",
    "an empty object": b"{}",
    "a list of null": b"[null]",
    "a list of a list": b"[[[]]]",
    "an object of null": b'{"": null}',
    "__proto__": b'{"__proto__": {"__class__": 1}}',
    "duplicate keys": b'{"a": 1, "a": 2}',
    "nested 100 deep": b"[" * 100 + b"]" * 100,
    "nested 100,000 deep": b"[" * 100_000 + b"]" * 100_000,
    "nested 100,000 deep and open": b'{"a":' * 100_000,
    "10,000 entries": b"[" + b"0," * 9_999 + b"0]",
    "a comma too many": b"[1,]",
    "a comment": b"/* x */ 1",
    "single quotes": b"'x'",
    "undefined": b"undefined",
    "nothing": b"",
}  # fmt: skip
_HERE: Final = "@here@"
_HERE_RAW: Final = json.dumps(_HERE).encode()

Path_ = tuple[str | int, ...]


def places(tree: Any, where: Path_ = ()) -> Iterator[Path_]:
    """Yield the path to each value of a tree, its root's first."""
    yield where
    steps: Any = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for step, inner in steps:
        yield from places(inner, (*where, step))


def with_value(tree: Any, where: Path_, raw: bytes) -> bytes:
    """Return the tree as JSON, with `raw` in one place."""
    return json.dumps(_changed(tree, where, _HERE)).encode().replace(_HERE_RAW, raw, 1)


def _changed(tree: Any, where: Path_, value: Any) -> Any:
    if not where:
        return value
    copy = tree.copy()
    copy[where[0]] = _changed(tree[where[0]], where[1:], value)
    return copy


def mutants(sample: bytes) -> Iterator[tuple[str, bytes]]:
    """Yield the sample with each value replaced by each of `VALUES`, each key gone, doubled or strange."""
    tree = json.loads(sample)
    for where in places(tree):
        path = "$" + "".join(f"[{step!r}]" for step in where)
        for name, raw in VALUES.items():
            yield f"{path}: {name}", with_value(tree, where, raw)
        if where and isinstance(where[-1], str):
            yield from ((f"{path}: {name}", body) for name, body in _keys(tree, where))


def _keys(tree: Any, where: Path_) -> Iterator[tuple[str, bytes]]:
    parent = tree
    for step in where[:-1]:
        parent = parent[step]
    key = str(where[-1])
    fields = {name: json.dumps(value).encode() for name, value in parent.items()}

    def made(pairs: list[tuple[bytes, bytes]]) -> bytes:
        raw = b"{" + b", ".join(name + b": " + value for name, value in pairs) + b"}"
        return with_value(tree, where[:-1], raw)

    def renamed(name: bytes) -> bytes:
        return made(
            [(name if each == key else json.dumps(each).encode(), raw) for each, raw in fields.items()]
        )

    plain = [(json.dumps(name).encode(), raw) for name, raw in fields.items()]
    mine = json.dumps(key).encode()
    yield "missing", made([pair for pair in plain if pair[0] != mine])
    yield "twice", made([*plain, (mine, fields[key])])
    yield "twice, differing", made([*plain, (mine, b'"another"')])
    yield "with another", made([*plain, (b'"unheard of"', b"[{}]")])
    yield "without its key", made([(b"", raw) if name == mine else (name, raw) for name, raw in plain])
    for name, raw in {
        "empty": b'""',
        "of half a character": b'"\\udc00"',
        "of NUL": b'"\\u0000"',
        "of terminal escapes": b'"\\u001b[31m"',
        "of a token": json.dumps(TOKEN).encode(),
        "of 100 kB": b'"' + b"k" * 100_000 + b'"',
        "of bytes": b'"\xff"',
        "without quotes": b"key",
        "a number": b"1",
        "null": b"null",
    }.items():
        yield f"key {name}", renamed(raw)


def wholes(sample: bytes) -> Iterator[tuple[str, bytes]]:
    """Yield the sample spoilt as a whole: encoded otherwise, cut, doubled, or something else altogether."""
    text = sample.decode()
    yield "nothing", b""
    yield "spaces", b" \r\n\t " * 99
    yield "a byte order mark", b"\xef\xbb\xbf" + sample
    yield "two byte order marks", b"\xef\xbb\xbf\xef\xbb\xbf" + sample
    for encoding in ("utf-16", "utf-16-le", "utf-32", "utf-32-be", "utf-7", "cp037"):
        yield f"as {encoding}", text.encode(encoding, "replace")
    yield "as Latin-1", text.replace("a", "\xe4").encode("latin-1", "replace")
    yield "twice", sample + sample
    yield "and a comma", sample + b","
    yield "and NULs", sample + bytes(9)
    yield "in a list", b"[" + sample + b"]"
    yield "in an object", b'{"data": ' + sample + b"}"
    yield "in a string", json.dumps(text).encode()
    yield "as JSON lines", sample.replace(b"\n", b"") + b"\n" + sample.replace(b"\n", b"")
    yield "as JSONP", b"callback(" + sample + b");"
    yield "behind an XSSI guard", b")]}',\n" + sample
    yield "HTML", b"<!DOCTYPE html><html><body>" + TOKEN.encode() + b"</body></html>"
    yield "XML", b'<?xml version="1.0"?><a/>'
    yield "a form", b"jobid=job%3A1&status=started"
    yield "bytes", bytes(range(256))
    for place in range(0, len(sample), 7):
        yield f"cut at {place}", sample[:place]


def by_chance(rng: random.Random, sample: bytes) -> bytes:
    """Return the sample with something wrong in it."""
    match rng.randrange(4):
        case 0:
            tree = json.loads(sample)
            return with_value(tree, rng.choice(list(places(tree))), rng.choice(list(VALUES.values())))
        case 1:
            return rng.choice(list(wholes(sample)))[1]
        case 2:
            spoilt = bytearray(sample)
            for _ in range(rng.randint(1, 4)):
                place = rng.randrange(len(spoilt) + 1)
                raw = rng.choice(
                    [b"", rng.randbytes(2), b'"', b"\\", b"{", b"}", b"[", b"]", b",", b":", b"\\ud8"]
                )
                spoilt[place : place + rng.randint(0, 3)] = raw
            return bytes(spoilt)
        case _:
            return json.dumps(_tree(rng, 0)).encode()


def _tree(rng: random.Random, depth: int) -> Any:
    keys = [
        "jobid",
        "status",
        "channel",
        "maxJobs",
        "discord",
        "error",
        "code",
        "executingJobs",
        "retryAfter",
    ]
    kinds = 6 if depth > 5 else 8
    match rng.randrange(kinds):
        case 0:
            return rng.choice([None, True, False])
        case 1:
            return rng.choice([rng.randint(-3, 12), rng.getrandbits(70), rng.uniform(-1e3, 1e3)])
        case 2:
            return rng.choice(["", "started", "completed", "1193054500145942538", "job:1", TOKEN])
        case 3 | 4 | 5:
            return "".join(
                chr(rng.choice([rng.randrange(128), rng.randrange(0x3000)])) for _ in range(rng.randrange(9))
            )
        case 6:
            return [_tree(rng, depth + 1) for _ in range(rng.randrange(5))]
        case _:
            return {rng.choice([*keys, "1", ""]): _tree(rng, depth + 1) for _ in range(rng.randrange(5))}
