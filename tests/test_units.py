"""Durations and rates with units: what is right is read, what is wrong names the nearest right form."""

import pytest

from pika_balancer._util.units import parse_duration, parse_rate
from pika_balancer.errors import InvalidArgument


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("500ms", 0.5),
        ("30", 30.0),
        (" 3 min ", 180.0),
        ("1.5h", 5400.0),
        (".5s", 0.5),
        ("1e2s", 100.0),
        ("1h30m", 5400.0),
        ("1d2h3min", 93780.0),
    ],
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text, field="grace") == seconds


@pytest.mark.parametrize(
    ("text", "rate"), [("200/s", 200.0), ("90/min", 1.5), ("90 per min", 1.5), ("5 /h", 5 / 3600)]
)
def test_rates(text: str, rate: float) -> None:
    assert parse_rate(text, field="rate") == rate


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("5m", "did you mean 5min?"),
        ("2 Hours", "did you mean 2h?"),
        ("10msec", "did you mean 10ms?"),
        ("7 milliseconds", "did you mean 7ms?"),
        ("30S", "did you mean 30s?"),
        ("4 parsec", "write it as 180s, 500ms, 3min or 1.5h"),
        ("30m1h", "write it as 180s"),
        ("1h30", "write it as 180s"),
        ("soon", "write it as 180s"),
        ("-3s", "write it as 180s"),
        ("nan", "write it as 180s"),
        ("1e400", "is too large"),
    ],
)
def test_wrong_durations(text: str, hint: str) -> None:
    with pytest.raises(InvalidArgument, match=r"^grace: ") as caught:
        parse_duration(text, field="grace")
    assert hint in str(caught.value)
    assert caught.value.field == "grace"


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("200", "did you mean 200/h?"),
        ("200s", "did you mean 200/s?"),
        ("500/hour", "did you mean 500/h?"),
        ("9/fortnight", "write it as 500/h, 8/min or 0.14/s"),
        ("/s", "write it as 500/h"),
        ("1e400/s", "is too large"),
    ],
)
def test_wrong_rates(text: str, hint: str) -> None:
    with pytest.raises(InvalidArgument, match=r"^rate: ") as caught:
        parse_rate(text, field="rate")
    assert hint in str(caught.value)
