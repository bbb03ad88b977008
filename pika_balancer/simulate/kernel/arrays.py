"""The state of the compiled event loop as arrays, and how a run starts. Needs NumPy."""

from typing import Any, Final, NamedTuple, TypeAlias

import numpy as np

from pika_balancer.simulate.collector import BINS, CLASSES, COUNTED, EXACT, SUMMED

Ints: TypeAlias = Any
Floats: TypeAlias = Any
"""Arrays of int64 and float64. A type checker takes their elements for arrays; Numba knows better."""
State: TypeAlias = Any
"""One record of type `STATE`."""

MORE_JOBS, MORE_OUTAGES, MORE_ROOM, DONE = range(4)
"""Why the loop stopped."""
LOSS, QUEUE, RETRY = range(3)
"""Classes of `when_full`, by name."""
RANDOM, LEAST_LOADED, TWO_CHOICES, ROUND_ROBIN, WEIGHTED = range(5)
"""Policies, by name."""
CONSTANT, JITTERED, EXPONENTIAL = range(3)

HEAPED: Final = 200
"""With more slots than this the busy ones form a heap."""
ACCOUNT_MASK: Final = (1 << 20) - 1
ABANDONED: Final = 1 << 20
JOB_SHIFT: Final = 21
"""The tag of a busy slot: its account, whether its worker abandoned the run, and the job's number."""


class BlockArrays(NamedTuple):
    """Consecutive jobs."""

    arrivals: Floats
    services: Floats
    patience: Floats
    """Empty if jobs wait without limit."""
    first: int
    """Number of the first job."""
    final: bool
    """Whether no job follows."""


class Rules(NamedTuple):
    """What stays constant during a run."""

    caps: Ints
    speeds: Floats
    policy: int
    when_full: int
    limit: float
    attempts: int
    delays: int
    delay: float
    jitter: float
    above: int
    each: float
    poll: float
    rate_limited: float
    """Fault draws below this are a 429."""
    any_fault: float
    """Fault draws from there to this are a 5xx to an accepted job."""
    pick_key: np.uint64
    fault_key: np.uint64
    delay_key: np.uint64
    horizon: float
    by_time: bool
    edges: Floats


class AccountArrays(NamedTuple):
    """Accounts and slots."""

    in_flight: Ints
    out: Ints
    since: Floats
    open: Ints
    """Accounts that can take a job, in the selector's order."""
    place: Ints
    """By account: its index in `open`, or -1."""
    levels: Ints
    """By number of jobs in flight: how many accounts have it."""
    ends: Floats
    tags: Ints
    serials: Ints


class PoolArrays(NamedTuple):
    """Jobs that wait or will be retried. All arrays have the same length."""

    number: Ints
    tries: Ints
    picks: Ints
    arrival: Floats
    service: Floats
    deadline: Floats
    vacant: Ints
    """Free indices of the pool, as a stack."""
    queue: Ints
    """The wait queue: a ring of indices, the next job to start first."""
    orbit: Ints
    """Indices of the jobs that will be retried: a ring if every delay is the same, else a heap."""
    when: Floats
    """When the job at the same position of the orbit is retried."""
    turn: Ints
    """Its serial number."""


class Outages(NamedTuple):
    """When accounts go out and come back."""

    when: Floats
    account: Ints
    down: Ints


class Figures(NamedTuple):
    """The contents of a collector, as arrays."""

    counts: Ints
    sums: Floats
    starts: Ints
    areas: Floats
    waits: Ints
    sojourns: Ints
    exact_waits: Floats
    exact_sojourns: Floats
    series: Floats


class RecordArrays(NamedTuple):
    """The record of every job; empty if none are wanted."""

    account: Ints
    start: Floats
    end: Floats
    attempts: Ints
    outcome: Ints


_WHOLE: Final = (
    "next_job", "next_outage", "busy", "open_count", "vacant", "queue_head", "queued", "orbit_head",
    "in_orbit", "serial", "last_account", "batch", "phase", "most", "least", "serving", "completed",
    "refused", "gave_up", "rejected", "doubled", "durations", "bins", "closed",
)  # fmt: skip
_REAL: Final = (
    "now", "integrated", "bin_area", "bin_end", "bin_width", "phase_start", "longest_wait", "longest_sojourn",
    "last_bin_end", "last_bin_area",
)  # fmt: skip
STATE: Final = np.dtype([(name, np.int64) for name in _WHOLE] + [(name, np.float64) for name in _REAL])
"""The scalars that change during a run."""


def begin(rules: Rules, start: float, bin_width: float) -> tuple[AccountArrays, PoolArrays, Figures, State]:
    """Return the state at the start: every account idle and open, no job waiting, nothing counted."""
    caps = rules.caps
    size, slots, phases = len(caps), int(caps.sum()), len(rules.edges) + 2
    levels = np.zeros(int(caps.max()) + 1, np.int64)
    levels[0] = size
    accounts = AccountArrays(
        in_flight=np.zeros(size, np.int64),
        out=np.zeros(size, np.int64),
        since=np.full(size, start),
        open=np.arange(size),
        place=np.arange(size),
        levels=levels,
        ends=np.zeros(slots),
        tags=np.zeros(slots, np.int64),
        serials=np.zeros(slots if slots > HEAPED else 1, np.int64),
    )
    figures = Figures(
        counts=np.zeros((phases, COUNTED), np.int64),
        sums=np.zeros((phases, SUMMED)),
        starts=np.zeros((phases, size), np.int64),
        areas=np.zeros((phases, size)),
        waits=np.zeros((phases, CLASSES + 1), np.int64),
        sojourns=np.zeros((phases, CLASSES + 1), np.int64),
        exact_waits=np.empty(EXACT),
        exact_sojourns=np.empty(EXACT),
        series=np.zeros(BINS),
    )
    state = np.zeros(1, STATE).view(np.recarray)[0]  # a reference, which the loop changes in place
    state.open_count, state.last_account = size, -1
    state.batch = state.phase = int(rules.edges[0] <= (start if rules.by_time else 0.0))
    state.now = state.integrated = state.phase_start = start
    state.bin_width, state.bin_end = bin_width, start + bin_width
    return accounts, larger_pool(None, state), figures, state


def larger_pool(pool: PoolArrays | None, state: State) -> PoolArrays:
    """Return a pool with the same jobs and twice the room, or the first pool."""
    old_room = 0 if pool is None else len(pool.queue)
    room = 2 * old_room or 1024
    heads = {"queue": int(state.queue_head), "orbit": int(state.orbit_head), "when": int(state.orbit_head)}
    columns: dict[str, Any] = {}
    for name in PoolArrays._fields:
        kind = np.float64 if name in {"arrival", "service", "deadline", "when"} else np.int64
        columns[name] = np.zeros(room, kind)
        if pool is not None:
            columns[name][:old_room] = np.roll(getattr(pool, name), -heads.get(name, 0))
    state.queue_head = state.orbit_head = 0
    vacant = int(state.vacant)
    columns["vacant"][vacant : vacant + room - old_room] = np.arange(old_room, room)
    state.vacant += room - old_room
    return PoolArrays(**columns)


def record_arrays(room: int, old: RecordArrays | None = None) -> RecordArrays:
    """Return records with room for so many jobs, with what the old ones hold."""
    made = RecordArrays(
        account=np.full(room, -1),
        start=np.full(room, np.nan),
        end=np.full(room, np.nan),
        attempts=np.zeros(room, np.int64),
        outcome=np.zeros(room, np.int64),
    )
    if old is not None:
        for new, before in zip(made, old, strict=True):
            new[: len(before)] = before
    return made
