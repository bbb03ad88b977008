"""Canaries: secrets that are none, and a walk that finds them in whatever shape they came out.

The walk sees what an error tracker, a debugger or a pickle would see: texts, attributes, frames and all that
hangs on them. It stops where a secret is documented to be: in a `Secret`, in a client of redis-py, and in the
`reply_url` of a `Job`, which its repr leaves out. And in the tests' own frames.
"""

import base64
import functools
import html
import inspect
import json
import traceback
import types
from asyncio import AbstractEventLoop
from collections import deque
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, quote_plus

import attrs

from pika_balancer.models import Job, Secret

API: Final = "user:1234-c4n4ry+of/the=api&token.x"
DISCORD: Final = 'MTAw.c4n4ry-0f/a+discord"token\\.Zz'
PASSWORD: Final = "r3dis-c4n4ry/p@ss:w0rd%x"
PATH: Final = "c4ll-b4ck_c4n4ry-p4th-0123456789"
WEBHOOK: Final = "h00k-c4n4ry-us3rinf0"
CANARIES: Final = {
    "API token": API,
    "Discord token": DISCORD,
    "store's password": PASSWORD,
    "callback's path": PATH,
    "webhook's userinfo": WEBHOOK,
}

REPLY_URL: Final = f"http://bot:{WEBHOOK}@127.0.0.1:9/{PATH}?sig={PATH[::-1]}"
"""Secret address for the report of a job's end."""

_PIECE: Final = 12
_LOCALS: Final = 300_000


def looks(secret: str) -> set[str]:
    """Return the secret plain and as encoded in a URL, JSON, HTML, base64 and a repr."""
    raw = secret.encode()
    forms = {secret, quote(secret, safe=""), quote(secret), quote_plus(secret), html.escape(secret)}
    forms |= {quote(secret, safe="").lower(), json.dumps(secret)[1:-1], repr(secret)[1:-1], raw.hex()}
    forms |= {repr(repr(secret))[2:-2], json.dumps(json.dumps(secret))[3:-3]}
    for offset in range(3):
        padded = bytes(offset) + raw
        # Only the characters that do not depend on the text around it.
        whole = slice(-(-offset * 8 // 6) if offset else 0, len(padded) // 3 * 4)
        forms |= {base64.b64encode(padded).decode()[whole], base64.urlsafe_b64encode(padded).decode()[whole]}
    return forms


@functools.cache
def _pieces() -> dict[str, str]:
    """Return the pieces that identify a canary, so that half of one is found, too."""
    return {
        form[start : start + _PIECE]: name
        for name, secret in CANARIES.items()
        for form in looks(secret)
        for start in [*range(0, len(form) - _PIECE, _PIECE // 2), len(form) - _PIECE]
    }


def found(text: str | bytes) -> set[str]:
    """Return the names of the canaries that are in the text."""
    text = text.decode("utf-8", "replace") if isinstance(text, bytes) else text
    return {name for piece, name in _pieces().items() if piece in text}


def leaks(*things: object) -> list[str]:
    """Return the attribute paths by which canaries can be reached from the objects."""
    walk = _Walk()
    for number, thing in enumerate(things):
        walk.visit(thing, f"{type(thing).__name__}#{number}", shown=True)
    return sorted(walk.leaks)


def reached(*things: object) -> set[type]:
    """Return the classes of all objects that can be reached from these."""
    walk = _Walk()
    for thing in things:
        walk.visit(thing, "", shown=False)
    return {type(thing) for thing in walk.seen.values()}


class _Walk:
    def __init__(self) -> None:
        self.leaks: set[str] = set()
        self.seen: dict[int, object] = {}

    def visit(self, root: object, where: str, *, shown: bool) -> None:
        pile: list[tuple[object, str, bool]] = [(root, where, shown)]
        while pile:
            thing, where, shown = pile.pop()
            if isinstance(thing, str | bytes | bytearray):
                self._note(bytes(thing) if isinstance(thing, bytearray) else thing, where)
            elif id(thing) not in self.seen and not _allowed(thing):
                self.seen[id(thing)] = thing
                if shown or isinstance(thing, BaseException) or _is_ours(thing):
                    self._note(_shown(thing), f"repr of {where}")
                pile.extend((part, f"{where}{step}", step[0] == "!") for step, part in _parts(thing))

    def _note(self, text: str | bytes, where: str) -> None:
        self.leaks |= {f"{name} in {where}" for name in found(text)}


def _allowed(thing: object) -> bool:
    if isinstance(thing, Secret | type | types.ModuleType | AbstractEventLoop | int | float | None):
        return True
    home = _home(thing)
    # redis-py's client documents that it holds its credentials; test modules hold the canaries.
    return home in {"redis", "valkey", "tests", "os", "_pytest", "pytest", "pytest_asyncio", "logging"}


def _is_ours(thing: object) -> bool:
    return _home(thing) == "pika_balancer"


def _home(thing: object) -> str:
    named = thing if isinstance(thing, types.FunctionType) else type(thing)
    return str(named.__module__).partition(".")[0]


def _shown(thing: object) -> str:
    try:
        return f"{thing!r} {thing}"
    except Exception:  # noqa: BLE001 - half-made objects in frames have no repr
        return ""


def _parts(thing: Any) -> Iterator[tuple[str, object]]:
    """Yield what an object refers to; a step with "!" is text as an error tracker shows it."""
    kind = type(thing)
    if isinstance(thing, types.TracebackType):
        yield from _frames(thing)
    elif isinstance(thing, types.FunctionType | types.MethodType | functools.partial):
        yield from _bound(thing)
    else:
        if isinstance(thing, Mapping):
            for key, value in list(thing.items()):
                yield from ((".key", key), (f"[{key!r}]" if isinstance(key, str | int) else "[?]", value))
        elif issubclass(kind, list | tuple | set | frozenset | deque):
            yield from (("[]", item) for item in list(thing))
        elif isinstance(thing, BaseException):
            yield from _of_an_error(thing)
        yield from _suspended(thing)
        for name, value in _attributes(thing):
            if not (isinstance(thing, Job) and name == "reply_url"):
                yield f".{name}", value


def _suspended(thing: object) -> Iterator[tuple[str, object]]:
    for name in ("cr_frame", "gi_frame", "ag_frame"):
        frame = getattr(thing, name, None)
        if isinstance(frame, types.FrameType) and "/tests/" not in frame.f_code.co_filename:
            yield f".{name}", dict(frame.f_locals)


def _bound(thing: Any) -> Iterator[tuple[str, object]]:
    if isinstance(thing, functools.partial):
        yield ".partial", (thing.func, thing.args, thing.keywords)
    elif isinstance(thing, types.MethodType):
        yield ".__self__", thing.__self__
    else:
        yield from (
            ("()", cell.cell_contents) for cell in thing.__closure__ or () if cell != types.CellType()
        )
        yield "().__defaults__", thing.__defaults__


def _of_an_error(error: BaseException) -> Iterator[tuple[str, object]]:
    yield "!.args", error.args
    yield ".__cause__", error.__cause__
    yield ".__context__", error.__context__
    yield ".__traceback__", error.__traceback__
    yield ".traceback with locals", _rendered(error)


def _attributes(thing: object) -> Iterator[tuple[str, object]]:
    held = inspect.getattr_static(thing, "__dict__", None)
    if held is not None:
        with_dict: Any = thing
        yield from list(vars(with_dict).items()) if hasattr(thing, "__dict__") else ()
    for cls in type(thing).__mro__:
        for name, member in vars(cls).items():
            if isinstance(member, types.MemberDescriptorType):
                try:
                    yield name, member.__get__(thing)
                except AttributeError:
                    continue


def _frames(trace: types.TracebackType | None) -> Iterator[tuple[str, object]]:
    for frame, line in traceback.walk_tb(trace):
        file = Path(frame.f_code.co_filename)
        if "tests" not in file.parts:
            for name, value in list(frame.f_locals.items()):
                yield f"!{file.name}:{line} {frame.f_code.co_name}.{name}", value


def _rendered(error: BaseException) -> str:
    """Return the standard library's traceback with locals, without the tests' own frames."""
    told = traceback.TracebackException.from_exception(error, capture_locals=True, compact=False)
    pile, lines = [told], list[str]()
    while pile:
        one = pile.pop()
        kept = [frame for frame in one.stack if "/tests/" not in frame.filename]
        one.stack = traceback.StackSummary.from_list(kept)
        for frame, summary in zip(kept, one.stack, strict=True):
            summary.locals = frame.locals
        pile += [inner for inner in (one.__cause__, one.__context__) if inner is not None]
        lines += one.format(chain=False)
    return "".join(lines)[:_LOCALS]


def as_data(thing: Any) -> list[object]:
    """Return `attrs.asdict`, `attrs.astuple` and `vars` of an object, as far as it has them."""
    dumps: list[object] = [vars(thing)] if hasattr(thing, "__dict__") else []
    if attrs.has(type(thing)):
        # As documented, the dump of a job has its reply URL; a request's has it as a `Secret`.
        dumps += [
            dump(thing, filter=lambda field, _: field.name != "reply_url")
            for dump in (attrs.asdict, attrs.astuple)
        ]
    return dumps
