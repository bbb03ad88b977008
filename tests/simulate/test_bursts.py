"""Bursts in a trace are told, with what they change against Poisson arrivals."""

import itertools
import random
import re
from collections.abc import Sequence

import pytest

from pika_balancer.simulate import (
    Constant,
    Exponential,
    Loss,
    Poisson,
    Queue,
    Retry,
    Scenario,
    Trace,
    erlang_b,
    erlang_c,
    in_bursts,
    simulate,
)
from pika_balancer.simulate.scenario import WhenFull

SERVICE = 10.0


def moments(cv2: float, count: int = 20_000) -> list[float]:
    """Return arrivals at 0.5/s, with gamma gaps of that squared coefficient of variation."""
    rng = random.Random(3)
    return list(itertools.accumulate(rng.gammavariate(1 / cv2, 2 * cv2) for _ in range(count)))


def said(when_full: WhenFull, arrivals: Sequence[float], caps: str = "2x4") -> str | None:
    return in_bursts(simulate(Scenario(caps, Trace(arrivals), Exponential(SERVICE), when_full), seed=2))


def test_refusals_are_compared_with_erlang_b() -> None:
    arrivals = moments(9)
    word = said(Loss(), arrivals)
    assert word is not None
    load = Trace(arrivals).rate * SERVICE
    found = re.search(
        r"([\d.]+)% of jobs that find every account full \(here ([\d.]+)%, ([\d.]+) times", word
    )
    assert found is not None
    assert float(found[1]) == pytest.approx(100 * erlang_b(8, load), rel=1e-2)
    assert float(found[3]) == pytest.approx(float(found[2]) / float(found[1]), rel=0.01)
    assert float(found[3]) > 2
    assert word.startswith("jobs come in bursts: the variance of their number in 10 s is ")


def test_waits_are_compared_with_erlang_c() -> None:
    arrivals = moments(9)
    word = said(Queue(), arrivals)
    assert word is not None
    load = Trace(arrivals).rate * SERVICE
    found = re.search(r"mean wait of ([\d.]+) s \(here ([\d.]+) s, ([\d.]+) times", word)
    assert found is not None
    assert float(found[1]) == pytest.approx(erlang_c(8, load) * SERVICE / (8 - load), rel=0.01)
    assert float(found[2]) > 2 * float(found[1])


def test_where_no_theory_knows_it_a_simulation_does() -> None:
    word = said(Retry(3, 20), moments(9))
    assert word is not None
    assert "% of jobs that find every account full (here " in word
    assert " and a mean wait of " in word
    over = said(Queue(), moments(9), "1x4")  # which has no steady state
    assert over is not None
    assert "would give a mean wait of " in over


def test_what_is_like_poisson_gets_no_word() -> None:
    assert said(Loss(), moments(1)) is None
    assert said(Loss(), [0.0] * 50) is None
    assert in_bursts(simulate(Scenario("4", Poisson(0.2), Constant(9)), jobs=500)) is None
