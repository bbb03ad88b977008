/* The simulator's loop in C, as one would write it for this one question: a loss system with random picks.
   The same algorithm: open accounts unordered, slots in use sorted by when they free, figures by account.
   usage: loop JOBS LOAD ACCOUNTS CAP; prints refused, mean in flight and seconds. */
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#define MOST 1024

static uint64_t state[4] = {1, 2, 3, 4};

static inline uint64_t rotl(uint64_t x, int k) { return (x << k) | (x >> (64 - k)); }

/* xoshiro256++ (Blackman and Vigna 2019) */
static inline double uniform(void) {
    uint64_t result = rotl(state[0] + state[3], 23) + state[0], t = state[1] << 17;
    state[2] ^= state[0];
    state[3] ^= state[1];
    state[1] ^= state[2];
    state[0] ^= state[3];
    state[2] ^= t;
    state[3] = rotl(state[3], 45);
    return (result >> 11) * 0x1.0p-53;
}

static inline double exponential(void) { return -log1p(-uniform()); }

static double ends[MOST], area[MOST], since[MOST];
static int rows[MOST], flying[MOST], open[MOST], place[MOST];
static long jobs_on[MOST];

int main(int argc, char **argv) {
    if (argc != 5) return 2;
    long jobs = atol(argv[1]), refused = 0;
    double load = atof(argv[2]), now = 0;
    int accounts = atoi(argv[3]), cap = atoi(argv[4]), busy = 0, free_rows = accounts;
    if (accounts * cap > MOST) return 2;
    for (int i = 0; i < accounts; i++) open[i] = place[i] = i;
    struct timespec begin, end;
    clock_gettime(CLOCK_MONOTONIC, &begin);
    for (long job = 0; job < jobs; job++) {
        now += exponential() / load;
        double service = exponential();
        while (busy && ends[busy - 1] <= now) {
            int row = rows[--busy];
            area[row] += flying[row] * (ends[busy] - since[row]);
            since[row] = ends[busy];
            flying[row]--;
            if (place[row] < 0) {
                place[row] = free_rows;
                open[free_rows++] = row;
            }
        }
        if (!free_rows) {
            refused++;
            continue;
        }
        int row = open[(int)(uniform() * free_rows)];
        area[row] += flying[row] * (now - since[row]);
        since[row] = now;
        jobs_on[row]++;
        if (++flying[row] == cap) {
            int last = open[--free_rows];
            open[place[row]] = last;
            place[last] = place[row];
            place[row] = -1;
        }
        int slot = busy++;
        for (; slot > 0 && ends[slot - 1] <= now + service; slot--) {
            ends[slot] = ends[slot - 1];
            rows[slot] = rows[slot - 1];
        }
        ends[slot] = now + service;
        rows[slot] = row;
    }
    clock_gettime(CLOCK_MONOTONIC, &end);
    double total = 0;
    for (int i = 0; i < accounts; i++) total += area[i];
    printf("%ld %.6f %.9f\n", refused, total / now, end.tv_sec - begin.tv_sec + 1e-9 * (end.tv_nsec - begin.tv_nsec));
    return 0;
}
