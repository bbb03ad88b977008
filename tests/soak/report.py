"""What a soak tells: as a document for programs, and as a table for people."""

from collections.abc import Iterator, Mapping
from typing import Any, Final

import attrs

from tests.soak.weight import growth
from tests.soak.whole import Soak

_MEBI: Final = 2**20
_COMPLAINTS: Final = 40
"""How many complaints are printed; the rest is counted."""


def document(soak: Soak) -> dict[str, Any]:
    """Return everything that was counted, as plain JSON."""
    ledger = soak.ledger
    statistics = dict(soak.statistics)
    channels = statistics.pop("channels").values()
    return {
        "command": str(soak),
        "seconds": round(soak.seconds, 3),
        "service_hours": round(soak.clock.now() / 3600, 3),
        "jobs": {
            "begun": ledger.begun,
            "taken": ledger.taken,
            "per_second": round(ledger.taken / soak.seconds, 1),
            "callers were told": dict(ledger.told),
            "ends": dict(ledger.ends),
            "rightly unknown, by outcome": dict(ledger.silent),
            "attempts when full": ledger.full,
            "of them without an excuse": ledger.knocks,
        },
        "lives": {why: sum(worker.lives[why] for worker in soak.workers) for why in _ways(soak)},
        "account map": dict(soak.account_churn.changes) | {"pauses ended by a person": soak.resumed},
        "peaks": {
            channel[
                "channel"
            ]: f"{channel['peak_in_flight']} of {soak.account_churn.highest[channel['channel']]}"
            for channel in channels
        },
        "server": statistics,
        "events": dict(ledger.events),
        "weights": [attrs.asdict(weight) for weight in soak.weights],
        "growth": {
            measure: {"by": grown[0], "jobs": grown[1]}
            for measure in ("memory", "server", "blocks", "files", "tasks", "keys", "entries")
            if (grown := growth(soak.weights, measure)) is not None
        },
        "complaints": soak.complaints,
    }


def table(facts: Mapping[str, Any]) -> str:
    """Return the document as lines to read."""
    return "\n".join(_lines(facts))


def _lines(facts: Mapping[str, Any]) -> Iterator[str]:
    jobs = dict(facts["jobs"])
    yield facts["command"]
    yield (
        f"{jobs.pop('begun')} jobs begun, {jobs.pop('taken')} taken in {facts['seconds']:.1f} s "
        f"({jobs.pop('per_second'):.0f}/s), {facts['service_hours']:.1f} h of service time"
    )
    yield ""
    rows = {**jobs, **{name: facts[name] for name in ("lives", "account map", "peaks", "server", "events")}}
    for name, value in rows.items():
        yield f"{name:<28} {_words(value)}"
    yield ""
    yield "way   jobs     MiB  server  blocks  files  tasks  keys  entries  objects"
    for weight in facts["weights"]:
        heavy = f"{weight['memory'] / _MEBI:7.1f} {weight['server'] / _MEBI:7.1f} {weight['blocks']:7d}"
        many = f"{weight['files']:6d} {weight['tasks']:6d} {weight['keys']:5d} {weight['entries']:8d}"
        objects = sum(weight["census"].values())
        yield f"{weight['share']:4.0%} {weight['jobs']:6d} {heavy} {many} {objects:8d}"
    for measure, grown in facts["growth"].items():
        yield f"{measure} grew by {grown['by']:,.0f} over {grown['jobs']} jobs"
    yield ""
    yield f"{len(facts['complaints'])} complaints"
    yield from facts["complaints"][:_COMPLAINTS]


def _words(value: object) -> str:
    if not isinstance(value, Mapping):
        return str(value)
    parts = {name: _words(part) for name, part in value.items()}
    return ", ".join(
        f"{name} ({part})" if isinstance(value[name], Mapping) else f"{name} {part}"
        for name, part in parts.items()
    )


def _ways(soak: Soak) -> list[str]:
    return sorted({why for worker in soak.workers for why in worker.lives})
