"""Selection rules: which of the accounts with capacity gets the next job.

A rule never sees a full, paused, cooling or removed account: the selector filters first, then the rule draws.
`chance` is a function that returns a float in [0, 1), so that a seed fixes every decision. Every rule states
its exact odds, which `Selector.explain` shows.
"""

import math
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Protocol, TypeVar

from pika_balancer.errors import InvalidArgument


class Candidate(Protocol):
    """An account with capacity, as a rule sees it. Read only."""

    @property
    def channel(self) -> str:
        """The account's channel."""
        ...

    @property
    def max_jobs(self) -> int:
        """Its cap."""
        ...

    @property
    def in_flight(self) -> int:
        """Its jobs in flight; always below `max_jobs`."""
        ...

    @property
    def order(self) -> int:
        """Its position in the account map, from 0."""
        ...


C = TypeVar("C", bound=Candidate)
Chance = Callable[[], float]
Weights = Callable[[Sequence[Candidate]], Sequence[float]]
"""A user's own rule: from the candidates, in map order, to one weight each (0 or more, not all 0)."""


class Rule(Protocol):
    """How to choose a candidate, and with what odds. There is always at least one candidate."""

    ordered: bool
    """Whether `rows` must be in map order, which costs the selector a pass over the accounts."""

    def pick(self, slots: Sequence[C], rows: Sequence[int], chance: Chance) -> C:
        """Return the candidate that gets the job; `rows` are the candidates' indexes in `slots`."""
        ...

    def odds(self, candidates: Sequence[Candidate]) -> list[float]:
        """Return the exact probability of each candidate at the next pick, without taking that pick."""
        ...


class Uniform:
    """The service's documented rule: every account with capacity is equally likely."""

    ordered = False

    def pick(self, slots: Sequence[C], rows: Sequence[int], chance: Chance) -> C:
        """Return one candidate. O(1), one draw."""
        return slots[rows[int(chance() * len(rows))]]

    def odds(self, candidates: Sequence[Candidate]) -> list[float]:
        """Return 1/n for each."""
        return [1 / len(candidates)] * len(candidates)


class TwoChoices:
    """The one with fewer jobs in flight of two candidates drawn at random (Mitzenmacher 2001)."""

    ordered = False

    def pick(self, slots: Sequence[C], rows: Sequence[int], chance: Chance) -> C:
        """Return the less loaded of two distinct candidates. O(1), two draws; none for a single candidate."""
        n = len(rows)
        if n == 1:
            return slots[rows[0]]
        i = int(chance() * n)
        j = int(chance() * (n - 1))
        first, second = slots[rows[i]], slots[rows[j + (j >= i)]]
        # The order of the two draws is itself random, so a tie is broken at random.
        return second if second.in_flight < first.in_flight else first

    def odds(self, candidates: Sequence[Candidate]) -> list[float]:
        """Return each candidate's share of the pairs that it wins; a tie counts half."""
        n = len(candidates)
        if n == 1:
            return [1.0]
        alike = Counter(candidate.in_flight for candidate in candidates)
        busier: dict[int, int] = {}
        seen = 0
        for load in sorted(alike, reverse=True):
            busier[load] = seen
            seen += alike[load]
        pairs = n * (n - 1) / 2
        return [(busier[c.in_flight] + (alike[c.in_flight] - 1) / 2) / pairs for c in candidates]


class RoundRobin:
    """The candidate after the last one picked, in map order; the first pick is at random."""

    ordered = True

    def __init__(self) -> None:
        self._last: Candidate | None = None

    def pick(self, slots: Sequence[C], rows: Sequence[int], chance: Chance) -> C:
        """Return the next candidate in turn. O(n); only the first pick draws."""
        candidates = [slots[row] for row in rows]
        index = int(chance() * len(candidates)) if self._last is None else self._next(candidates, self._last)
        chosen = candidates[index]
        self._last = chosen
        return chosen

    def odds(self, candidates: Sequence[Candidate]) -> list[float]:
        """Return 1 for the next in turn; 1/n for each before the first pick."""
        if self._last is None:
            return [1 / len(candidates)] * len(candidates)
        turn = self._next(candidates, self._last)
        return [float(index == turn) for index in range(len(candidates))]

    @staticmethod
    def _next(candidates: Sequence[Candidate], last: Candidate) -> int:
        # Read `order` at each pick: an update may have changed it.
        return bisect_right(candidates, last.order, key=lambda c: c.order) % len(candidates)


class Weighted:
    """Each candidate with a probability proportional to its weight."""

    ordered = True

    def __init__(self, weights: Weights) -> None:
        self._weights = weights

    def pick(self, slots: Sequence[C], rows: Sequence[int], chance: Chance) -> C:
        """Return a candidate drawn by weight. O(n), one draw."""
        candidates = [slots[row] for row in rows]
        totals = list(accumulate(self._checked(candidates)))
        # A weight of 0 adds no step to land on. With tiny weights the product could round up to the total.
        draw = min(chance() * totals[-1], math.nextafter(totals[-1], 0))
        return candidates[bisect_right(totals, draw)]

    def odds(self, candidates: Sequence[Candidate]) -> list[float]:
        """Return the weights divided by their sum."""
        weights = self._checked(candidates)
        total = sum(weights)
        return [weight / total for weight in weights]

    def _checked(self, candidates: Sequence[Candidate]) -> Sequence[float]:
        returned = self._weights(candidates)
        try:
            weights = [float(weight) for weight in returned]
        except (TypeError, ValueError, OverflowError):
            raise InvalidArgument(
                "the policy must return a list of numbers, one each", field="policy"
            ) from None
        if len(weights) != len(candidates):
            raise InvalidArgument(
                f"the policy returned {len(weights)} weights for {len(candidates)} accounts; return one each",
                field="policy",
            )
        if not min(weights) >= 0 or not 0 < sum(weights) < math.inf:
            raise InvalidArgument(
                "the policy's weights must be finite, 0 or more, and not all 0", field="policy"
            )
        return weights


def fewest_in_flight(candidates: Sequence[Candidate]) -> list[float]:
    """Give weight 1 to the candidates with the fewest jobs in flight, 0 to the others."""
    least = min(candidate.in_flight for candidate in candidates)
    return [float(candidate.in_flight == least) for candidate in candidates]


def free_slots(candidates: Sequence[Candidate]) -> list[float]:
    """Give each candidate its number of free slots as weight."""
    return [float(candidate.max_jobs - candidate.in_flight) for candidate in candidates]


_NAMED: dict[str, Callable[[], Rule]] = {
    "random": Uniform,
    "least_loaded": lambda: Weighted(fewest_in_flight),
    "two_choices": TwoChoices,
    "round_robin": RoundRobin,
    "weighted": lambda: Weighted(free_slots),
}

POLICIES: tuple[str, ...] = tuple(_NAMED)
"""The names that `policy=` takes; `random` is the documented rule and the default."""


def make_rule(policy: str | Weights) -> Rule:
    """Return the rule of that name, or a rule that draws by the user's own weights.

    Raises:
        InvalidArgument: No rule has that name, or `policy` is neither a name nor a function.
    """
    if isinstance(policy, str):
        if policy not in _NAMED:
            raise InvalidArgument(
                f"there is no policy {policy!r}; take one of {', '.join(POLICIES)}", field="policy"
            )
        return _NAMED[policy]()
    if not callable(policy):
        raise InvalidArgument(
            f"policy must be one of {', '.join(POLICIES)}, or a function from candidates to weights",
            field="policy",
        )
    return Weighted(policy)
