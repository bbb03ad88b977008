"""A scenario: accounts, arrivals, service times, what a job does when every account is full, faults.

All classes are frozen and check their fields; every error names its field. Durations are float seconds.
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, Final, cast

import attrs

from pika_balancer._util.validators import kind, number, whole
from pika_balancer.distributions import Distribution, Recorded
from pika_balancer.errors import InvalidArgument
from pika_balancer.models import Account
from pika_balancer.selection.policy import Weights, make_rule
from pika_balancer.simulate.arrivals import Arrivals, Trace

MOST_ACCOUNTS: Final = 100_000
"""Maximum number of accounts."""
MOST_SLOTS: Final = 10_000_000
"""Maximum number of slots, which take some hundred megabytes of memory."""


def _spans(value: Any) -> tuple[tuple[float, float], ...]:
    try:
        spans = sorted((float(begin), float(end)) for begin, end in value)
    except (TypeError, ValueError):
        raise InvalidArgument(
            "outages must be pairs of seconds, as in [(600, 1200)]", field="outages"
        ) from None
    merged: list[tuple[float, float]] = []
    for begin, end in spans:
        if not 0 <= begin < end:
            raise InvalidArgument(
                f"an outage must begin at 0 or later and end after it began, not ({begin:g}, {end:g})",
                field="outages",
            )
        if merged and begin <= merged[-1][1]:
            merged[-1] = merged[-1][0], max(end, merged[-1][1])
        else:
            merged.append((begin, end))
    return tuple(merged)


@attrs.frozen
class Failures:
    """Random outages of an account: exponential times up and down, in turn."""

    mean_up: float = attrs.field(validator=number(above=0))
    """Mean time to the next failure, in seconds."""
    mean_down: float = attrs.field(validator=number(above=0))
    """Mean length of an outage, in seconds."""


@attrs.frozen
class SimulatedAccount:
    """One account. During an outage it gets no new job, and its running jobs continue."""

    channel: str = attrs.field(validator=kind(str))
    max_jobs: int = attrs.field(validator=whole(least=1))
    """Its cap."""
    speed: float = attrs.field(default=1.0, validator=number(above=0))
    """Service times are divided by it."""
    outages: tuple[tuple[float, float], ...] = attrs.field(default=(), converter=_spans)
    """Start and end of each outage, in seconds; the end of a permanent ban is infinite."""
    failures: Failures | None = attrs.field(default=None, validator=kind(Failures, type(None)))
    """Random outages instead."""

    def __attrs_post_init__(self) -> None:
        if self.outages and self.failures is not None:
            raise InvalidArgument(
                f"account {self.channel!r} has outages and failures; give one of them", field="failures"
            )


def accounts_of(value: Any) -> tuple[SimulatedAccount, ...]:
    """Return the accounts that `value` describes.

    Args:
        value: A text such as `5x6` (five accounts of cap 6), `6,6,4` or `3x6,4`; caps; an account map as the
            client returns it; or accounts.

    Raises:
        InvalidArgument: It is none of these, or a channel occurs twice.
    """
    if isinstance(value, str):
        from pika_balancer.simulate.notation import parse_accounts  # noqa: PLC0415 - it imports this module

        return parse_accounts(value)
    if isinstance(value, Mapping):
        value = cast("Mapping[str, Any]", value).values()
    if not isinstance(value, Iterable):
        raise InvalidArgument("accounts must be caps or accounts, as in '5x6' or [6, 6, 4]", field="accounts")
    made = tuple(_account(place, item) for place, item in enumerate(cast("Iterable[object]", value), 1))
    if not made:
        raise InvalidArgument("accounts must have at least one account", field="accounts")
    if len(made) > MOST_ACCOUNTS or sum(account.max_jobs for account in made) > MOST_SLOTS:
        raise InvalidArgument(
            f"accounts must be at most {MOST_ACCOUNTS:,}, with at most {MOST_SLOTS:,} slots in all",
            field="accounts",
        )
    for channel, count in Counter(account.channel for account in made).items():
        if count > 1:
            raise InvalidArgument(f"channel {channel!r} occurs {count} times", field="accounts")
    return made


def _account(place: int, item: object) -> SimulatedAccount:
    if isinstance(item, SimulatedAccount):
        return item
    if isinstance(item, Account):
        return SimulatedAccount(item.channel, item.max_jobs)
    if type(item) is int and item >= 1:
        return SimulatedAccount(str(place), item)
    raise InvalidArgument(
        f"accounts must be caps of at least 1 or accounts, not {item!r:.40}", field="accounts"
    )


@attrs.frozen
class Loss:
    """A job that finds every account full is not run."""


@attrs.frozen
class Queue:
    """A job that finds every account full waits; first come, first served."""

    limit: float = attrs.field(default=math.inf, validator=number(least=0, infinite=True))
    """Maximum number of waiting jobs; a job beyond it gives up. No limit by default."""
    patience: Distribution | None = attrs.field(
        default=None,
        validator=kind(Distribution, type(None), hint="a distribution of durations, such as Exponential(60)"),
    )
    """Time after its arrival at which a waiting job gives up; None waits without limit."""

    def __attrs_post_init__(self) -> None:
        if isinstance(self.patience, Recorded):
            raise InvalidArgument("patience cannot be Recorded; use Empirical", field="patience")


@attrs.frozen
class Retry:
    """A job that finds every account full is submitted again later."""

    delay: float = attrs.field(default=15.0, validator=number(above=0))
    """Seconds from one try to the next; the mean if they vary."""
    attempts: int = attrs.field(default=80, validator=whole(least=1))
    """Maximum number of submits of a job, the first included; then it gives up."""
    jitter: float = attrs.field(default=0.0, validator=number(least=0, most=1))
    """Each delay is uniform in `delay` × (1 ± jitter)."""
    exponential: bool = attrs.field(default=False, validator=kind(bool))
    """Whether delays are exponential instead, as in the retrial queue of theory."""

    def __attrs_post_init__(self) -> None:
        if self.exponential and self.jitter:
            raise InvalidArgument("exponential delays take no jitter; give one of them", field="jitter")


@attrs.frozen
class Slowdown:
    """An account slows down when it runs many jobs at once; fixed for a job when it starts."""

    above: int = attrs.field(validator=whole(least=0))
    """Number of jobs in flight up to which nothing slows down."""
    each: float = attrs.field(validator=number(least=0))
    """Share by which a job runs longer for each job in flight above that, itself included: 0.2 is 20 %."""


@attrs.frozen
class Faults:
    """Submits that fail although the account has a free slot. Shares are of all submits that got one.

    After either fault the worker does what it does when every account is full: it gives up, or tries again; a
    job that would wait is submitted again after `retry_after`.
    """

    rate_limited: float = attrs.field(default=0.0, validator=number(least=0, most=1))
    """Share answered 429: the slot is free again at once."""
    accepted: float = attrs.field(default=0.0, validator=number(least=0, most=1))
    """Share answered 5xx although the service accepted the job: it occupies its slot to its end, and the
    worker submits it again. A dispatcher that searches for the job first has none of these."""
    retry_after: float = attrs.field(default=15.0, validator=number(above=0))
    """Seconds until a job that would wait is submitted again."""

    def __attrs_post_init__(self) -> None:
        if self.rate_limited + self.accepted > 1:
            raise InvalidArgument(
                "rate_limited and accepted must not exceed 1 together; lower one", field="accepted"
            )


WhenFull = Loss | Queue | Retry
"""What a job does that finds every account full."""


@attrs.frozen
class Scenario:
    """Everything that a simulation needs besides its seed and length.

    Raises:
        InvalidArgument: A field is out of range; `field` names it.
    """

    accounts: tuple[SimulatedAccount, ...] = attrs.field(converter=accounts_of)
    """The accounts; `5x6`, `6,6,4`, caps and an account map are converted."""
    arrivals: Arrivals = attrs.field(
        validator=kind(Arrivals, hint="arrivals, such as Poisson(0.1), in jobs per second")
    )
    """When jobs arrive."""
    service: Distribution = attrs.field(
        validator=kind(Distribution, hint="a distribution of durations, such as Exponential(180)")
    )
    """Their service times on an account of speed 1."""
    when_full: WhenFull = attrs.field(factory=Loss, validator=kind(Loss, Queue, Retry))
    """What a job does that finds every account full."""
    policy: str | Weights = attrs.field(default="random")
    """The choice of the account: a name from `POLICIES`, or a function from candidates to weights."""
    slowdown: Slowdown | None = attrs.field(default=None, validator=kind(Slowdown, type(None)))
    """How accounts slow down under load; None if they do not."""
    poll_period: float = attrs.field(default=0.0, validator=number(least=0))
    """A slot becomes free at the first multiple of this, in seconds, after the job has ended; 0 is at
    once.
    """
    faults: Faults = attrs.field(factory=Faults, validator=kind(Faults))
    """Submits that fail although a slot is free."""
    warm_up: float | None = attrs.field(
        default=None, validator=attrs.validators.optional(number(least=0, most=0.9))
    )
    """Share of the run that counts in no estimate. By default 0 for a trace and a daily profile, else 0.1."""

    def __attrs_post_init__(self) -> None:
        make_rule(self.policy)
        trace, law = self.arrivals, self.service
        if isinstance(law, Recorded) and not (isinstance(trace, Trace) and len(trace) == len(law.values)):
            raise InvalidArgument(
                "recorded service times need a trace of as many arrivals; to draw from them use Empirical",
                field="service",
            )

    @property
    def slots(self) -> int:
        """Slots of all accounts together."""
        return sum(account.max_jobs for account in self.accounts)

    @property
    def offered_load(self) -> float:
        """Arrivals per mean service time, in erlang, on accounts of speed 1."""
        return self.arrivals.rate * self.service.mean

    @property
    def total_service_rate(self) -> float:
        """Jobs that all slots together complete per mean service time, in erlang."""
        return math.fsum(account.max_jobs * account.speed for account in self.accounts)
