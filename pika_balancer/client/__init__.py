"""The Pika API over HTTP, without any balancing."""

from pika_balancer.client.client import PikaClient, SubmitOptions

__all__ = ["PikaClient", "SubmitOptions"]
