"""Ways to connect: TLS, users with few rights, sentinels, and a subscription that silently dies."""

import asyncio
import contextlib
import re
import ssl
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from redis.exceptions import NoPermissionError

from pika_balancer import Account, StoreUnavailable
from pika_balancer.store.redis.store import RedisStore
from pika_balancer.testing import settle
from tests.connection_faults import Drop
from tests.depth import sized
from tests.fault_proxy import FaultProxy
from tests.redis_pool import LIMIT, Pool, give_back, is_away, quiet, until
from tests.redis_servers import Server, Servers, kinds, make

ROOT = Path(__file__).parents[2]
README = ROOT / "pika_balancer/store/redis/README.md"
CERTIFICATE = ROOT / "tests" / "data" / "tls.pem"


@pytest.fixture
def server() -> Iterator[Server]:
    """Return a server of the test's own."""
    server = make("valkey").start()
    yield server
    server.remove()


@pytest.fixture
async def encrypted(servers: Servers) -> AsyncGenerator[FaultProxy]:
    """Return a proxy of the server that speaks TLS."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERTIFICATE)
    async with FaultProxy("127.0.0.1", servers["valkey"].port, tls=context) as proxy:
        yield proxy


async def work(pool: Pool, store: RedisStore) -> None:
    """Do whatever can be done with a pool."""
    await store.update([Account("0", 1), Account("1", 1)])
    await until(lambda: pool.listeners() == 1)
    await store.pause("1")
    lease = await store.acquire(None, None)
    waiter = asyncio.create_task(store.acquire("0", None))
    await quiet(store)
    assert not waiter.done()
    await give_back(lease)
    await give_back(await asyncio.wait_for(waiter, LIMIT))
    await store.cool_down("1", asyncio.get_running_loop().time() + 0.01)
    await store.resume("1")
    await give_back(await store.adopt("1", "job:1"))
    assert (await store.pool_status()).faults == ()
    await store.repair()


async def test_tls_with_a_custom_ca(encrypted: FaultProxy, pool: Pool) -> None:
    await work(pool, pool.open(f"rediss://127.0.0.1:{encrypted.port}?ssl_ca_certs={CERTIFICATE}"))
    assert encrypted.requests > 2


async def test_an_untrusted_certificate_is_refused(encrypted: FaultProxy) -> None:
    store = RedisStore(f"rediss://127.0.0.1:{encrypted.port}", "p")
    with pytest.raises(StoreUnavailable):
        await store.acquire(None, asyncio.get_running_loop().time() + 0.05)
    await store.close()
    assert encrypted.requests == 0


@pytest.mark.parametrize("kind", [kind for kind in kinds() if kind not in ("cluster", "by-url")])
async def test_a_user_with_the_rights_that_the_readme_lists(kind: str, servers: Servers) -> None:
    found = re.search(
        r"^ACL SETUSER worker (.+)$", (ROOT / "pika_balancer/store/redis/README.md").read_text(), re.MULTILINE
    )
    assert found is not None
    server = servers[kind]
    pool, elsewhere = Pool(server), Pool(server)
    rule = found[1].replace("{videos}", f"{{{pool.name}}}")
    with server.client() as client:
        client.execute_command("ACL", "SETUSER", "worker", "reset", *rule.split())
        try:
            url = f"redis://worker:secret@127.0.0.1:{server.port}"
            client.script_flush()
            await work(pool, pool.open(url))
            # The same user has no business in another pool.
            with pytest.raises(StoreUnavailable, match="refuses"):
                await elsewhere.open(url).acquire(None, None)
            with redis.Redis.from_url(url) as narrow, pytest.raises(NoPermissionError):
                narrow.flushall()
        finally:
            await pool.end()
            await elsewhere.end()
            client.execute_command("ACL", "DELUSER", "worker")


class Sentinel(Server):
    """A sentinel that watches a server under the name `ours`, and decides alone."""

    def __init__(self, watched: Server) -> None:
        super().__init__(watched.binary)
        self._watched = watched

    def command(self) -> list[str]:
        conf = self.folder / "sentinel.conf"
        conf.write_text(
            f"port {self.port}\ndir {self.folder}\nsentinel monitor ours 127.0.0.1 {self._watched.port} 1\n"
            "sentinel down-after-milliseconds ours 300\nsentinel failover-timeout ours 3000\n"
        )
        return [self.binary, str(conf), "--sentinel"]


async def test_sentinels_name_the_new_primary_after_a_failover(server: Server) -> None:
    replica = make("valkey")
    replica.options |= {"replicaof": f"127.0.0.1 {server.port}"}
    replica.start()
    with replica.client() as client:
        await until(lambda: client.info("replication")["master_link_status"] == "up")
    sentinel = Sentinel(server)
    sentinel.start()
    try:
        with sentinel.client() as watch:

            def knows_the_replica() -> bool:
                with contextlib.suppress(redis.ConnectionError):
                    replicas: Any = watch.execute_command("SENTINEL", "REPLICAS", "ours")
                    return len(replicas) == 1
                return False

            await until(knows_the_replica)
            store = RedisStore(
                f"redis+sentinel://127.0.0.1:{sentinel.port}/ours", "p", lease_ttl=1.5, first_start=True
            )
            await store.update([Account("0", 2)])
            lease = await store.acquire(None, None)
            with server.client() as client:
                client.execute_command("WAIT", 1, 1000)
            server.kill()
            await until(lambda: is_away(store))
            other = await asyncio.wait_for(store.acquire(None, None), LIMIT)
            with replica.client() as client:
                assert client.info("replication")["role"] == "master"
                assert client.hlen("pika:{p}:leases") == 2
            assert lease.held
            await give_back(lease, other)
            await store.close()
    finally:
        sentinel.remove()
        replica.remove()


async def test_a_subscription_without_replies_is_made_again(pool: Pool) -> None:
    async with FaultProxy("127.0.0.1", pool.server.port) as proxy:
        store = pool.open(f"redis://127.0.0.1:{proxy.port}", lease_ttl=0.9)
        other = pool.open()
        await store.update([Account("0", 1)])
        await until(lambda: pool.listeners() == 1)
        silent = proxy.inject(Drop(on="requests"), matching=b"PING", times=1)
        await until(lambda: silent.hits == 1 and proxy.accepted == 3)
        await quiet(store)
        lease = await other.acquire(None, None)
        waiter = asyncio.create_task(store.acquire(None, None))
        await quiet(store)
        await give_back(lease)
        await give_back(await asyncio.wait_for(waiter, LIMIT))
        # A healthy subscription is not made again.
        assert proxy.accepted == 3
        await store.close()


@pytest.mark.deep
@pytest.mark.parametrize("kind", ["valkey", "cluster"])
async def test_a_store_can_be_closed_at_any_moment_while_it_connects(kind: str, servers: Servers) -> None:
    pool = Pool(servers[kind])
    for turns in range(sized(8, 60)):
        store = pool.open()
        await store.update([Account("0", 1)])
        await settle(turns)
        closing = asyncio.create_task(store.close())
        # A cancellation would wait for it to end.
        _, hangs = await asyncio.wait([closing], timeout=LIMIT)
        assert not hangs
    await pool.end()
