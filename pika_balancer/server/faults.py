"""Scripted faults of job submits (`POST /create`, `/animate`, …), as texts such as `429:0.1:15s`.

A fault is drawn after the parameters have been checked. A submit has at most one, so the probabilities of a
script add up to at most 1.
"""

import math
import random
from collections.abc import Iterable, Mapping
from typing import Final, Literal

import attrs

from pika_balancer._util.units import nearest, parse_duration, parse_share
from pika_balancer.errors import InvalidArgument


@attrs.frozen
class FaultKind:
    """What a fault of one name does."""

    meaning: str
    """One line for help texts."""
    accepted: bool = True
    """Whether the job is accepted and holds a slot."""
    answer: Literal["job", "error", "html", "drop"] = "job"
    """The answer: the job as usual, a JSON error, an HTML error, or none (the connection is closed)."""
    status: int = 200
    """HTTP status of the answer."""
    error: str = ""
    """The `error` text of the answer."""
    param: float | None = None
    """Default of the parameter, in seconds; None if the fault takes none."""
    outcome: str | None = None
    """How the job ends; None: completed. `lost` jobs hold a slot, but are never shown."""


def _refused(status: int, meaning: str, error: str, param: float | None = None) -> FaultKind:
    return FaultKind(meaning, accepted=False, answer="error", status=status, error=error, param=param)


FAULTS: Final[Mapping[str, FaultKind]] = {
    "429": _refused(429, "Discord rate limit; PARAM: Retry-After, 15s", "Rate limited by Discord", 15.0),
    "402": _refused(402, "no subscription", "Account has no subscription or subscription expired"),
    "422": _refused(422, "prompt moderated or invalid", "Prompt moderated or invalid"),
    "500": _refused(500, "server error, job not accepted", "Internal Server Error"),
    "500-but-accepted": FaultKind(
        "server error, but the job was accepted", answer="error", status=500, error="Internal Server Error"
    ),
    "502": _refused(502, "bad gateway, job not accepted", "Bad Gateway"),
    "503": _refused(503, "unavailable, job not accepted", "Service Unavailable"),
    "504": FaultKind(
        "job queued but not confirmed; PARAM: how long it holds a slot, 3min",
        answer="error",
        status=504,
        error="Gateway Timeout: the job was queued, but no confirmation arrived",
        param=180.0,
        outcome="lost",
    ),
    "596": _refused(596, "pending moderation message", "Discord account has a pending moderation message"),
    "slow": FaultKind("late answer; PARAM: delay, 10s", param=10.0),
    "drop": FaultKind("connection closed without an answer, job not accepted", accepted=False, answer="drop"),
    "drop-accepted": FaultKind(
        "connection closed without an answer, but the job was accepted", answer="drop"
    ),
    "html": FaultKind(
        "an HTML page with status 500, job not accepted", accepted=False, answer="html", status=500
    ),
    "fail": FaultKind("the job ends as failed", outcome="failed"),
    "moderated": FaultKind("the job ends as moderated", outcome="moderated"),
    "cancel": FaultKind("the job ends as cancelled", outcome="cancelled"),
}
"""Every fault by its name."""


@attrs.frozen
class ScriptedFault:
    """One line of a fault script."""

    name: str
    """A key of `FAULTS`."""
    probability: float
    """Probability that a submit has the fault, 0 to 1."""
    param: float | None = None
    """The fault's parameter, in seconds of service time; None: its default."""

    def __attrs_post_init__(self) -> None:
        kind = FAULTS.get(self.name)
        if kind is None:
            problem = f"unknown; known faults: {', '.join(FAULTS)}"
        elif not 0 <= self.probability <= 1:
            problem = "the probability must be from 0 to 1"
        elif self.param is not None and kind.param is None:
            problem = "takes no parameter"
        elif self.param is not None and not 0 <= self.param < math.inf:
            problem = "the parameter is a duration of at least 0"
        else:
            return
        raise InvalidArgument(f"fault {self.name!r:.60}: {problem}", field="faults")

    @property
    def kind(self) -> FaultKind:
        """What the fault does."""
        return FAULTS[self.name]

    @property
    def seconds(self) -> float:
        """The parameter, or its default; 0 if the fault takes none."""
        return self.param if self.param is not None else self.kind.param or 0.0


def parse_fault(text: str) -> ScriptedFault:
    """Return the fault that `text` describes: `NAME:PROB` or `NAME:PROB:PARAM`, as in `429:10%:15s`.

    Raises:
        InvalidArgument: `text` is no fault; names `faults` and the nearest right form.
    """
    name, *rest = text.strip().split(":", 2)
    if name not in FAULTS:
        close = nearest(name, FAULTS)
        hint = f"did you mean {close}?" if close else f"known faults: {', '.join(FAULTS)}"
        raise InvalidArgument(f"fault {name!r:.60}: unknown; {hint}", field="faults")
    if not rest or not rest[0]:
        raise InvalidArgument(
            f"fault {text!r:.60}: write NAME:PROB or NAME:PROB:PARAM, as in 429:10%:15s", field="faults"
        )
    param = parse_duration(rest[1], field="faults") if rest[1:] else None
    return ScriptedFault(name, parse_share(rest[0], field="faults"), param)


@attrs.frozen
class FaultScript:
    """The faults of a server; each submit draws one or none."""

    faults: tuple[ScriptedFault, ...]
    """In the order in which they are drawn."""

    def __attrs_post_init__(self) -> None:
        total = math.fsum(fault.probability for fault in self.faults)
        if total > 1 + 1e-9:
            raise InvalidArgument(
                f"faults: the probabilities add up to {total:g}; they must add up to at most 1",
                field="faults",
            )

    @classmethod
    def of(cls, faults: Iterable[ScriptedFault | str]) -> "FaultScript":
        """Return the script of these faults, texts among them parsed by `parse_fault`."""
        return cls(tuple(parse_fault(fault) if isinstance(fault, str) else fault for fault in faults))

    def draw(self, rng: random.Random) -> ScriptedFault | None:
        """Return the fault of the next submit, or None; takes a number of `rng` unless empty."""
        if not self.faults:
            return None
        point = rng.random()
        for fault in self.faults:
            point -= fault.probability
            if point < 0:
                return fault
        return None
