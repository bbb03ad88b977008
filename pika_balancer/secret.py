"""`Secret`: a token that does not show itself; and reprs that stand wherever an error is shown."""

import base64
import functools
import hmac
import json
import re
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from typing import Any, Final, TypeVar
from urllib.parse import quote, urlsplit

from pika_balancer._util.text import printable
from pika_balancer.errors import PikaError

T = TypeVar("T")


class Secret:
    """A token that does not show itself: not in `repr`, `str`, `format`, `attrs.asdict`, JSON or a pickle.

    `reveal()` is the only way out. A pickle or a structured dump carries the wrapper without its value, so
    that accounts can travel to other processes; `reveal()` there raises `PikaError`. Copies made within the
    process are the object itself. Immutable and comparable in constant time.
    """

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value: str | None = value

    def reveal(self) -> str:
        """Return the token itself. Do not bind it to a name in a frame that may end up in a traceback."""
        if self._value is None:
            raise PikaError("this secret stayed behind in the process that made it; fetch the accounts again")
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
    secret._value = None  # noqa: SLF001 - the only place that makes an empty secret, beside the class
    return secret


def hidden(value: str | Secret | None) -> Secret | None:
    """Return a string as a `Secret`, and anything else as it is: it is checked later."""
    return Secret(value) if isinstance(value, str) else value


def guarded(shown: Callable[[T], str]) -> Callable[[T], str]:
    """Make a `__repr__` bear an object whose constructor has raised, as tracebacks with locals show it."""

    @functools.wraps(shown)
    def show(self: T) -> str:
        try:
            return shown(self)
        except AttributeError:
            return object.__repr__(self)

    return show


HIDDEN: Final = "***"
"""What stands where a secret stood."""

_SEGMENT: Final = 64
_LONGEST: Final = 1024
_MANY: Final = 64
_REAL: Final = 8
_PIECE: Final = 12
_LONGEST_WORDS: Final = 4096
_PLAIN_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")


def telling_parts(url: str) -> list[str]:
    """Return what in a URL may give rights to whoever knows it: credentials, a long path, query, fragment."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return [url]
    told = (parts.netloc.rpartition("@")[0], parts.path.strip("/"), parts.query, parts.fragment)
    return [text for text in told if len(text) >= _REAL]


def shown_url(url: str) -> str:
    """Return a URL that tells where it leads, but gives nobody the rights that the whole one may give."""
    for part in telling_parts(url):
        url = url.replace(part, HIDDEN)
    return url


class Redactor:
    """Knows some secrets and keeps them out of text.

    Holds them in the clear: keep it out of frames that may end up in a traceback.
    """

    def __init__(self, secrets: Iterable[Secret] = (), found: Iterable[str] = ()) -> None:
        self._known = {secret.reveal() for secret in secrets} | set(found)
        self._known.discard("")
        self._lengths = sorted({len(secret) for secret in self._known})
        self._steps: dict[str, str] = {}

    def hides(self, text: str, *, shortest: int = 1) -> bool:
        """Return whether `text` is a known secret, or contains one of at least `shortest` characters.

        A very long text counts as if it did.
        """
        if text in self._known:
            return True
        if len(self._known) <= _MANY:
            return any(len(secret) >= shortest and secret in text for secret in self._known)
        if len(text) * len(self._lengths) > _LONGEST:
            return True
        # Slices looked up in the set: a body can name thousands of tokens, and thousands of faulty keys.
        return any(
            text[start : start + length] in self._known
            for length in self._lengths
            if length >= shortest
            for start in range(len(text) - length + 1)
        )

    def fact(self, value: object) -> str | None:
        """Return `value` if it is a usable string without a secret, else None.

        A secret of a few characters, as in tests, does not cost an id that happens to contain it.
        """
        if type(value) is not str or not value or self.hides(value, shortest=_REAL):
            return None
        try:
            value.encode()
        except UnicodeEncodeError:
            return None
        return value

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
        """Return somebody else's sentence, fit to print; empty where it cannot be made safe.

        A secret is hidden in every writing that is known here, and in part where a dozen of its characters
        stand together: a service may quote the half of a token.
        """
        return "" if len(self._known) > _MANY else printable(self.hide(text[:_LONGEST_WORDS]).strip())

    def hide(self, text: str) -> str:
        """Return `text` with what `words` hides hidden, and nothing else changed."""
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
        """What hides the short secrets, and all pieces of the others."""
        looks = {look for secret in self._known for look in _looks(secret)}
        short = sorted((look for look in looks if len(look) < _PIECE), key=len, reverse=True)
        pieces = frozenset(
            look[start : start + _PIECE] for look in looks for start in range(len(look) - _PIECE + 1)
        )
        return re.compile("|".join(map(re.escape, short))) if short else None, pieces


def _looks(secret: str) -> Iterator[str]:
    """Yield the secret as it is and as it looks in a URL, in JSON, in a repr, and in base64."""
    raw = secret.encode("utf-8", "surrogatepass")
    percent = quote(raw, safe="")
    yield from (secret, percent, re.sub("%..", lambda code: code[0].lower(), percent), quote(raw))
    yield from (json.dumps(secret)[1:-1], repr(secret)[1:-1])
    for offset in range(3):  # how far it stands into a group of three bytes
        padded = bytes(offset) + raw
        # Only the part of the base64 form that depends on nothing before or after the secret.
        part = slice((0, 2, 3)[offset], len(padded) // 3 * 4)
        for encode in (base64.b64encode, base64.urlsafe_b64encode):
            look = encode(padded).decode()[part]
            if len(look) >= _REAL:  # below that it would hide ordinary words
                yield look
