"""The steps of the compiled event loop: chance, heaps, picks, time, the pool of those that wait.

Each is what the room of the same part does without Numba: `streams.uniform`, `tally.class_of`, the rules of
`policy` on the selector's order of open accounts, `tally.Counting`.
"""

from collections.abc import Callable
from math import inf
from typing import Any, Final, TypeVar, cast

import numba
import numpy as np

from pika_balancer.simulate.collector import CLASSES, FINE, LOWEST, PIECES
from pika_balancer.simulate.kernel.arrays import (
    AREA_ROW,
    BUSY,
    CLOSED,
    GAVE_UP,
    LAST_AREA,
    LAST_PIECE,
    LINE,
    LINE_HEAD,
    ORBIT_HEAD,
    PASSED,
    PIECE,
    PIECE_AREA,
    PIECE_COUNT,
    PIECE_ENDS,
    ROUND_ROBIN,
    ROW,
    ROW_BEGAN,
    SERIAL,
    TWO_CHOICES,
    VACANT,
    WEIGHTED,
    Counter,
    Figures,
    Floats,
    Ints,
    RecordColumns,
    Rules,
    SlotColumns,
    WaitColumns,
)
from pika_balancer.simulate.streams import FIRST, SECOND, STEP, TURN, ULP

F = TypeVar("F", bound=Callable[..., Any])


def compiled(function: F) -> F:
    """Compile the function, and keep the result for later processes where there is a place for it."""
    try:
        made: Any = numba.njit(function, cache=True, boundscheck=False, error_model="numpy")
    except RuntimeError:  # neither the package's folder nor the user's can be written
        made = numba.njit(function, boundscheck=False, error_model="numpy")
    return cast("F", made)


_STEP, _TURN, _FIRST, _SECOND = np.uint64(STEP), np.uint64(TURN), np.uint64(FIRST), np.uint64(SECOND)
_ONE, _11, _27, _30, _31 = np.uint64(1), np.uint64(11), np.uint64(27), np.uint64(30), np.uint64(31)
_SHIFT: Final = 52 - FINE.bit_length() + 1
_OFFSET: Final = (1023 + LOWEST) * FINE


@compiled
def uniform(key: np.uint64, job: int, turn: int) -> float:
    """Return what `streams.uniform` returns."""
    z = key + (np.uint64(job) + _ONE) * _STEP + np.uint64(turn) * _TURN
    z = (z ^ (z >> _30)) * _FIRST
    z = (z ^ (z >> _27)) * _SECOND
    z = z ^ (z >> _31)
    return np.float64(z >> _11) * ULP


@compiled
def class_of(duration: float) -> int:
    """Return what `tally.class_of` returns; the last place of all for 0."""
    if duration <= 0.0:
        return CLASSES
    place = (int(np.float64(duration).view(np.int64)) >> _SHIFT) - _OFFSET
    return min(max(place, 0), CLASSES - 1)


@compiled
def push(
    when: Floats, serials: Ints, values: Ints, count: int, moment: float, serial: int, value: int
) -> None:
    """Add to a heap of `count`: the earliest first, of several at one moment the least serial number."""
    place = count
    while place > 0:
        parent = (place - 1) >> 1
        if when[parent] < moment or (when[parent] == moment and serials[parent] < serial):
            break
        when[place], serials[place], values[place] = when[parent], serials[parent], values[parent]
        place = parent
    when[place], serials[place], values[place] = moment, serial, value


@compiled
def pop(when: Floats, serials: Ints, values: Ints, count: int) -> None:
    """Take the first one from a heap of `count`."""
    last = count - 1
    moment, serial, value = when[last], serials[last], values[last]
    place = 0
    while True:
        child = 2 * place + 1
        if child >= last:
            break
        other = child + 1
        if other < last and (
            when[other] < when[child] or (when[other] == when[child] and serials[other] < serials[child])
        ):
            child = other
        if moment < when[child] or (moment == when[child] and serial < serials[child]):
            break
        when[place], serials[place], values[place] = when[child], serials[child], values[child]
        place = child
    when[place], serials[place], values[place] = moment, serial, value


@compiled
def close(open_rows: Ints, places: Ints, count: int, row: np.uint64) -> None:
    """Take an account out of the `count` open ones: the last one moves into the gap, as in the selector."""
    last = np.uint64(open_rows[np.uint64(count - 1)])
    gap = np.uint64(places[row])
    open_rows[gap] = last
    places[last] = gap
    places[row] = -1


@compiled
def choose(
    key: np.uint64,
    policy: int,
    caps: Ints,
    flying: Ints,
    open_rows: Ints,
    place: Ints,
    count: int,
    last_row: int,
    job: int,
    turn: int,
) -> int:
    """Return the row of the account that any policy but `random` picks among the `count` open ones."""
    first = uniform(key, job, turn)
    accounts = len(caps)
    if policy == TWO_CHOICES:
        if count == 1:
            return int(open_rows[0])
        i = int(first * count)
        j = int(uniform(key, job, turn + 1) * (count - 1))
        if j >= i:
            j += 1
        one, other = open_rows[i], open_rows[j]
        return int(other if flying[other] < flying[one] else one)
    if policy == ROUND_ROBIN:
        if last_row >= 0:
            for step in range(1, accounts + 1):
                row = last_row + step
                if row >= accounts:
                    row -= accounts
                if place[row] >= 0:
                    return row
        left = int(first * count)
        for row in range(accounts):
            if place[row] >= 0:
                if left == 0:
                    return row
                left -= 1
    least = np.int64(1 << 62)
    total = np.int64(0)
    for row in range(accounts):
        if place[row] < 0:
            continue
        if policy == WEIGHTED:
            total += caps[row] - flying[row]
        elif flying[row] < least:
            least, total = flying[row], np.int64(1)
        elif flying[row] == least:
            total += 1
    draw = min(first * total, np.nextafter(np.float64(total), 0.0))
    reached = np.int64(0)
    for row in range(accounts):
        if place[row] >= 0:
            if policy == WEIGHTED:
                reached += caps[row] - flying[row]
            elif flying[row] == least:
                reached += 1
            if reached > draw:
                return row
    return -1


@compiled
def turn_row(books: SlotColumns, figures: Figures, counter: Counter, now: float, row: int) -> None:
    """Settle what is summed over time and go on in another row."""
    area_row = counter.whole[AREA_ROW]
    for account in range(len(books.flying)):
        figures.areas[area_row, account] += books.flying[account] * (now - books.since[account])
        books.since[account] = now
    figures.sums[area_row, 3] += now - counter.real[ROW_BEGAN]
    counter.real[ROW_BEGAN] = now
    counter.whole[AREA_ROW] = row


@compiled
def pass_pieces(series: Floats, whole: Ints, real: Floats, now: float, busy: int) -> None:
    """Let time pass over the ends of pieces of time, up to the begin of the piece that `now` is in."""
    while now >= real[PIECE_ENDS]:
        real[PIECE_AREA] += busy * (real[PIECE_ENDS] - real[PASSED])
        series[whole[PIECE_COUNT]] = real[PIECE_AREA] / real[PIECE]
        whole[PIECE_COUNT] += 1
        real[PIECE_AREA] = 0.0
        real[PASSED] = real[PIECE_ENDS]
        if whole[PIECE_COUNT] == PIECES:
            for half in range(PIECES // 2):
                series[half] = (series[2 * half] + series[2 * half + 1]) / 2
            whole[PIECE_COUNT] = PIECES // 2
            real[PIECE] *= 2
        real[PIECE_ENDS] += real[PIECE]


@compiled
def pass_time(figures: Figures, counter: Counter, now: float) -> None:
    """Let time pass with as many jobs in flight as there are."""
    whole, real = counter.whole, counter.real
    if now >= real[PIECE_ENDS]:
        pass_pieces(figures.series, whole, real, now, whole[BUSY])
    real[PIECE_AREA] += whole[BUSY] * (now - real[PASSED])
    real[PASSED] = now


@compiled
def close_time(books: SlotColumns, figures: Figures, counter: Counter, now: float) -> None:
    """End the time that the estimates are about."""
    if counter.whole[CLOSED]:
        return
    pass_time(figures, counter, now)
    turn_row(books, figures, counter, now, len(figures.areas) - 1)
    counter.whole[CLOSED] = 1
    # What happens later falls into no piece of time.
    counter.real[LAST_PIECE], counter.real[LAST_AREA] = counter.real[PIECE_ENDS], counter.real[PIECE_AREA]
    counter.real[PIECE_ENDS] = inf


@compiled
def wait_in(
    waiting: WaitColumns, whole: Ints, number: int, arrival: float, service: float, deadline: float
) -> int:
    """Give a job a place in the pool and return it."""
    whole[VACANT] -= 1
    place = waiting.vacant[whole[VACANT]]
    waiting.number[place] = number
    waiting.arrival[place] = arrival
    waiting.service[place] = service
    waiting.deadline[place] = deadline
    return int(place)


@compiled
def vacate(vacant: Ints, whole: Ints, place: int) -> None:
    """Free a place of the pool; -1 is none."""
    if place >= 0:
        vacant[whole[VACANT]] = place
        whole[VACANT] += 1


@compiled
def come_back(waiting: WaitColumns, whole: Ints, heaped: bool, count: int, when: float, place: int) -> None:
    """Put a job into the orbit of `count`."""
    whole[SERIAL] += 1
    if heaped:
        push(waiting.when, waiting.turn, waiting.orbit, count, when, whole[SERIAL], place)
    else:
        end = (whole[ORBIT_HEAD] + count) % len(waiting.orbit)
        waiting.orbit[end], waiting.when[end] = place, when


@compiled
def give_up(
    figures: Figures,
    kept: RecordColumns,
    counter: Counter,
    rules: Rules,
    number: int,
    arrival: float,
    tries: int,
) -> None:
    """Count a job that will not be run."""
    key = arrival if rules.by_time else np.float64(number)
    row = counter.whole[ROW] if key >= rules.edges[0] else 0
    counter.whole[GAVE_UP] += 1
    figures.counts[row, 2] += 1
    figures.counts[row, 4] += tries
    if len(kept.outcome):
        kept.attempts[number] = tries
        kept.outcome[number] = 2


@compiled
def thin(
    waiting: WaitColumns, figures: Figures, kept: RecordColumns, counter: Counter, rules: Rules, now: float
) -> None:
    """Take those out of the line whose patience has ended."""
    whole = counter.whole
    ring = len(waiting.line)
    left = 0
    for step in range(whole[LINE]):
        place = waiting.line[(whole[LINE_HEAD] + step) % ring]
        if waiting.deadline[place] < now:
            give_up(
                figures,
                kept,
                counter,
                rules,
                waiting.number[place],
                waiting.arrival[place],
                waiting.tries[place],
            )
            vacate(waiting.vacant, whole, place)
        else:
            waiting.line[(whole[LINE_HEAD] + left) % ring] = place
            left += 1
    whole[LINE] = left
