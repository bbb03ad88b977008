"""The steps of the compiled event loop: random numbers, heaps, picks, time integrals, the job pool.

Each repeats plain Python code for Numba: `streams.uniform`, `collector.class_of`, the rules of `policy` on
the selector's order of open accounts, `collector.Counting`.
"""

from collections.abc import Callable
from math import inf
from typing import Any, Final, TypeVar, cast

import numba
import numpy as np

from pika_balancer.simulate.collector import BINS, CLASSES, FINE, LOWEST
from pika_balancer.simulate.kernel.arrays import (
    ROUND_ROBIN,
    TWO_CHOICES,
    WEIGHTED,
    AccountArrays,
    Figures,
    Floats,
    Ints,
    PoolArrays,
    RecordArrays,
    Rules,
    State,
)
from pika_balancer.simulate.streams import FIRST, SECOND, STEP, TURN, ULP

F = TypeVar("F", bound=Callable[..., Any])


def compiled(function: F) -> F:
    """Compile the function, and cache the result on disk if a folder for it is writable."""
    try:
        made: Any = numba.njit(function, cache=True, boundscheck=False, error_model="numpy")
    except RuntimeError:  # neither the package's nor the user's cache folder is writable
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
    """Return what `collector.class_of` returns, and `CLASSES` for 0."""
    if duration <= 0.0:
        return CLASSES
    place = (int(np.float64(duration).view(np.int64)) >> _SHIFT) - _OFFSET
    return min(max(place, 0), CLASSES - 1)


@compiled
def push(
    when: Floats, serials: Ints, values: Ints, count: int, moment: float, serial: int, value: int
) -> None:
    """Add an entry to a heap of `count`, ordered by time, then by serial number."""
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
    """Remove the first entry of a heap of `count`."""
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
def close_account(open_accounts: Ints, places: Ints, count: int, account: np.uint64) -> None:
    """Remove an account from the `count` open ones: the last one moves into the gap, as in the selector."""
    last = np.uint64(open_accounts[np.uint64(count - 1)])
    gap = np.uint64(places[account])
    open_accounts[gap] = last
    places[last] = gap
    places[account] = -1


@compiled
def pick(
    key: np.uint64,
    policy: int,
    caps: Ints,
    in_flight: Ints,
    open_accounts: Ints,
    places: Ints,
    count: int,
    last_account: int,
    job: int,
    turn: int,
) -> int:
    """Return the account that any policy but `random` picks among the `count` open ones."""
    first = uniform(key, job, turn)
    size = len(caps)
    if policy == TWO_CHOICES:
        if count == 1:
            return int(open_accounts[0])
        i = int(first * count)
        j = int(uniform(key, job, turn + 1) * (count - 1))
        if j >= i:
            j += 1
        one, other = open_accounts[i], open_accounts[j]
        return int(other if in_flight[other] < in_flight[one] else one)
    if policy == ROUND_ROBIN:
        if last_account >= 0:
            for step in range(1, size + 1):
                account = last_account + step
                if account >= size:
                    account -= size
                if places[account] >= 0:
                    return account
        left = int(first * count)
        for account in range(size):
            if places[account] >= 0:
                if left == 0:
                    return account
                left -= 1
    least = np.int64(1 << 62)
    total = np.int64(0)
    for account in range(size):
        if places[account] < 0:
            continue
        if policy == WEIGHTED:
            total += caps[account] - in_flight[account]
        elif in_flight[account] < least:
            least, total = in_flight[account], np.int64(1)
        elif in_flight[account] == least:
            total += 1
    draw = min(first * total, np.nextafter(np.float64(total), 0.0))
    reached = np.int64(0)
    for account in range(size):
        if places[account] >= 0:
            if policy == WEIGHTED:
                reached += caps[account] - in_flight[account]
            elif in_flight[account] == least:
                reached += 1
            if reached > draw:
                return account
    return -1


@compiled
def change_phase(accounts: AccountArrays, figures: Figures, state: State, now: float, new_phase: int) -> None:
    """Add the time so far to the current phase and continue in another one."""
    phase = state.phase
    for account in range(len(accounts.in_flight)):
        figures.areas[phase, account] += accounts.in_flight[account] * (now - accounts.since[account])
        accounts.since[account] = now
    figures.sums[phase, 3] += now - state.phase_start
    state.phase_start = now
    state.phase = new_phase


@compiled
def pass_bins(series: Floats, state: State, now: float, busy: int) -> None:
    """Finish every time bin that ends by `now`."""
    while now >= state.bin_end:
        state.bin_area += busy * (state.bin_end - state.integrated)
        series[state.bins] = state.bin_area / state.bin_width
        state.bins += 1
        state.bin_area = 0.0
        state.integrated = state.bin_end
        if state.bins == BINS:
            for half in range(BINS // 2):
                series[half] = (series[2 * half] + series[2 * half + 1]) / 2
            state.bins = BINS // 2
            state.bin_width *= 2
        state.bin_end += state.bin_width


@compiled
def integrate(figures: Figures, state: State, now: float) -> None:
    """Integrate the jobs in flight up to `now`."""
    if now >= state.bin_end:
        pass_bins(figures.series, state, now, state.busy)
    state.bin_area += state.busy * (now - state.integrated)
    state.integrated = now


@compiled
def end_measuring(accounts: AccountArrays, figures: Figures, state: State, now: float) -> None:
    """End the measured time; does nothing the second time."""
    if state.closed:
        return
    integrate(figures, state, now)
    change_phase(accounts, figures, state, now, len(figures.areas) - 1)
    state.closed = 1
    # Later events belong to no time bin.
    state.last_bin_end, state.last_bin_area = state.bin_end, state.bin_area
    state.bin_end = inf


@compiled
def enter_pool(
    pool: PoolArrays, state: State, number: int, arrival: float, service: float, deadline: float
) -> int:
    """Put a job into the pool and return its index."""
    state.vacant -= 1
    place = pool.vacant[state.vacant]
    pool.number[place] = number
    pool.arrival[place] = arrival
    pool.service[place] = service
    pool.deadline[place] = deadline
    return int(place)


@compiled
def vacate(vacant: Ints, state: State, place: int) -> None:
    """Free an index of the pool; -1 is none."""
    if place >= 0:
        vacant[state.vacant] = place
        state.vacant += 1


@compiled
def schedule_retry(pool: PoolArrays, state: State, heaped: bool, count: int, when: float, place: int) -> None:
    """Add a job to the orbit of `count`."""
    state.serial += 1
    if heaped:
        push(pool.when, pool.turn, pool.orbit, count, when, state.serial, place)
    else:
        end = (state.orbit_head + count) % len(pool.orbit)
        pool.orbit[end], pool.when[end] = place, when


@compiled
def give_up(
    figures: Figures,
    records: RecordArrays,
    state: State,
    rules: Rules,
    number: int,
    arrival: float,
    tries: int,
) -> None:
    """Count a job that leaves unserved."""
    key = arrival if rules.by_time else np.float64(number)
    phase = state.batch if key >= rules.edges[0] else 0
    state.gave_up += 1
    figures.counts[phase, 2] += 1
    figures.counts[phase, 4] += tries
    if len(records.outcome):
        records.attempts[number] = tries
        records.outcome[number] = 2


@compiled
def drop_impatient(
    pool: PoolArrays, figures: Figures, records: RecordArrays, state: State, rules: Rules, now: float
) -> None:
    """Remove the jobs whose patience has ended from the wait queue."""
    ring = len(pool.queue)
    left = 0
    for step in range(state.queued):
        place = pool.queue[(state.queue_head + step) % ring]
        if pool.deadline[place] < now:
            give_up(
                figures, records, state, rules, pool.number[place], pool.arrival[place], pool.tries[place]
            )
            vacate(pool.vacant, state, place)
        else:
            pool.queue[(state.queue_head + left) % ring] = place
            left += 1
    state.queued = left
