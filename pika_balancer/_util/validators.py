"""Checks of numbers and types; every error names the field and says which value would be right."""

import math
from array import array
from collections.abc import Iterable
from typing import Any, Final

import attrs

from pika_balancer.errors import InvalidArgument

LARGEST: Final = 1e15
"""The largest number that a field may hold, and the inverse of the least one: their squares and quotients are
finite.
"""

Validator = Any
"""What attrs calls with (instance, attribute, value); attrs' own type for it is private."""


def checked(
    value: Any,
    field: str,
    *,
    above: float | None = None,
    least: float | None = None,
    below: float | None = None,
    most: float | None = None,
    infinite: bool = False,
) -> float:
    """Return the value as a float.

    Args:
        value: Is to be an int or a float, and finite.
        field: The name that an error gives it.
        above: The value must exceed this.
        least: The value must be at least this.
        below: The value must be less than this.
        most: The value must be at most this.
        infinite: Accept infinity, too.

    Raises:
        InvalidArgument: The value is no such number.
    """
    sound = isinstance(value, int | float) and not isinstance(value, bool)
    try:
        number = float(value) if sound else math.nan
    except OverflowError:  # an int beyond the largest float
        number = math.inf
    if (
        not (math.isfinite(number) or (infinite and number > 0))
        or (above is not None and not number > above)
        or (least is not None and not number >= least)
        or (below is not None and not number < below)
        or (most is not None and not number <= most)
    ):
        bounds = {"above": above, "at least": least, "below": below, "at most": most}
        wanted = " and ".join(f"{word} {bound:g}" for word, bound in bounds.items() if bound is not None)
        if least is not None and most is not None:
            wanted = f"from {least:g} to {most:g}"
        raise InvalidArgument(f"{field} must be a number {wanted}, not {value!r:.40}", field=field)
    return number


def checked_whole(value: Any, field: str, *, least: int = 1, most: float = math.inf) -> int:
    """Return the value, an int from `least` to `most`.

    Raises:
        InvalidArgument: The value is no such int.
    """
    if type(value) is not int or not least <= value <= most:
        bound = f"of at least {least}" if most == math.inf else f"from {least} to {most:,}"
        raise InvalidArgument(f"{field} must be a whole number {bound}, not {value!r:.40}", field=field)
    return value


def number(
    *,
    above: float | None = None,
    least: float | None = None,
    most: float = LARGEST,
    infinite: bool = False,
) -> Validator:
    """Return a validator for a number within the bounds of `checked`; with `above`, at least 1/`LARGEST`."""

    def check(_owner: object, attribute: "attrs.Attribute[Any]", value: Any) -> None:
        if checked(value, attribute.name, above=above, least=least, infinite=infinite) < math.inf:
            checked(value, attribute.name, least=least if above is None else 1 / LARGEST, most=most)

    return check


def whole(*, least: int) -> Validator:
    """Return a validator for an int of at least `least`."""

    def check(_owner: object, attribute: "attrs.Attribute[Any]", value: Any) -> None:
        checked_whole(value, attribute.name, least=least)

    return check


def kind(*kinds: type, hint: str = "") -> Validator:
    """Return a validator for an object of one of the given classes; `hint` is what errors ask for."""
    names = hint or " or ".join("None" if cls is type(None) else cls.__name__ for cls in kinds)

    def check(_owner: object, attribute: "attrs.Attribute[Any]", value: Any) -> None:
        if not isinstance(value, kinds):
            raise InvalidArgument(
                f"{attribute.name} must be {names}, not {type(value).__name__}", field=attribute.name
            )

    return check


def seconds(values: Iterable[float], field: str) -> "array[float]":
    """Return the values as an array of floats.

    Raises:
        InvalidArgument: There are none, or one is no finite number of at least 0; the error gives its place.
    """
    try:
        column = array("d", values)
    except TypeError:
        raise InvalidArgument(f"{field} must be numbers, in seconds", field=field) from None
    if not column:
        raise InvalidArgument(f"{field} must have at least one value", field=field)
    # A sum is quick, and finite only if all are.
    if min(column) < 0 or not math.isfinite(sum(column)):
        for place, value in enumerate(column):
            if not 0 <= value < math.inf:
                raise InvalidArgument(
                    f"{field} must be finite and at least 0; number {place + 1} is {value}", field=field
                )
    return column


def length(column: "array[float]") -> str:
    """Return the `repr` of a long column of numbers: its length."""
    return f"<{len(column):,} numbers>"
