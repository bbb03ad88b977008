"""Prometheus metrics of one balancer, and of the dispatcher over it; needs the extra `metrics`.

    metrics = Metrics()                                # in prometheus_client's default registry
    balancer = Balancer(..., observer=metrics)         # counters and histograms, from events
    metrics.watch(balancer)                            # gauges, read from the balancer at each scrape
    prometheus_client.start_http_server(9100)

A scrape may come from any thread. Counters and histograms are updated and read under one lock, so a scrape
sees all of an event or nothing. The in-flight counts belong to the event loop: a scrape from another thread
asks the loop for them and waits at most one second. If the loop is stalled or closed, or the balancer is
gone, the scrape has no gauges and `pika_balancer_up` is 0.

Labels are channels and words from short fixed lists; any other word counts as `other`. Ids, references and
messages, and so tokens, are never exported.
"""

import asyncio
import logging
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Final

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
from pika_balancer.models import AccountState, JobStatus

if TYPE_CHECKING:
    from pika_balancer.balancer.balancer import Balancer
    from pika_balancer.balancer.held import Statistics

try:
    from prometheus_client import REGISTRY, CollectorRegistry, Counter, Histogram
    from prometheus_client.metrics_core import GaugeMetricFamily, Metric
except ImportError as error:
    raise ImportError("metrics need an extra: pip install 'pika-balancer[metrics]'") from error

log = logging.getLogger(__name__)

_PREFIX: Final = "pika_balancer"
_LOOP_ANSWERS_WITHIN: Final = 1.0
_OTHER: Final = "other"

_WAITS: Final = (0.01, 0.1, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1200, 1800, 3600)
_RUNS: Final = (5, 10, 20, 30, 45, 60, 90, 120, 180, 240, 300, 420, 600, 900, 1800, 3600)

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
"""The known values of each label; foreign error classes could be any number."""


@attrs.frozen
class _Count:
    name: str
    help: str
    labels: tuple[str, ...] = ("channel",)


_COUNTS: Final[Mapping[type[Event], _Count]] = {
    Acquired: _Count("grants", "Slots granted."),
    Unserved: _Count("unserved", "Waits that ended without a slot, by the error's class.", ("why",)),
    Released: _Count("releases", "Slots released, leaks included."),
    Leaked: _Count("leaks", "Leases that were dropped unreleased and taken back."),
    Adopted: _Count("adoptions", "Executing jobs that were counted by their ids."),
    CoolingDown: _Count("cooldowns", "Cooldowns that accounts were given."),
    Paused: _Count("pauses", "Times that an account was paused."),
    RefreshFailed: _Count("refresh_failures", "Reads of the account map that failed.", ()),
    Submitted: _Count("submits_accepted", "Jobs that the service accepted."),
    Refused: _Count("submits_refused", "Submits that the service refused.", ("channel", "error")),
    Uncertain: _Count("submits_uncertain", "Submits of unknown fate.", ("channel", "error")),
    Ended: _Count(
        "jobs_ended",
        "Jobs that ended, by outcome and by the source of the news.",
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
    _Gauge("in_flight", "Jobs in flight.", lambda account: account.in_flight),
    _Gauge("max_jobs", "The cap.", lambda account: None if account.removed else account.max_jobs),
    _Gauge("paused", "Whether it is paused until resumed.", lambda account: account.paused),
    _Gauge("cooling_down", "Whether it is cooling down.", lambda account: account.cooldown_until is not None),
)
"""Gauges of each account; None is left out: a removed account has no cap."""


class Metrics:
    """Collects the metrics of one balancer; pass it as `observer=`, then pass the balancer to `watch`.

    A registry holds one of them; `registry.unregister(metrics)` removes it.

    Args:
        registry: The registry to add it to; None for prometheus_client's default.

    Raises:
        InvalidArgument: The registry already has metrics of these names.
    """

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self._lock = threading.Lock()
        self._counters = {kind: (_counter(count), count.labels) for kind, count in _COUNTS.items()}
        self._waits = Histogram(
            f"{_PREFIX}_wait_seconds",
            "Wait for a slot; 0 if one was free.",
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
        self._watched: tuple[asyncio.AbstractEventLoop, Callable[[], Balancer | None]] | None = None
        try:
            (REGISTRY if registry is None else registry).register(self)
        except ValueError:
            raise InvalidArgument(
                "the registry already has metrics of these names; give each its own CollectorRegistry",
                field="registry",
            ) from None

    def watch(self, balancer: "Balancer") -> None:
        """Read the gauges from this balancer, and from no other.

        Does not keep the balancer alive. Call it in the balancer's event loop.

        Raises:
            WrongLoop: No event loop is running.
        """
        loop = _running_loop()
        if loop is None:
            raise WrongLoop("call watch inside the balancer's event loop")
        self._watched = (loop, weakref.ref(balancer))

    def __call__(self, event: Event) -> None:
        """Count the event; ignore unknown ones."""
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
        """Yield every metric; the registry calls this from any thread."""
        watched = self._watched
        if watched is not None:
            yield from _gauges(_read(*watched))
        with self._lock:
            families = [family for instrument in self._instruments() for family in instrument.collect()]
        yield from families

    def describe(self) -> Iterator[Metric]:
        """Yield every metric without values; the registry reads the names."""
        for instrument in self._instruments():
            yield from instrument.describe()
        yield from _gauges(None)

    def _instruments(self) -> Sequence[Counter | Histogram]:
        return [*(counter for counter, _ in self._counters.values()), self._waits, self._runs]


def _counter(count: _Count) -> Counter:
    return Counter(f"{_PREFIX}_{count.name}_total", count.help, count.labels, registry=None)


def _label(name: str, value: Any) -> str:
    if name == "channel":
        # A lone surrogate, which JSON can carry, would fail every later scrape.
        return (value or "").encode("utf-8", "backslashreplace").decode()
    return str(value) if value in _WORDS[name] else _OTHER


def _gauges(statistics: "Statistics | None") -> Iterator[Metric]:
    yield _gauge("up", "Whether the event loop of the balancer answered this scrape.", statistics is not None)
    yield _gauge(
        "waiting", "Callers that wait for a slot.", None if statistics is None else len(statistics.waiters)
    )
    accounts = () if statistics is None else statistics.snapshot.accounts
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


def _read(loop: asyncio.AbstractEventLoop, balancer: "Callable[[], Balancer | None]") -> "Statistics | None":
    """Return the statistics, read in the loop's thread; None if it does not answer in time."""

    def read() -> "Statistics | None":
        try:
            found = balancer()
            return None if found is None else found.statistics()
        except Exception as error:  # noqa: BLE001 - one failing collector would hide all metrics of the process
            log.error("the in-flight counts could not be read: %s", type(error).__name__)  # noqa: TRY400 - a traceback's locals may hold tokens
            return None

    if _running_loop() is loop:
        return read()
    if not loop.is_running():
        return None
    answer: Future[Statistics | None] = Future()

    def tell() -> None:
        # The scrape may have timed out meanwhile.
        if answer.set_running_or_notify_cancel():
            answer.set_result(read())

    try:
        loop.call_soon_threadsafe(tell)
        return answer.result(_LOOP_ANSWERS_WITHIN)
    except (RuntimeError, TimeoutError):  # closed meanwhile, or stalled
        answer.cancel()
        return None


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
