"""Numbers with units: right texts are read, errors name the nearest right form, readable durations round."""

import math
from collections.abc import Callable

import pytest

from pika_balancer._util.units import (
    parse_count,
    parse_duration,
    parse_number,
    parse_rate,
    parse_share,
    readable_duration,
)
from pika_balancer.errors import InvalidArgument


@pytest.mark.parametrize(
    ("parse", "text", "value"),
    [
        (parse_duration, "500ms", 0.5),
        (parse_duration, "30", 30.0),
        (parse_duration, " 3 min ", 180.0),
        (parse_duration, "1.5h", 5400.0),
        (parse_duration, ".5s", 0.5),
        (parse_duration, "1e2s", 100.0),
        (parse_duration, "1h30m", 5400.0),
        (parse_duration, "1d 2h 3min", 93780.0),
        (parse_rate, "200/s", 200.0),
        (parse_rate, "90/min", 1.5),
        (parse_rate, "90 per min", 1.5),
        (parse_rate, "86400/d", 1.0),
        (parse_rate, "5 /h", 5 / 3600),
        (parse_count, "1e6", 1_000_000),
        (parse_count, "1_000,000", 1_000_000),
        (parse_share, "85%", 0.85),
        (parse_share, "0.85", 0.85),
        (parse_number, "1e-3", 0.001),
    ],
)
def test_texts_mean_what_they_say(parse: Callable[[str], float], text: str, value: float) -> None:
    assert parse(text) == value


@pytest.mark.parametrize(
    ("parse", "text", "hint"),
    [
        (parse_duration, "5m", "did you mean 5min?"),
        (parse_duration, "2 Hours", "did you mean 2h?"),
        (parse_duration, "10msec", "did you mean 10ms?"),
        (parse_duration, "7 milliseconds", "did you mean 7ms?"),
        (parse_duration, "30S", "did you mean 30s?"),
        (parse_duration, "4 parsec", "write it as 180s, 500ms, 3min or 1.5h"),
        (parse_duration, "30m1h", "write it as 180s"),
        (parse_duration, "1h30", "write it as 180s"),
        (parse_duration, "180 5s", "write it as 180s"),
        (parse_duration, "1h1e5.5ms", "write it as 180s"),
        (parse_duration, "1e" * 10_000, "write it as 180s"),
        (parse_duration, "soon", "write it as 180s"),
        (parse_duration, "-3s", "write it as 180s"),
        (parse_duration, "nan", "write it as 180s"),
        (parse_duration, "1e400", "is too large"),
        (parse_rate, "200", "did you mean 200/h?"),
        (parse_rate, "200s", "did you mean 200/s?"),
        (parse_rate, "500/hour", "did you mean 500/h?"),
        (parse_rate, "9/fortnight", "write it as 500/h, 8/min or 0.14/s"),
        (parse_rate, "/s", "write it as 500/h"),
        (parse_rate, "1e400/s", "is too large"),
        (parse_count, "1k", "did you mean 1e3?"),
        (parse_count, "2M", "did you mean 2e6?"),
        (parse_count, "0", "must be a whole number from 1"),
        (parse_count, "1.5", "must be a whole number"),
        (parse_count, "x", "write it as 80 or 1e6"),
        (parse_share, "5", "did you mean 5%?"),
        (parse_share, "120%", "write it as 1% or 0.01, from 0 to 1"),
    ],
)
def test_wrong_texts_name_the_field_and_the_nearest_right_form(
    parse: Callable[..., float], text: str, hint: str
) -> None:
    with pytest.raises(InvalidArgument, match=r"^option: ") as caught:
        parse(text, field="option")
    assert hint in str(caught.value)
    assert caught.value.field == "option"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "0 s"),
        (9.73e-8, "0 s"),
        (0.00041, "410 µs"),
        (0.00412, "4.12 ms"),
        (0.9994, "999 ms"),
        (0.9996, "1 s"),
        (1.5, "1.5 s"),
        (119, "119 s"),
        (180, "3 min"),
        (185, "3.08 min"),
        (7199, "120 min"),
        (7200, "2 h"),
        (2e6, "23.1 d"),
        (1e9, "11,574 d"),
        (math.inf, "∞"),
        (math.nan, "-"),
    ],
)
def test_readable_durations_have_three_digits_and_the_unit_that_suits(seconds: float, text: str) -> None:
    assert readable_duration(seconds) == text
