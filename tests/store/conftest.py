"""Pools on one server, looked at for leaks after every test."""

from collections.abc import AsyncGenerator

import pytest

from pika_balancer.testing import ManualClock
from tests.redis_pool import Pool
from tests.redis_servers import Servers


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(1000.0)


@pytest.fixture
async def pool(servers: Servers) -> AsyncGenerator[Pool]:
    """Return a pool in real time; at the end nothing may be left of what was held or waited for."""
    pool = Pool(servers["valkey"])
    yield pool
    await pool.end()


@pytest.fixture
async def slow_pool(servers: Servers, clock: ManualClock) -> AsyncGenerator[Pool]:
    """Return a pool in which time moves by hand."""
    pool = Pool(servers["valkey"], clock)
    yield pool
    await pool.end()
