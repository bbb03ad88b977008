"""In-flight counts and the wait queue on Redis or Valkey, shared by several processes."""

from pika_balancer.store.redis.store import RedisStore

__all__ = ["RedisStore"]
