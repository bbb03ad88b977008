"""Leases that wait fairly, for one process."""

from pika_balancer.balancer.balancer import Balancer, LeaseContext

__all__ = ["Balancer", "LeaseContext"]
