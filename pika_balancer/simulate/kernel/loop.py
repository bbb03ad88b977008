"""The compiled event loop: the same decisions as `reference`, with everything it knows in arrays.

It stops wherever it lacks something (jobs, outages, room for those that wait) and goes on where it stopped.

Slots in use stand sorted by when they free, the earliest last, those that free together by who started
first; above `HEAPED` slots they form a heap instead. Jobs that wait have a place in a pool, by which the line
and the orbit (those that will be tried again) know them.
"""

from math import ceil, inf, log1p
from typing import Final

import numpy as np

from pika_balancer.simulate.collector import EXACT
from pika_balancer.simulate.kernel.arrays import (
    AREA_ROW,
    BUSY,
    COMPLETED,
    CONSTANT,
    DONE,
    DOUBLED,
    EXPONENTIAL,
    JITTERED,
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
    PIECE_AREA,
    PIECE_ENDS,
    QUEUE,
    RANDOM,
    REFUSED,
    REJECTED,
    RETRY,
    ROW,
    ROW_MASK,
    SERIAL,
    SERVING,
    VACANT,
    BlockArrays,
    Counter,
    Figures,
    Outages,
    RecordColumns,
    Rules,
    SlotColumns,
    WaitColumns,
)
from pika_balancer.simulate.kernel.steps import (
    choose,
    class_of,
    close,
    close_time,
    come_back,
    compiled,
    give_up,
    pass_pieces,
    pass_time,
    pop,
    push,
    thin,
    turn_row,
    uniform,
    vacate,
    wait_in,
)

BUILT_WITH: Final = "b9f0a804"
"""Checksum of the rooms compiled into this one. Numba keeps what it compiled until this very file changes: a
change of `kernel` or `state` must change it, and a test says by what."""


@compiled
def advance(
    block: BlockArrays,
    outages: Outages,
    rules: Rules,
    books: SlotColumns,
    waiting: WaitColumns,
    figures: Figures,
    kept: RecordColumns,
    counter: Counter,
) -> int:
    """Go on with the run as far as possible and return why it stopped."""
    # Each array by a name of its own: to take one from a tuple counts atomically who holds it. Rows are
    # unsigned: an index that cannot be negative needs no test.
    whole, real = counter.whole, counter.real
    flying, out, since, open_rows, places = books.flying, books.out, books.since, books.open, books.place
    levels, ends, tags, serials = books.levels, books.ends, books.tags, books.serials
    caps, speeds, edges = rules.caps, rules.speeds, rules.edges
    counts, sums, starts, areas = figures.counts, figures.sums, figures.starts, figures.areas
    waits, stays = figures.waits, figures.stays
    exact_waits, exact_stays = figures.exact_waits, figures.exact_stays
    arrivals, services, patience = block.arrivals, block.services, block.patience
    pool_number, pool_tries, pool_picks = waiting.number, waiting.tries, waiting.picks
    pool_arrival, pool_service, pool_deadline = waiting.arrival, waiting.service, waiting.deadline
    vacant, line = waiting.vacant, waiting.line
    orbit, orbit_when, orbit_turn = waiting.orbit, waiting.when, waiting.turn
    outage_when, outage_row, outage_down = outages.when, outages.row, outages.down
    batches, count = len(edges), len(arrivals)
    slots_heaped = len(serials) > 1
    orbit_heaped = rules.delays != CONSTANT
    keeping = len(kept.outcome) > 0
    faulty = rules.faulty > 0.0
    i = whole[NEXT] - block.first
    busy, free_rows, most, least = whole[BUSY], whole[OPEN], whole[MOST], whole[LEAST]
    serving = whole[SERVING] != 0
    policy, last_row = rules.policy, whole[LAST_ROW]
    status, now = DONE, real[NOW]
    outage = outage_when[whole[OUTAGE]] if whole[OUTAGE] < len(outage_when) else -1.0
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
            if outage < 0.0:  # none is known
                status = MORE_OUTAGES
                break
            again = orbit_when[0 if orbit_heaped else whole[ORBIT_HEAD]] if in_orbit else inf
            soon = min(coming, again, outage)
            if i >= count and not busy and not in_orbit and (not in_line or soon == inf):
                break
            if busy and ends[0 if slots_heaped else busy - 1] <= min(soon, rules.horizon):
                # A slot frees.
                if slots_heaped:
                    now, tag = ends[0], tags[0]
                    pop(ends, serials, tags, busy)
                else:
                    now, tag = ends[busy - 1], tags[busy - 1]
                row = np.uint64(tag & ROW_MASK)
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
                        kept.outcome[tag >> JOB_SHIFT] = 1
                serving = True
                continue
            if soon > rules.horizon or soon == inf:
                break
            if outage <= soon:
                now = outage
                row = np.uint64(outage_row[whole[OUTAGE]])
                out[row] = outage_down[whole[OUTAGE]]
                whole[OUTAGE] += 1
                outage = outage_when[whole[OUTAGE]] if whole[OUTAGE] < len(outage_when) else -1.0
                if out[row]:
                    if places[row] >= 0:
                        close(open_rows, places, free_rows, row)
                        free_rows -= 1
                elif flying[row] < caps[row]:
                    open_rows[free_rows] = row
                    places[row] = free_rows
                    free_rows += 1
                serving = out[row] == 0
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
                row = np.uint64(open_rows[np.uint64(uniform(rules.pick_key, number, 2 * picks) * free_rows)])
            else:
                last_row = choose(
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
                row = np.uint64(last_row)
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
                tag = (number << JOB_SHIFT) | np.int64(row)
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
                        kept.account[number] = row
                        kept.start[number] = now
                        kept.end[number] = end
                        kept.attempts[number] = tries
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
        if i == count and block.final and rules.horizon == inf and area_row <= batches:
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
