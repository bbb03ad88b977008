"""One grammar: a kind, a colon, and fields by position or by name: `retry:15s,80,jitter=20%`."""

from collections.abc import Callable
from typing import Any, Final

import attrs

from pika_balancer._util import units
from pika_balancer._util.units import nearest, wrong
from pika_balancer.errors import InvalidArgument


@attrs.frozen
class Unit:
    """How a field is read and written; `parse` reads what `format` writes as the same value."""

    parse: Callable[..., Any]
    """Called with the text and `field=`."""
    format: Callable[[Any], str]
    whole: bool = False
    """Whether the text may contain commas; the field is the only one of its kind then."""


RATE: Final = Unit(units.parse_rate, units.format_rate)
DURATION: Final = Unit(units.parse_duration, units.format_duration)
SHARE: Final = Unit(units.parse_share, units.format_share)
NUMBER: Final = Unit(units.parse_number, units.format_number)
COUNT: Final = Unit(units.parse_count, lambda value: str(int(value)))


def _present(_text: str, **_field: str) -> bool:
    return True


FLAG: Final = Unit(_present, lambda _value: "")
"""A field that is a bare word: True if it is given."""


@attrs.frozen
class Field:
    """One field of a kind; required if it is written by position or has no default in the class."""

    name: str
    """Its name, in the text and in the class."""
    unit: Unit
    placed: bool = False
    """Whether it is written by its position, without its name."""


@attrs.frozen
class Kind:
    """One kind of value that a text can describe."""

    name: str
    make: type[Any]
    """The attrs class; takes the fields by name."""
    fields: tuple[Field, ...]
    example: str
    also: tuple[str, ...] = ()
    """Other names that are accepted."""

    @property
    def defaults(self) -> dict[str, Any]:
        """The default of each field of the class."""
        return {one.name: one.default for one in attrs.fields(self.make)}


def parse_kind(text: str, kinds: tuple[Kind, ...], what: str, field: str, **given: Any) -> Any:
    """Return the value that the text describes; `given` are values of fields that the text may leave out.

    Raises:
        InvalidArgument: It is none of the kinds, or a field of it is wrong, missing or too many; names
            `field`, and the nearest right form.
    """
    name, colon, rest = (part.strip() for part in text.partition(":"))
    known = {word: kind for kind in kinds for word in (kind.name, *kind.also)}
    forms = ", ".join(kind.example for kind in kinds)
    if name.lower() in known:
        if colon and not rest:
            raise wrong(text, field, what, forms, known[name.lower()].example)
        return _make(text, known[name.lower()], rest, what, field, **given)
    close = nearest(name, known)
    if close is None:
        raise wrong(text, field, what, forms)
    # The text with the right name of its kind is suggested if it is right then, else an example.
    corrected = f"{close}:{rest}" if rest else close
    try:
        _make(corrected, known[close], rest, what, field, **given)
    except InvalidArgument:
        corrected = known[close].example
    raise wrong(text, field, what, forms, corrected)


def parse_fields(text: str, kind: Kind, what: str, field: str) -> Any:
    """Return the value of this kind that the text, which does not name it, describes: `above=3,each=20%`.

    Raises:
        InvalidArgument: As `parse_kind`.
    """
    if not text.strip():
        raise wrong(text, field, what, kind.example)
    return _make(text, kind, text.strip(), what, field)


def format_kind(value: Any, kinds: tuple[Kind, ...]) -> str:
    """Return the text that describes the value.

    Raises:
        InvalidArgument: It is of no kind that a text can describe.
    """
    kind = next((kind for kind in kinds if kind.make is type(value)), None)
    if kind is None:
        raise InvalidArgument(f"{type(value).__name__} cannot be written as a text", field="value")
    text = format_fields(value, kind)
    return f"{kind.name}:{text}" if text else kind.name


def format_fields(value: Any, kind: Kind) -> str:
    """Return the text that describes the value, without the name of its kind."""
    parts: list[str] = []
    defaults = kind.defaults
    for one in kind.fields:
        own = getattr(value, one.name)
        if one.placed or own != defaults[one.name]:
            name = "" if one.placed else one.name if one.unit is FLAG else f"{one.name}="
            parts.append(name + one.unit.format(own))
    return ",".join(parts)


def _make(text: str, kind: Kind, rest: str, what: str, field: str, **given: Any) -> Any:
    defaults = kind.defaults
    values = given | (_values(text, kind, rest, what, field) if rest else {})
    missing = [
        one.name
        for one in kind.fields
        if one.name not in values and (one.placed or defaults[one.name] is attrs.NOTHING)
    ]
    if missing and not rest:
        raise wrong(text, field, what, kind.example, kind.example)
    if missing:
        raise InvalidArgument(
            f"{field}: {text!r:.60} lacks {' and '.join(missing)}; did you mean {kind.example}?", field=field
        )
    try:
        return kind.make(**{one.name: values[one.name] for one in kind.fields if one.name in values})
    except InvalidArgument as error:
        raise InvalidArgument(f"{field}: {text!r:.60} cannot be: {error}", field=field) from None


def _values(text: str, kind: Kind, rest: str, what: str, field: str) -> dict[str, Any]:
    """Return the values of the fields that the text gives, by their names."""
    known = {one.name: one for one in kind.fields}
    values: dict[str, Any] = {}
    for position, part in enumerate(_parts(rest, known)):
        name, equals, value = (piece.strip() for piece in part.partition("="))
        if equals or (name in known and known[name].unit is FLAG):
            one = known.get(name)
        else:
            one, value = (kind.fields[position] if position < len(kind.fields) else None), name
        if one is None or one.name in values:
            close = nearest(name, known)
            hint = (
                f"did you mean {close}={value[:40] or '…'}?" if close and equals else f"as in {kind.example}"
            )
            problem = "twice" if one is not None else "which it does not take"
            raise InvalidArgument(
                f"{field}: {text!r:.60} has {part.strip()!r:.60} {problem}; {hint}", field=field
            )
        try:
            values[one.name] = one.unit.parse(value, field=field)
        except InvalidArgument as error:
            raise InvalidArgument(f"{error} ({one.name} of {what} {text!r:.60})", field=field) from None
    return values


def _parts(rest: str, known: dict[str, Field]) -> list[str]:
    """Split at the commas between fields, not at those inside a field: `patience=gamma:mean=9s,cv=2`."""
    if any(one.unit.whole for one in known.values()):
        return [rest]
    parts: list[str] = []
    for part in rest.split(","):
        name = part.partition("=")[0].strip()
        if parts and ":" in parts[-1] and "=" in part and name not in known:
            parts[-1] += f",{part}"
        else:
            parts.append(part)
    return parts
