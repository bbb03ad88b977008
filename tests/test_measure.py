"""The arithmetic of the benchmarks: medians, intervals and verdicts, compared with values found by hand."""

import math
from fractions import Fraction
from itertools import product

import attrs
import pytest

from benchmarks import measure
from benchmarks.measure import Row, compare, count, interval, left_out, table


def row(ratio: float, ends: tuple[float, float] | None, aim: float | None = None, unit: str = "s") -> Row:
    low, high = ends or (None, None)
    return Row("lease", "ours", 1e-6, 0.1, "theirs", ratio, aim, low, high, unit)


def outside(n: int, k: int) -> Fraction:
    """Return how probably the true median is not between the k-th smallest and the k-th largest of n."""
    below = [sum(coins) for coins in product((0, 1), repeat=n)]
    return Fraction(sum(heads < k or n - heads < k for heads in below), 2**n)


def test_the_interval_is_the_narrowest_that_holds_the_median_with_95_percent() -> None:
    assert interval([1.0] * 5) is None
    for n in range(6, 13):
        places = [float(place) for place in range(1, n + 1)]
        ends = interval(places[::2] + places[1::2])
        assert ends is not None
        k = round(ends[0])
        assert ends[1] == n + 1 - k
        assert outside(n, k) <= Fraction(5, 100) < outside(n, k + 1)
    # From tables of the sign test.
    assert [interval([float(i) for i in range(1, n + 1)]) for n in (6, 9, 15, 20)] == [
        (1, 6),
        (2, 8),
        (4, 12),
        (6, 15),
    ]


@pytest.mark.parametrize(
    ("told", "verdict"),
    [
        (row(1.5, (1.2, 2.0), aim=2.0), "met"),
        (row(1.5, (1.2, 2.01), aim=2.0), "too noisy"),
        (row(2.3, (2.0, 2.4), aim=2.0), "too noisy"),
        (row(2.3, (2.01, 2.4), aim=2.0), "missed"),
        (row(1.5, None, aim=2.0), "too noisy"),
        (row(2.0, (1.6, 2.4)), ""),
        (row(2.0, (1.59, 2.1)), "too noisy"),
        (row(2.0, (1.9, 2.41)), "too noisy"),
        (row(2.0, None), "too noisy"),
        (row(1.1, None, aim=1.1, unit="bytecodes"), "met"),
        (row(1.11, None, aim=1.1, unit="bytecodes"), "missed"),
        (row(3.0, None, unit="B"), ""),
        (Row("lease", "floor", 1e-6, 0.1, "floor", 1.0, None, 1.0, 1.0), ""),
        (left_out("lease", "theirs", "it is not installed"), ""),
    ],
)
def test_an_aim_is_met_or_missed_only_if_the_whole_interval_is(told: Row, verdict: str) -> None:
    assert told.verdict == verdict


def test_subjects_take_turns_and_ratios_are_those_within_a_round() -> None:
    order: list[str] = []
    # The machine gets slower and slower: only ratios within a round show what is twice as slow.
    speeds = iter([1.0, 1.0, *[speed for speed in (1.0, 2.0, 4.0, 8.0, 16.0, 32.0) for _ in range(2)]])

    def subject(name: str, cost: float) -> measure.Subject:
        def run() -> float:
            order.append(name)
            return cost * next(speeds)

        return run

    subjects = {"floor": subject("floor", 1e-6), "ours": subject("ours", 2e-6)}
    floor, ours = compare("lease", subjects, "floor", rounds=6, aims={"ours": 2.0})
    assert order == ["floor", "ours"] + ["floor", "ours", "ours", "floor"] * 3
    assert (ours.ratio, ours.low, ours.high, ours.verdict) == (2.0, 2.0, 2.0, "met")
    assert (floor.ratio, floor.verdict) == (1.0, "")
    assert math.isclose(floor.seconds, 6e-6)
    # Of 1, 2, 4, 8, 16, 32 the quartiles are 1.75 and 20, the median is 6.
    assert math.isclose(floor.spread, (20 - 1.75) / 2 / 6)


def test_the_table_shows_amounts_for_people() -> None:
    plain = count("client", "plain", 4_560_000, "B")
    shown = table(
        [
            row(1.5, (1.2, 2.0), aim=2.0),
            attrs.evolve(row(12345.6, None), seconds=1.25),
            row(999.7, (799.0, 1490.0)),
            attrs.evolve(row(1.0, (1.0, 1.0)), seconds=9.996e-4),
            attrs.evolve(row(1.0, (1.0, 1.0)), seconds=1.57e-7),
            plain,
            count("client", "ours", 3100, "B", plain),
            count("selector", "picks", 0, "picks"),
            left_out("store", "theirs", "it is not installed"),
        ]
    ).splitlines()[2:]
    assert shown == [
        "| lease | ours | 1 µs | ±10% | 1.5 (1.2–2) | theirs | ≤ 2 met |",
        "| lease | ours | 1.25 s | ±10% | 12,346 | theirs | too noisy |",
        "| lease | ours | 1 µs | ±10% | 1,000 (799–1,490) | theirs | too noisy |",
        "| lease | ours | 1 ms | ±10% | 1 (1–1) | theirs |  |",
        "| lease | ours | 157 ns | ±10% | 1 (1–1) | theirs |  |",
        "| client | plain | 4.56 MB | exact |  |  |  |",
        "| client | ours | 3.1 kB | exact | 0.00068 | plain |  |",
        "| selector | picks | 0 picks | exact |  |  |  |",
        "| store | theirs | left out: it is not installed |  |  |  |  |",
    ]
