"""Every fault at once, for as long as a test may take.

With `--deep` it goes on for longer. `SOAK_JOBS=10000` takes half a minute per mode, `SOAK_SEED=2` draws other
faults. `python -m tests.soak` does the same outside of the tests, and prints what happened.
"""

import os
from collections import Counter
from pathlib import Path
from typing import Any

import attrs
import pytest

from pika_balancer.events import Ended, JobEvent, Refused, Submitted, Submitting
from pika_balancer.server import FAULTS
from tests.depth import sized
from tests.soak.ledger import ROUNDS, Ledger
from tests.soak.report import document, table
from tests.soak.weight import WEIGHED, Weight, too_heavy
from tests.soak.whole import LIFE, Mode, soak

JOBS = int(os.environ.get("SOAK_JOBS", sized("80", "400")))
SEED = int(os.environ.get("SOAK_SEED", "1"))
SPEED = sized(400.0, 1600.0)
"""At full size twice as fast as by hand: the machine is busy then, and no promise may depend on that."""
LIFE_HERE = sized((150.0, 500.0), LIFE)
"""Short lives for few jobs, so that some dispatchers follow each other all the same."""
MANY = 5000
"""From so many jobs on, each fault has happened for certain."""


@pytest.mark.deep
@pytest.mark.no_cover  # hundreds of jobs; other tests run the same lines
@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="open files and memory are read in /proc")
@pytest.mark.parametrize("mode", ["shared", "one", "apart", "redis"])
async def test_every_job_ends_exactly_once_whatever_goes_wrong(mode: Mode) -> None:
    whole = await soak(mode=mode, jobs=JOBS, seed=SEED, speed=SPEED, life=LIFE_HERE)
    assert not whole.complaints, table(document(whole))
    assert whole.ledger.accepted >= JOBS
    # Otherwise it would have shown little. How much happens to few jobs is up to chance.
    happened = set(whole.statistics["faults"])
    assert happened
    assert happened == set(FAULTS) or JOBS < MANY, table(document(whole))


def weights(**per_job: float) -> list[Weight]:
    """Return what a soak of 30,000 jobs weighs if so much of each measure stays behind per job."""
    flat = {
        "memory": 50 * 2**20,
        "server": 50 * 2**20,
        "blocks": 240_000,
        "files": 50,
        "tasks": 150,
        "keys": 8,
    }
    made: list[Weight] = []
    for place in range(WEIGHED):
        jobs = 30_000 * place // WEIGHED
        # Callers and slots are elsewhere each time.
        measures = {name: int(level * (1 + place % 3 / 200)) for name, level in flat.items()}
        measures["entries"] = 900
        measures |= {name: measures.get(name, 0) + int(part * jobs) for name, part in per_job.items()}
        census = Counter({"Task": measures["tasks"], "Job": measures.pop("Job", 20)})
        made.append(Weight(share=place / WEIGHED, seconds=12.0 * place, jobs=jobs, census=census, **measures))
    return made


def test_a_soak_that_is_flat_is_not_too_heavy() -> None:
    assert list(too_heavy(weights())) == []


@pytest.mark.parametrize(
    ("measure", "per_job"),
    # The smallest leaks: an object of a kilobyte, a small one, a file now and then, a key.
    [
        ("memory", 1024),
        ("server", 2048),
        ("blocks", 1.0),
        ("files", 0.003),
        ("tasks", 0.02),
        ("keys", 0.001),
        ("entries", 0.2),
        ("Job", 0.05),
    ],
)
def test_what_grows_with_the_jobs_is_too_heavy(measure: str, per_job: float) -> None:
    complaints = list(too_heavy(weights(**{measure: per_job})))
    assert measure in complaints[0]


class FilledLedger:
    """A ledger that is filled with jobs."""

    def __init__(self) -> None:
        self.complaints: list[str] = []
        self.ledger = Ledger(self.complaints.append, lambda _channel, _since: False)

    def job(self, ref: str, *events: type[JobEvent], **facts: Any) -> None:
        entry = self.ledger.begin(ref, "create")
        for kind in events:
            common: dict[str, Any] = {
                "at": 1.0,
                "channel": "1",
                "verb": "create",
                "reply_ref": ref,
                "jobid": ref,
            }
            common |= {field.name: facts[field.name] for field in attrs.fields(kind) if field.name in facts}
            self.ledger.observe(kind(**common))
        entry.told.append(facts.get("told", "completed"))

    def close(self) -> list[str]:
        self.ledger.settle(at_last=True)
        return self.complaints


END = {"status": "completed", "elapsed": 1.0, "told_by": "poll"}
NO = {"error": "ChannelFull", "status": 429, "again": True}


def test_a_job_that_is_over_and_right_is_forgotten() -> None:
    filled = FilledLedger()
    filled.job("a", Submitting, Submitted, Ended, **END)
    filled.job("b", Submitting, Submitted)
    filled.ledger.learn([("a", "a", "completed")])
    for _ in range(ROUNDS):
        assert "a" in filled.ledger.entries
        filled.ledger.settle()
    assert list(filled.ledger.entries) == ["b"]
    assert filled.ledger.told == {"completed": 1}
    assert filled.complaints == []


@pytest.mark.parametrize(
    ("events", "facts", "taken", "complaint"),
    [
        ([Submitting, Submitted], {}, ["completed"], "no end was reported"),
        ([Submitting, Submitted, Ended, Ended], END, ["completed"], "ended more than once"),
        ([Submitting, Submitting, Submitted, Ended], END, ["completed"], "sent 2 times"),
        ([Submitting, Submitted, Ended], END, ["failed"], "the server had it end as failed"),
        ([Submitting, Submitted, Ended], END, ["completed", "completed"], "taken a second time"),
        (
            [Submitting, Submitted, Ended],
            END | {"told": "failed"},
            ["completed"],
            "the caller was told failed",
        ),
        ([Submitting, Refused], NO | {"told": "NoCapacity"}, ["completed"], "counts as refused"),
    ],
)
def test_a_job_that_is_not_right_is_a_complaint(
    events: list[type[JobEvent]], facts: dict[str, Any], taken: list[str], complaint: str
) -> None:
    filled = FilledLedger()
    filled.job("a", *events, **facts)
    filled.ledger.learn([("a", "a", outcome) for outcome in taken])
    assert complaint in "".join(filled.close())


def test_an_unknown_job_is_a_complaint() -> None:
    filled = FilledLedger()
    filled.ledger.learn([("a", "a", "completed")])
    assert "an unknown job" in "".join(filled.close())
