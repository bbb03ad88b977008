"""Gauges equal the in-flight counts, counters the events, and a scrape from any thread is consistent."""

import asyncio
import gc
import importlib
import random
import sys
import threading
import urllib.request
from collections import Counter
from collections.abc import Generator
from typing import Any

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import REGISTRY, CollectorRegistry, generate_latest, start_http_server
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse

from pika_balancer import Account, Balancer, PikaClient, events
from pika_balancer import metrics as room
from pika_balancer.dispatch import Dispatcher
from pika_balancer.errors import InvalidArgument, NoCapacity, PikaError, WrongLoop
from pika_balancer.metrics import Metrics
from pika_balancer.models import Job, Lease
from pika_balancer.testing import LocalServer, ManualClock, settle, wait_until

CANARY = "user:1234-canary0canary0canary0"
FIRST, SECOND = "1100000000000000001", "1100000000000000002"
Samples = dict[tuple[str, tuple[str, ...]], float]


class Scraper:
    """A registry with metrics, and its scrapes."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.metrics = Metrics(self.registry)

    def text(self) -> str:
        return generate_latest(self.registry).decode()

    def samples(self) -> Samples:
        """Every sample by its short name and the values of its labels."""
        return {
            (sample.name.removeprefix("pika_balancer_"), tuple(sample.labels.values())): sample.value
            for family in parse(self.text())
            for sample in family.samples
        }

    def series(self, name: str) -> dict[str, float]:
        """The values of one metric, by its only label."""
        return only(self.samples(), name)


def only(samples: Samples, name: str) -> dict[str, float]:
    return {",".join(labels): value for (found, labels), value in samples.items() if found == name}


@pytest.fixture
def scraper() -> Scraper:
    return Scraper()


def job(kind: type[events.JobEvent], **facts: Any) -> events.JobEvent:
    defaults: dict[str, Any] = {"at": 1.0, "channel": "A", "verb": "create", "reply_ref": "r"}
    return kind(**(defaults | facts))


# --- counters and histograms ----------------------------------------------------------------------------


def test_every_event_is_counted_once_by_channel_and_word(scraper: Scraper) -> None:
    told: list[events.Event] = [
        events.Acquired(at=0, channel="A", lease_id=1, waited=0.0),
        events.Acquired(at=0, channel="A", lease_id=2, waited=3.0),
        events.Unserved(at=0, channel="A", waited=9.0, why="NoCapacity"),
        events.Released(at=0, channel="A", lease_id=1, held=2.0),
        events.Leaked(at=0, channel="B", lease_id=2, held=2.0, place="x.py:1 in f"),
        events.Adopted(at=0, channel="B", jobid="job:1"),
        events.CoolingDown(at=0, channel="B", seconds=20.0),
        events.Paused(at=0, channel="B"),
        events.RefreshFailed(at=0, failures=1, why="no connection"),
        events.Stopped(at=0, why="Unauthorized"),
        job(events.Submitted, jobid="job:1"),
        job(events.Refused, error="ChannelFull", status=429, again=True),
        job(events.Uncertain, error="ConnectionLost", status=None),
        job(events.Ended, status="completed", elapsed=100.0, told_by="callback"),
        job(events.Ended, status="moderated", elapsed=4.0, told_by="poll"),
        job(events.Failed, error="SubmissionUnknown", status=None, channel=None),
    ]
    for event in told:
        scraper.metrics(event)
    counted = {
        key: value
        for key, value in scraper.samples().items()
        if key[0].endswith(("_total", "_seconds_count", "_seconds_sum"))
    }
    assert counted == {
        ("grants_total", ("A",)): 2,
        ("wait_seconds_count", ()): 2,
        ("wait_seconds_sum", ()): 3,
        ("unserved_total", ("NoCapacity",)): 1,
        ("releases_total", ("A",)): 1,
        ("leaks_total", ("B",)): 1,
        ("adoptions_total", ("B",)): 1,
        ("cooldowns_total", ("B",)): 1,
        ("pauses_total", ("B",)): 1,
        ("refresh_failures_total", ()): 1,
        ("stops_total", ()): 1,
        ("submits_accepted_total", ("A",)): 1,
        ("submits_refused_total", ("A", "ChannelFull")): 1,
        ("submits_uncertain_total", ("A", "ConnectionLost")): 1,
        ("jobs_ended_total", ("A", "completed", "callback")): 1,
        ("jobs_ended_total", ("A", "moderated", "poll")): 1,
        ("job_seconds_count", ("completed",)): 1,
        ("job_seconds_sum", ("completed",)): 100,
        ("job_seconds_count", ("moderated",)): 1,
        ("job_seconds_sum", ("moderated",)): 4,
        ("jobs_given_up_total", ("", "SubmissionUnknown")): 1,
    }


def test_counters_without_labels_start_at_zero(scraper: Scraper) -> None:
    assert scraper.series("refresh_failures_total") == {"": 0}
    assert scraper.series("stops_total") == {"": 0}


def test_events_without_a_counter_are_ignored(scraper: Scraper) -> None:
    @attrs.frozen(kw_only=True)
    class Foreign(events.Event):
        pass

    before = scraper.samples()
    for event in (
        events.Resumed(at=0, channel="A"),
        events.Refreshed(at=0, accounts=2),
        job(events.Submitting),
        job(events.Changed, status="progress"),
        Foreign(at=0),
    ):
        scraper.metrics(event)
    assert scraper.samples() == before


@pytest.mark.parametrize(
    ("waited", "first"), [(0.0, "0.01"), (0.01, "0.01"), (7.0, "10.0"), (3600.0, "3600.0")]
)
def test_buckets_span_from_10_ms_to_an_hour(scraper: Scraper, waited: float, first: str) -> None:
    scraper.metrics(events.Acquired(at=0, channel="A", lease_id=1, waited=waited))
    buckets = scraper.series("wait_seconds_bucket")
    assert next(bound for bound, count in buckets.items() if count) == first
    assert next(iter(buckets)) == "0.01"
    assert list(buckets)[-2:] == ["3600.0", "+Inf"]


def test_all_unknown_words_make_one_series(scraper: Scraper) -> None:
    for number in range(500):
        word = f"{CANARY}{number}"
        scraper.metrics(job(events.Ended, status=word, elapsed=1.0, told_by=word))
        scraper.metrics(job(events.Refused, error=word, status=500, again=False))
        scraper.metrics(job(events.Uncertain, error=word, status=500))
        scraper.metrics(job(events.Failed, error=word, status=500))
        scraper.metrics(events.Unserved(at=0, waited=1.0, why=word))
    samples = scraper.samples()
    assert samples["jobs_ended_total", ("A", "other", "other")] == 500
    assert samples["unserved_total", ("other",)] == 500
    assert samples["job_seconds_count", ("other",)] == 500
    assert len(samples) < 70


def test_every_error_of_the_library_and_a_cancellation_has_its_name(scraper: Scraper) -> None:
    names = [kind.__name__ for kind in (PikaError, NoCapacity, asyncio.CancelledError)]
    for name in names:
        scraper.metrics(events.Unserved(at=0, waited=1.0, why=name))
    assert scraper.series("unserved_total") == dict.fromkeys(names, 1)


def test_no_token_and_no_job_id_can_appear(scraper: Scraper) -> None:
    facts = {"reply_ref": CANARY, "jobid": CANARY, "verb": CANARY}
    for event in (
        events.Acquired(at=0, channel="A", lease_id=CANARY, waited=1.0),
        events.Unserved(at=0, channel=CANARY, waited=1.0, why=CANARY),
        events.Released(at=0, channel="A", lease_id=CANARY, held=1.0),
        events.Leaked(at=0, channel="A", lease_id=CANARY, held=1.0, place=CANARY),
        events.Adopted(at=0, channel="A", jobid=CANARY),
        events.RefreshFailed(at=0, failures=1, why=CANARY),
        events.Stopped(at=0, why=CANARY),
        job(events.Submitted, **facts),
        job(events.Refused, error=CANARY, status=400, again=False, **facts),
        job(events.Uncertain, error=CANARY, status=500, **facts),
        job(events.Ended, status=CANARY, elapsed=1.0, told_by=CANARY, **facts),
        job(events.Failed, error=CANARY, status=None, **facts),
    ):
        scraper.metrics(event)
    assert "canary0" not in scraper.text()
    assert "canary0" not in repr(scraper.metrics)


# --- the exposition -------------------------------------------------------------------------------------


async def test_names_follow_the_conventions_and_both_formats_parse(scraper: Scraper) -> None:
    async with Balancer([Account('x"\\\n', 2)], observer=scraper.metrics) as balancer:
        scraper.metrics.watch(balancer)
        async with balancer.lease():
            scraper.metrics(job(events.Ended, status="completed", elapsed=1.0, told_by="poll"))
            families = list(parse(scraper.text()))
            # The strict format: metadata before samples, no series twice, buckets that add up.
            strict: bytes = generate_openmetrics(scraper.registry)  # type: ignore[no-untyped-call]
            assert list(parse_openmetrics(strict.decode()))  # type: ignore[no-untyped-call]
    assert families
    for family in families:
        assert family.name.startswith("pika_balancer_")
        assert family.documentation.endswith(".")
        assert family.type in {"counter", "gauge", "histogram"} or family.name.endswith("_created")
        assert family.type != "histogram" or family.name.endswith("_seconds")
        for sample in family.samples:
            assert family.type != "counter" or sample.name.endswith(("_total", "_created"))
            assert sample.labels.keys() <= {"channel", "status", "told_by", "error", "why", "le"}
            assert sample.labels.get("channel", "") in {"", "A", 'x"\\\n'}


async def test_channel_that_utf8_cannot_carry_does_not_break_the_scrape(scraper: Scraper) -> None:
    async with Balancer([Account("\ud800", 2)], observer=scraper.metrics) as balancer:
        scraper.metrics.watch(balancer)
        async with balancer.lease():
            assert scraper.series("in_flight") == {"\\ud800": 1}
    assert scraper.series("grants_total") == {"\\ud800": 1}


def test_a_registry_accepts_one_collector(scraper: Scraper) -> None:
    with pytest.raises(InvalidArgument, match="its own CollectorRegistry") as caught:
        Metrics(scraper.registry)
    assert caught.value.field == "registry"
    scraper.registry.unregister(scraper.metrics)
    Metrics(scraper.registry)


async def test_gauge_names_are_registered_before_anything_is_watched(scraper: Scraper) -> None:
    assert "in_flight" not in scraper.text()
    async with Balancer([Account("A", 2)]) as balancer:
        scraper.metrics.watch(balancer)
        text = generate_latest(scraper.registry.restricted_registry(["pika_balancer_in_flight"])).decode()
        assert [sample.value for family in parse(text) for sample in family.samples] == [0]


def test_default_registry_is_the_usual_one() -> None:
    metrics = Metrics()
    try:
        assert b"pika_balancer_grants_total" in generate_latest()
    finally:
        REGISTRY.unregister(metrics)


# --- gauges ---------------------------------------------------------------------------------------------


async def test_gauges_are_the_counts_of_the_moment(scraper: Scraper) -> None:
    clock = ManualClock()
    async with Balancer([Account("A", 2), Account("B", 1)], clock=clock) as balancer:
        scraper.metrics.watch(balancer)
        lease = await balancer.acquire("A")
        await balancer.adopt("C", "job:1")
        await balancer.pause("B")
        await balancer.cool_down("A", 10)
        waiting = [asyncio.create_task(balancer.acquire(channel)) for channel in ("A", "B", None)]
        await settle()
        samples = scraper.samples()
        assert only(samples, "up") == {"": 1}
        assert only(samples, "waiting") == {"": 3}
        assert only(samples, "in_flight") == {"A": 1, "B": 0, "C": 1}
        assert only(samples, "max_jobs") == {"A": 2, "B": 1}
        assert only(samples, "paused") == {"A": 0, "B": 1, "C": 0}
        assert only(samples, "cooling_down") == {"A": 1, "B": 0, "C": 0}
        await balancer.update([Account("B", 3)])
        assert scraper.series("max_jobs") == {"B": 3}
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        await balancer.release(lease)


async def test_a_removed_account_is_shown_until_it_has_drained(scraper: Scraper) -> None:
    async with Balancer([Account("A", 2), Account("B", 1)]) as balancer:
        scraper.metrics.watch(balancer)
        async with balancer.lease("A"):
            await balancer.update([Account("B", 3)])
            assert scraper.series("in_flight") == {"B": 0, "A": 1}
            assert scraper.series("max_jobs") == {"B": 3}
        assert scraper.series("in_flight") == {"B": 0}


CHANNELS = ("A", "B", "C")
STEPS = st.one_of(
    st.tuples(st.just("acquire"), st.sampled_from([None, *CHANNELS])),
    st.tuples(st.just("release"), st.integers(0, 20)),
    st.tuples(st.just("drop"), st.integers(0, 20)),
    st.tuples(st.just("cancel"), st.integers(0, 20)),
    st.tuples(st.just("adopt"), st.sampled_from([*CHANNELS, "elsewhere"])),
    st.tuples(st.just("cool_down"), st.sampled_from(CHANNELS)),
    st.tuples(st.just("pause"), st.sampled_from(CHANNELS)),
    st.tuples(st.just("resume"), st.sampled_from(CHANNELS)),
    st.tuples(st.just("advance"), st.integers(1, 15)),
    st.tuples(st.just("resize"), st.integers(1, 4)),
)


class Walk:
    """A user of a balancer who counts along."""

    def __init__(self) -> None:
        self.scraper = Scraper()
        self.clock = ManualClock()
        self.caps = dict.fromkeys(CHANNELS, 2)
        self.balancer = Balancer(self.accounts(), clock=self.clock, observer=self.scraper.metrics)
        self.scraper.metrics.watch(self.balancer)
        self.waiting: list[asyncio.Task[Lease]] = []
        self.held: list[Lease] = []
        self.paused: set[str] = set()
        self.cooldowns: dict[str, float] = {}
        self.seen: Counter[str] = Counter()

    def accounts(self) -> list[Account]:
        return [Account(channel, cap) for channel, cap in self.caps.items()]

    async def step(self, what: str, on: Any) -> None:
        await getattr(self, what)(on)
        await settle(5)
        self.settle_up()

    async def acquire(self, channel: str | None) -> None:
        self.waiting.append(asyncio.create_task(self.balancer.acquire(channel, timeout=40)))

    async def release(self, number: int) -> None:
        if self.held:
            await self.balancer.release(self.held.pop(number % len(self.held)))

    async def drop(self, number: int) -> None:
        granted = [lease for lease in self.held if isinstance(lease.id, int)]
        if granted:
            self.held.remove(granted[number % len(granted)])
            self.seen["leaks"] += 1

    async def cancel(self, number: int) -> None:
        if self.waiting:
            self.waiting[number % len(self.waiting)].cancel()

    async def adopt(self, channel: str) -> None:
        self.seen["adopted"] += 1
        self.held.append(await self.balancer.adopt(channel, f"job:{self.seen['adopted']}"))

    async def cool_down(self, channel: str) -> None:
        await self.balancer.cool_down(channel, 10)
        self.cooldowns[channel] = self.clock.now() + 10
        self.seen["cooldowns"] += 1

    async def pause(self, channel: str) -> None:
        await self.balancer.pause(channel)
        self.paused.add(channel)
        self.seen["pauses"] += 1

    async def resume(self, channel: str) -> None:
        await self.balancer.resume(channel)
        self.paused.discard(channel)
        self.cooldowns.pop(channel, None)

    async def advance(self, seconds: int) -> None:
        await self.clock.advance(seconds)

    async def resize(self, cap: int) -> None:
        self.caps["B"] = cap
        await self.balancer.update(self.accounts())

    def settle_up(self) -> None:
        for task in [task for task in self.waiting if task.done()]:
            self.waiting.remove(task)
            if task.cancelled():
                self.seen["CancelledError"] += 1
            elif task.exception() is not None:
                self.seen["NoCapacity"] += 1
            else:
                self.held.append(task.result())
                self.seen["granted"] += 1

    def compare(self, samples: Samples) -> None:
        in_flight = Counter(lease.channel for lease in self.held)
        shown = [*CHANNELS, *in_flight.keys() - set(CHANNELS)]
        now = self.clock.now()
        assert only(samples, "up") == {"": 1}
        assert only(samples, "waiting") == {"": len(self.waiting)}
        assert only(samples, "in_flight") == {channel: in_flight[channel] for channel in shown}
        assert only(samples, "max_jobs") == self.caps
        assert only(samples, "paused") == {channel: channel in self.paused for channel in shown}
        assert only(samples, "cooling_down") == {
            channel: self.cooldowns.get(channel, 0) > now for channel in shown
        }
        assert samples["wait_seconds_count", ()] == self.seen["granted"]
        assert sum(only(samples, "grants_total").values()) == self.seen["granted"]
        assert sum(only(samples, "adoptions_total").values()) == self.seen["adopted"]
        assert sum(only(samples, "leaks_total").values()) == self.seen["leaks"]
        assert sum(only(samples, "cooldowns_total").values()) == self.seen["cooldowns"]
        assert sum(only(samples, "pauses_total").values()) == self.seen["pauses"]
        whys = {why: self.seen[why] for why in ("CancelledError", "NoCapacity") if self.seen[why]}
        assert only(samples, "unserved_total") == whys
        # Grants and adoptions minus releases are the jobs in flight.
        came, adopted, gone = (
            Counter(only(samples, f"{name}_total")) for name in ("grants", "adoptions", "releases")
        )
        came.update(adopted)
        came.subtract(gone)
        assert +came == +in_flight

    async def end(self) -> None:
        for task in self.waiting:
            task.cancel()
        await asyncio.gather(*self.waiting, return_exceptions=True)
        self.settle_up()
        for lease in self.held:
            await self.balancer.release(lease)
        await self.balancer.close()


@pytest.mark.no_cover  # walk after walk over the same lines
@settings(max_examples=60, deadline=None)
@given(st.lists(STEPS, max_size=30))
def test_gauges_equal_the_counts_after_any_walk(steps: list[tuple[str, Any]]) -> None:
    async def walk() -> None:
        walk = Walk()
        for what, on in steps:
            await walk.step(what, on)
            walk.compare(walk.scraper.samples())
        walk.compare(await asyncio.to_thread(walk.scraper.samples))
        await walk.end()

    asyncio.run(walk())


# --- scrapes from other threads -------------------------------------------------------------------------


@pytest.fixture
def hasty() -> Generator[None]:
    """Switch threads as often as possible."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


async def test_scrapes_from_a_thread_never_fail_and_are_consistent(scraper: Scraper, hasty: None) -> None:
    done = False
    found: list[Samples] = []

    def hammer() -> None:
        found.extend(scraper.samples() for _ in range(60))

    async def churn(balancer: Balancer, number: int) -> None:
        while not done:
            async with balancer.lease():
                await asyncio.sleep(0)
            lease = await balancer.adopt("elsewhere", f"job:{number}")
            scraper.metrics(job(events.Ended, status="completed", elapsed=2.0, told_by="poll"))
            await balancer.release(lease)

    async with Balancer([Account("A", 2), Account("B", 1)], observer=scraper.metrics) as balancer:
        scraper.metrics.watch(balancer)
        workers = [asyncio.create_task(churn(balancer, number)) for number in range(6)]
        await asyncio.gather(*(asyncio.to_thread(hammer) for _ in range(3)))
        done = True
        await asyncio.gather(*workers)
    assert len(found) == 180
    for samples in found:
        assert samples["up", ()] == 1
        assert samples["in_flight", ("A",)] <= 2
        assert samples["in_flight", ("B",)] <= 1
        assert samples["waiting", ()] <= 6
        # One event updates two instruments, one of them twice.
        assert samples["wait_seconds_count", ()] == sum(only(samples, "grants_total").values())
        assert samples["wait_seconds_bucket", ("+Inf",)] == samples["wait_seconds_count", ()]
        ended = samples.get(("job_seconds_count", ("completed",)), 0)
        assert samples.get(("job_seconds_sum", ("completed",)), 0) == 2 * ended
        assert sum(only(samples, "jobs_ended_total").values()) == ended
    counts = [samples["wait_seconds_count", ()] for samples in found]
    assert max(counts) > min(counts)


async def test_counts_are_read_in_the_thread_of_the_loop(scraper: Scraper) -> None:
    readers: list[int] = []

    class Observed(Balancer):
        def statistics(self) -> Any:
            readers.append(threading.get_ident())
            return super().statistics()

    async with Observed([Account("A", 1)]) as balancer:
        scraper.metrics.watch(balancer)
        scraper.samples()
        await asyncio.to_thread(scraper.samples)
    assert readers == [threading.get_ident()] * 2


async def test_real_service_is_scraped_over_http(scraper: Scraper) -> None:
    server, thread = start_http_server(0, "127.0.0.1", registry=scraper.registry)
    try:
        url = f"http://127.0.0.1:{server.server_address[1]}/metrics"

        def scrape() -> str:
            with urllib.request.urlopen(url, timeout=10) as answer:
                return str(answer.read().decode())

        local = LocalServer({FIRST: 2, SECOND: 1}, token=CANARY, service="fixed:1h")
        async with local.run() as base_url, PikaClient(CANARY, base_url=base_url) as client:
            balancer = await Balancer.from_client(client, observer=scraper.metrics)
            async with balancer, balancer.lease(FIRST), balancer.lease(SECOND):
                scraper.metrics.watch(balancer)
                text = await asyncio.to_thread(scrape)
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)
    assert f'pika_balancer_in_flight{{channel="{FIRST}"}} 1.0\n' in text
    assert f'pika_balancer_max_jobs{{channel="{FIRST}"}} 2.0\n' in text
    assert "canary0" not in text


async def test_jobs_of_a_dispatcher_are_counted_to_their_end(scraper: Scraper) -> None:
    local = LocalServer(
        {FIRST: 2, SECOND: 1}, token=CANARY, service="fixed:0.02s", faults=["422:0.4"], rng=random.Random(1)
    )
    async with local.run() as base_url, PikaClient(CANARY, base_url=base_url) as client:
        balancer = await Balancer.from_client(client, observer=scraper.metrics)
        async with balancer, Dispatcher(client, balancer, poll_every=0.02) as dispatcher:
            scraper.metrics.watch(balancer)
            runs = (dispatcher.run("create", prompt="a cat") for _ in range(9))
            ended = await asyncio.gather(*runs, return_exceptions=True)
            samples = scraper.samples()
    done = sum(isinstance(one, Job) for one in ended)
    assert 0 < done < 9
    assert sum(only(samples, "submits_accepted_total").values()) == done
    assert sum(only(samples, "jobs_ended_total").values()) == done
    assert {label.split(",", 1)[1] for label in only(samples, "jobs_ended_total")} == {"completed,poll"}
    assert only(samples, "job_seconds_count") == {"completed": done}
    assert samples["job_seconds_sum", ("completed",)] > 0
    for name in ("submits_refused_total", "jobs_given_up_total"):
        assert {label.split(",")[1] for label in only(samples, name)} == {"PromptRejected"}
        assert sum(only(samples, name).values()) == 9 - done
    assert only(samples, "in_flight") == {FIRST: 0, SECOND: 0}
    assert "canary0" not in scraper.text()


async def test_a_stalled_loop_costs_the_gauges_alone(
    scraper: Scraper, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "_LOOP_ANSWERS_WITHIN", 0.05)
    found: list[Samples] = []
    async with Balancer([Account("A", 1)], observer=scraper.metrics) as balancer:
        scraper.metrics.watch(balancer)
        async with balancer.lease():
            thread = threading.Thread(target=lambda: found.append(scraper.samples()))
            thread.start()
            thread.join(10)  # blocks the loop, which therefore cannot answer
        # The late answer is not computed any more.
        late: list[str] = []
        monkeypatch.setattr(balancer, "statistics", lambda: late.append("looked"))
        await settle()
        assert not late
    assert only(found[0], "up") == {"": 0}
    assert only(found[0], "grants_total") == {"A": 1}
    assert not only(found[0], "in_flight")
    assert not only(found[0], "waiting")


def test_a_closed_loop_costs_the_gauges_alone(scraper: Scraper) -> None:
    async def once() -> Balancer:
        balancer = Balancer([Account("A", 1)])
        scraper.metrics.watch(balancer)
        await balancer.close()
        return balancer

    balancer = asyncio.run(once())
    assert scraper.series("up") == {"": 0}
    assert not scraper.series("in_flight")
    assert balancer is not None


def test_a_loop_that_does_not_run_is_not_waited_for(
    scraper: Scraper, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def watch() -> Balancer:
        balancer = Balancer([Account("A", 1)])
        scraper.metrics.watch(balancer)
        await balancer.close()
        return balancer

    with asyncio.Runner() as runner:
        balancer = runner.run(watch())
        loop = runner.get_loop()
        with monkeypatch.context() as patch:
            patch.setattr(loop, "call_soon_threadsafe", pytest.fail)
            assert scraper.series("up") == {"": 0}
    monkeypatch.setattr(loop, "is_running", lambda: True)  # as a moment before it was closed
    assert scraper.series("up") == {"": 0}
    assert balancer is not None


async def test_metrics_do_not_keep_a_balancer_alive(scraper: Scraper) -> None:
    balancer = Balancer([Account("A", 1)])
    scraper.metrics.watch(balancer)
    assert scraper.series("up") == {"": 1}
    del balancer
    gc.collect()
    assert scraper.series("up") == {"": 0}


async def test_the_balancer_watched_last_is_the_one(scraper: Scraper) -> None:
    first, second = Balancer([Account("A", 1)]), Balancer([Account("B", 1)])
    scraper.metrics.watch(first)
    scraper.metrics.watch(second)
    assert scraper.series("in_flight") == {"B": 0}
    await first.close()
    await second.close()


async def test_unreadable_counts_are_logged_and_cost_the_gauges_alone(
    scraper: Scraper, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(Balancer):
        def statistics(self) -> Any:
            raise RuntimeError(CANARY)

    broken = Broken()
    scraper.metrics.watch(broken)
    for samples in (scraper.samples(), await asyncio.to_thread(scraper.samples)):
        assert only(samples, "up") == {"": 0}
        assert samples["stops_total", ()] == 0
    assert [record.getMessage() for record in caplog.records] == [
        "the in-flight counts could not be read: RuntimeError"
    ] * 2


def test_watching_needs_the_loop(scraper: Scraper) -> None:
    balancer = Balancer([Account("A", 1)])
    with pytest.raises(WrongLoop, match="inside the balancer"):
        scraper.metrics.watch(balancer)


async def test_leak_is_counted(scraper: Scraper) -> None:
    async with Balancer([Account("A", 1)], observer=scraper.metrics) as balancer:
        scraper.metrics.watch(balancer)
        await balancer.acquire()
        gc.collect()
        await wait_until(lambda: scraper.series("leaks_total") == {"A": 1})
        assert scraper.series("in_flight") == {"A": 0}


# --- the extra ------------------------------------------------------------------------------------------


def test_without_the_extra_the_import_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    monkeypatch.delitem(sys.modules, "pika_balancer.metrics")
    with pytest.raises(ImportError) as caught:
        importlib.import_module("pika_balancer.metrics")
    assert str(caught.value) == "metrics need an extra: pip install 'pika-balancer[metrics]'"
