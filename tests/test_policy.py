"""Each rule follows its exact odds, and the odds are those of its definition."""

import random
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import combinations

import pytest
from attrs import define
from hypothesis import given
from hypothesis import strategies as st

from pika_balancer.errors import InvalidArgument
from pika_balancer.selection.policy import POLICIES, Candidate, Chance, Rule, make_rule
from tests.chi_square import p_value
from tests.depth import examples, sized


@define(eq=False)
class Slots:
    channel: str
    max_jobs: int
    in_flight: int
    order: int


def slots(*loads: tuple[int, int]) -> list[Slots]:
    return [Slots(str(i), cap, busy, i) for i, (busy, cap) in enumerate(loads)]


MIXED = slots((0, 6), (5, 6), (2, 3), (0, 1), (2, 10), (2, 4))


def pick(rule: Rule, candidates: Sequence[Slots], chance: Chance) -> Slots:
    """Pick among all of them, through a list of rows that does not start at 0."""
    padded = [Slots("never picked", 1, 0, -1), *candidates]
    return rule.pick(padded, range(1, len(padded)), chance)


EXACT: dict[str, Callable[[Sequence[Candidate]], list[float]]] = {
    "random": lambda cs: [1 / len(cs)] * len(cs),
    "least_loaded": lambda cs: [0.5, 0, 0, 0.5, 0, 0],
    "weighted": lambda cs: [free / 19 for free in (6, 1, 1, 1, 8, 2)],
}


def duel(cs: Sequence[Candidate]) -> list[float]:
    """Odds of two choices by listing every pair."""
    odds = dict.fromkeys((c.channel for c in cs), 0.0)
    pairs = list(combinations(cs, 2))
    for a, b in pairs:
        for winner, share in (
            ((a, 1.0),)
            if a.in_flight < b.in_flight
            else ((b, 1.0),)
            if b.in_flight < a.in_flight
            else ((a, 0.5), (b, 0.5))
        ):
            odds[winner.channel] += share / len(pairs)
    return list(odds.values())


EXACT["two_choices"] = duel


@pytest.mark.parametrize("name", sorted(EXACT))
def test_odds_are_those_of_the_definition(name: str) -> None:
    assert make_rule(name).odds(MIXED) == pytest.approx(EXACT[name](MIXED))


@pytest.mark.deep
@pytest.mark.parametrize("name", sorted(EXACT))
def test_picks_follow_the_odds(name: str) -> None:
    rule, chance = make_rule(name), random.Random(11).random
    picks = sized(10_000, 1_000_000)
    counts = Counter(pick(rule, MIXED, chance).channel for _ in range(picks))
    odds = rule.odds(MIXED)
    assert p_value([counts[c.channel] for c in MIXED], [picks * p for p in odds]) > 1e-4


def test_the_first_pick_of_round_robin_is_random() -> None:
    firsts = Counter(
        pick(make_rule("round_robin"), MIXED, random.Random(s).random).channel for s in range(3000)
    )
    assert p_value([firsts[c.channel] for c in MIXED], [500.0] * 6) > 1e-4


def test_round_robin_follows_the_map_and_skips_missing_candidates() -> None:
    rule, chance = make_rule("round_robin"), random.Random(3).random
    first = pick(rule, MIXED, chance)
    turns = [pick(rule, MIXED, chance).order for _ in range(12)]
    assert turns == [(first.order + 1 + i) % 6 for i in range(12)]
    gap = [one for one in MIXED if one.order not in {(first.order + 1) % 6, (first.order + 2) % 6}]
    assert rule.odds(gap)[gap.index(MIXED[(first.order + 3) % 6])] == 1
    assert pick(rule, gap, chance).order == (first.order + 3) % 6


@pytest.mark.deep
@pytest.mark.parametrize("name", POLICIES)
@examples(60, 1000)
@given(
    loads=st.lists(st.tuples(st.integers(0, 5), st.integers(6, 9)), min_size=1, max_size=8),
    draw=st.floats(0, 1, exclude_max=True),
)
def test_every_draw_lands_on_a_possible_candidate(
    name: str, loads: list[tuple[int, int]], draw: float
) -> None:
    candidates = slots(*loads)
    rule = make_rule(name)
    odds = rule.odds(candidates)
    assert sum(odds) == pytest.approx(1)
    chosen = pick(rule, candidates, lambda: draw)
    assert odds[chosen.order] > 0


@pytest.mark.parametrize("weights", [[0.1] * 10, [1e-300, 1e300], [0.0, 3.0, 0.0], [5e-324, 0.0]])
def test_the_largest_draw_below_one_lands_on_the_last_candidate_with_weight(weights: list[float]) -> None:
    candidates = slots(*[(0, 1)] * len(weights))
    rule = make_rule(lambda cs: weights)
    last = max(i for i, weight in enumerate(weights) if weight)
    assert pick(rule, candidates, lambda: 1 - 2**-53).order == last
    first = min(i for i, weight in enumerate(weights) if weight)
    assert pick(rule, candidates, lambda: 0.0).order == first


@pytest.mark.parametrize(
    ("weights", "word"),
    [
        ([0, 0], "not all 0"),
        ([1, -1], "0 or more"),
        ([1, float("nan")], "finite"),
        ([float("inf"), 1], "finite"),
        ([1], "1 weights for 2"),
        ([1e308, 1e308], "finite"),
        (None, "list of numbers"),
        (["a", "b"], "list of numbers"),
        ([10**400, 1], "list of numbers"),
    ],
)
def test_invalid_weights_are_refused(weights: list[float], word: str) -> None:
    with pytest.raises(InvalidArgument, match=word) as caught:
        pick(make_rule(lambda cs: weights), slots((0, 1), (0, 1)), lambda: 0.5)
    assert caught.value.field == "policy"


@pytest.mark.parametrize("policy", ["fastest", "", 7, None])
def test_an_unknown_policy_is_refused_with_the_known_names(policy: str) -> None:
    with pytest.raises(InvalidArgument, match="least_loaded") as caught:
        make_rule(policy)
    assert caught.value.field == "policy"
