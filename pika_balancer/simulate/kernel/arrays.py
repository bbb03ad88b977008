"""What the compiled event loop knows, as arrays, and how it begins. Needs NumPy."""

from typing import Any, Final, NamedTuple, TypeAlias

import numpy as np

from pika_balancer.simulate.collector import CLASSES, COUNTED, EXACT, PIECES, SUMMED

Ints: TypeAlias = Any
Floats: TypeAlias = Any
"""Arrays of int64 and float64. A checker of types takes their elements for arrays; Numba knows better."""

MORE_JOBS: Final = 0
MORE_OUTAGES: Final = 1
MORE_ROOM: Final = 2
DONE: Final = 3
"""Why the loop stopped."""

LOSS, QUEUE, RETRY = range(3)
RANDOM, LEAST_LOADED, TWO_CHOICES, ROUND_ROBIN, WEIGHTED = range(5)
CONSTANT, JITTERED, EXPONENTIAL = range(3)

HEAPED: Final = 200
"""Above so many slots those in use form a heap."""
ROW_MASK: Final = (1 << 20) - 1
NOBODY: Final = 1 << 20
JOB_SHIFT: Final = 21
"""A slot in use is tagged with its account, whether it runs for nobody, and its job's number."""


class BlockArrays(NamedTuple):
    """Jobs that come one after the other."""

    arrivals: Floats
    services: Floats
    patience: Floats
    """Empty where jobs wait for ever."""
    first: int
    """Number of the first of them."""
    final: bool
    """Whether no others follow."""


class Rules(NamedTuple):
    """What stays as it is during a run."""

    caps: Ints
    speeds: Floats
    policy: int
    full: int
    limit: float
    attempts: int
    delays: int
    delay: float
    jitter: float
    above: int
    each: float
    poll: float
    limited: float
    """Up to where a fault's draw is a 429 that is not our doing."""
    faulty: float
    """Up to where it is a 5xx to an accepted job."""
    pick_key: np.uint64
    fault_key: np.uint64
    delay_key: np.uint64
    horizon: float
    by_time: bool
    edges: Floats


class SlotColumns(NamedTuple):
    """Accounts and slots."""

    flying: Ints
    out: Ints
    since: Floats
    open: Ints
    """Rows of accounts that can take a job, in the selector's order."""
    place: Ints
    """By row: where it stands among them, or -1."""
    levels: Ints
    """By number of jobs in flight: how many accounts have it."""
    ends: Floats
    tags: Ints
    serials: Ints


class WaitColumns(NamedTuple):
    """Jobs that are in line or will be tried again. All of one length."""

    number: Ints
    tries: Ints
    picks: Ints
    arrival: Floats
    service: Floats
    deadline: Floats
    vacant: Ints
    """Places of the pool that are free, as a stack."""
    line: Ints
    """A ring of places: the first to start, first."""
    orbit: Ints
    """A ring of places where every delay is alike, else a heap."""
    when: Floats
    """When the one at the same place of the orbit comes back."""
    turn: Ints
    """Its serial number."""


class Outages(NamedTuple):
    """When accounts go out and come back."""

    when: Floats
    row: Ints
    down: Ints


class Figures(NamedTuple):
    """What a tally holds, as arrays."""

    counts: Ints
    sums: Floats
    starts: Ints
    areas: Floats
    waits: Ints
    stays: Ints
    exact_waits: Floats
    exact_stays: Floats
    series: Floats


class RecordColumns(NamedTuple):
    """Records of every job; empty where none are kept."""

    account: Ints
    start: Floats
    end: Floats
    attempts: Ints
    outcome: Ints


class Counter(NamedTuple):
    """What changes, as arrays of one: whole numbers by the names in `I`, floats by those in `X`."""

    whole: Ints
    real: Floats


# Places in `Counter.whole`.
(
    NEXT, OUTAGE, BUSY, OPEN, VACANT, LINE_HEAD, LINE, ORBIT_HEAD, ORBIT, SERIAL, LAST_ROW, ROW, AREA_ROW,
    MOST, LEAST, SERVING, COMPLETED, REFUSED, GAVE_UP, REJECTED, DOUBLED, KEPT, PIECE_COUNT, CLOSED, WHOLE,
) = range(25)  # fmt: skip
# Places in `Counter.real`.
(
    NOW,
    PASSED,
    PIECE_AREA,
    PIECE_ENDS,
    PIECE,
    ROW_BEGAN,
    LONGEST_WAIT,
    LONGEST_STAY,
    LAST_PIECE,
    LAST_AREA,
    REAL,
) = range(11)


def begin(rules: Rules, start: float, piece: float) -> tuple[SlotColumns, WaitColumns, Figures, Counter]:
    """Return how a run begins: every account idle and open, nobody waiting, nothing counted."""
    caps = rules.caps
    accounts, slots, rows = len(caps), int(caps.sum()), len(rules.edges) + 2
    levels = np.zeros(int(caps.max()) + 1, np.int64)
    levels[0] = accounts
    books = SlotColumns(
        flying=np.zeros(accounts, np.int64),
        out=np.zeros(accounts, np.int64),
        since=np.full(accounts, start),
        open=np.arange(accounts),
        place=np.arange(accounts),
        levels=levels,
        ends=np.zeros(slots),
        tags=np.zeros(slots, np.int64),
        serials=np.zeros(slots if slots > HEAPED else 1, np.int64),
    )
    figures = Figures(
        counts=np.zeros((rows, COUNTED), np.int64),
        sums=np.zeros((rows, SUMMED)),
        starts=np.zeros((rows, accounts), np.int64),
        areas=np.zeros((rows, accounts)),
        waits=np.zeros((rows, CLASSES + 1), np.int64),
        stays=np.zeros((rows, CLASSES + 1), np.int64),
        exact_waits=np.empty(EXACT),
        exact_stays=np.empty(EXACT),
        series=np.zeros(PIECES),
    )
    counter = Counter(np.zeros(WHOLE, np.int64), np.zeros(REAL))
    first_row = int(rules.edges[0] <= (start if rules.by_time else 0.0))
    counter.whole[[OPEN, LAST_ROW, ROW, AREA_ROW]] = accounts, -1, first_row, first_row
    counter.real[[NOW, PASSED, ROW_BEGAN, PIECE, PIECE_ENDS]] = start, start, start, piece, start + piece
    return books, roomier(None, counter), figures, counter


def roomier(waiting: WaitColumns | None, counter: Counter) -> WaitColumns:
    """Return the same jobs with twice the room, or the first room."""
    room = 512 if waiting is None else len(waiting.line)
    whole = counter.whole

    def wider(old: Any, kind: type, head: int = 0) -> Any:
        new: Any = np.zeros(2 * room, np.dtype(kind))
        if old is not None:
            new[:room] = np.roll(old, -head)
        return new

    names = WaitColumns._fields
    kinds = {
        name: np.float64 if name in {"arrival", "service", "deadline", "when"} else np.int64 for name in names
    }
    heads = {"line": int(whole[LINE_HEAD]), "orbit": int(whole[ORBIT_HEAD]), "when": int(whole[ORBIT_HEAD])}
    made = WaitColumns(
        *(wider(getattr(waiting, name, None), kinds[name], heads.get(name, 0)) for name in names)
    )
    whole[[LINE_HEAD, ORBIT_HEAD]] = 0
    first = 0 if waiting is None else room
    vacant = int(whole[VACANT])
    made.vacant[vacant : vacant + 2 * room - first] = np.arange(first, 2 * room)
    whole[VACANT] += 2 * room - first
    return made


def record_columns(room: int, old: RecordColumns | None = None) -> RecordColumns:
    """Return records with room for so many jobs, what is known of earlier ones included."""
    made = RecordColumns(
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
