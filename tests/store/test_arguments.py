"""Arguments of a shared store: one that cannot work is named before anything is sent."""

import asyncio
from typing import Any

import pytest
import redis
from redis.asyncio import Connection, ConnectionPool, Redis

from pika_balancer import InvalidArgument, NoCapacity, StoreUnavailable
from pika_balancer.store.errors import no_capacity
from pika_balancer.store.redis.store import RedisStore
from tests.redis_pool import is_away, until
from tests.store.fake_server import Command, fake_server

NOBODY = "redis://127.0.0.1:1"


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


@pytest.mark.parametrize("name", ["", "a\nb", 7])
async def test_channels_and_keys_are_names_in_one_line(name: Any) -> None:
    store = RedisStore(NOBODY)
    for field, call in (("key", store.adopt("1", name)), ("channel", store.acquire(name, None))):
        with pytest.raises(InvalidArgument) as caught:
            await call
        assert caught.value.field == field


async def test_a_cooldown_has_an_end_and_only_a_lease_is_released() -> None:
    store, something = RedisStore(NOBODY), "lease"
    with pytest.raises(InvalidArgument, match="pause"):
        await store.cool_down("1", float("inf"))
    with pytest.raises(InvalidArgument, match="not str"):
        store.release(something)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType] - on purpose


def array(*words: str) -> bytes:
    parts = (b"$%d\r\n%s\r\n" % (len(word), word.encode()) for word in words)
    return b"*%d\r\n" % len(words) + b"".join(parts)


@pytest.mark.parametrize("scheme", ["redis", "rediss"])
async def test_sentinels_by_url_with_everything(scheme: str) -> None:
    def of_primary(said: Command) -> bytes:
        return array() if said[0] == "HELLO" else b"+OK\r\n"

    def of_sentinel(said: Command) -> bytes:
        if said[:2] == ("SENTINEL", "MASTERS"):
            status = {"name": "ours", "ip": "127.0.0.1", "port": str(primary.port), "flags": "master"}
            status |= {"num-other-sentinels": "1", "num-slaves": "0", "quorum": "1"}
            flat = array(*(word for pair in status.items() for word in pair))
            if any(said[0] == "HELLO" for said in sentinel.commands):  # RESP3, which has maps
                flat = b"%%%d\r\n" % len(status) + flat.partition(b"\r\n")[2]
            return b"*1\r\n" + flat
        if said[0] == "SENTINEL":
            return array("127.0.0.1", str(primary.port))
        return of_primary(said)

    async with fake_server(of_primary) as primary, fake_server(of_sentinel) as sentinel:
        sentinels = f"127.0.0.1:1,127.0.0.1:{sentinel.port}"
        url = f"{scheme}+sentinel://me:s%40cret@{sentinels}/ours/3?sentinel_password=other"
        store = RedisStore(url)
        assert "cret" not in repr(store)
        asking = asyncio.create_task(store.acquire(None, None))
        # The first sentinel does not answer, so the second one is asked.
        if scheme == "rediss":
            await until(lambda: b"\x16" in primary.first_bytes)  # a TLS handshake
            assert primary.commands == []
        else:
            await until(lambda: ("SELECT", "3") in primary.commands)
            assert ("AUTH", "me", "s@cret") in [said for said in primary.commands if said[0] == "AUTH"]
        assert {said[-2:] for said in sentinel.commands} & {("AUTH", "other"), ("default", "other")}
        asking.cancel()
        await asyncio.wait([asking])
        await store.close()


@pytest.mark.parametrize("words", ["READONLY a replica", "MISCONF the disk is full", "OOM not allowed"])
async def test_a_passing_failure_is_waited_out(words: str) -> None:
    def answer(said: Command) -> bytes:
        return f"-{words}\r\n".encode() if said[0].startswith("EVAL") else b"+OK\r\n"

    async with fake_server(answer) as server:
        store = RedisStore(f"redis://127.0.0.1:{server.port}")
        asking = asyncio.create_task(store.acquire(None, None))
        await until(lambda: is_away(store))
        await until(lambda: sum(said[0].startswith("EVAL") for said in server.commands) > 1)
        assert not asking.done()
        asking.cancel()
        await asyncio.wait([asking])
        await store.close()


@pytest.mark.parametrize("words", ["WRONGTYPE of key", "NOPERM no rights"])
async def test_a_lasting_failure_is_raised_at_once(words: str) -> None:
    def answer(said: Command) -> bytes:
        return f"-{words}\r\n".encode() if said[0].startswith("EVAL") else b"+OK\r\n"

    async with fake_server(answer) as server:
        store = RedisStore(f"redis://127.0.0.1:{server.port}")
        with pytest.raises(StoreUnavailable, match=r"the server (answers|refuses)"):
            await store.acquire(None, None)
        await store.close()


async def test_a_fault_of_the_client_is_raised_at_once() -> None:
    class Broken(Connection):
        async def connect(self, *_: object, **__: object) -> None:
            raise ZeroDivisionError

    store = RedisStore(Redis(connection_pool=ConnectionPool(connection_class=Broken)))
    with pytest.raises(StoreUnavailable, match="ZeroDivisionError"):
        await store.acquire(None, None)
    await store.close()


def test_without_a_reason_the_advice_is_to_wait_longer() -> None:
    error = no_capacity(None, "1", 0.0)
    assert (type(error), error.channel) == (NoCapacity, "1")
    assert "longer timeout" in str(error)
