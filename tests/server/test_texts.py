"""Settings as texts: distributions of service times, durations, lists of accounts."""

import math
import random
import re
import statistics

import pytest

from pika_balancer.distributions import DISTRIBUTION_FORMS, format_distribution, parse_distribution
from pika_balancer.errors import InvalidArgument
from pika_balancer.server import parse_accounts


@pytest.mark.parametrize(
    ("text", "mean", "deviation"),
    [
        ("fixed:10s", 10, 0),
        ("fixed:2", 2, 0),
        ("exp:30s", 30, 30),
        ("gamma:mean=2s,cv=0.5", 2, 1),
        ("weibull:mean=2s,shape=1", 2, 2),
        ("uniform:10s,1min", 35, 50 / math.sqrt(12)),
        ("uniform:5,5", 5, 0),
        ("lognormal:mean=180s,cv=0.7", 180, 126),
        ("lognormal: cv=0, mean=3min", 180, 0),
    ],
)
def test_samples_of_a_distribution_have_its_moments(text: str, mean: float, deviation: float) -> None:
    distribution, rng, count = parse_distribution(text), random.Random(11), 20_000
    draw = distribution.one(rng)
    samples = [draw() for _ in range(count)]
    assert parse_distribution(format_distribution(distribution)) == distribution
    assert (distribution.mean, distribution.variance) == pytest.approx((mean, deviation**2))
    assert min(samples) >= 0
    assert abs(statistics.fmean(samples) - mean) <= 4 * deviation / math.sqrt(count) + 1e-9
    assert statistics.pstdev(samples) == pytest.approx(deviation, rel=0.05, abs=1e-9)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "exp",
        "exp:",
        "exp:-1",
        "often",
        "gauss:1",
        "fixed:x",
        "uniform:10s",
        "uniform:60s,10s",
        "uniform:1,2,3",
        "lognormal:180s",
        "exp:0",
        "lognormal:mean=0,cv=1",
        "lognormal:mean=1,cv=-1",
        "lognormal:mean=1,cv=x",
        "lognormal:mean=1,cv=inf",
        "lognormal:mean=1,cv=1,x=2",
    ],
)
def test_a_bad_law_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        parse_distribution(text)
    assert caught.value.field == "service"


def test_an_unknown_law_is_answered_with_the_known_ones() -> None:
    with pytest.raises(InvalidArgument, match=re.escape(DISTRIBUTION_FORMS)):
        parse_distribution("gauss:2")


@pytest.mark.parametrize(
    ("text", "caps"),
    [("2,1", [2, 1]), ("5x6", [6] * 5), ("6,6,4", [6, 6, 4]), ("2x6,4", [6, 6, 4]), (" 1x1 , 10 ", [1, 10])],
)
def test_accounts_are_listed_by_their_caps(text: str, caps: list[int]) -> None:
    assert [account.max_jobs for account in parse_accounts(text)] == caps


def test_made_up_accounts_are_always_the_same_and_look_like_discords() -> None:
    accounts = parse_accounts("100x6")
    assert accounts == parse_accounts("100x6")
    assert accounts[:2] == parse_accounts("6,6")
    assert len({account.channel for account in accounts}) == 100
    assert len({account.discord for account in accounts}) == 100
    assert all(account.channel.isdecimal() and 17 <= len(account.channel) <= 20 for account in accounts)
    assert all(account.discord.reveal() not in repr(account) for account in accounts)


@pytest.mark.parametrize(
    "text", ["", ",", "0", "11", "2,", "x6", "2x", "0x6", "-1", "2;1", "1000000x6", "6000x1,6000x1"]
)
def test_a_bad_list_of_accounts_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        parse_accounts(text)
    assert caught.value.field == "accounts"
