"""A scenario and its targets as texts: the values of command-line options.

    accounts    5x6   6,6,4   3x6,4@0.5 (cap 4 at half speed)
    arrivals    poisson:500/h   bursty:500/h,cv=3   daily:0,0,…   onoff:busy_rate=900/h,busy=10min,quiet=30min
    service     exp:180s and the other distributions
    when full   loss   queue   queue:limit=50,patience=5min   retry:15s,80
    targets     refused<1%   wait.p95<120s   utilisation<85%

Each `parse_…` raises `InvalidArgument`, which names the field and the nearest right form; each `format_…`
returns a text that reads as the same value.
"""

import re
from functools import partial
from typing import Final, cast

import attrs

from pika_balancer._util.grammar import (
    COUNT,
    DURATION,
    FLAG,
    NUMBER,
    RATE,
    SHARE,
    Field,
    Kind,
    Unit,
    format_fields,
    format_kind,
    parse_fields,
    parse_kind,
)
from pika_balancer._util.units import format_number, nearest, parse_count, parse_number, wrong
from pika_balancer.distributions import Distribution, format_distribution, parse_distribution
from pika_balancer.errors import InvalidArgument
from pika_balancer.simulate.arrivals import Arrivals, Bursty, Daily, OnOff, Poisson, Regular
from pika_balancer.simulate.scenario import (
    MOST_ACCOUNTS,
    MOST_SLOTS,
    Failures,
    Faults,
    Loss,
    Queue,
    Retry,
    SimulatedAccount,
    Slowdown,
    WhenFull,
)
from pika_balancer.simulate.targets import DURATIONS, FIGURES, FRACTIONS, Target


def _parse_hours(text: str, *, field: str) -> list[float]:
    return [parse_number(hour, field=field) for hour in text.split(",")]


def _parse_patience(text: str, *, field: str) -> Distribution:
    return parse_distribution(text if ":" in text else f"fixed:{text}", field=field)


def _format_patience(patience: Distribution) -> str:
    return format_distribution(patience).removeprefix("fixed:")


_HOURS: Final = Unit(_parse_hours, lambda hours: ",".join(map(format_number, hours)), whole=True)
_RATE: Final = Field("rate", RATE, placed=True)
_ARRIVALS: Final = (
    Kind("poisson", Poisson, (_RATE,), "poisson:500/h"),
    Kind("regular", Regular, (_RATE,), "regular:500/h", ("even", "deterministic", "fixed")),
    Kind("bursty", Bursty, (_RATE, Field("cv", NUMBER)), "bursty:500/h,cv=3"),
    Kind(
        "onoff",
        OnOff,
        (
            Field("busy_rate", RATE),
            Field("busy", DURATION),
            Field("quiet", DURATION),
            Field("quiet_rate", RATE),
        ),
        "onoff:busy_rate=900/h,busy=10min,quiet=30min",
    ),
    Kind(
        "daily",
        Daily,
        (Field("hourly", _HOURS, placed=True),),
        "daily:5,5,5,5,5,10,20,40,60,60,60,60,50,60,60,60,60,50,40,30,20,10,5,5",
    ),
)


def parse_arrivals(text: str, *, field: str = "arrivals", rate: float | None = None) -> Arrivals:
    """Return the arrivals that the text describes; `daily` takes the jobs of each hour of the day.

    `rate` is used, in jobs per second, where the text may have one and does not: `regular`, `bursty:cv=3`.
    """
    given = {} if rate is None else {"rate": rate}
    return cast("Arrivals", parse_kind(text, _ARRIVALS, "kind of arrivals", field, **given))


def format_arrivals(arrivals: Arrivals) -> str:
    """Return the text that describes the arrivals; there is none for a trace."""
    return format_kind(arrivals, _ARRIVALS)


_WHEN_FULL: Final = (
    Kind("loss", Loss, (), "loss"),
    Kind(
        "queue",
        Queue,
        (
            Field("limit", Unit(partial(parse_count, least=0), COUNT.format)),
            Field("patience", Unit(_parse_patience, _format_patience)),
        ),
        "queue:limit=50,patience=5min",
    ),
    Kind(
        "retry",
        Retry,
        (
            Field("delay", DURATION, placed=True),
            Field("attempts", COUNT, placed=True),
            Field("jitter", SHARE),
            Field("exponential", FLAG),
        ),
        "retry:15s,80",
    ),
)


def parse_when_full(text: str, *, field: str = "when_full") -> WhenFull:
    """Return what a job does that finds every account full."""
    return cast("WhenFull", parse_kind(text, _WHEN_FULL, "thing to do when every account is full", field))


def format_when_full(when_full: WhenFull) -> str:
    """Return the text that describes it."""
    return format_kind(when_full, _WHEN_FULL)


_SLOWDOWN: Final = Kind(
    "slowdown", Slowdown, (Field("above", COUNT), Field("each", SHARE)), "above=3,each=20%"
)
_FAULTS: Final = Kind(
    "faults",
    Faults,
    (Field("rate_limited", SHARE), Field("accepted", SHARE), Field("retry_after", DURATION)),
    "rate_limited=1%,accepted=0.5%",
)
_FAILURES: Final = Kind(
    "failures",
    Failures,
    (Field("mean_up", DURATION), Field("mean_down", DURATION)),
    "mean_up=20h,mean_down=30min",
)


def parse_slowdown(text: str, *, field: str = "slowdown") -> Slowdown:
    """Return how accounts slow down: `above=3,each=20%`."""
    return cast("Slowdown", parse_fields(text, _SLOWDOWN, "slowdown", field))


def format_slowdown(slowdown: Slowdown) -> str:
    """Return the text that describes it."""
    return format_fields(slowdown, _SLOWDOWN)


def parse_faults(text: str, *, field: str = "faults") -> Faults:
    """Return the faults of the service: `rate_limited=1%,accepted=0.5%`."""
    return cast("Faults", parse_fields(text, _FAULTS, "share of faults", field))


def format_faults(faults: Faults) -> str:
    """Return the text that describes them."""
    return format_fields(faults, _FAULTS) or "rate_limited=0%"


def parse_failures(text: str, *, field: str = "failures") -> Failures:
    """Return how accounts fail and are repaired: `mean_up=20h,mean_down=30min`."""
    return cast("Failures", parse_fields(text, _FAILURES, "kind of failures", field))


def format_failures(failures: Failures) -> str:
    """Return the text that describes them."""
    return format_fields(failures, _FAILURES)


_GROUP: Final = re.compile(r"(?:([0-9]{1,18})\s*[x×*]\s*)?([0-9]{1,18})(?:\s*@\s*(.+))?")


def parse_accounts(text: str, *, field: str = "accounts") -> tuple[SimulatedAccount, ...]:
    """Return the accounts: `5x6` is five of cap 6, `6,6,4` one by one, `4@0.5` one of cap 4 at half speed."""
    made: list[SimulatedAccount] = []
    slots = 0
    forms = "5x6 (five of cap 6), 6,6,4 or 5x6,4@0.5"
    for group in text.split(","):
        match = _GROUP.fullmatch(group.strip())
        if match is None:
            numbers = re.findall(r"[0-9]+", group)
            pair = len(numbers) == 2  # noqa: PLR2004 - how many, and of which cap
            raise wrong(text, field, "list of accounts", forms, "x".join(numbers) if pair else None)
        count, cap = int(match[1] or 1), int(match[2])
        speed = parse_number(match[3], field=field) if match[3] else 1.0
        slots += count * cap
        if not (count and cap and speed) or len(made) + count > MOST_ACCOUNTS or slots > MOST_SLOTS:
            raise InvalidArgument(
                f"{field}: {text!r:.60} must be 1 to {MOST_ACCOUNTS:,} accounts, with caps and speeds above "
                f"0 and at most {MOST_SLOTS:,} slots in all",
                field=field,
            )
        made += [SimulatedAccount(str(len(made) + place), cap, speed) for place in range(1, count + 1)]
    return tuple(made)


def format_accounts(accounts: tuple[SimulatedAccount, ...]) -> str:
    """Return the text that describes caps and speeds; names, outages and failures it cannot tell."""
    groups: list[tuple[int, SimulatedAccount]] = []
    for account in accounts:
        same = groups and attrs.evolve(groups[-1][1], channel=account.channel) == account
        groups[-1:] = [(groups[-1][0] + 1, account)] if same else [*groups[-1:], (1, account)]
    return ",".join(
        (f"{count}x" if count > 1 else "")
        + str(account.max_jobs)
        + (f"@{format_number(account.speed)}" if account.speed != 1 else "")
        for count, account in groups
    )


_TARGET: Final = re.compile(r"\s*([^<>=]*?)\s*(<=|>=|[<>=])\s*(.*?)\s*")
_SHORT: Final = {
    "refused": "refused_fraction",
    "gave_up": "gave_up_fraction",
    "wait": "wait.mean",
    "utilization": "utilisation",
}


def _unit(figure: str) -> Unit:
    """Return how a limit of the figure is written."""
    return SHARE if figure in FRACTIONS else DURATION if figure in DURATIONS else NUMBER


def parse_target(text: str, *, field: str = "target") -> Target:
    """Return the target: `refused<1%`, `wait.p95<120s` (or `p95 wait < 2min`), `utilisation<85%`."""
    forms = "refused<1%, wait.p95<120s or utilisation<85%"
    match = _TARGET.fullmatch(text)
    if match is None or not match[1] or not match[3]:
        raise wrong(text, field, "target", forms)
    words = match[1].lower().split()
    name = ".".join(reversed(words)) if words[0] in {"mean", "p50", "p90", "p95", "p99"} else "_".join(words)
    figure = _SHORT.get(name, name)
    if figure not in FIGURES:
        close = nearest(name, [*_SHORT, *FIGURES])
        raise wrong(text, field, "target", forms, f"{close}<{match[3]}" if close else None)
    if match[2] != "<":
        raise wrong(text, field, "target", forms, f"{match[1]}<{match[3]}")
    limit = _unit(figure).parse(match[3], field=field)
    if figure in FRACTIONS and limit == 1:  # every share is below, or as good as
        raise wrong(text, field, "target", forms, f"{match[1]}<1%")
    try:
        return Target(figure, "<", limit)
    except InvalidArgument as error:
        raise InvalidArgument(f"{field}: {text!r:.60} cannot be: {error}", field=field) from None


def format_target(target: Target) -> str:
    """Return the text that describes the target."""
    return f"{target.figure.removesuffix('_fraction')}<{_unit(target.figure).format(target.limit)}"
