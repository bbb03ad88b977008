"""The Pika API over HTTP, without any balancing."""

from pika_balancer.client.client import PikaClient

__all__ = ["PikaClient"]
