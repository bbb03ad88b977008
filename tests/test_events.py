"""The events of a balancer: their order and facts, their log records, and their cost without an observer."""

import asyncio
import gc
import logging
from typing import Any

import attrs
import pytest

from pika_balancer import Account, Balancer, NoCapacity, PikaError, events
from pika_balancer.events import CoolingDown, Event, Leaked, Reporter
from pika_balancer.store.memory import MemoryStore
from pika_balancer.testing import ManualClock, settle


def words(told: list[Event]) -> list[str]:
    return [type(event).__name__ for event in told]


async def test_every_step_is_reported_in_order_with_its_facts() -> None:
    clock, told = ManualClock(100.0), list[Event]()
    async with Balancer([Account("a", 1)], clock=clock, observer=told.append) as balancer:
        async with balancer.lease() as lease:
            await clock.advance(2)
            waiting = asyncio.ensure_future(balancer.acquire())
            await clock.advance(3)
        second = await waiting
        await balancer.release(second)
        await balancer.release(second)
        await balancer.cool_down("a", 7)
        with pytest.raises(NoCapacity):
            await balancer.acquire(timeout=0)
        await balancer.pause("a")
        await balancer.resume("a")
        adopted = await balancer.adopt("a", "job:1")
        assert await balancer.adopt("a", "job:1") is adopted
        await balancer.release(adopted)
        await balancer.update([Account("a", 2), Account("b", 1)])
    assert words(told) == [
        "Acquired",
        "Released",
        "Acquired",
        "Released",
        "CoolingDown",
        "Unserved",
        "Paused",
        "Resumed",
        "Adopted",
        "Released",
        "Refreshed",
    ]
    assert repr(told[4]) == "CoolingDown(at=105.0, channel='a', seconds=7)"
    facts: list[dict[str, Any]] = [attrs.asdict(event) for event in told]
    assert facts[0] == {"at": 100.0, "channel": "a", "lease_id": lease.id, "waited": 0.0}
    assert facts[1] == {"at": 105.0, "channel": "a", "lease_id": lease.id, "held": 5.0}
    assert facts[2] == {"at": 105.0, "channel": "a", "lease_id": second.id, "waited": 3.0}
    assert facts[4] == {"at": 105.0, "channel": "a", "seconds": 7}
    assert facts[5] == {"at": 105.0, "channel": None, "waited": 0.0, "why": "NoCapacity"}
    assert facts[6] == facts[7] == {"at": 105.0, "channel": "a"}
    assert facts[8] == {"at": 105.0, "channel": "a", "jobid": "job:1"}
    assert facts[9] == {"at": 105.0, "channel": "a", "lease_id": "job:1", "held": 0.0}
    assert facts[10] == {"at": 105.0, "channel": None, "accounts": 2}


async def test_a_cancelled_waiter_is_reported_as_unserved() -> None:
    told = list[Event]()
    async with Balancer([Account("a", 1)], observer=told.append) as balancer, balancer.lease():
        waiting = asyncio.ensure_future(balancer.acquire("a"))
        await settle()
        waiting.cancel()
        await settle()
    assert words(told) == ["Acquired", "Unserved", "Released"]
    assert told[1].channel == "a"


async def test_a_leak_is_reported_with_its_place_and_then_as_released(
    caplog: pytest.LogCaptureFixture,
) -> None:
    told = list[Event]()
    async with Balancer([Account("a", 1)], observer=told.append) as balancer:
        await balancer.acquire()
        gc.collect()
        await settle()
        assert words(told) == ["Acquired", "Leaked", "Released"]
        [leak] = [event for event in told if isinstance(event, Leaked)]
        assert "test_events.py" in leak.place
        assert (leak.channel, leak.lease_id) == ("a", 1)
    [record] = caplog.records
    assert (record.levelno, record.name) == (logging.WARNING, "pika_balancer")
    assert "dropped unreleased" in record.message
    assert vars(record)["event"] == "Leaked"
    assert vars(record)["channel"] == "a"


async def test_a_failed_refresh_is_reported() -> None:
    clock, told = ManualClock(), list[Event]()

    class Source:
        calls = 0

        async def accounts(self) -> dict[str, Account]:
            self.calls += 1
            if self.calls == 1:
                return {"a": Account("a", 1)}
            raise PikaError("the service is away")

    async with await Balancer.from_client(Source(), refresh_every=10, clock=clock, observer=told.append):
        await clock.advance(20)
    failures = [event for event in told if isinstance(event, events.RefreshFailed)]
    assert [(event.failures, event.why) for event in failures] == [
        (1, "the service is away"),
        (2, "the service is away"),
    ]


async def test_an_observer_that_fails_stops_nothing(caplog: pytest.LogCaptureFixture) -> None:
    def fail(event: Event) -> None:
        raise ZeroDivisionError("with a secret in it")

    async with Balancer([Account("a", 1)], observer=fail) as balancer, balancer.lease():
        assert balancer.snapshot().in_flight == 1
    assert balancer.snapshot().in_flight == 0
    assert "ZeroDivisionError" in caplog.text
    assert "secret" not in caplog.text


async def test_a_grant_without_an_observer_creates_no_event(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object) -> None:
        raise AssertionError

    async with Balancer([Account("a", 1)]) as balancer:
        monkeypatch.setattr(Reporter, "report", never)
        async with balancer.lease():
            pass
        await balancer.release(await balancer.acquire())


def test_it_is_quiet_until_logging_is_configured(capfd: pytest.CaptureFixture[str]) -> None:
    logger = logging.getLogger("pika_balancer")
    assert any(isinstance(handler, logging.NullHandler) for handler in logger.handlers)


@pytest.mark.parametrize(
    "kind",
    [thing for thing in vars(events).values() if isinstance(thing, type) and issubclass(thing, Event)],
    ids=lambda kind: kind.__name__,
)
def test_every_event_can_be_logged_with_all_its_facts(
    kind: type[Event], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, logger="pika_balancer")
    facts: dict[str, Any] = {
        field.name: 1.5 if field.type is float else "text"
        for field in attrs.fields(kind)
        if field.name != "level"
    }
    event = kind(**facts)
    Reporter().report(event)
    [record] = caplog.records
    assert record.levelno == kind.level
    for name, value in facts.items():
        assert vars(record)[name] == value


async def test_a_cooldown_is_logged_at_info(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="pika_balancer")
    async with Balancer([Account("a", 1)]) as balancer, balancer.lease():
        await balancer.cool_down("a", 3)
    assert [record.levelno for record in caplog.records] == [CoolingDown.level]


async def test_a_job_that_two_balancers_adopted_is_released_once() -> None:
    store = MemoryStore([Account("a", 2)])
    told = list[Event]()
    async with Balancer(store=store, observer=told.append) as one, Balancer(store=store) as two:
        shared = await one.adopt("a", "job:1")
        assert await two.adopt("a", "job:1") is shared
        assert list(one.adopted()) == list(two.adopted()) == ["job:1"]
        await two.release(shared)
        await one.release(shared)
        assert words(told) == ["Adopted", "Released"]
        assert one.statistics().holders == ()
        assert one.adopted() == {}
        del shared
        gc.collect()
        await settle()
        assert words(told) == ["Adopted", "Released"]
        assert one.snapshot().in_flight == 0
        assert await one.drain(0)


async def test_a_draining_balancer_can_adopt() -> None:
    async with Balancer([Account("a", 1)]) as balancer:
        assert await balancer.drain(0)
        lease = await balancer.adopt("a", "job:1")
        assert balancer.snapshot().in_flight == 1
        assert not await balancer.drain(0)
        await balancer.release(lease)
        assert await balancer.drain(0)
