"""Where in-flight counts live: `base` says what a store promises, `memory` keeps them in this process."""

from pika_balancer.store.base import Store
from pika_balancer.store.memory import MemoryStore

__all__ = ["MemoryStore", "Store"]
