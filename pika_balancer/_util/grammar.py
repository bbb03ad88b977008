"""One grammar for all: a kind, a colon, and fields by place or by name: `retry:15s,80,jitter=20%`."""

from collections.abc import Callable
from typing import Any, Final, cast

import attrs

from pika_balancer._util.units import (
    format_duration,
    format_number,
    format_rate,
    format_share,
    nearest,
    parse_count,
    parse_duration,
    parse_number,
    parse_rate,
    parse_share,
    wrong,
)
from pika_balancer.errors import InvalidArgument


@attrs.frozen
class Unit:
    """How a field is read and written; what is written reads as the same."""

    parse: Callable[..., Any]
    """Called with the text and `field=`."""
    format: Callable[[Any], str]


RATE: Final = Unit(parse_rate, format_rate)
DURATION: Final = Unit(parse_duration, format_duration)
SHARE: Final = Unit(parse_share, format_share)
NUMBER: Final = Unit(parse_number, format_number)
COUNT: Final = Unit(parse_count, lambda value: str(int(value)))


def _there(_text: str, *, field: str) -> bool:
    del field
    return True


FLAG: Final = Unit(_there, lambda _value: "")
"""A field that is a bare word: there or not."""


@attrs.frozen
class Field:
    """One field of a kind."""

    name: str
    """What it is called, in the text and by the class."""
    unit: Unit
    placed: bool = False
    """Whether it is written by its place, without its name; it is required then."""
    required: bool = False
    """Whether there is no default."""


@attrs.frozen
class Kind:
    """One kind of thing that a text can describe."""

    name: str
    make: Callable[..., Any]
    """The class; takes the fields by name."""
    fields: tuple[Field, ...]
    example: str
    also: tuple[str, ...] = ()
    """Other names that are understood."""


def parse_kind(text: str, kinds: tuple[Kind, ...], what: str, field: str) -> Any:
    """Return what the text describes.

    Raises:
        InvalidArgument: It is none of the kinds, or a field of it is wrong, missing or too many; names
            `field`, and the nearest right form.
    """
    name, colon, rest = (part.strip() for part in text.partition(":"))
    forms = ", ".join(kind.example for kind in kinds)
    kind = next((kind for kind in kinds if name.lower() in {kind.name, *kind.also}), None)
    if kind is None:
        close = nearest(name, [word for kind in kinds for word in (kind.name, *kind.also)])
        kind = next((k for k in kinds if close in {k.name, *k.also}), None)
        raise wrong(text, field, what, forms, None if kind is None else _corrected(kind, rest, what, field))
    if colon and not rest:
        raise wrong(text, field, what, forms, kind.example)
    return _made(text, kind, rest, what, field)


def _corrected(kind: Kind, rest: str, what: str, field: str) -> str:
    """Return the text with the right name of its kind if that makes it right, else the kind's example."""
    text = f"{kind.name}:{rest}" if rest else kind.name
    try:
        _made(text, kind, rest, what, field)
    except InvalidArgument:
        return kind.example
    return text


def parse_fields(text: str, kind: Kind, what: str, field: str) -> Any:
    """Return what the text describes, which is of this kind without saying so: `above=3,each=20%`.

    Raises:
        InvalidArgument: As `parse_kind`.
    """
    if not text.strip():
        raise wrong(text, field, what, kind.example)
    return _made(text, kind, text.strip(), what, field)


def _made(text: str, kind: Kind, rest: str, what: str, field: str) -> Any:
    if not rest and any(one.required or one.placed for one in kind.fields):
        raise wrong(text, field, what, kind.example, kind.example)
    given = _fields(text, kind, rest, what, field) if rest else {}
    missing = [one.name for one in kind.fields if (one.required or one.placed) and one.name not in given]
    if missing:
        raise InvalidArgument(
            f"{field}: {text!r:.60} lacks {' and '.join(missing)}; did you mean {kind.example}?", field=field
        )
    try:
        return kind.make(**given)
    except InvalidArgument as error:
        raise InvalidArgument(f"{field}: {text!r:.60} cannot be: {error}", field=field) from None


def format_kind(value: Any, kinds: tuple[Kind, ...]) -> str:
    """Return the text that describes the value.

    Raises:
        InvalidArgument: It is of no kind that a text can describe.
    """
    kind = next((kind for kind in kinds if kind.make is type(value)), None)
    if kind is None:
        raise InvalidArgument(f"{type(value).__name__} has no form in words", field="value")
    parts: list[str] = []
    defaults: dict[str, Any] = {
        one.name: one.default for one in attrs.fields(cast("type[attrs.AttrsInstance]", type(value)))
    }
    for one in kind.fields:
        given = getattr(value, one.name)
        if one.placed:
            parts.append(one.unit.format(given))
        elif one.required or given != defaults[one.name]:
            parts.append(one.name if one.unit is FLAG else f"{one.name}={one.unit.format(given)}")
    return f"{kind.name}:{','.join(parts)}" if parts else kind.name


def _fields(text: str, kind: Kind, rest: str, what: str, field: str) -> dict[str, Any]:
    known = {one.name: one for one in kind.fields}
    given: dict[str, Any] = {}
    for place, part in enumerate(_parts(rest, known)):
        name, equals, value = (piece.strip() for piece in part.partition("="))
        if equals or (name in known and known[name].unit is FLAG):
            one = known.get(name)
        else:
            one, value = (kind.fields[place] if place < len(kind.fields) else None), name
        if one is None or one.name in given:
            close = nearest(name, known)
            hint = (
                f"did you mean {close}={value[:40] or '…'}?" if close and equals else f"as in {kind.example}"
            )
            problem = "twice" if one is not None else "which it does not take"
            raise InvalidArgument(
                f"{field}: {text!r:.60} has {part.strip()!r:.60} {problem}; {hint}", field=field
            )
        try:
            given[one.name] = one.unit.parse(value, field=field)
        except InvalidArgument as error:
            raise InvalidArgument(f"{error} ({one.name} of {what} {text!r:.60})", field=field) from None
    return given


def _parts(rest: str, known: dict[str, Field]) -> list[str]:
    """Split at commas, except for those of a law that is a field's value: `patience=gamma:mean=9s,cv=2`."""
    parts: list[str] = []
    for part in rest.split(","):
        name = part.partition("=")[0].strip()
        inside = parts and ":" in parts[-1] and "=" in part and name not in known
        if inside:
            parts[-1] += f",{part}"
        else:
            parts.append(part)
    return parts
