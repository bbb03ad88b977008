"""The setting of one side of a benchmark, and how `--vs` changes it for the other side."""

import argparse
import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

import attrs

from pika_balancer._util.units import format_duration, nearest
from pika_balancer.cli.exit_codes import Usage
from pika_balancer.cli.options import duration, rate, reads, whole
from pika_balancer.distributions import Distribution, format_distribution, parse_distribution
from pika_balancer.selection.policy import POLICIES
from pika_balancer.server import ServerAccount, parse_accounts
from pika_balancer.simulate.arrivals import Arrivals
from pika_balancer.simulate.notation import parse_arrivals

Change = tuple[str, Any]
"""The name of a setting, and its other value."""


@attrs.frozen(kw_only=True)
class Setting:
    """One side of a benchmark. Either `rate` or `closed` is set."""

    policy: str
    """How accounts are chosen."""
    rate: float | None
    """Jobs per second of an open loop, unless `arrivals` have a rate."""
    closed: int | None
    """Jobs under way at once in a closed loop."""
    arrivals: str
    """The arrivals of an open loop as a text, with or without a rate."""
    poll: float | None
    """Seconds between two polls of a job; None if the service calls back."""
    accounts: tuple[ServerAccount, ...]
    """The accounts of the local server; none if another service is loaded."""
    service: Distribution
    """How long the jobs of the local server run."""

    def changed(self, changes: Sequence[Change]) -> "Setting":
        """Return the setting of the other side.

        Raises:
            Usage: Nothing would differ.
        """
        new = dict(changes)
        for loop, other in (("rate", "closed"), ("closed", "rate")):
            if loop in new and other not in new:
                new[other] = None
        changed = attrs.evolve(self, **new)
        if self.told(new) == changed.told(new):
            raise Usage("--vs changes nothing: both sides would be the same", field="vs")
        if (changed.rate is None) == (changed.closed is None):
            raise Usage("--vs: a load is either open (rate) or closed", field="vs")
        return changed

    def told(self, names: Iterable[str]) -> str:
        """Return the values of these settings, as `--vs` takes them."""
        words = self.document()
        # If `--vs` replaces one loop by the other, this side is named by its own loop.
        loop = "rate" if self.closed is None else "closed"
        own = dict.fromkeys(loop if name in ("rate", "closed") else name for name in names)
        return " ".join(f"{name}={words[name]}" for name in own if words[name] is not None)

    def document(self) -> dict[str, Any]:
        """Return all settings, as `--json` shows them."""
        return {
            "policy": self.policy,
            "rate": None if self.schedule is None else f"{self.schedule.rate:g}/s",
            "closed": self.closed,
            "arrivals": None if self.schedule is None else self.arrivals,
            "poll": None if self.poll is None else format_duration(self.poll),
            "accounts": caps(self.accounts) or None,
            "service": format_distribution(self.service) if self.accounts else None,
        }

    @property
    def schedule(self) -> Arrivals | None:
        """When the jobs of an open loop start; None for a closed loop."""
        if self.rate is None:
            return None
        return parse_arrivals(self.arrivals, rate=self.rate)

    @property
    def slots(self) -> int:
        """Slots of all accounts of the local server; 0 if another service is loaded."""
        return sum(account.max_jobs for account in self.accounts)


def caps(accounts: Sequence[ServerAccount]) -> str:
    """Return the caps as `parse_accounts` reads them: `2x6,4`."""
    runs = [(cap, len(list(run))) for cap, run in itertools.groupby(account.max_jobs for account in accounts)]
    return ",".join(f"{count}x{cap}" if count > 1 else f"{cap}" for cap, count in runs)


def policy(text: str) -> str:
    """Read the name of a policy."""
    return _one_of("policy", POLICIES, text)


def arrivals(text: str) -> str:
    """Read the arrivals of an open loop, which may leave their rate to `--rate`."""
    reads(parse_arrivals, rate=1.0)(text)
    return text


def change(text: str) -> Change:
    """Read a setting of the other side, such as `policy=least_loaded`."""
    name, equals, value = text.partition("=")
    name = name.strip().replace("-", "_")
    if not equals:
        raise argparse.ArgumentTypeError(f"{text!r:.60} is no NAME=VALUE, such as policy=least_loaded")
    return name, _SETTINGS[_one_of("setting", tuple(_SETTINGS), name)](value.strip())


def _one_of(what: str, known: Sequence[str], text: str) -> str:
    if text in known:
        return text
    close = nearest(text, known)
    meant = f"did you mean {close}? " if close else ""
    raise argparse.ArgumentTypeError(f"there is no {what} {text!r:.60}; {meant}known are {', '.join(known)}")


_SETTINGS: Final[dict[str, Callable[[str], Any]]] = {
    "policy": policy,
    "rate": rate,
    "closed": whole(1),
    "arrivals": arrivals,
    "poll": duration,
    "accounts": reads(parse_accounts),
    "service": reads(parse_distribution),
}
SETTINGS: Final = tuple(_SETTINGS)
"""The names of what `--vs` can change."""
