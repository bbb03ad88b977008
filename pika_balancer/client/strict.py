"""Strict JSON: bytes to a tree, and from a tree's faults to one `InvalidResponse` that quotes no secret."""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, Final, TypeVar, cast

from pika_balancer._util.text import encodable, printable
from pika_balancer.errors import Fault, InvalidResponse
from pika_balancer.models import Secret
from pika_balancer.secret import Redactor

T = TypeVar("T")
Where = tuple[str | int, ...]
"""The keys and places that lead to a value."""
Faults = list[tuple[Where, str]]
"""What is wrong, and where."""

_MAX_DEPTH: Final = 64
_MAX_FAULTS: Final = 50_000  # bounds memory; above any account map that is wrong by accident
_SOUND: Final = frozenset({int, float, bool, type(None)})
_HALF: Final = re.compile(rb"\\u[dD][89a-fA-F]")
_BOM: Final = b"\xef\xbb\xbf"


class Doubled(dict[str, Any]):
    """An object with duplicate keys; every other object is a plain dict."""

    twice: frozenset[str]
    """The keys that appear more than once."""


class _Constant(float):
    """NaN or an infinity, which JSON does not have."""


def read(
    what: str,
    body: bytes,
    secrets: Sequence[Secret],
    wanted: type[list[Any]] | type[dict[str, Any]],
    make: Callable[[Any, Faults], T | None],
    *,
    deep: bool = False,
) -> T | InvalidResponse:
    """Return what `make(tree, faults)` makes of the body, or every fault of it as one error; raise nothing.

    Args:
        what: Names the body in the error's message.
        body: UTF-8; a byte order mark is let pass.
        secrets: Tokens that no fault may quote; Discord tokens in the body are never quoted either.
        wanted: What the tree must be.
        make: Reads the tree and appends to `faults`; its value is used if nothing was appended.
        deep: Whether `damage` is looked for at every depth first.
    """
    discords: set[str] = set()
    faults: Faults = []
    tree, problem, sound = _decode(body, discords)
    if problem is not None:
        faults.append(((), problem))
    elif not isinstance(tree, wanted):
        faults.append(((), f"must be {'a list' if wanted is list else 'an object'}, not {kind(tree)}"))
    else:
        if deep and not sound:
            faults.extend(islice(damage(tree, ()), _MAX_FAULTS + 1))
        value = make(tree, faults)
        if not faults:
            return cast("T", value)
    return _refusal(what, faults, Redactor(secrets, discords))


def load(body: bytes) -> tuple[Any, set[str]]:
    """Return the tree, None if the body is not JSON, and the Discord tokens in it; for an error's body."""
    discords: set[str] = set()
    return _decode(body, discords)[0], discords


def _refusal(what: str, faults: Faults, redactor: Redactor) -> InvalidResponse:
    listed = [Fault(redactor.path(where), problem) for where, problem in faults[:_MAX_FAULTS]]
    if len(faults) > _MAX_FAULTS:
        listed.append(Fault("$", f"and {len(faults) - _MAX_FAULTS} faults more"))
    more = f" (and {len(listed) - 1} more, see `faults`)" if len(listed) > 1 else ""
    message = f"{what} in the service's answer breaks the contract: {listed[0]}{more}"
    return InvalidResponse(message, faults=tuple(listed))


def _decode(body: bytes, discords: set[str]) -> tuple[Any, str | None, bool]:
    """Return the tree, or what keeps the body from being JSON; fill in the Discord tokens seen.

    Returns as well whether it is known to be without `damage`, as nearly every body is: it has no escape that
    could be half a character, no key twice, no constant that JSON does not have, and hardly any depth.
    """
    whole = True

    def build(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        made = dict(pairs)
        if "discord" in made:
            for key, value in pairs:
                if key == "discord":
                    discords.update(item for item in _listed(value) if isinstance(item, str))
        if len(made) == len(pairs):
            return made
        nonlocal whole
        whole = False
        return _doubled(pairs)

    def constant(name: str) -> _Constant:
        nonlocal whole
        whole = False
        return _Constant(name)

    try:
        text = body.removeprefix(_BOM).decode()
        tree = json.loads(text, object_pairs_hook=build, parse_constant=constant)
    except (ValueError, RecursionError) as error:
        return None, _problem(error, body), False
    shallow = body.count(b"{") + body.count(b"[") <= _MAX_DEPTH
    return tree, None, whole and shallow and not _HALF.search(body)


def _doubled(pairs: list[tuple[str, Any]]) -> Doubled:
    doubled = Doubled(pairs)
    seen: set[str] = set()
    twice: set[str] = set()
    for key, _ in pairs:
        (twice if key in seen else seen).add(key)
    doubled.twice = frozenset(twice)
    return doubled


def _problem(error: Exception, body: bytes) -> str:
    start = body.lstrip()[:1]
    if start in (b"", b"<"):
        return "is HTML or XML where JSON was expected; check the base URL" if start else "is empty"
    if isinstance(error, UnicodeDecodeError):
        return f"is not UTF-8 at byte {error.start}"
    if isinstance(error, json.JSONDecodeError):
        return f"is not JSON at character {error.pos}: {printable(error.msg)}"
    if isinstance(error, RecursionError):
        return f"is nested deeper than {_MAX_DEPTH} levels"
    return "has a number of too many digits"


def _listed(value: Any) -> Iterable[Any]:
    return cast("Iterable[Any]", value) if isinstance(value, list) else (value,)


def damage(value: Any, where: Where) -> Iterator[tuple[Where, str]]:
    """Yield what is wrong at any depth whatever the fields mean, in the order of the body."""
    if isinstance(value, str):
        if not encodable(value):
            yield where, "has a lone surrogate"
    elif isinstance(value, _Constant):
        yield where, "is NaN or infinite, which JSON does not have"
    elif isinstance(value, dict | list):
        if len(where) >= _MAX_DEPTH:
            yield where, f"is nested deeper than {_MAX_DEPTH} levels"
            return
        steps: Iterable[tuple[str | int, Any]]
        if isinstance(value, dict):
            fields = cast("dict[str, Any]", value)
            yield from (fault for key in fields for fault in bad_key(fields, key, where))
            steps = fields.items()
        else:
            steps = enumerate(cast("Sequence[Any]", value))
        for step, item in steps:
            if type(item) not in _SOUND:  # no path is made for what cannot be wrong
                yield from damage(item, (*where, step))


def bad_key(fields: dict[str, Any], key: str, where: Where) -> Iterator[tuple[Where, str]]:
    """Yield what is wrong with one key of the object at `where`."""
    if isinstance(fields, Doubled) and key in fields.twice:
        yield (*where, key), "appears more than once"
    if not encodable(key):
        yield (*where, key), "has a lone surrogate in its key"


def kind(value: object) -> str:
    """Return the name of a JSON value's type, with article."""
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    if isinstance(value, _Constant):
        return "NaN"
    names = ((str, "a string"), (int, "a whole number"), (float, "a number with a point"), (list, "a list"))
    return next((name for cls, name in names if isinstance(value, cls)), "an object")
