"""Checks of a scenario's fields: every error names the field and says what would be right."""

import math
from array import array
from collections.abc import Iterable
from typing import Any, Final

import attrs

from pika_balancer.errors import InvalidArgument

LARGEST: Final = 1e15
"""Beyond it lies what nobody means, and where squares and quotients are no numbers any more."""

Validator = Any
"""What attrs calls with (instance, attribute, value); attrs' own type for it is private."""


def number(
    *,
    above: float | None = None,
    least: float | None = None,
    most: float | None = None,
    infinite: bool = False,
) -> Validator:
    """Return a validator for a finite number within bounds.

    Args:
        above: It must exceed this.
        least: It must be at least this.
        most: It must be at most this.
        infinite: Whether infinity will do too.
    """
    bounds = [f"above {above:g}"] if above is not None else []
    bounds += [f"at least {least:g}"] if least is not None else []
    bounds += [f"at most {most:g}"] if most is not None else []
    wanted = "a number" + (f" {' and '.join(bounds)}" if bounds else "")
    least_of_all = 1 / LARGEST if above is not None else 0.0
    fit = f" from {least_of_all:g} to {LARGEST:g}"

    def check(_owner: object, attribute: "attrs.Attribute[Any]", value: Any) -> None:
        sound = (
            isinstance(value, int | float)
            and not isinstance(value, bool)
            and (math.isfinite(value) or (infinite and value > 0))
            and (above is None or value > above)
            and (least is None or value >= least)
            and (most is None or value <= most)
        )
        if not sound:
            raise InvalidArgument(
                f"{attribute.name} must be {wanted}, not {value!r:.40}", field=attribute.name
            )
        if value < math.inf and not least_of_all <= value <= LARGEST:
            raise InvalidArgument(
                f"{attribute.name} must be a number{fit}, not {value!r:.40}", field=attribute.name
            )

    return check


def whole(*, least: int) -> Validator:
    """Return a validator for a whole number of at least so much."""

    def check(_owner: object, attribute: "attrs.Attribute[Any]", value: Any) -> None:
        if type(value) is not int or value < least:
            raise InvalidArgument(
                f"{attribute.name} must be a whole number of at least {least}, not {value!r:.40}",
                field=attribute.name,
            )

    return check


def kind(*kinds: type, hint: str = "") -> Validator:
    """Return a validator for an object of one of the given classes; `hint` says which would be right."""
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
        InvalidArgument: There are none, or one is no finite number of at least 0; it is named by its place.
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
    """Return how a column of numbers is shown: by its length."""
    return f"<{len(column):,} numbers>"
