"""Single calls as a network may deliver them: twice, or after a later one."""

from collections.abc import Iterator
from typing import Any

import pytest
import redis

from pika_balancer.store.redis.scripts import KEYS, script
from tests.redis_pool import Pool
from tests.redis_servers import Servers


class Caller:
    """One process that numbers its calls itself."""

    def __init__(self, pool: Pool, client: "redis.Redis") -> None:
        self._keys = [f"pika:{{{pool.name}}}:{key}" for key in KEYS]
        self._client = client

    def say(self, operation: str, seq: int, *arguments: object, process: str = "p") -> str:
        """Run the operation and return its answer."""
        head = (1_000_000, process, seq, 60_000, 600_000, "random", 0.3, "PUBLISH")
        values = [str(value) for value in (*head, *arguments)]
        return str(self._client.eval(script(operation).text, len(KEYS), *self._keys, *values))

    def listen(self, process: str) -> Any:
        """Return a subscription to the messages for the process."""
        client: Any = self._client
        ear = client.pubsub()
        ear.subscribe(self._keys[0].removesuffix("meta") + f"to:{process}")
        assert ear.get_message(timeout=5) is not None
        return ear

    def count(self) -> int:
        """Return how many leases there are."""
        return int(str(self._client.hlen(self._keys[KEYS.index("leases")])))


@pytest.fixture
def caller(servers: Servers) -> Iterator[Caller]:
    """Return a process that the server knows, over one account with two slots."""
    pool = Pool(servers["valkey"])
    with pool.server.client() as client:
        caller = Caller(pool, client)
        caller.say("heartbeat", 1, "label", "1", "0")
        caller.say("update", 2, 0, "0", 2)
        yield caller
    pool.delete()


def test_a_call_that_was_overtaken_changes_nothing(caller: Caller) -> None:
    caller.say("acquire", 5, "p/1", "", 0.5, "1")
    assert caller.say("acquire", 4, "p/2", "", 0.5, "1") == "<"
    assert caller.say("release", 4, "p/1") == "<"
    assert caller.say("heartbeat", 4, "label", "1", "0") == "<"
    assert caller.count() == 1


def test_a_call_that_arrives_twice_means_the_same_leases_and_tickets(caller: Caller) -> None:
    requests = [part for i in range(4) for part in (f"p/{i}", "", 0.5, "1")]
    once = caller.say("acquire", 3, *requests).split("\n")
    again = caller.say("acquire", 3, *requests).split("\n")
    assert caller.count() == 2
    # The counts that come with the grants are those of the moment; the channels and the tickets are the same.
    assert once[-7::2] == again[-7::2]
    assert [code[0] for code in again[-8::2]] == ["g", "g", "w", "w"]


def test_a_release_that_arrives_twice_frees_one_slot(caller: Caller) -> None:
    for seq in (3, 4):
        caller.say("acquire", seq, f"p/{seq}", "", 0.5, "1")
    assert caller.say("release", 5, "p/3").split("\n")[-2:] == ["0", "1"]
    assert caller.say("release", 5, "p/3").split("\n")[-2:] == ["", ""]
    assert caller.count() == 1


def test_an_unknown_process_is_refused(caller: Caller) -> None:
    caller.say("heartbeat", 3, "label", "1", "1")
    assert caller.say("acquire", 4, "p/1", "", 0.5, "1") == "?"
    assert caller.count() == 0


def test_a_waiter_that_could_not_be_told_comes_before_a_newcomer(caller: Caller) -> None:
    caller.say("acquire", 3, "p/1", "", 0.5, "1", "p/2", "", 0.5, "1")
    caller.say("heartbeat", 1, "another", "1", "0", process="q")
    caller.say("acquire", 2, "q/1", "", 0.5, "1", process="q")
    # Process `q` does not listen: its waiter stays in the queue, and the slot stays free.
    caller.say("release", 4, "p/2")
    assert caller.count() == 1
    ear = caller.listen("q")
    assert caller.say("acquire", 5, "p/3", "", 0.5, "0").split("\n")[4 + 1] == "-"
    message = ear.get_message(timeout=5)
    assert message is not None
    assert message["data"].startswith("q/1\n0\n2\n")
    ear.close()


def test_slots_released_together_are_counted_together(caller: Caller) -> None:
    caller.say("acquire", 3, "p/1", "", 0.5, "1", "p/2", "", 0.5, "1")
    assert caller.say("release", 4, "p/1", "p/2").split("\n")[-4:] == ["0", "0", "0", "0"]
