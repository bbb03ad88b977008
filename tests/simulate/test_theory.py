"""The closed forms against exact arithmetic, chains solved another way, and published figures."""

import math
import random
from collections.abc import Callable, Hashable
from fractions import Fraction
from itertools import pairwise, product
from typing import TypeVar

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pika_balancer.errors import InvalidArgument
from pika_balancer.simulate import theory
from tests.depth import examples, sized

S = TypeVar("S", bound=Hashable)
SLOTS = [1, 2, 3, 7, 12, 30]
LOADS = [Fraction(1, 1000), Fraction(1, 3), Fraction(1), Fraction(5, 2), Fraction(11), Fraction(40)]
real_slots = st.floats(0, 400)
loads = st.floats(1e-3, 500)


def exact_b(slots: int, load: Fraction) -> Fraction:
    weights = [load**n / math.factorial(n) for n in range(slots + 1)]
    return weights[-1] / sum(weights)


def stationary(states: list[S], rates: Callable[[S], dict[S, float]]) -> dict[S, float]:
    """Solve a chain by linear algebra, from nothing but its transition rates."""
    index = {state: i for i, state in enumerate(states)}
    matrix = np.zeros((len(states), len(states)))
    for state in states:
        for target, rate in rates(state).items():
            matrix[index[target], index[state]] += rate
            matrix[index[state], index[state]] -= rate
    matrix[-1, :] = 1
    right = np.zeros(len(states))
    right[-1] = 1
    return dict(zip(states, np.linalg.solve(matrix, right).tolist(), strict=True))


@pytest.mark.parametrize("slots", SLOTS)
@pytest.mark.parametrize("load", LOADS)
def test_erlang_b_and_c_are_their_sums(slots: int, load: Fraction) -> None:
    blocked = exact_b(slots, load)
    assert theory.erlang_b(slots, float(load)) == pytest.approx(float(blocked), rel=1e-13)
    assert theory.mgcc(slots, float(load)).refused == pytest.approx(float(blocked), rel=1e-12)
    if load < slots:
        tail = load**slots / math.factorial(slots) * slots / (slots - load)
        waiting = tail / (sum(load**n / math.factorial(n) for n in range(slots)) + tail)
        assert theory.erlang_c(slots, float(load)) == pytest.approx(float(waiting), rel=1e-12)


def test_the_published_figures() -> None:
    assert theory.erlang_b(30, 25) == pytest.approx(0.052603, abs=5e-7)
    assert theory.erlang_b(24, 25) == pytest.approx(0.168, abs=5e-4)
    assert theory.erlang_c(30, 27) == pytest.approx(0.471408, abs=5e-7)
    assert theory.erlang_c_wait(30, 27) == pytest.approx(0.157136, abs=5e-7)
    assert theory.retrial(30, 25, 1 / 12).wait_mean == pytest.approx(0.06209, abs=5e-6)
    assert theory.retrial(30, 27, 1 / 12).wait_mean == pytest.approx(0.18573, abs=5e-6)
    assert theory.weighted([6] * 5, 20, [1, 1, 1, 1, 3]).refused == pytest.approx(0.0340, abs=5e-5)
    assert theory.blind([6] * 5, 25) == pytest.approx(0.192, abs=5e-4)


@pytest.mark.parametrize("slots", [0.001, 0.5, 0.999, 1.5, 7.25, 30.9])
@pytest.mark.parametrize("load", [0.01, 0.9999, 1.0, 1.0001, 4.0, 33.3])
def test_between_whole_slots_erlang_b_is_the_integral(slots: float, load: float) -> None:
    # 1/B = ∫₀^∞ e^(-u) (1 + u/a)^c du, cut off where e^(-u) has eaten everything, by Gauss and Legendre.
    nodes, weights = np.polynomial.legendre.leggauss(40)
    edges = np.concatenate([[0.0], np.geomspace(1e-6, 200.0, 60)])
    total = 0.0
    for low, high in pairwise(edges):
        u = (high - low) / 2 * nodes + (high + low) / 2
        total += float((weights * np.exp(-u) * (1 + u / load) ** slots).sum() * (high - low) / 2)
    assert theory.erlang_b(slots, load) == pytest.approx(1 / total, rel=1e-10)


def chain(slots: int, load: float, line: int, leaving: float) -> dict[int, float]:
    def rates(state: int) -> dict[int, float]:
        up = {state + 1: load} if state < slots + line else {}
        down = {state - 1: min(state, slots) + max(0, state - slots) * leaving} if state else {}
        return {**up, **down}

    return stationary(list(range(slots + line + 1)), rates)


@pytest.mark.parametrize(("slots", "line", "load"), [(1, 3, 0.5), (3, 5, 2.9), (4, 0, 6.0), (30, 20, 33.0)])
@pytest.mark.parametrize("leaving", [0.0, 0.3, 4.0])
def test_a_bounded_line_with_or_without_patience_is_its_chain(
    slots: int, line: int, load: float, leaving: float
) -> None:
    law = chain(slots, load, line, leaving)
    waiting = sum(max(0, n - slots) * p for n, p in law.items())
    refused = law[slots + line]
    patience = 3 / leaving if leaving else math.inf
    found = theory.erlang_a(slots, load, patience, line=line, service=3.0)
    assert found.refused == pytest.approx(refused, rel=1e-10)
    assert found.gave_up == pytest.approx(waiting * leaving / load, rel=1e-9)
    assert found.wait_mean == pytest.approx(3 * waiting / (load * (1 - refused)), rel=1e-9)
    assert found.delayed == pytest.approx(
        sum(p for n, p in law.items() if slots <= n < slots + line), rel=1e-9, abs=1e-12
    )
    assert found.utilisation * slots == pytest.approx(found.in_flight_mean)
    assert load * (1 - found.refused - found.gave_up) == pytest.approx(found.in_flight_mean, rel=1e-9)


@pytest.mark.parametrize(("slots", "load", "leaving"), [(1, 0.5, 1.0), (5, 8.0, 0.5), (30, 29.0, 0.1)])
def test_erlang_a_without_a_bound_is_a_long_bounded_line(slots: int, load: float, leaving: float) -> None:
    endless, long = (theory.erlang_a(slots, load, 1 / leaving, line=line) for line in (math.inf, 400))
    assert endless.wait_mean == pytest.approx(long.wait_mean, rel=1e-10)
    assert endless.gave_up == pytest.approx(long.gave_up, rel=1e-10)
    assert endless.refused == 0


def test_a_line_without_a_bound_is_erlang_c() -> None:
    endless = theory.mmck(30, 27, service=180)
    assert endless.delayed == pytest.approx(theory.erlang_c(30, 27))
    assert endless.wait_mean == pytest.approx(theory.erlang_c_wait(30, 27, service=180))
    assert theory.mmck(30, 27, line=2000).line_mean == pytest.approx(endless.line_mean, rel=1e-9)
    full = theory.mmck(3, 3.0)
    assert (full.delayed, full.wait_mean, full.line_mean, full.utilisation) == (1.0, math.inf, math.inf, 1.0)


@pytest.mark.parametrize(("slots", "load", "line"), [(1, 0.7, 4), (3, 2.5, 10), (3, 5.0, 6)])
@pytest.mark.parametrize("within", [0.5, 0.9, 0.99])
def test_quantiles_of_a_bounded_line(slots: int, load: float, line: int, within: float) -> None:
    wait = theory.mmck_quantile(slots, load, within, line=line, service=2.0)
    law = chain(slots, load, line, 0.0)
    accepted = 1 - law[slots + line]
    ends = wait * slots / 2.0
    beyond = 0.0
    for place in range(line):
        left = sum(math.exp(-ends) * ends**k / math.factorial(k) for k in range(place + 1))
        beyond += law[slots + place] / accepted * left
    assert beyond == pytest.approx(1 - within) if wait else beyond <= 1 - within


def test_quantiles_of_a_long_line_are_those_of_erlang_c() -> None:
    for within in (0.4, 0.6, 0.95, 0.999):
        endless = theory.erlang_c_quantile(30, 27, within, service=180)
        assert theory.mmck_quantile(30, 27, within, line=3000, service=180) == pytest.approx(
            endless, abs=1e-6
        )
        if endless:
            assert theory.erlang_c_beyond(30, 27, endless, service=180) == pytest.approx(1 - within)


def served(slots: int, load: float, patience: float, jobs: int, rng: random.Random) -> tuple[float, float]:
    """Return the share that gave up and the mean wait, of jobs whose patience is constant, by brute force."""
    free_at = [0.0] * slots
    now = waited = 0.0
    left = 0
    for _ in range(jobs):
        now += rng.expovariate(load)
        first = min(range(slots), key=free_at.__getitem__)
        wait = max(0.0, free_at[first] - now)
        if wait > patience:
            left += 1
            waited += patience
        else:
            waited += wait
            free_at[first] = now + wait + rng.expovariate(1)
    return left / jobs, waited / jobs


@pytest.mark.deep
@pytest.mark.parametrize(("slots", "load", "patience"), [(3, 2.5, 0.5), (4, 6.0, 1.0), (2, 2.0, 0.3)])
def test_constant_patience_is_what_a_count_shows(slots: int, load: float, patience: float) -> None:
    runs = [served(slots, load, patience, sized(2_000, 10_000), random.Random(seed)) for seed in range(16)]
    expected = theory.constant_patience(slots, load, patience)
    for i, figure in enumerate((expected.gave_up, expected.wait_mean)):
        values = [run[i] for run in runs]
        error = float(np.std(values, ddof=1)) / math.sqrt(len(values))
        assert abs(float(np.mean(values)) - figure) < 4 * error


def test_constant_patience_lies_between_loss_and_an_endless_line() -> None:
    hurried = theory.constant_patience(30, 25, 1e-9)
    assert hurried.gave_up == pytest.approx(theory.erlang_b(30, 25), rel=1e-6)
    patient = theory.constant_patience(30, 27, 1e4, service=180)
    assert patient.wait_mean == pytest.approx(theory.erlang_c_wait(30, 27, service=180), rel=1e-9)
    assert patient.delayed == pytest.approx(theory.erlang_c(30, 27))
    swamped = theory.constant_patience(30, 300, 1e3)
    assert swamped.gave_up == pytest.approx(0.9, rel=1e-9)
    assert swamped.wait_mean == pytest.approx(1e3, rel=1e-3)
    level, beside = (theory.constant_patience(5, load, 2.0) for load in (5.0, 5.0 * (1 - 1e-7)))
    assert level.wait_mean == pytest.approx(beside.wait_mean, rel=1e-5)
    assert level.gave_up == pytest.approx(beside.gave_up, rel=1e-5)


@pytest.mark.parametrize(("slots", "load", "delay"), [(1, 0.5, 1.0), (3, 2.0, 0.2), (4, 3.0, 3.0)])
def test_the_retrial_system_is_its_chain(slots: int, load: float, delay: float) -> None:
    levels = 70

    def rates(state: tuple[int, int]) -> dict[tuple[int, int], float]:
        taken, waiting = state
        found: dict[tuple[int, int], float] = {}
        if taken < slots:
            found[taken + 1, waiting] = load
            if waiting:
                found[taken + 1, waiting - 1] = waiting / delay
        elif waiting < levels:
            found[taken, waiting + 1] = load
        if taken:
            found[taken - 1, waiting] = float(taken)
        return found

    law = stationary(list(product(range(slots + 1), range(levels + 1))), rates)
    waiting = sum(state[1] * p for state, p in law.items())
    blocked = sum(p for state, p in law.items() if state[0] == slots)
    found = theory.retrial(slots, load, delay)
    assert found.refused == pytest.approx(blocked, rel=1e-5)
    assert found.waiting_mean == pytest.approx(waiting, rel=1e-5)
    assert found.wait_mean == pytest.approx(waiting / load, rel=1e-5)
    assert found.attempts_mean == pytest.approx(1 + waiting / load / delay, rel=1e-5)


@pytest.mark.deep
def test_retries_without_end_keep_every_job_and_swamp_a_load_above_the_slots() -> None:
    swamped = theory.retrial(30, 30, 15, service=180)
    assert (swamped.refused, swamped.wait_mean, swamped.utilisation) == (1.0, math.inf, 1.0)
    rushed, endless = theory.retrial(30, 27, 1e-5), theory.erlang_c_wait(30, 27)
    assert rushed.wait_mean == pytest.approx(endless, rel=1e-3)
    slots, load = sized((32_000, 31_999.0), (30, 29.999_999))  # the first needs a quarter of the states
    with pytest.raises(InvalidArgument, match="lower load") as caught:
        theory.retrial(slots, load, 15, service=180)
    assert caught.value.field == "load"


@pytest.mark.parametrize(
    ("caps", "load", "times"),
    [((2, 3), 4.0, (1.0, 3.0)), ((1, 2, 2), 2.0, (0.5, 1.0, 2.0)), ((3, 1, 2), 9.0, (1.0, 1.0, 4.0))],
)
def test_the_product_form_is_the_chain_of_the_rule(
    caps: tuple[int, ...], load: float, times: tuple[float, ...]
) -> None:
    def rates(state: tuple[int, ...]) -> dict[tuple[int, ...], float]:
        found: dict[tuple[int, ...], float] = {}
        free = sum(caps) - sum(state)
        for k, n in enumerate(state):
            if n < caps[k]:
                found[(*state[:k], n + 1, *state[k + 1 :])] = load * (caps[k] - n) / free
            if n:
                found[(*state[:k], n - 1, *state[k + 1 :])] = n / times[k]
        return found

    law = stationary(list(product(*(range(cap + 1) for cap in caps))), rates)
    found = theory.weighted(caps, load, times)
    assert found.refused == pytest.approx(law[caps], rel=1e-9)
    means = [sum(s[k] * p for s, p in law.items()) for k in range(len(caps))]
    assert found.in_flight == pytest.approx(means, rel=1e-9)


@pytest.mark.deep
@given(
    caps=st.lists(st.integers(1, 10), min_size=1, max_size=60),
    load=st.floats(0.01, 2000),
    time=st.floats(0.1, 10),
)
@example(caps=[1] * 7 + [5] + [10] * 7, load=0.09375, time=0.109375)
@examples(30, 60)
def test_accounts_of_one_speed_are_one_loss_system(caps: list[int], load: float, time: float) -> None:
    found = theory.weighted(caps, load, [time] * len(caps))
    alone = theory.mgcc(sum(caps), load * time)
    assert found.refused == pytest.approx(alone.refused, rel=1e-8, abs=1e-300)
    assert sum(found.in_flight) == pytest.approx(alone.in_flight_mean, rel=1e-8)


@pytest.mark.parametrize("load", [1e-6, 300.0, 1000.0, 1.2e4])
def test_the_product_form_conserves_jobs_at_thousands_of_slots(load: float) -> None:
    times = [1.0] * 100 + [3.0]
    found = theory.weighted([10] * 101, load, times)
    ended = sum(n / t for n, t in zip(found.in_flight, times, strict=True))
    assert ended == pytest.approx(load * (1 - found.refused), rel=1e-7)
    assert 0 <= found.refused < 1


def test_a_job_sent_without_looking_meets_one_account_alone() -> None:
    assert theory.blind([6] * 5, 25) == pytest.approx(theory.erlang_b(6, 5))
    assert theory.blind([4, 8], 9, [1, 2]) == pytest.approx(
        theory.erlang_b(4, 3) / 3 + theory.erlang_b(8, 6) * 2 / 3
    )
    assert theory.blind([4, 8], 9, [0, 7]) == pytest.approx(theory.erlang_b(8, 9))


@pytest.mark.deep
@given(slots=real_slots, load=loads, more=st.floats(0.01, 10))
@examples(50, 150)
def test_more_slots_never_hurt_and_more_load_never_helps(slots: float, load: float, more: float) -> None:
    for figure in (theory.erlang_b, theory.erlang_c):
        here = figure(slots, load)
        assert 0 <= here <= 1
        assert figure(slots + more, load) <= here * (1 + 1e-12)
        assert figure(slots, load + more) >= here * (1 - 1e-12)
    assert theory.erlang_b(slots, load) <= theory.erlang_c(slots, load)


@pytest.mark.deep
@given(slots=st.floats(0.01, 300), load=st.floats(0.01, 300))
@examples(30, 80)
def test_the_inverses_of_erlang_b_lead_back(slots: float, load: float) -> None:
    blocked = theory.erlang_b(slots, load)
    if 1e-250 < blocked < 1 - 1e-6:
        assert theory.erlang_b_slots(load, blocked) == pytest.approx(slots, rel=1e-6)
        assert theory.erlang_b_load(slots, blocked) == pytest.approx(load, rel=1e-6)


@pytest.mark.deep
@given(slots=st.floats(0.5, 200), part=st.floats(0.05, 0.99), wait=st.floats(0, 2))
@examples(30, 80)
def test_the_inverses_of_erlang_c_lead_back(slots: float, part: float, wait: float) -> None:
    load = slots * part
    beyond = theory.erlang_c_beyond(slots, load, wait * 60, service=60)
    if 1e-250 < beyond < 1 - 1e-6:
        assert theory.erlang_c_slots(load, beyond, wait=wait * 60, service=60) == pytest.approx(slots)
        assert theory.erlang_c_load(slots, beyond, wait=wait * 60, service=60) == pytest.approx(load)


def test_idle_and_swamped_systems_have_figures() -> None:
    assert theory.erlang_b(0, 5) == theory.erlang_b(0, 0) == 1
    assert theory.erlang_b(0.5, 0) == theory.erlang_c(0.5, 0) == 0
    assert theory.erlang_c(0, 0) == 1
    assert theory.erlang_c_wait(5, 5) == theory.erlang_c_quantile(5, 6, 0.5) == math.inf
    assert theory.erlang_c_beyond(5, 5, 1e6) == 1
    idle = theory.erlang_a(3, 0, 10.0)
    assert (idle.refused, idle.gave_up, idle.wait_mean, idle.utilisation) == (0, 0, 0, 0)
    assert theory.constant_patience(3, 0, 1.0).gave_up == 0
    assert theory.retrial(3, 0, 1.0).attempts_mean == 1
    assert theory.weighted([3], 0).refused == 0


@pytest.mark.no_cover  # long loops of the same lines
def test_the_extremes_stay_numbers() -> None:
    assert theory.erlang_b(10_000, 1e-9) == 0
    assert theory.erlang_b(1, 1e-9) == pytest.approx(1e-9)
    assert theory.erlang_b(10_000, 1e5) == pytest.approx(0.9, rel=1e-5)
    assert theory.erlang_b(10_000, 10_000) == pytest.approx(math.sqrt(2 / (math.pi * 10_000)), rel=1e-2)
    assert theory.erlang_c(10_000, 9_999) == pytest.approx(1, abs=0.02)
    assert theory.erlang_b_slots(1e5, 0.01) == pytest.approx(99_090, rel=1e-3)
    assert theory.erlang_b_slots(1e-9, 1e-3) < 1
    assert theory.erlang_b_load(1, 1e-300) == pytest.approx(1e-300)
    assert theory.erlang_b_load(1e-3, 1 - 1e-9) > 0
    wide = theory.mmck(10_000, 9_990, line=100_000)
    assert wide.wait_mean == pytest.approx(theory.erlang_c_wait(10_000, 9_990), rel=1e-8)
    assert theory.mgcc(10_000, 1e5).refused == pytest.approx(0.9, rel=1e-5)
    assert theory.mgcc(10_000, 1e-9).refused == 0


@pytest.mark.parametrize(
    ("call", "field"),
    [
        (lambda: theory.erlang_b(-1, 1), "slots"),
        (lambda: theory.erlang_b(math.nan, 1), "slots"),
        (lambda: theory.erlang_b(2e6, 1), "slots"),
        (lambda: theory.erlang_b("30", 1), "slots"),  # type: ignore[arg-type] # what an untyped caller does
        (lambda: theory.erlang_b(slots=True, load=1), "slots"),
        (lambda: theory.erlang_b(1, -1), "load"),
        (lambda: theory.erlang_b(1, math.inf), "load"),
        (lambda: theory.erlang_b(1, 10**400), "load"),
        (lambda: theory.erlang_c(1, math.nan), "load"),
        (lambda: theory.erlang_b_slots(0, 0.1), "load"),
        (lambda: theory.erlang_b_slots(2e6, 0.1), "load"),
        (lambda: theory.erlang_b_slots(5, 0), "blocked"),
        (lambda: theory.erlang_b_slots(5, 1), "blocked"),
        (lambda: theory.erlang_b_load(0, 0.1), "slots"),
        (lambda: theory.erlang_b_load(5, 1.5), "blocked"),
        (lambda: theory.erlang_c_wait(5, 1, service=0), "service"),
        (lambda: theory.erlang_c_beyond(5, 1, -1), "wait"),
        (lambda: theory.erlang_c_quantile(5, 1, 95), "share_within"),
        (lambda: theory.erlang_c_slots(5, 2), "beyond"),
        (lambda: theory.erlang_c_load(0, 0.5), "slots"),
        (lambda: theory.mgcc(0, 1), "slots"),
        (lambda: theory.mmck(2.5, 1), "slots"),  # type: ignore[arg-type] # what an untyped caller does
        (lambda: theory.mmck(2, 1, line=1.5), "line"),
        (lambda: theory.mmck(2, 1, line=-1), "line"),
        (lambda: theory.erlang_a(2, 1, 0), "patience"),
        (lambda: theory.erlang_a(2, 1e9, 1e6), "patience"),
        (lambda: theory.constant_patience(2, 1, math.inf), "patience"),
        (lambda: theory.mmck_quantile(2, 1, 0.5, line=math.inf), "line"),
        (lambda: theory.retrial(2, 1, 0), "delay"),
        (lambda: theory.weighted([], 1), "caps"),
        (lambda: theory.weighted([0, 3], 1), "caps"),
        (lambda: theory.weighted([20_001], 1), "caps"),
        (lambda: theory.weighted([3, 3], 1, [1]), "times"),
        (lambda: theory.weighted([3, 3], 1, [1, 0]), "times"),
        (lambda: theory.blind([], 1), "caps"),
        (lambda: theory.blind([3], 1, [0]), "shares"),
        (lambda: theory.blind([3], 1, [1, 2]), "shares"),
    ],
)
def test_nonsense_is_refused_by_name(call: Callable[[], object], field: str) -> None:
    with pytest.raises(InvalidArgument, match=field) as caught:
        call()
    assert caught.value.field == field
