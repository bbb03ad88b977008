"""Helpers for tests, this project's and its users'.

A clock moved by hand, waiting for a condition, a proxy that breaks connections on purpose, and the local
server, which is a context manager: `async with LocalServer(...).run() as base_url`. With pytest-asyncio in
its auto mode:

```python
import pytest

from pika_balancer import ConnectionLost, PikaClient
from pika_balancer.testing import Cut, FaultProxy, LocalServer


@pytest.fixture
async def proxy():
    async with LocalServer({"100000000000000001": 1}).run() as url, FaultProxy.before(url) as proxy:
        yield proxy


async def test_a_job_whose_answer_is_lost_runs_all_the_same(proxy):
    async with PikaClient("token", base_url=proxy.url) as client:
        proxy.inject(Cut(), times=1)  # the next reply does not arrive
        with pytest.raises(ConnectionLost) as caught:
            await client.create("a cat on a skateboard")
        assert caught.value.maybe_sent
        assert len(await client.jobs()) == 1
```
"""

from pika_balancer.server import LocalServer
from pika_balancer.testing.faults import (
    BlackHole,
    Cut,
    Delay,
    Drip,
    Drop,
    Fault,
    HalfClose,
    Injection,
    Reorder,
    Reset,
    Stall,
)
from pika_balancer.testing.proxy import FaultProxy
from pika_balancer.testing.time import ManualClock, settle, wait_until

__all__ = [
    "BlackHole",
    "Cut",
    "Delay",
    "Drip",
    "Drop",
    "Fault",
    "FaultProxy",
    "HalfClose",
    "Injection",
    "LocalServer",
    "ManualClock",
    "Reorder",
    "Reset",
    "Stall",
    "settle",
    "wait_until",
]
