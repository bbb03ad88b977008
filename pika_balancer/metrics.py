"""Prometheus metrics of one balancer, and of the dispatcher over it; needs the extra `metrics`.

    metrics = Metrics()                                # in prometheus_client's default registry
    balancer = Balancer(..., observer=metrics)         # counters and histograms, from events
    metrics.watch(balancer)                            # gauges, read from the books at each scrape
    prometheus_client.start_http_server(9100)

A scrape may come from any thread. Counters and histograms change and are read under one lock, so that a
scrape sees an event whole or not at all. The books belong to the event loop: a scrape from elsewhere has
the loop read them between two of its steps, and waits for that for a second at most. If the loop is stalled
or closed, or the balancer gone, the scrape goes on without gauges, and `pika_balancer_up` is 0.

Labels are channels and words from short fixed lists; any other word counts as `other`. Ids of jobs and
leases, references and messages never get here, and so no token does.
"""

import asyncio
import logging
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence, Sized
from concurrent.futures import Future
from typing import Any, Final, Protocol

import attrs

from pika_balancer import errors
from pika_balancer.errors import InvalidArgument, PikaError, WrongLoop
from pika_balancer.events import (
    Acquired,
    Adopted,
    CoolingDown,
    Ended,
    Event,
    Failed,
    Leaked,
    Paused,
    RefreshFailed,
    Refused,
    Released,
    Stopped,
    Submitted,
    Uncertain,
    Unserved,
)
from pika_balancer.models import AccountState, JobStatus, Snapshot

try:
    from prometheus_client import REGISTRY, CollectorRegistry, Counter, Histogram
    from prometheus_client.metrics_core import GaugeMetricFamily, Metric
except ImportError as error:
    raise ImportError("metrics need an extra: pip install 'pika-balancer[metrics]'") from error

log = logging.getLogger(__name__)

_PREFIX: Final = "pika_balancer"
_PATIENCE: Final = 1.0
_OTHER: Final = "other"

_WAITS: Final = (0.01, 0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1200.0, 1800.0, 3600.0)
_RUNS: Final = (
    5.0,
    10.0,
    20.0,
    30.0,
    45.0,
    60.0,
    90.0,
    120.0,
    180.0,
    240.0,
    300.0,
    420.0,
    600.0,
    900.0,
    1800.0,
    3600.0,
)

_ERRORS: Final = frozenset(
    {name for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, PikaError)}
    | {"CancelledError"}
)
_WORDS: Final[Mapping[str, frozenset[str]]] = {
    "status": frozenset(status.value for status in JobStatus if status.ended),
    "told_by": frozenset({"answer", "poll", "callback"}),
    "error": _ERRORS,
    "why": _ERRORS,
}
"""By label, the values that are told apart. Class names of errors from elsewhere could be any number."""


class SnapshotSource(Protocol):
    """What is read from a balancer; its `statistics()` returns one."""

    @property
    def snapshot(self) -> Snapshot:
        """The books."""
        ...

    @property
    def waiters(self) -> Sized:
        """Who waits for a slot."""
        ...


class Watchable(Protocol):
    """Whatever keeps such books; `Balancer` does."""

    def statistics(self) -> SnapshotSource:
        """Return the books at this moment."""
        ...


@attrs.frozen
class _Count:
    name: str
    help: str
    labels: tuple[str, ...] = ("channel",)


_COUNTS: Final[Mapping[type[Event], _Count]] = {
    Acquired: _Count("grants", "Slots granted."),
    Unserved: _Count("unserved", "Waits that ended without a slot, by the error's class.", ("why",)),
    Released: _Count("releases", "Slots given back, leaks included."),
    Leaked: _Count("leaks", "Leases that were dropped without a release and taken back."),
    Adopted: _Count("adoptions", "Running jobs that were counted by their ids."),
    CoolingDown: _Count("rests", "Times that an account was given a rest."),
    Paused: _Count("pauses", "Times that an account was paused."),
    RefreshFailed: _Count("refresh_failures", "Reads of the account map that failed.", ()),
    Submitted: _Count("submits_accepted", "Jobs that the service took."),
    Refused: _Count("submits_refused", "Submits that the service did not take.", ("channel", "error")),
    Uncertain: _Count("submits_uncertain", "Submits of unknown fate.", ("channel", "error")),
    Ended: _Count(
        "jobs_ended",
        "Jobs that ended, by outcome and by what told it first.",
        ("channel", "status", "told_by"),
    ),
    Failed: _Count("jobs_given_up", "Jobs that were given up, by the error's class.", ("channel", "error")),
    Stopped: _Count("stops", "Times that a dispatcher stopped, its token or subscription refused.", ()),
}


@attrs.frozen
class _Gauge:
    name: str
    help: str
    read: Callable[[AccountState], float | None]


_GAUGES: Final = (
    _Gauge("in_flight", "Slots taken.", lambda account: account.in_flight),
    _Gauge("max_jobs", "The cap.", lambda account: None if account.removed else account.max_jobs),
    _Gauge("paused", "Whether it is paused until resumed.", lambda account: account.paused),
    _Gauge("resting", "Whether it rests for a while.", lambda account: account.cooldown_until is not None),
)
"""By account; None is left out: an account that only drains has no cap any more."""


class Metrics:
    """Collects the metrics of one balancer; pass it as `observer=`, and give the balancer to `watch`.

    Each registry has room for one. `registry.unregister(metrics)` takes it out again.

    Args:
        registry: Where to be scraped; None for prometheus_client's default registry.

    Raises:
        InvalidArgument: The registry has metrics of these names already.
    """

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self._lock = threading.Lock()
        self._counters = {kind: (_counter(count), count.labels) for kind, count in _COUNTS.items()}
        self._waits = Histogram(
            f"{_PREFIX}_wait_seconds",
            "Time in line until a slot was granted, 0 where one was free.",
            buckets=_WAITS,
            registry=None,
        )
        self._runs = Histogram(
            f"{_PREFIX}_job_seconds",
            "Time from a job's acceptance to its end, by outcome.",
            ("status",),
            buckets=_RUNS,
            registry=None,
        )
        self._watched: tuple[asyncio.AbstractEventLoop, Callable[[], Watchable | None]] | None = None
        try:
            (REGISTRY if registry is None else registry).register(self)
        except ValueError:
            raise InvalidArgument(
                "the registry has such metrics already; give each Metrics a CollectorRegistry of its own",
                field="registry",
            ) from None

    def watch(self, balancer: Watchable) -> None:
        """Read the gauges from this balancer, and no more from one that was watched before.

        Does not keep the balancer alive. Call it in the event loop that the balancer serves.

        Raises:
            WrongLoop: No event loop runs here.
        """
        loop = _running_loop()
        if loop is None:
            raise WrongLoop("watch a balancer from within the event loop that it serves")
        self._watched = (loop, weakref.ref(balancer))

    def __call__(self, event: Event) -> None:
        """Count the event; what is no event of this library's is left alone."""
        counted = self._counters.get(type(event))
        if counted is None:
            return
        counter, names = counted
        labels = [_label(name, getattr(event, name)) for name in names]
        with self._lock:
            (counter.labels(*labels) if labels else counter).inc()
            if isinstance(event, Acquired):
                self._waits.observe(event.waited)
            elif isinstance(event, Ended):
                self._runs.labels(_label("status", event.status)).observe(event.elapsed)

    def collect(self) -> Iterator[Metric]:
        """Yield every metric as it stands; for the registry, from whichever thread scrapes."""
        watched = self._watched
        if watched is not None:
            yield from _gauges(_read(*watched))
        with self._lock:
            families = [family for instrument in self._instruments() for family in instrument.collect()]
        yield from families

    def describe(self) -> Iterator[Metric]:
        """Yield every metric without its values, so that the registry knows the names."""
        for instrument in self._instruments():
            yield from instrument.describe()
        yield from _gauges(None)

    def _instruments(self) -> Sequence[Counter | Histogram]:
        return [*(counter for counter, _ in self._counters.values()), self._waits, self._runs]


def _counter(count: _Count) -> Counter:
    return Counter(f"{_PREFIX}_{count.name}_total", count.help, count.labels, registry=None)


def _label(name: str, value: Any) -> str:
    if name == "channel":
        # Half a surrogate pair, which JSON can carry, would fail every scrape from then on.
        return (value or "").encode("utf-8", "backslashreplace").decode()
    return str(value) if value in _WORDS[name] else _OTHER


def _gauges(books: SnapshotSource | None) -> Iterator[Metric]:
    yield _gauge("up", "Whether the event loop of the balancer answered this scrape.", books is not None)
    yield _gauge("waiting", "How many wait for a slot.", None if books is None else len(books.waiters))
    accounts = () if books is None else books.snapshot.accounts
    for gauge in _GAUGES:
        family = _gauge(gauge.name, gauge.help, labels=("channel",))
        for account in accounts:
            value = gauge.read(account)
            if value is not None:
                family.add_metric((_label("channel", account.channel),), value)
        yield family


def _gauge(
    name: str, words: str, value: float | None = None, labels: Sequence[str] | None = None
) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"{_PREFIX}_{name}", words, value=value, labels=labels)


def _read(loop: asyncio.AbstractEventLoop, balancer: Callable[[], Watchable | None]) -> SnapshotSource | None:
    """Return the books, read in the loop's own thread; None if that cannot be had in time."""

    def read() -> SnapshotSource | None:
        try:
            found = balancer()
            return None if found is None else found.statistics()
        except Exception as error:  # noqa: BLE001 - one failing collector would cost the process all its metrics
            log.error("the books could not be read: %s", type(error).__name__)  # noqa: TRY400 - a traceback's locals may hold tokens
            return None

    if _running_loop() is loop:
        return read()
    if not loop.is_running():
        return None
    answer: Future[SnapshotSource | None] = Future()

    def tell() -> None:
        # Not if the patience has run out: nobody wants to know any more.
        if answer.set_running_or_notify_cancel():
            answer.set_result(read())

    try:
        loop.call_soon_threadsafe(tell)
        return answer.result(_PATIENCE)
    except (RuntimeError, TimeoutError):  # closed meanwhile, or stalled
        answer.cancel()
        return None


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
