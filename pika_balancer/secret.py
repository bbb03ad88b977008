"""`Secret`, a token that never shows itself, and `Redactor`, which removes secrets from text."""

import base64
import functools
import hmac
import json
import re
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from typing import Any, Final, TypeVar
from urllib.parse import quote, urlsplit

from pika_balancer._util.text import encodable, printable
from pika_balancer.errors import PikaError

T = TypeVar("T")


class Secret:
    """A token that is hidden in `repr`, `str`, `format`, `attrs.asdict`, JSON and pickles.

    Only `reveal()` returns it. A pickle carries the wrapper without the value, so that accounts can be sent
    to other processes; `reveal()` raises `PikaError` there. A copy is the object itself. Immutable, compared
    in constant time.
    """

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value: str | None = value

    def reveal(self) -> str:
        """Return the token. Do not bind it to a local name: a traceback could show it."""
        if self._value is None:
            raise PikaError("a pickled secret has no value; fetch the accounts again")
        return self._value

    def __repr__(self) -> str:
        return "Secret('***')"

    def __str__(self) -> str:
        return "***"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        if self._value is None or other._value is None:
            return self._value is other._value
        mine, theirs = (secret.encode("utf-8", "surrogatepass") for secret in (self._value, other._value))
        return hmac.compare_digest(mine, theirs)

    def __hash__(self) -> int:
        return hash((Secret, self._value))

    def __copy__(self) -> "Secret":
        return self

    def __deepcopy__(self, memo: object) -> "Secret":
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return (_withheld, ())


def _withheld() -> Secret:
    secret = Secret("")
    secret._value = None  # noqa: SLF001 - only here is an empty secret made
    return secret


def hidden(value: str | Secret | None) -> Secret | None:
    """Return a string as a `Secret`, and anything else unchanged."""
    return Secret(value) if isinstance(value, str) else value


def guarded(shown: Callable[[T], str]) -> Callable[[T], str]:
    """Make a `__repr__` work on an object whose constructor raised; tracebacks with locals show it."""

    @functools.wraps(shown)
    def show(self: T) -> str:
        try:
            return shown(self)
        except AttributeError:
            return object.__repr__(self)

    return show


HIDDEN: Final = "***"
"""The replacement for a secret."""

_SEGMENT: Final = 64
_LONGEST: Final = 1024
_MANY: Final = 64
_REAL: Final = 8
_PIECE: Final = 12
_LONGEST_WORDS: Final = 4096
# Starts at the start of a word only: else a long text would cost quadratic time.
_TOKEN_SHAPE: Final = re.compile(r"(?<![\w-])[\w-]{24,}\.[\w-]{6,}\.[\w-]{27,}", re.ASCII)
_PLAIN_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")


def telling_parts(url: str) -> list[str]:
    """Return the parts of a URL that may be secret: credentials, a long path, query, fragment."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return [url]
    told = (parts.netloc.rpartition("@")[0], parts.path.strip("/"), parts.query, parts.fragment)
    return [text for text in told if len(text) >= _REAL]


def shown_url(url: str) -> str:
    """Return the URL without its parts that may be secret."""
    for part in telling_parts(url):
        url = url.replace(part, HIDDEN)
    return url


class Redactor:
    """Removes known secrets from text.

    It holds them in the clear: do not bind it in a frame that a traceback may show.
    """

    def __init__(self, secrets: Iterable[Secret] = (), found: Iterable[str] = ()) -> None:
        self._known = {secret.reveal() for secret in secrets} | set(found)
        self._known.discard("")
        self._lengths = sorted({len(secret) for secret in self._known})
        self._steps: dict[str, str] = {}

    def hides(self, text: str, *, shortest: int = 1) -> bool:
        """Return whether `text` is a known secret, or contains one of at least `shortest` characters.

        Anything that has the shape of a Discord token counts as one; a very long text as containing one.
        """
        if text in self._known or _TOKEN_SHAPE.search(text):
            return True
        if len(self._known) <= _MANY:
            return any(len(secret) >= shortest and secret in text for secret in self._known)
        if len(text) * len(self._lengths) > _LONGEST:
            return True
        # Looks up slices in the set: a body can name thousands of tokens and thousands of faulty keys.
        return any(
            text[start : start + length] in self._known
            for length in self._lengths
            if length >= shortest
            for start in range(len(text) - length + 1)
        )

    def fact(self, value: object) -> str | None:
        """Return `value` if it is a usable string without a secret, else None.

        A secret of a few characters, as in tests, does not hide an id that happens to contain it.
        """
        if not isinstance(value, str) or not value or not encodable(value):
            return None
        return None if self.hides(value, shortest=_REAL) else value

    def path(self, where: Iterable[str | int]) -> str:
        """Return a JSON path such as `$['123'].maxJobs` that is safe to print."""
        path = "$"
        for step in where:
            path += f"[{step}]" if isinstance(step, int) else self._step(step)
            if len(path) > 4 * _SEGMENT:
                return path[: 4 * _SEGMENT - 1] + "…"
        return path

    def _step(self, step: str) -> str:
        if (shown := self._steps.get(step)) is None:
            if self.hides(step):
                shown = f"['{HIDDEN}']"
            elif _PLAIN_NAME.fullmatch(step):
                shown = f".{step}"
            else:
                quoted = step[: _SEGMENT + 1].replace("\\", "\\\\").replace("'", "\\'")
                shown = f"['{printable(quoted, _SEGMENT)}']"
            self._steps[step] = shown
        return shown

    def words(self, text: str) -> str:
        """Return a foreign sentence, safe to print; empty if it cannot be made safe.

        A secret is hidden in every known encoding, and in part where twelve of its characters appear in a
        row: a service may quote half a token. Anything that has the shape of a Discord token is hidden, too.
        """
        return "" if len(self._known) > _MANY else printable(self.hide(text[:_LONGEST_WORDS]).strip())

    def hide(self, text: str) -> str:
        """Return `text` with the secrets hidden as in `words`, otherwise unchanged."""
        text = _TOKEN_SHAPE.sub(HIDDEN, text)
        short, pieces = self._writings
        if short is not None:
            text = short.sub(HIDDEN, text)
        told: list[str] = []
        shown = hidden = 0
        for start in range(len(text) - _PIECE + 1) if pieces else ():
            if text[start : start + _PIECE] in pieces:
                if start > hidden or not told:
                    told += (text[shown:start], HIDDEN)
                shown = hidden = start + _PIECE
        return "".join((*told, text[shown:]))

    @cached_property
    def _writings(self) -> tuple[re.Pattern[str] | None, frozenset[str]]:
        """A pattern for the short secrets, and all pieces of the long ones."""
        encodings = {text for secret in self._known for text in _encodings(secret)}
        short = sorted((text for text in encodings if len(text) < _PIECE), key=len, reverse=True)
        pieces = frozenset(
            text[start : start + _PIECE] for text in encodings for start in range(len(text) - _PIECE + 1)
        )
        return re.compile("|".join(map(re.escape, short))) if short else None, pieces


def _encodings(secret: str) -> Iterator[str]:
    """Yield the secret plain and as encoded in a URL, JSON, a repr and base64."""
    raw = secret.encode("utf-8", "surrogatepass")
    percent = quote(raw, safe="")
    yield from (secret, percent, re.sub("%..", lambda code: code[0].lower(), percent), quote(raw))
    yield from (json.dumps(secret)[1:-1], repr(secret)[1:-1])
    for offset in range(3):  # offset within a group of three bytes
        padded = bytes(offset) + raw
        # Only the part of the base64 text that does not depend on the bytes around the secret.
        part = slice((0, 2, 3)[offset], len(padded) // 3 * 4)
        for encode in (base64.b64encode, base64.urlsafe_b64encode):
            encoded = encode(padded).decode()[part]
            if len(encoded) >= _REAL:  # shorter ones would hide ordinary words
                yield encoded
