"""Each promise of the selector by itself, and all of them under a random walk."""

import copy
import math
import pickle
import random
from collections import Counter
from collections.abc import Sequence

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from pika_balancer.errors import ForeignLease, InvalidArgument, UnknownChannel
from pika_balancer.models import Account, Lease, Secret
from pika_balancer.selection.policy import POLICIES, Candidate, Weights
from pika_balancer.selection.selector import Selector
from tests.chi_square import p_value
from tests.depth import examples, sized


def accounts(*caps: int) -> list[Account]:
    return [Account(str(i), cap) for i, cap in enumerate(caps)]


def take(selector: Selector, channel: str | None = None) -> Lease:
    lease = selector.try_acquire(channel)
    assert lease is not None
    return lease


# The documented rule: uniform over accounts with capacity, whatever their number of free slots.

STATES: dict[str, tuple[list[int], list[int]]] = {
    "one account": ([3], [1]),
    "two, unequal": ([1, 10], [0, 0]),
    "two, one nearly full": ([10, 10], [9, 0]),
    "ten, idle": ([10] * 10, [0] * 10),
    "ten, every load": ([10] * 10, list(range(10))),
    "ten, four of them full": (list(range(1, 11)), [1, 0, 3, 0, 5, 0, 7, 4, 0, 9]),
    "thousand, mixed": ([1 + i % 10 for i in range(1000)], [i % 3 if i % 10 > 2 else 0 for i in range(1000)]),
    "thousand, every other full": ([2] * 1000, [2 * (i % 2) for i in range(1000)]),
}


@pytest.mark.deep
@pytest.mark.no_cover  # many picks of the same few lines
@pytest.mark.parametrize("state", STATES)
def test_the_pick_is_uniform_over_accounts_with_capacity(state: str) -> None:
    caps, busy = STATES[state]
    selector = Selector(accounts(*caps), rng=random.Random(20240115))
    for channel, jobs in enumerate(busy):
        for _ in range(jobs):
            take(selector, str(channel))
    picks = sized(50_000, 1_000_000)
    counts: Counter[str] = Counter()
    acquire, release = selector.try_acquire, selector.release
    for _ in range(picks):
        lease = acquire()
        assert lease is not None
        counts[lease.channel] += 1
        release(lease)
    roomy = [b < c for b, c in zip(busy, caps, strict=True)]
    expected = [picks / sum(roomy) if room else 0.0 for room in roomy]
    assert p_value([counts[str(i)] for i in range(len(caps))], expected) > 1e-4
    assert [e.probability for e in selector.explain().values()] == pytest.approx(
        [e / picks for e in expected]
    )


@pytest.mark.parametrize("policy", POLICIES)
def test_a_seed_fixes_every_pick(policy: str) -> None:
    def walk(seed: int) -> list[str]:
        selector = Selector(accounts(2, 3, 5), rng=random.Random(seed), policy=policy)
        held: list[Lease] = []
        channels: list[str] = []
        chance = random.Random(99)
        for _ in range(300):
            lease = selector.try_acquire()
            if lease is None or chance.random() < 0.3:
                selector.release(held.pop(chance.randrange(len(held)))) if held else None
            if lease is not None:
                held.append(lease)
                channels.append(lease.channel)
        return channels

    assert walk(1) == walk(1)
    assert walk(1) != walk(2)


def test_never_above_the_cap_and_none_when_full() -> None:
    selector = Selector(accounts(2, 1))
    leases = [take(selector) for _ in range(3)]
    assert sorted(lease.channel for lease in leases) == ["0", "0", "1"]
    assert selector.try_acquire() is None
    assert selector.try_acquire("0") is None
    assert selector.in_flight() == 3


def test_a_second_release_does_nothing() -> None:
    selector = Selector(accounts(2))
    first, second = take(selector), take(selector)
    assert selector.release(first) is True
    assert selector.release(first) is False
    assert selector.in_flight("0") == 1
    assert (first.held, second.held) == (False, True)
    assert (first.id, second.id, take(selector).id) == (1, 2, 3)


def test_a_lease_of_another_selector_is_refused_and_stays_held() -> None:
    ours, theirs = Selector(accounts(1)), Selector(accounts(1))
    lease = take(theirs)
    with pytest.raises(ForeignLease) as caught:
        ours.release(lease)
    assert caught.value.channel == "0"
    assert lease.held
    assert (ours.in_flight(), theirs.in_flight()) == (0, 1)
    theirs.release(lease)
    with pytest.raises(ForeignLease):
        ours.release(lease)


def test_releasing_anything_but_a_lease_is_refused() -> None:
    for wrong, name in ((None, "NoneType"), ("0", "str")):
        with pytest.raises(InvalidArgument, match=name) as caught:
            Selector(accounts(1)).release(wrong)  # type: ignore[arg-type]  # as callers without a type checker do
        assert caught.value.field == "lease"


def test_a_pinned_acquire_takes_that_channel_or_nothing() -> None:
    selector = Selector(accounts(1, 5))
    assert take(selector, "0").channel == "0"
    assert selector.try_acquire("0") is None
    with pytest.raises(UnknownChannel, match="'7'") as caught:
        selector.try_acquire("7")
    assert (caught.value.field, caught.value.channel) == ("channel", "7")


def test_an_update_keeps_the_count_and_drains_a_lowered_cap() -> None:
    selector = Selector(accounts(3))
    leases = [take(selector) for _ in range(3)]
    selector.update([Account("0", 1)])
    assert selector.in_flight("0") == 3
    selector.release(leases[0])
    selector.release(leases[1])
    assert selector.try_acquire() is None
    selector.release(leases[2])
    assert selector.try_acquire() is not None
    assert selector.try_acquire() is None


def test_a_raised_cap_opens_exactly_what_it_adds() -> None:
    selector = Selector(accounts(2))
    for _ in range(2):
        take(selector)
    selector.update([Account("0", 1)])
    selector.update([Account("0", 4)])
    assert [selector.try_acquire() is not None for _ in range(3)] == [True, True, False]


def test_a_removed_account_keeps_its_leases_and_gets_its_count_back() -> None:
    selector = Selector(accounts(2, 2))
    leases = [take(selector, "0"), take(selector, "0")]
    selector.update([Account("1", 2)])
    assert selector.in_flight("0") == 2
    with pytest.raises(UnknownChannel):
        selector.try_acquire("0")
    assert selector.snapshot().accounts[-1].removed
    selector.release(leases[0])
    selector.update(accounts(2, 2))
    assert selector.in_flight("0") == 1
    assert selector.try_acquire("0") is not None
    assert selector.try_acquire("0") is None


def test_a_removed_account_is_forgotten_once_drained() -> None:
    selector = Selector(accounts(1, 1))
    lease = take(selector, "0")
    selector.update([Account("1", 1)])
    selector.release(lease)
    assert [account.channel for account in selector.snapshot().accounts] == ["1"]
    assert selector.in_flight("0") == 0


def test_a_pause_outlives_the_removal_of_its_account() -> None:
    selector = Selector(accounts(1, 1))
    selector.pause("0")
    selector.update([Account("1", 1)])
    selector.update(accounts(1, 1))
    assert selector.try_acquire("0") is None


def test_pause_and_resume() -> None:
    selector = Selector(accounts(1, 1))
    selector.pause("0")
    assert take(selector).channel == "1"
    assert selector.try_acquire() is None
    selector.resume("0")
    assert take(selector).channel == "0"
    assert [account.paused for account in selector.snapshot().accounts] == [False, False]


def test_a_cooldown_ends_on_time_and_not_before() -> None:
    selector = Selector(accounts(1))
    selector.cool_down("0", until=10.0)
    assert selector.try_acquire() is None
    assert selector.try_acquire(now=9.999) is None
    assert selector.snapshot(now=9.999).accounts[0].cooldown_until == 10.0
    assert copy.deepcopy(selector).snapshot(now=10.0).accounts[0].cooldown_until is None
    assert selector.try_acquire(now=10.0) is not None


def test_the_longest_cooldown_counts_and_resume_ends_it() -> None:
    selector = Selector(accounts(1))
    selector.cool_down("0", until=10.0)
    selector.cool_down("0", until=5.0)
    assert selector.try_acquire(now=5.0) is None
    lease = selector.try_acquire(now=10.0)
    assert lease is not None
    selector.release(lease)
    selector.cool_down("0", until=50.0)
    selector.resume("0")
    assert selector.try_acquire(now=6.0) is not None
    for never in (math.inf, math.nan):
        with pytest.raises(InvalidArgument) as caught:
            selector.cool_down("0", until=never)
        assert caught.value.field == "until"


@pytest.mark.parametrize("verb", ["pause", "resume"])
def test_an_unknown_channel_is_refused(verb: str) -> None:
    selector = Selector(accounts(1))
    with pytest.raises(UnknownChannel) as caught:
        getattr(selector, verb)("9")
    assert caught.value.channel == "9"
    with pytest.raises(UnknownChannel):
        selector.cool_down("9", until=1.0)


def test_adopted_jobs_take_slots_even_past_the_cap() -> None:
    selector = Selector(accounts(1))
    first = selector.adopt("0", "job:a")
    assert selector.adopt("0", "job:a") is first
    selector.adopt("0", "job:b")
    assert selector.in_flight("0") == 2
    selector.release(first)
    assert selector.try_acquire() is None
    with pytest.raises(InvalidArgument) as caught:
        selector.adopt("9", "job:b")
    assert (caught.value.field, caught.value.channel) == ("key", "9")
    with pytest.raises(InvalidArgument) as caught:
        selector.adopt("0", "")
    assert caught.value.field == "key"
    assert selector.adopt("0", "job:a") is not first


def test_a_job_adopted_on_a_channel_outside_the_map_counts_when_its_account_comes() -> None:
    selector = Selector(accounts(1))
    lease = selector.adopt("9", "job:a")
    selector.update([Account("0", 1), Account("9", 1)])
    assert selector.try_acquire("9") is None
    selector.release(lease)
    assert selector.try_acquire("9") is not None


def test_a_key_or_channel_that_is_no_string_is_refused_by_name() -> None:
    selector = Selector(accounts(1))
    take(selector)
    for call, field in (
        (lambda: selector.adopt("0", 1), "key"),  # type: ignore[arg-type]  # wrong on purpose
        (lambda: selector.try_acquire(600), "channel"),  # type: ignore[arg-type]  # wrong on purpose
        (lambda: selector.pause([]), "channel"),  # type: ignore[arg-type]  # wrong on purpose
        (lambda: Selector(rng=7), "rng"),  # type: ignore[arg-type]  # wrong on purpose
        (lambda: Selector(rng=0), "rng"),  # type: ignore[arg-type]  # wrong on purpose
    ):
        with pytest.raises(InvalidArgument) as caught:
            call()
        assert caught.value.field == field
    with pytest.raises(InvalidArgument, match="not int; pass a time limit as timeout="):
        selector.in_flight(600)  # type: ignore[arg-type]  # wrong on purpose


def test_a_policy_that_acquires_by_itself_cannot_pass_a_cap() -> None:
    def greedy(candidates: Sequence[Candidate]) -> list[float]:
        selector.try_acquire("0")
        return [1.0] * len(candidates)

    selector = Selector(accounts(1), policy=greedy)
    with pytest.raises(InvalidArgument, match="by itself") as caught:
        selector.try_acquire()
    assert caught.value.field == "policy"
    assert selector.in_flight("0") == 1
    assert selector.try_acquire() is None


def test_a_copy_is_independent_and_draws_the_same_numbers() -> None:
    one, two = (Selector(accounts(*[1] * 50), rng=random.Random(6)) for _ in range(2))
    copied = copy.deepcopy(one)
    what_if = [take(copied).channel for _ in range(50)]
    assert [take(one).channel for _ in range(50)] == [take(two).channel for _ in range(50)] == what_if
    assert pickle.loads(pickle.dumps(copied)).in_flight() == 50


def test_round_robin_follows_a_map_that_was_reordered() -> None:
    selector = Selector(accounts(5, 5, 5), policy="round_robin")
    first = take(selector).channel
    others = [channel for channel in "012" if channel != first]
    order = [first, *reversed(others)]
    selector.update([Account(channel, 5) for channel in order])
    assert [take(selector).channel for _ in range(4)] == [*order[1:], *order[:2]]


def test_a_removed_account_without_jobs_keeps_no_token() -> None:
    selector = Selector([Account("0", 1, Secret("canary-token"))])
    lease = take(selector)
    assert lease.account.discord is not None
    selector.update([])
    assert lease.account.discord is not None
    assert selector.explain()["0"].why == "removed"
    selector.update([Account("0", 1, Secret("canary-token"))])
    selector.release(lease)
    selector.update([])
    assert lease.account.discord is None


def test_explain_says_why_and_reserves_nothing() -> None:
    selector = Selector(accounts(2, 1, 1, 1, 1), rng=random.Random(5))
    take(selector, "1")
    selector.pause("2")
    selector.cool_down("3", until=7.0)
    before = selector.snapshot()
    told = selector.explain()
    assert [(e.why, e.eligible, e.free, e.probability) for e in told.values()] == [
        ("eligible", True, 2, 0.5),
        ("full", False, 0, 0.0),
        ("paused", False, 1, 0.0),
        ("cooling_down", False, 1, 0.0),
        ("eligible", True, 1, 0.5),
    ]
    assert [e.channel for e in told.values()] == list(told) == list("01234")
    assert selector.snapshot() == before
    assert selector.explain(now=7.0)["3"].eligible


@pytest.mark.parametrize("policy", POLICIES)
def test_explain_does_not_disturb_the_picks(policy: str) -> None:
    def walk(*, asking: bool) -> list[str]:
        selector = Selector(accounts(3, 3, 3), rng=random.Random(8), policy=policy)
        channels: list[str] = []
        while (lease := selector.try_acquire()) is not None:
            channels.append(lease.channel)
            if asking:
                selector.explain()
        return channels

    assert walk(asking=True) == walk(asking=False)


def test_a_snapshot_does_not_change_afterwards() -> None:
    selector = Selector(accounts(2, 3))
    before = selector.snapshot()
    take(selector)
    assert (before.in_flight, before.capacity) == (0, 5)
    assert (selector.snapshot().in_flight, sum(a.free for a in selector.snapshot().accounts)) == (1, 4)


def test_unavailability_is_full_cooling_down_or_never() -> None:
    selector = Selector(accounts(1, 1))
    assert selector.why_unavailable() is None
    lease = take(selector, "0")
    selector.cool_down("1", until=30.0)
    told = selector.why_unavailable()
    assert told is not None
    assert (told.reason, told.until) == ("full", None)
    assert selector.why_unavailable(now=30.0) is None
    selector.cool_down("1", until=60.0)
    selector.pause("0")
    told = selector.why_unavailable()
    assert told is not None
    assert (told.reason, told.until) == ("cooling_down", 60.0)
    selector.pause("1")
    told = selector.why_unavailable()
    assert told is not None
    assert told.reason == "never"
    assert "resume" in told.message
    selector.release(lease)
    for nothing in (Selector().why_unavailable(), selector.why_unavailable("9")):
        assert nothing is not None
        assert nothing.reason == "never"


def test_unavailability_of_one_channel_depends_on_its_account_alone() -> None:
    selector = Selector(accounts(1, 1))
    take(selector, "0")
    told = selector.why_unavailable("0")
    assert told is not None
    assert (told.reason, "'0'" in told.message) == ("full", True)
    assert selector.why_unavailable("1") is None
    selector.cool_down("1", until=5.0)
    assert selector.why_unavailable("1", now=4.0) is not None
    assert selector.why_unavailable("1", now=5.0) is None
    selector.update(accounts(1))
    gone, never = selector.why_unavailable("1"), selector.why_unavailable("9")
    assert gone is not None
    assert never is not None
    assert gone.reason == never.reason == "never"


def test_a_refused_account_map_changes_nothing() -> None:
    selector = Selector(accounts(1, 1))
    take(selector, "0")
    before = selector.snapshot()
    with pytest.raises(InvalidArgument, match="appears twice") as caught:
        selector.update([Account("5"), Account("5")])
    assert (caught.value.field, caught.value.channel) == ("accounts", "5")
    with pytest.raises(InvalidArgument, match=r"not str; .*accounts\.values\(\)") as caught:
        selector.update({"0": Account("0")})  # type: ignore[dict-item]  # the usual slip
    assert caught.value.field == "accounts"
    assert selector.snapshot() == before


# Every operation in random order, against a model made of dictionaries.


def first_two(candidates: Sequence[Candidate]) -> list[float]:
    """A user's own rule: the first two candidates alike."""
    n = len(candidates)
    return [1.0, 1.0, *[0.0] * (n - 2)][:n]


CHANNELS = st.sampled_from("abcd")


class Walk(RuleBasedStateMachine):
    """Random operations on a selector and on dictionaries."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.caps: dict[str, int] = {}
        self.held: list[Lease] = []
        self.done: list[Lease] = []
        self.adopted: dict[str, Lease] = {}
        self.paused: set[str] = set()
        self.cooldowns: dict[str, float] = {}

    @initialize(
        caps=st.dictionaries(CHANNELS, st.integers(1, 3)),
        policy=st.sampled_from([*POLICIES, first_two]),
        seed=st.integers(0, 3),
    )
    def begin(self, caps: dict[str, int], policy: str | Weights, seed: int) -> None:
        self.caps = caps
        self.selector = Selector(
            [Account(c, cap) for c, cap in caps.items()], rng=random.Random(seed), policy=policy
        )

    def known(self) -> set[str]:
        return {*self.caps, *(lease.channel for lease in self.held), *self.paused, *self.cooldowns}

    def count(self, channel: str) -> int:
        return sum(lease.channel == channel for lease in self.held)

    def open(self) -> set[str]:
        return {
            channel
            for channel, cap in self.caps.items()
            if self.count(channel) < cap and channel not in self.paused and channel not in self.cooldowns
        }

    @rule(channel=st.none() | CHANNELS)
    def acquire(self, channel: str | None) -> None:
        if channel is not None and channel not in self.caps:
            with pytest.raises(UnknownChannel):
                self.selector.try_acquire(channel, self.now)
            return
        could = {c for c in self.open() if channel in {None, c}}
        lease = self.selector.try_acquire(channel, self.now)
        assert (lease is None) == (not could)
        if lease is not None:
            assert lease.channel in could
            self.held.append(lease)
            assert self.selector.in_flight(lease.channel) <= self.caps[lease.channel]

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        lease = self.held.pop(data.draw(st.integers(0, len(self.held) - 1)))
        self.adopted.pop(str(lease.id), None)
        assert self.selector.release(lease)
        self.done.append(lease)

    @precondition(lambda self: self.done)
    @rule()
    def release_again(self) -> None:
        assert not self.selector.release(self.done[-1])

    @rule(caps=st.dictionaries(CHANNELS, st.integers(1, 3)))
    def update(self, caps: dict[str, int]) -> None:
        self.caps = caps
        self.selector.update([Account(c, cap) for c, cap in caps.items()])

    @rule(channel=CHANNELS)
    def pause(self, channel: str) -> None:
        if channel in self.known():
            self.selector.pause(channel)
            self.paused.add(channel)

    @rule(channel=CHANNELS)
    def resume(self, channel: str) -> None:
        if channel in self.known():
            self.selector.resume(channel)
            self.paused.discard(channel)
            self.cooldowns.pop(channel, None)

    @rule(channel=CHANNELS, seconds=st.integers(1, 5))
    def cool_down(self, channel: str, seconds: int) -> None:
        if channel in self.known():
            self.selector.cool_down(channel, self.now + seconds)
            self.cooldowns[channel] = max(self.cooldowns.get(channel, 0), self.now + seconds)

    @rule(seconds=st.integers(1, 3))
    def wait(self, seconds: int) -> None:
        self.now += seconds
        self.cooldowns = {channel: until for channel, until in self.cooldowns.items() if until > self.now}
        self.selector.wake(self.now)

    @rule(channel=CHANNELS, key=st.sampled_from(["j1", "j2", "j3"]))
    def adopt(self, channel: str, key: str) -> None:
        held = self.adopted.get(key)
        if held is not None and held.channel != channel:
            with pytest.raises(InvalidArgument):
                self.selector.adopt(channel, key)
            return
        lease = self.selector.adopt(channel, key)
        if held is None:
            self.adopted[key] = lease
            self.held.append(lease)
        else:
            assert lease is held

    @invariant()
    def counts_agree(self) -> None:
        if not hasattr(self, "selector"):
            return
        for channel in "abcd":
            assert self.selector.in_flight(channel) == self.count(channel)
        assert self.selector.in_flight() == len(self.held) == self.selector.snapshot().in_flight
        told = self.selector.explain()
        assert {c for c, e in told.items() if e.eligible} == self.open()
        assert sum(e.probability for e in told.values()) == pytest.approx(1 if self.open() else 0)
        told_why = self.selector.why_unavailable()
        assert (told_why is None) == bool(self.open())
        if told_why is not None:
            awake = [c for c in self.caps if c not in self.paused]
            full = any(c not in self.cooldowns for c in awake)
            assert told_why.reason == ("full" if full else "cooling_down" if awake else "never")

    def teardown(self) -> None:
        if not hasattr(self, "selector"):
            return
        for channel in self.known():
            self.selector.resume(channel)
        for lease in self.held:
            self.selector.release(lease)
        assert self.selector.in_flight() == 0
        obtained = 0
        while self.selector.try_acquire() is not None:
            obtained += 1
        assert obtained == sum(self.caps.values())


Walk.TestCase.settings = examples(40, 1000, stateful_step_count=40)
TestWalk = pytest.mark.deep(Walk.TestCase)
