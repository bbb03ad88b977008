"""The compiled event loop: makes the same decisions as `reference`, with its whole state in arrays.

`advance` returns when it needs something (jobs, outages, room for waiting jobs) and continues where it
stopped.

Busy slots are sorted by the time at which they become free, the earliest last, and at equal times by the
start of their jobs; above `HEAPED` slots they form a heap instead. Waiting jobs live in a pool. The wait
queue and the orbit (jobs that will be retried) hold indices into it.
"""

from math import ceil, inf, log1p
from typing import Final

import numpy as np

from pika_balancer.simulate.collector import EXACT
from pika_balancer.simulate.kernel import arrays, steps

BUILT_WITH: Final = "363db603"
"""Checksum of `steps.py` and `arrays.py`, held by a test. Numba caches the compiled code until this file
changes, so a change of those two must change this line."""


@steps.compiled
def advance(
    block: arrays.BlockArrays,
    outages: arrays.Outages,
    rules: arrays.Rules,
    accounts: arrays.AccountArrays,
    pool: arrays.PoolArrays,
    figures: arrays.Figures,
    records: arrays.RecordArrays,
    state: arrays.State,
) -> int:
    """Continue the run as far as possible and return why it stopped."""
    # Each array gets a local name: reading one from a tuple costs an atomic reference count. Account indices
    # are unsigned: an index that cannot be negative needs no wraparound check.
    in_flight, out, since = accounts.in_flight, accounts.out, accounts.since
    open_accounts, places = accounts.open, accounts.place
    levels, ends, tags, serials = accounts.levels, accounts.ends, accounts.tags, accounts.serials
    caps, speeds, edges = rules.caps, rules.speeds, rules.edges
    counts, sums, starts, areas = figures.counts, figures.sums, figures.starts, figures.areas
    waits, sojourns = figures.waits, figures.sojourns
    exact_waits, exact_sojourns = figures.exact_waits, figures.exact_sojourns
    arrivals, services, patience = block.arrivals, block.services, block.patience
    pool_number, pool_tries, pool_picks = pool.number, pool.tries, pool.picks
    pool_arrival, pool_service, pool_deadline = pool.arrival, pool.service, pool.deadline
    vacant, queue = pool.vacant, pool.queue
    orbit, orbit_when, orbit_turn = pool.orbit, pool.when, pool.turn
    outage_when, outage_account, outage_down = outages.when, outages.account, outages.down
    batches, count = len(edges), len(arrivals)
    slots_heaped = len(serials) > 1
    orbit_heaped = rules.delays != arrays.CONSTANT
    recording = len(records.outcome) > 0
    faulty = rules.any_fault > 0.0
    i = state.next_job - block.first
    busy, open_count, most, least = state.busy, state.open_count, state.most, state.least
    serving = state.serving != 0
    policy, last_account = rules.policy, state.last_account
    status, now = arrays.DONE, state.now
    outage = outage_when[state.next_outage] if state.next_outage < len(outage_when) else -1.0
    batch, phase = state.batch, state.phase
    queued, in_orbit, completed, durations = state.queued, state.in_orbit, state.completed, state.durations
    integrated, bin_area, bin_end = state.integrated, state.bin_area, state.bin_end
    while True:
        if serving and queued:
            place = queue[state.queue_head]
            from_queue = True
            number, arrival = pool_number[place], pool_arrival[place]
            if pool_deadline[place] < now:
                steps.give_up(figures, records, state, rules, number, arrival, pool_tries[place])
                steps.vacate(vacant, state, place)
                state.queue_head = (state.queue_head + 1) % len(queue)
                queued -= 1
                continue
            if not open_count:
                serving = False
                continue
            service, deadline = pool_service[place], pool_deadline[place]
            tries, picks = pool_tries[place], pool_picks[place]
            state.queue_head = (state.queue_head + 1) % len(queue)
            queued -= 1
        else:
            serving = from_queue = False
            if i < count:
                coming = arrivals[i]
            elif block.final:
                coming = inf
            else:
                status = arrays.MORE_JOBS
                break
            if outage < 0.0:  # the known outages are used up
                status = arrays.MORE_OUTAGES
                break
            again = orbit_when[0 if orbit_heaped else state.orbit_head] if in_orbit else inf
            soon = min(coming, again, outage)
            if i >= count and not busy and not in_orbit and (not queued or soon == inf):
                break
            if busy and ends[0 if slots_heaped else busy - 1] <= min(soon, rules.horizon):
                # A slot becomes free.
                if slots_heaped:
                    now, tag = ends[0], tags[0]
                    steps.pop(ends, serials, tags, busy)
                else:
                    now, tag = ends[busy - 1], tags[busy - 1]
                account = np.uint64(tag & arrays.ACCOUNT_MASK)
                if now >= bin_end:
                    state.integrated, state.bin_area = integrated, bin_area
                    steps.pass_bins(figures.series, state, now, busy)
                    integrated, bin_area, bin_end = state.integrated, state.bin_area, state.bin_end
                bin_area += busy * (now - integrated)
                integrated = now
                busy -= 1
                before = in_flight[account]
                areas[phase, account] += before * (now - since[account])
                since[account] = now
                in_flight[account] = after = before - 1
                levels[before] -= 1
                levels[after] += 1
                least = min(least, after)
                if before == most and levels[before] == 0:
                    most = after
                if places[account] < 0 and not out[account]:
                    open_accounts[open_count] = account
                    places[account] = open_count
                    open_count += 1
                if not tag & arrays.ABANDONED:
                    completed += 1
                    if recording:
                        records.outcome[tag >> arrays.JOB_SHIFT] = 1
                serving = True
                continue
            if soon > rules.horizon or soon == inf:
                break
            if outage <= soon:
                now = outage
                account = np.uint64(outage_account[state.next_outage])
                out[account] = outage_down[state.next_outage]
                state.next_outage += 1
                outage = outage_when[state.next_outage] if state.next_outage < len(outage_when) else -1.0
                if out[account]:
                    if places[account] >= 0:
                        steps.close_account(open_accounts, places, open_count, account)
                        open_count -= 1
                elif in_flight[account] < caps[account]:
                    open_accounts[open_count] = account
                    places[account] = open_count
                    open_count += 1
                serving = out[account] == 0
                continue
            if again <= soon:
                now = again
                if orbit_heaped:
                    place = orbit[0]
                    steps.pop(orbit_when, orbit_turn, orbit, in_orbit)
                else:
                    place = orbit[state.orbit_head]
                    state.orbit_head = (state.orbit_head + 1) % len(orbit)
                in_orbit -= 1
                number, arrival = pool_number[place], pool_arrival[place]
                service, deadline = pool_service[place], pool_deadline[place]
                tries, picks = pool_tries[place] + 1, pool_picks[place]
            else:
                if not state.vacant:
                    status = arrays.MORE_ROOM
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
                    state.busy = busy
                    state.integrated, state.bin_area = integrated, bin_area
                    steps.integrate(figures, state, now)
                    integrated, bin_area, bin_end = state.integrated, state.bin_area, state.bin_end
                    batch += 1
                    steps.change_phase(accounts, figures, state, now, batch)
                    state.batch = phase = batch
                counts[batch if key >= edges[0] else 0, 0] += 1
        # Submit the job.
        key = arrival if rules.by_time else np.float64(number)
        job_phase = batch if key >= edges[0] else 0
        retry = False
        if open_count:
            if policy == arrays.RANDOM:
                account = np.uint64(
                    open_accounts[np.uint64(steps.uniform(rules.pick_key, number, 2 * picks) * open_count)]
                )
            else:
                last_account = steps.pick(
                    rules.pick_key,
                    policy,
                    caps,
                    in_flight,
                    open_accounts,
                    places,
                    open_count,
                    last_account,
                    number,
                    2 * picks,
                )
                account = np.uint64(last_account)
            fault = 2.0
            if faulty:
                fault = steps.uniform(rules.fault_key, number, picks)
            picks += 1
            if fault < rules.rate_limited:
                state.rejected += 1
                retry = True
                # The slot is free again at once. An account that was full in between is now the last open
                # one,
                # as in the selector.
                if in_flight[account] == caps[account] - 1:
                    steps.close_account(open_accounts, places, open_count, account)
                    open_accounts[open_count - 1] = account
                    places[account] = open_count - 1
            else:
                spread = most - least
                if now >= bin_end:
                    state.integrated, state.bin_area = integrated, bin_area
                    steps.pass_bins(figures.series, state, now, busy)
                    integrated, bin_area, bin_end = state.integrated, state.bin_area, state.bin_end
                bin_area += busy * (now - integrated)
                integrated = now
                before = in_flight[account]
                areas[phase, account] += before * (now - since[account])
                since[account] = now
                in_flight[account] = after = before + 1
                levels[before] -= 1
                levels[after] += 1
                most = max(most, after)
                if before == least and levels[before] == 0:
                    least = after
                if after == caps[account]:
                    steps.close_account(open_accounts, places, open_count, account)
                    open_count -= 1
                hold = service / speeds[account]
                if after > rules.above:
                    hold *= 1.0 + rules.each * (after - rules.above)
                end = now + hold
                if rules.poll > 0.0:
                    end = max(end, ceil(end / rules.poll) * rules.poll)
                tag = (number << arrays.JOB_SHIFT) | np.int64(account)
                if fault < rules.any_fault:
                    state.doubled += 1
                    retry = True
                    tag |= arrays.ABANDONED
                else:
                    wait, sojourn = now - arrival, end - arrival
                    counts[job_phase, 3] += 1
                    counts[job_phase, 4] += tries
                    sums[job_phase, 0] += wait
                    sums[job_phase, 1] += sojourn
                    sums[job_phase, 2] += spread
                    starts[job_phase, account] += 1
                    waits[job_phase, steps.class_of(wait)] += 1
                    sojourns[job_phase, steps.class_of(sojourn)] += 1
                    if job_phase:
                        state.longest_wait = max(state.longest_wait, wait)
                        state.longest_sojourn = max(state.longest_sojourn, sojourn)
                        if durations <= EXACT:
                            if durations < EXACT:
                                exact_waits[durations] = wait
                                exact_sojourns[durations] = sojourn
                            durations += 1
                    if recording:
                        records.account[number] = account
                        records.start[number] = now
                        records.end[number] = end
                        records.attempts[number] = tries
                    steps.vacate(vacant, state, place)
                state.serial += 1
                if slots_heaped:
                    steps.push(ends, serials, tags, busy, end, state.serial, tag)
                else:
                    slot = busy
                    while slot > 0 and ends[slot - 1] <= end:
                        ends[slot], tags[slot] = ends[slot - 1], tags[slot - 1]
                        slot -= 1
                    ends[slot], tags[slot] = end, tag
                busy += 1
        else:
            if tries == 1:
                state.refused += 1
                counts[job_phase, 1] += 1
            if rules.when_full == arrays.QUEUE:
                if queued >= rules.limit:
                    state.queued = queued
                    steps.drop_impatient(pool, figures, records, state, rules, now)
                    queued = state.queued
                if queued >= rules.limit or deadline < now:
                    steps.give_up(figures, records, state, rules, number, arrival, tries)
                    steps.vacate(vacant, state, place)
                else:
                    if place < 0:
                        place = steps.enter_pool(pool, state, number, arrival, service, deadline)
                    pool_tries[place], pool_picks[place] = tries, picks
                    queue[(state.queue_head + queued) % len(queue)] = place
                    queued += 1
            else:
                retry = True
        if retry:
            if rules.when_full == arrays.LOSS or (
                rules.when_full == arrays.RETRY and tries >= rules.attempts
            ):
                steps.give_up(figures, records, state, rules, number, arrival, tries)
                steps.vacate(vacant, state, place)
            else:
                if place < 0:
                    place = steps.enter_pool(pool, state, number, arrival, service, deadline)
                pool_tries[place], pool_picks[place] = tries, picks
                delay = rules.delay
                if rules.delays == arrays.EXPONENTIAL:
                    delay *= -log1p(-steps.uniform(rules.delay_key, number, tries))
                elif rules.delays == arrays.JITTERED:
                    delay *= 1.0 + rules.jitter * (2.0 * steps.uniform(rules.delay_key, number, tries) - 1.0)
                steps.schedule_retry(pool, state, orbit_heaped, in_orbit, now + delay, place)
                in_orbit += 1
        serving = from_queue
        if i == count and block.final and rules.horizon == inf and phase <= batches:
            state.busy = busy
            state.integrated, state.bin_area = integrated, bin_area
            steps.end_measuring(accounts, figures, state, arrivals[count - 1])
            integrated, bin_area, bin_end = state.integrated, state.bin_area, state.bin_end
            phase = batches + 1
    state.next_job = i + block.first
    state.busy, state.open_count, state.most, state.least = busy, open_count, most, least
    state.serving, state.last_account = serving, last_account
    state.queued, state.in_orbit, state.completed, state.durations = queued, in_orbit, completed, durations
    state.now, state.integrated, state.bin_area = now, integrated, bin_area
    if status == arrays.DONE:
        steps.drop_impatient(pool, figures, records, state, rules, rules.horizon)
        if rules.horizon < inf:
            steps.end_measuring(accounts, figures, state, rules.horizon)
    return status
