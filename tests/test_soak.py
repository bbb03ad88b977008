"""Every fault at once, for as long as a test may take.

`SOAK_JOBS=10000` goes on for half a minute per mode, and `SOAK_SEED=2` draws other faults.

`python -m tests.soak` does the same outside of the tests, and prints what happened.
"""

import os
from pathlib import Path

import pytest

from pika_balancer.server import FAULTS
from tests.soak import Mode, soak

JOBS = int(os.environ.get("SOAK_JOBS", "600"))
SEED = int(os.environ.get("SOAK_SEED", "1"))
SPEED = 1600.0
"""Twice as fast as by hand: the machine has much to do then, and no promise may depend on that."""
MANY = 5000
"""From so many jobs on, each fault has happened for certain."""


@pytest.mark.no_cover  # hundreds of jobs; other tests run the same lines
@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="open files and memory are read in /proc")
@pytest.mark.parametrize("mode", ["shared", "one", "apart", "redis"])
async def test_every_job_ends_exactly_once_whatever_goes_wrong(mode: Mode) -> None:
    whole = await soak(mode=mode, jobs=JOBS, seed=SEED, speed=SPEED)
    assert not whole.complaints, whole.report()
    assert whole.ledger.accepted >= JOBS
    # Otherwise it would have shown little.
    assert whole.lives > 3, whole.report()
    happened = set(whole.server["statistics"]["faults"])
    assert len(happened) > len(FAULTS) / 2
    assert happened == set(FAULTS) or JOBS < MANY, whole.report()
