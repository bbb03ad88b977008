"""The compiled event loop: the same decisions as `reference`, with everything it knows in arrays.

Needs Numba; no room but `engine` sees it. It stops wherever it lacks something (jobs, outages, room for those
that wait) and goes on where it stopped.

Slots in use stand sorted by when they free, the earliest last, those that free together by who started first;
above `HEAPED` slots they form a heap instead. Jobs that wait, in line or for another try, have a place in a pool.

All compiled functions stand in this one file, since Numba's cache does not see changes of another.
"""

from collections.abc import Callable
from math import ceil, inf, log1p
from typing import Any, Final, TypeVar

import numba
import numpy as np

from pika_balancer.simulate.state import (
    AREA_ROW,
    BUSY,
    CLOSED,
    COMPLETED,
    CONSTANT,
    DONE,
    DOUBLED,
    EXPONENTIAL,
    GAVE_UP,
    JITTERED,
    LAST_AREA,
    LAST_PIECE,
    JOB_SHIFT,
    KEPT,
    LAST_ROW,
    LEAST,
    LINE,
    LINE_HEAD,
    LONGEST_STAY,
    LONGEST_WAIT,
    LOSS,
    MORE_JOBS,
    MORE_OUTAGES,
    MORE_ROOM,
    MOST,
    NEXT,
    NOBODY,
    NOW,
    OPEN,
    ORBIT,
    ORBIT_HEAD,
    OUTAGE,
    PASSED,
    PIECE,
    PIECE_AREA,
    PIECE_COUNT,
    PIECE_ENDS,
    QUEUE,
    RANDOM,
    REFUSED,
    REJECTED,
    RETRY,
    ROUND_ROBIN,
    ROW,
    ROW_BEGAN,
    ROW_MASK,
    SERIAL,
    SERVING,
    TWO_CHOICES,
    VACANT,
    WEIGHTED,
    Block,
    Books,
    Counter,
    Figures,
    Floats,
    Ints,
    Kept,
    Outages,
    Rules,
    Waiting,
)
from pika_balancer.simulate.streams import FIRST, SECOND, STEP, TURN, ULP
from pika_balancer.simulate.tally import CLASSES, EXACT, FINE, LOWEST, PIECES

F = TypeVar("F", bound=Callable[..., Any])


def compiled(function: F) -> F:
    """Compile the function, and keep the result for later processes where there is a place for it."""
    try:
        jitted: F = numba.njit(cache=True, boundscheck=False, error_model="numpy")(function)
    except RuntimeError:  # neither the package's folder nor the user's can be written
        jitted = numba.njit(boundscheck=False, error_model="numpy")(function)
    return jitted


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
    place = (np.float64(duration).view(np.int64) >> _SHIFT) - _OFFSET
    return min(max(place, 0), CLASSES - 1)


@compiled
def push(
    when: Floats, serials: Ints, values: Ints, count: int, moment: float, serial: int, value: int
) -> None:
    """Add to a heap of `count`: the earliest first, of several at one moment the one with the least serial."""
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
def close(open_rows: Ints, places: Ints, count: int, row: int) -> None:
    """Take an account out of the `count` open ones: the last one moves into the gap, as in the selector."""
    last = open_rows[count - 1]
    gap = places[row]
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
            return open_rows[0]
        i = int(first * count)
        j = int(uniform(key, job, turn + 1) * (count - 1))
        if j >= i:
            j += 1
        one, other = open_rows[i], open_rows[j]
        return other if flying[other] < flying[one] else one
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
def turn_row(books: Books, figures: Figures, counter: Counter, now: float, row: int) -> None:
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
def close_time(books: Books, figures: Figures, counter: Counter, now: float) -> None:
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
    waiting: Waiting, whole: Ints, number: int, arrival: float, service: float, deadline: float
) -> int:
    """Give a job a place in the pool and return it."""
    whole[VACANT] -= 1
    place = waiting.vacant[whole[VACANT]]
    waiting.number[place] = number
    waiting.arrival[place] = arrival
    waiting.service[place] = service
    waiting.deadline[place] = deadline
    return place


@compiled
def vacate(vacant: Ints, whole: Ints, place: int) -> None:
    """Free a place of the pool; -1 is none."""
    if place >= 0:
        vacant[whole[VACANT]] = place
        whole[VACANT] += 1


@compiled
def come_back(waiting: Waiting, whole: Ints, heaped: bool, count: int, when: float, place: int) -> None:
    """Put a job into the orbit of `count`."""
    whole[SERIAL] += 1
    if heaped:
        push(waiting.when, waiting.turn, waiting.orbit, count, when, whole[SERIAL], place)
    else:
        end = (whole[ORBIT_HEAD] + count) % len(waiting.orbit)
        waiting.orbit[end], waiting.when[end] = place, when


@compiled
def give_up(
    figures: Figures, kept: Kept, counter: Counter, rules: Rules, number: int, arrival: float, tries: int
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
def thin(waiting: Waiting, figures: Figures, kept: Kept, counter: Counter, rules: Rules, now: float) -> None:
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


@compiled
def advance(
    block: Block,
    outages: Outages,
    rules: Rules,
    books: Books,
    waiting: Waiting,
    figures: Figures,
    kept: Kept,
    counter: Counter,
) -> int:
    """Go on with the run as far as possible and return why it stopped."""
    # Each array by a name of its own: to take one from a tuple costs an atomic count of who holds it.
    whole, real = counter.whole, counter.real
    flying, out, since, open_rows, places = books.flying, books.out, books.since, books.open, books.place
    levels, ends, tags, serials = books.levels, books.ends, books.tags, books.serials
    caps, speeds, edges = rules.caps, rules.speeds, rules.edges
    counts, sums, starts, areas = figures.counts, figures.sums, figures.starts, figures.areas
    waits, stays, exact_waits, exact_stays = (
        figures.waits,
        figures.stays,
        figures.exact_waits,
        figures.exact_stays,
    )
    arrivals, services, patience = block.arrivals, block.services, block.patience
    pool_number, pool_tries, pool_picks = waiting.number, waiting.tries, waiting.picks
    pool_arrival, pool_service, pool_deadline = waiting.arrival, waiting.service, waiting.deadline
    vacant, line, orbit, orbit_when, orbit_turn = (
        waiting.vacant,
        waiting.line,
        waiting.orbit,
        waiting.when,
        waiting.turn,
    )
    outage_when, outage_row, outage_down = outages.when, outages.row, outages.down
    kept_account, kept_start, kept_end = kept.account, kept.start, kept.end
    kept_attempts, kept_outcome = kept.attempts, kept.outcome
    batches = len(edges)
    count = len(arrivals)
    slots_heaped = len(serials) > 1
    orbit_heaped = rules.delays != CONSTANT
    keeping = len(kept_outcome) > 0
    faulty = rules.faulty > 0.0
    i = whole[NEXT] - block.first
    busy, free_rows = whole[BUSY], whole[OPEN]
    most, least = whole[MOST], whole[LEAST]
    serving = whole[SERVING] != 0
    policy, last_row = rules.policy, whole[LAST_ROW]
    status = DONE
    now = real[NOW]
    batch, area_row = whole[ROW], whole[AREA_ROW]
    in_line, in_orbit, completed, kept_count = whole[LINE], whole[ORBIT], whole[COMPLETED], whole[KEPT]
    passed, piece_area, piece_ends = real[PASSED], real[PIECE_AREA], real[PIECE_ENDS]
    while True:
        if serving and in_line:
            place = line[whole[LINE_HEAD]]
            from_line = True
            number, arrival = pool_number[place], pool_arrival[place]
            if pool_deadline[place] < now:
                give_up(figures, kept, counter, rules, number, arrival, pool_tries[place])
                vacate(vacant, whole, place)
                whole[LINE_HEAD] = (whole[LINE_HEAD] + 1) % len(line)
                in_line -= 1
                continue
            if not free_rows:
                serving = False
                continue
            service, deadline = pool_service[place], pool_deadline[place]
            tries, picks = pool_tries[place], pool_picks[place]
            whole[LINE_HEAD] = (whole[LINE_HEAD] + 1) % len(line)
            in_line -= 1
        else:
            serving = from_line = False
            if i < count:
                coming = arrivals[i]
            elif block.final:
                coming = inf
            else:
                status = MORE_JOBS
                break
            if whole[OUTAGE] < len(outage_when):
                outage = outage_when[whole[OUTAGE]]
            else:
                status = MORE_OUTAGES
                break
            again = inf
            if in_orbit:
                again = orbit_when[0 if orbit_heaped else whole[ORBIT_HEAD]]
            soon = min(coming, min(again, outage))
            if i >= count and not busy and not in_orbit and (not in_line or soon == inf):
                break
            if busy and ends[0 if slots_heaped else busy - 1] <= min(soon, rules.horizon):
                # A slot frees.
                if slots_heaped:
                    now, tag = ends[0], tags[0]
                    pop(ends, serials, tags, busy)
                else:
                    now, tag = ends[busy - 1], tags[busy - 1]
                row = tag & ROW_MASK
                if now >= piece_ends:
                    real[PASSED], real[PIECE_AREA] = passed, piece_area
                    pass_pieces(figures.series, whole, real, now, busy)
                    passed, piece_area, piece_ends = real[PASSED], real[PIECE_AREA], real[PIECE_ENDS]
                piece_area += busy * (now - passed)
                passed = now
                busy -= 1
                before = flying[row]
                areas[area_row, row] += before * (now - since[row])
                since[row] = now
                flying[row] = after = before - 1
                levels[before] -= 1
                levels[after] += 1
                least = min(least, after)
                if before == most and levels[before] == 0:
                    most = after
                if places[row] < 0 and not out[row]:
                    open_rows[free_rows] = row
                    places[row] = free_rows
                    free_rows += 1
                if not tag & NOBODY:
                    completed += 1
                    if keeping:
                        kept_outcome[tag >> JOB_SHIFT] = 1
                serving = True
                continue
            if soon > rules.horizon or soon == inf:
                break
            if outage <= soon:
                now = outage
                row = outage_row[whole[OUTAGE]]
                out[row] = outage_down[whole[OUTAGE]]
                whole[OUTAGE] += 1
                if out[row]:
                    if places[row] >= 0:
                        close(open_rows, places, free_rows, row)
                        free_rows -= 1
                elif flying[row] < caps[row]:
                    open_rows[free_rows] = row
                    places[row] = free_rows
                    free_rows += 1
                serving = True
                continue
            if again <= soon:
                now = again
                if orbit_heaped:
                    place = orbit[0]
                    pop(orbit_when, orbit_turn, orbit, in_orbit)
                else:
                    place = orbit[whole[ORBIT_HEAD]]
                    whole[ORBIT_HEAD] = (whole[ORBIT_HEAD] + 1) % len(orbit)
                in_orbit -= 1
                number, arrival = pool_number[place], pool_arrival[place]
                service, deadline = pool_service[place], pool_deadline[place]
                tries, picks = pool_tries[place] + 1, pool_picks[place]
            else:
                if not whole[VACANT]:
                    status = MORE_ROOM
                    break
                now = arrival = coming
                number, service = block.first + i, services[i]
                deadline = inf
                if len(patience):
                    deadline = arrival + patience[i]
                place, tries, picks = -1, 1, 0
                i += 1
                key = arrival if rules.by_time else np.float64(number)
                while batch < batches and key >= edges[batch]:
                    whole[BUSY] = busy
                    real[PASSED], real[PIECE_AREA] = passed, piece_area
                    pass_time(figures, counter, now)
                    passed, piece_area, piece_ends = real[PASSED], real[PIECE_AREA], real[PIECE_ENDS]
                    batch += 1
                    turn_row(books, figures, counter, now, batch)
                    whole[ROW] = area_row = batch
                counts[batch if key >= edges[0] else 0, 0] += 1
        # A job is placed.
        key = arrival if rules.by_time else np.float64(number)
        job_row = batch if key >= edges[0] else 0
        away = False
        if free_rows:
            if policy == RANDOM:
                row = open_rows[int(uniform(rules.pick_key, number, 2 * picks) * free_rows)]
            else:
                row = choose(
                    rules.pick_key,
                    policy,
                    caps,
                    flying,
                    open_rows,
                    places,
                    free_rows,
                    last_row,
                    number,
                    2 * picks,
                )
                last_row = row
            fault = 2.0
            if faulty:
                fault = uniform(rules.fault_key, number, picks)
            picks += 1
            if fault < rules.limited:
                whole[REJECTED] += 1
                away = True
                # Given back at once: among the open ones it stands last then, if that was its last free slot.
                if flying[row] == caps[row] - 1:
                    close(open_rows, places, free_rows, row)
                    open_rows[free_rows - 1] = row
                    places[row] = free_rows - 1
            else:
                spread = most - least
                if now >= piece_ends:
                    real[PASSED], real[PIECE_AREA] = passed, piece_area
                    pass_pieces(figures.series, whole, real, now, busy)
                    passed, piece_area, piece_ends = real[PASSED], real[PIECE_AREA], real[PIECE_ENDS]
                piece_area += busy * (now - passed)
                passed = now
                before = flying[row]
                areas[area_row, row] += before * (now - since[row])
                since[row] = now
                flying[row] = after = before + 1
                levels[before] -= 1
                levels[after] += 1
                most = max(most, after)
                if before == least and levels[before] == 0:
                    least = after
                if after == caps[row]:
                    close(open_rows, places, free_rows, row)
                    free_rows -= 1
                hold = service / speeds[row]
                if after > rules.above:
                    hold *= 1.0 + rules.each * (after - rules.above)
                end = now + hold
                if rules.poll > 0.0:
                    end = max(end, ceil(end / rules.poll) * rules.poll)
                tag = (number << JOB_SHIFT) | row
                if fault < rules.faulty:
                    whole[DOUBLED] += 1
                    away = True
                    tag |= NOBODY
                else:
                    wait, stay = now - arrival, end - arrival
                    counts[job_row, 3] += 1
                    counts[job_row, 4] += tries
                    sums[job_row, 0] += wait
                    sums[job_row, 1] += stay
                    sums[job_row, 2] += spread
                    starts[job_row, row] += 1
                    waits[job_row, class_of(wait)] += 1
                    stays[job_row, class_of(stay)] += 1
                    if job_row:
                        real[LONGEST_WAIT] = max(real[LONGEST_WAIT], wait)
                        real[LONGEST_STAY] = max(real[LONGEST_STAY], stay)
                        if kept_count <= EXACT:
                            if kept_count < EXACT:
                                exact_waits[kept_count] = wait
                                exact_stays[kept_count] = stay
                            kept_count += 1
                    if keeping:
                        kept_account[number] = row
                        kept_start[number] = now
                        kept_end[number] = end
                        kept_attempts[number] = tries
                    vacate(vacant, whole, place)
                whole[SERIAL] += 1
                if slots_heaped:
                    push(ends, serials, tags, busy, end, whole[SERIAL], tag)
                else:
                    slot = busy
                    while slot > 0 and ends[slot - 1] <= end:
                        ends[slot], tags[slot] = ends[slot - 1], tags[slot - 1]
                        slot -= 1
                    ends[slot], tags[slot] = end, tag
                busy += 1
        else:
            if tries == 1:
                whole[REFUSED] += 1
                counts[job_row, 1] += 1
            if rules.full == QUEUE:
                if in_line >= rules.limit:
                    whole[LINE] = in_line
                    thin(waiting, figures, kept, counter, rules, now)
                    in_line = whole[LINE]
                if in_line >= rules.limit or deadline < now:
                    give_up(figures, kept, counter, rules, number, arrival, tries)
                    vacate(vacant, whole, place)
                else:
                    if place < 0:
                        place = wait_in(waiting, whole, number, arrival, service, deadline)
                    pool_tries[place], pool_picks[place] = tries, picks
                    line[(whole[LINE_HEAD] + in_line) % len(line)] = place
                    in_line += 1
            else:
                away = True
        if away:
            if rules.full == LOSS or (rules.full == RETRY and tries >= rules.attempts):
                give_up(figures, kept, counter, rules, number, arrival, tries)
                vacate(vacant, whole, place)
            else:
                if place < 0:
                    place = wait_in(waiting, whole, number, arrival, service, deadline)
                pool_tries[place], pool_picks[place] = tries, picks
                delay = rules.delay
                if rules.delays == EXPONENTIAL:
                    delay *= -log1p(-uniform(rules.delay_key, number, tries))
                elif rules.delays == JITTERED:
                    delay *= 1.0 + rules.jitter * (2.0 * uniform(rules.delay_key, number, tries) - 1.0)
                come_back(waiting, whole, orbit_heaped, in_orbit, now + delay, place)
                in_orbit += 1
        serving = from_line
        if i == count and block.final and rules.horizon == inf:
            if area_row <= batches:
                whole[BUSY] = busy
                real[PASSED], real[PIECE_AREA] = passed, piece_area
                close_time(books, figures, counter, arrivals[count - 1])
                passed, piece_area, piece_ends = real[PASSED], real[PIECE_AREA], real[PIECE_ENDS]
                area_row = batches + 1
    whole[NEXT] = i + block.first
    whole[BUSY], whole[OPEN], whole[MOST], whole[LEAST] = busy, free_rows, most, least
    whole[SERVING], whole[LAST_ROW] = serving, last_row
    whole[LINE], whole[ORBIT], whole[COMPLETED], whole[KEPT] = in_line, in_orbit, completed, kept_count
    real[NOW], real[PASSED], real[PIECE_AREA] = now, passed, piece_area
    if status == DONE:
        thin(waiting, figures, kept, counter, rules, rules.horizon)
        if rules.horizon < inf:
            close_time(books, figures, counter, rules.horizon)
    return status
