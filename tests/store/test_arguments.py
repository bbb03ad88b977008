"""What a shared store is given: each thing that cannot work is named before anything is sent."""

from typing import Any

import pytest
import redis
from redis import exceptions

from pika_balancer import InvalidArgument, NoCapacity
from pika_balancer.store.errors import no_capacity
from pika_balancer.store.redis.connection import Away, ServerRefused
from pika_balancer.store.redis.store import RedisStore
from tests.redis_servers import free_port

NOBODY = f"redis://127.0.0.1:{free_port()}"


@pytest.mark.parametrize(
    ("field", "options"),
    [
        ("lease_ttl", {"lease_ttl": 0.05}),
        ("lease_ttl", {"lease_ttl": float("nan")}),
        ("orphan_ttl", {"orphan_ttl": float("inf")}),
        ("policy", {"policy": lambda candidates: [1.0 for _ in candidates]}),
        ("policy", {"policy": "best"}),
        ("pool", {"pool": ""}),
        ("pool", {"pool": "a{b"}),
        ("url_or_client", {"url_or_client": "redis+magic://host"}),
        ("url_or_client", {"url_or_client": object()}),
        ("url_or_client", {"url_or_client": redis.Redis()}),
    ],
)
def test_what_cannot_work_is_named(field: str, options: dict[str, Any]) -> None:
    arguments: dict[str, Any] = {"url_or_client": NOBODY} | options
    with pytest.raises(InvalidArgument) as caught:
        RedisStore(**arguments)
    assert caught.value.field == field


@pytest.mark.parametrize("key", ["", "a\nb", 7])
async def test_a_job_is_adopted_by_a_name_in_one_line(key: Any) -> None:
    with pytest.raises(InvalidArgument) as caught:
        await RedisStore(NOBODY).adopt("1", key)
    assert caught.value.field == "key"


@pytest.mark.parametrize("channel", ["", "a\nb", 7])
async def test_a_channel_is_a_name_in_one_line(channel: Any) -> None:
    with pytest.raises(InvalidArgument) as caught:
        await RedisStore(NOBODY).acquire(channel, None)
    assert caught.value.field == "channel"


async def test_a_rest_ends_some_time_and_only_a_lease_is_released() -> None:
    store, something = RedisStore(NOBODY), "lease"
    with pytest.raises(InvalidArgument, match="pause"):
        await store.cool_down("1", float("inf"))
    with pytest.raises(InvalidArgument, match="not str"):
        store.release(something)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType] - on purpose


def test_sentinels_by_url_with_everything() -> None:
    store = RedisStore("rediss+sentinel://me:s%40cret@one:1,two:2/ours/3?sentinel_password=other")
    pool = store._connection._client.connection_pool
    options = pool.connection_kwargs
    assert (pool.service_name, options["username"], options["password"], options["db"]) == (
        "ours",
        "me",
        "s@cret",
        3,
    )
    sentinels = [sentinel.connection_pool.connection_kwargs for sentinel in pool.sentinel_manager.sentinels]
    assert [(one["host"], one["port"], one["password"]) for one in sentinels] == [
        ("one", 1, "other"),
        ("two", 2, "other"),
    ]
    assert "cret" not in repr(store)
    assert "ssl" in pool.connection_class.__name__.lower()


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (exceptions.ConnectionError("gone"), Away),
        (exceptions.ReadOnlyError("a replica"), Away),
        (exceptions.ResponseError("MISCONF the disk is full"), Away),
        (exceptions.OutOfMemoryError("OOM command not allowed"), Away),
        (exceptions.ResponseError("WRONGTYPE of key"), ServerRefused),
        (exceptions.NoPermissionError("NOPERM"), ServerRefused),
        (ZeroDivisionError("a fault of the client"), ServerRefused),
    ],
)
def test_a_failure_is_one_that_time_heals_or_not(error: Exception, kind: type[Exception]) -> None:
    assert type(RedisStore(NOBODY)._connection._failure(error)) is kind


def test_without_a_reason_the_advice_is_to_wait_longer() -> None:
    error = no_capacity(None, "1", 0.0)
    assert (type(error), error.channel) == (NoCapacity, "1")
    assert "longer timeout" in str(error)
