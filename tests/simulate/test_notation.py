"""Texts are read as meant, what is written reads as the same, errors name the nearest right form."""

import math
import string
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pika_balancer.distributions import format_distribution, parse_distribution
from pika_balancer.errors import InvalidArgument
from pika_balancer.simulate import (
    Bursty,
    Constant,
    Daily,
    Empirical,
    Exponential,
    Failures,
    Faults,
    Gamma,
    Lognormal,
    Loss,
    OnOff,
    Poisson,
    Queue,
    Regular,
    Retry,
    SimulatedAccount,
    Slowdown,
    Trace,
    Weibull,
    notation,
)
from pika_balancer.simulate.targets import DURATIONS, FIGURES, FRACTIONS, Target
from tests.depth import examples


@pytest.mark.parametrize(
    ("parse", "text", "meant"),
    [
        (notation.parse_arrivals, "poisson:500/h", Poisson(500 / 3600)),
        (notation.parse_arrivals, " Poisson : 0.5 / s ", Poisson(0.5)),
        (notation.parse_arrivals, "regular:8/min", Regular(8 / 60)),
        (notation.parse_arrivals, "bursty:500/h,cv=3", Bursty(500 / 3600, 3)),
        (notation.parse_arrivals, "bursty:500/h,3", Bursty(500 / 3600, 3)),
        (
            notation.parse_arrivals,
            "onoff:busy_rate=900/h,busy=10min,quiet=30min",
            OnOff(900 / 3600, 600, 1800),
        ),
        (
            notation.parse_arrivals,
            "onoff:busy_rate=900/h,busy=10min,quiet=30min,quiet_rate=36/h",
            OnOff(900 / 3600, 600, 1800, 0.01),
        ),
        (notation.parse_arrivals, "daily:" + ",".join(["1"] * 23) + ",7.5", Daily([1.0] * 23 + [7.5])),
        (parse_distribution, "exp:180s", Exponential(180)),
        (parse_distribution, "exponential:3min", Exponential(180)),
        (parse_distribution, "fixed:1.5h", Constant(5400)),
        (parse_distribution, "constant:90", Constant(90)),
        (parse_distribution, "lognormal:mean=180s,cv=0.7", Lognormal(180, 0.7)),
        (parse_distribution, "lognormal:180s,0.7", Lognormal(180, 0.7)),
        (parse_distribution, "gamma:cv=2,mean=500ms", Gamma(0.5, 2)),
        (parse_distribution, "weibull:mean=1d,shape=.8", Weibull(86400, 0.8)),
        (notation.parse_when_full, "loss", Loss()),
        (notation.parse_when_full, "queue", Queue()),
        (notation.parse_when_full, "queue:limit=50,patience=5min", Queue(50, Constant(300))),
        (notation.parse_when_full, "queue:patience=gamma:mean=60s,cv=2,limit=0", Queue(0, Gamma(60, 2))),
        (notation.parse_when_full, "retry:15s,80", Retry(15, 80)),
        (notation.parse_when_full, "retry:15s,80,jitter=20%", Retry(15, 80, 0.2)),
        (notation.parse_when_full, "retry:15s,attempts=1e3,exponential", Retry(15, 1000, exponential=True)),
        (notation.parse_slowdown, "above=3,each=20%", Slowdown(3, 0.2)),
        (notation.parse_faults, "rate_limited=1%,accepted=0.5%", Faults(0.01, 0.005)),
        (notation.parse_failures, "mean_up=20h,mean_down=30min", Failures(72_000, 1800)),
        (notation.parse_target, "refused<1%", Target("refused_fraction", "<", 0.01)),
        (notation.parse_target, "refused < 0.01", Target("refused_fraction", "<", 0.01)),
        (notation.parse_target, "wait.p95<120s", Target("wait.p95", "<", 120)),
        (notation.parse_target, "p95 wait < 2 min", Target("wait.p95", "<", 120)),
        (notation.parse_target, "utilization<85%", Target("utilisation", "<", 0.85)),
        (notation.parse_target, "attempts<1.5", Target("attempts", "<", 1.5)),
    ],
)
def test_texts_mean_what_they_say(parse: Callable[[str], Any], text: str, meant: object) -> None:
    assert parse(text) == meant


def test_accounts_are_caps_and_speeds() -> None:
    def caps(text: str) -> list[tuple[int, float]]:
        return [(a.max_jobs, a.speed) for a in notation.parse_accounts(text)]

    assert caps("5x6") == [(6, 1)] * 5
    assert caps("6,6, 4") == [(6, 1), (6, 1), (4, 1)]
    assert caps("2×6,4@0.5") == [(6, 1), (6, 1), (4, 0.5)]
    assert len({a.channel for a in notation.parse_accounts("50x6,3x2")}) == 53


durations = st.one_of(st.integers(1, 10**6).map(float), st.floats(1e-6, 1e9))
rates = st.one_of(st.integers(1, 10**5).map(lambda n: n / 3600), st.floats(1e-9, 1e6))
numbers = st.floats(0.2, 50)
shares = st.one_of(st.integers(0, 1000).map(lambda n: n / 1000), st.floats(0, 1))
distributions = st.one_of(
    st.builds(Exponential, durations),
    st.builds(Constant, durations),
    st.builds(Lognormal, durations, numbers),
    st.builds(Gamma, durations, numbers),
    st.builds(Weibull, durations, numbers),
)
arrivals = st.one_of(
    st.builds(Poisson, rates),
    st.builds(Regular, rates),
    st.builds(Bursty, rates, numbers),
    st.builds(OnOff, rates, durations, durations, rates),
    st.lists(numbers, min_size=24, max_size=24).map(Daily),
)
when_full = st.one_of(
    st.just(Loss()),
    st.builds(
        Queue, st.one_of(st.just(math.inf), st.integers(0, 10**6)), st.one_of(st.none(), distributions)
    ),
    st.builds(Retry, durations, st.integers(1, 10**6), shares),
    st.builds(lambda delay, tries: Retry(delay, tries, exponential=True), durations, st.integers(1, 99)),
)
targets = st.one_of(
    st.builds(
        lambda f, v: Target(f, "<", v), st.sampled_from(FRACTIONS), shares.filter(lambda share: 0 < share < 1)
    ),
    st.builds(lambda f, v: Target(f, "<", v), st.sampled_from(DURATIONS), durations),
    st.builds(lambda f, v: Target(f, "<", v), st.sampled_from(FIGURES[-3:]), numbers),
)
accounts = st.lists(
    st.tuples(st.integers(1, 99), st.one_of(st.just(1.0), st.floats(0.01, 100))), min_size=1, max_size=8
).map(lambda rows: tuple(SimulatedAccount(str(i), cap, speed) for i, (cap, speed) in enumerate(rows, 1)))
PAIRS: list[tuple[Callable[[str], Any], Callable[[Any], str], st.SearchStrategy[Any]]] = [
    (parse_distribution, format_distribution, distributions),
    (notation.parse_arrivals, notation.format_arrivals, arrivals),
    (notation.parse_when_full, notation.format_when_full, when_full),
    (notation.parse_target, notation.format_target, targets),
    (notation.parse_accounts, notation.format_accounts, accounts),
    (notation.parse_slowdown, notation.format_slowdown, st.builds(Slowdown, st.integers(1, 99), shares)),
    (
        notation.parse_faults,
        notation.format_faults,
        st.builds(lambda a, b, c: Faults(a / 2, b / 2, c), shares, shares, durations),
    ),
    (notation.parse_failures, notation.format_failures, st.builds(Failures, durations, durations)),
]


@pytest.mark.deep
@pytest.mark.parametrize(("parse", "form", "values"), PAIRS, ids=lambda pair: getattr(pair, "__name__", ""))
@given(data=st.data())
@examples(30, 80)
def test_what_is_written_reads_as_the_same(
    parse: Callable[[str], Any],
    form: Callable[[Any], str],
    values: st.SearchStrategy[Any],
    data: st.DataObject,
) -> None:
    value = data.draw(values)
    assert parse(form(value)) == value


PARSERS = [parse for parse, _, _ in PAIRS]
ALPHABET = string.ascii_lowercase + string.digits + ":,=<>%./@x- ²٣"


@pytest.mark.deep
@pytest.mark.parametrize("parse", PARSERS, ids=lambda parse: parse.__name__)
@given(text=st.one_of(st.text(max_size=12), st.text(ALPHABET, max_size=24)))
@examples(60, 150)
def test_any_other_text_is_refused_with_the_name_of_the_option(parse: Callable[..., Any], text: str) -> None:
    refused: InvalidArgument | None = None
    try:
        parse(text, field="option")
    except InvalidArgument as error:
        refused = error
    assert refused is None or (refused.field, str(refused)[:8]) == ("option", "option: ")


@pytest.mark.parametrize(
    ("parse", "text", "hint"),
    [
        (notation.parse_arrivals, "poison:500/h", "did you mean poisson:500/h?"),
        (notation.parse_arrivals, "poisson:500", "did you mean 500/h?"),
        (notation.parse_arrivals, "poisson:500/hour", "did you mean 500/h?"),
        (notation.parse_arrivals, "poisson", "did you mean poisson:500/h?"),
        (notation.parse_arrivals, "poisson:0/h", "above 0"),
        (notation.parse_arrivals, "bursty:500/h", "lacks cv; did you mean bursty:500/h,cv=3?"),
        (notation.parse_arrivals, "daily:1,2,3", "24"),
        (notation.parse_arrivals, "500/h", "write it as poisson:500/h"),
        (notation.parse_arrivals, "da", "write it as poisson:500/h"),
        (parse_distribution, "lognormal:mean=180s,vc=0.7", "did you mean cv=0.7?"),
        (parse_distribution, "lognormal:mean=180s,mean=2s", "twice"),
        (parse_distribution, "exp:180s,4", "as in exp:30s"),
        (parse_distribution, "expo:180s", "did you mean exp:180s?"),
        (notation.parse_when_full, "que", "did you mean queue"),
        (notation.parse_when_full, "retry", "did you mean retry:15s,80?"),
        (notation.parse_when_full, "retry:15s", "lacks attempts"),
        (notation.parse_when_full, "retry:15s,2.5", "whole number"),
        (notation.parse_when_full, "queue:patience=forever", "write it as 180s"),
        (notation.parse_when_full, "loss:5", "as in loss"),
        (notation.parse_accounts, "5*6*2", "write it as 5x6"),
        (notation.parse_slowdown, "3", "'3' lacks each; did you mean above=3,each=20%"),
        (notation.parse_failures, "1h", "'1h' lacks mean_down; did you mean mean_up=20h,mean_down=30min"),
        (notation.parse_failures, "mean_up=1h,mean_dwn=2h", "option: 'mean_up=1h,mean_dwn=2h' has 'mean_dwn"),
        (notation.parse_failures, "0s,1s", "'0s,1s' cannot be: mean_up"),
        (notation.parse_failures, " ", "' ' is no kind of failures; write it as mean_up=20h,mean_down=30min"),
        (notation.parse_faults, "accepted=120%", "share of faults 'accepted=120%'"),
        (notation.parse_accounts, "99999999999x6", "must be 1 to 100,000 accounts"),
        (notation.parse_accounts, "99999x999999", "at most 10,000,000 slots in all"),
        (notation.parse_accounts, "5-6", "did you mean 5x6?"),
        (notation.parse_accounts, "0x6", "above 0"),
        (notation.parse_accounts, "6@0", "above 0"),
        (notation.parse_accounts, "999999x6", "100,000"),
        (notation.parse_target, "refusd<1%", "did you mean refused<1%?"),
        (notation.parse_target, "refused<=1%", "did you mean refused<1%?"),
        (notation.parse_target, "refused>1%", "did you mean refused<1%?"),
        (notation.parse_target, "refused", "write it as refused<1%"),
        (notation.parse_target, "refused<5", "did you mean 5%?"),
        (notation.parse_target, "refused<500", "from 0 to 1"),
        (notation.parse_target, "refused<0%", "above 0"),
        (notation.parse_target, "wait.max<5s", "wait.m"),
    ],
)
def test_wrong_texts_are_refused_with_the_nearest_right_form(
    parse: Callable[..., Any], text: str, hint: str
) -> None:
    with pytest.raises(InvalidArgument) as caught:
        parse(text, field="option")
    assert hint in str(caught.value)
    assert caught.value.field == "option"


def test_values_without_a_text_are_refused() -> None:
    with pytest.raises(InvalidArgument, match="Trace cannot be written"):
        notation.format_arrivals(Trace([0.0, 1.0]))
    with pytest.raises(InvalidArgument, match="Empirical cannot be written"):
        format_distribution(Empirical([1.0]))
