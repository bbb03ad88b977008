"""Canary tokens, and a search for them in an error: in its text, attributes, pickle and frames."""

import pickle
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import FrameType, FunctionType, ModuleType
from typing import Any, Final

from pika_balancer.models import Secret

TOKEN: Final = "user:1234-canary-api/token+"
DISCORD: Final = "MTAw.canary.discord-token"
STORED: Final = "MTAx.canary.token-in-the-account-map"
CANARIES: Final = (TOKEN, DISCORD, STORED)

_TESTS: Final = str(Path(__file__).parent)


def found_in(value: Any, seen: set[int], depth: int = 12) -> Iterator[str]:
    """Yield all text that can be reached from a value."""
    if id(value) in seen or depth < 0 or isinstance(value, type | ModuleType | FunctionType | Secret):
        return
    seen.add(id(value))
    yield repr(value)
    if isinstance(value, bytes | bytearray):
        yield value.decode("latin-1")
    parts: list[Any] = []
    if isinstance(value, dict):
        parts += [*value.keys(), *value.values()]
    elif isinstance(value, list | tuple | set | frozenset):
        parts += value
    if isinstance(value, FrameType):
        parts.append(value.f_locals)
    parts += getattr(value, "__dict__", {}).values()
    for cls in type(value).__mro__:
        slots = cls.__dict__.get("__slots__", ())
        names = (slots,) if isinstance(slots, str) else slots
        parts += [getattr(value, name, None) for name in names]
    for part in parts:
        yield from found_in(part, seen, depth - 1)


def leaks(error: BaseException, *, depth: int = 12) -> list[str]:
    """Return every place of an error in which a canary shows: text, attributes, pickle, frames, chain.

    `depth` is how many steps from a local variable of a frame are taken at most.
    """
    texts = [str(error), repr(error), repr(error.args), repr(vars(error))]
    texts += ["".join(traceback.format_exception(error)), pickle.dumps(error).decode("latin-1")]
    # A test's own frames hold the tokens; no other frame may.
    frames = [
        frame
        for frame, _ in traceback.walk_tb(error.__traceback__)
        if not frame.f_code.co_filename.startswith(_TESTS)
    ]
    assert error.__context__ is None
    seen: set[int] = set()
    for frame in frames:
        for name, value in frame.f_locals.items():
            texts += [f"{frame.f_code.co_name}.{name}: {text}" for text in found_in(value, seen, depth)]
    return [text for text in texts if any(canary in text for canary in CANARIES)]
