"""Helpers for tests, this project's and its users'.

A clock moved by hand, waiting for a condition, a proxy that breaks connections on purpose, and the local
server, which is a context manager: `async with LocalServer(...).run() as base_url`.
"""

from pika_balancer.server import LocalServer
from pika_balancer.testing.faults import (
    BlackHole,
    Cut,
    Delay,
    Drip,
    Drop,
    HalfClose,
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
    "FaultProxy",
    "HalfClose",
    "LocalServer",
    "ManualClock",
    "Reorder",
    "Reset",
    "Stall",
    "settle",
    "wait_until",
]
