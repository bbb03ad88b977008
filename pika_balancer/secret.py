"""`Secret`: a token that does not show itself; and reprs that stand wherever an error is shown."""

import functools
import hmac
from collections.abc import Callable
from typing import Any, TypeVar

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
