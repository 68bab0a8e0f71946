/* One replica of an engine in virtual time: the scheduler of scheduling/scheduler.py and the loop of replica.py, compiled.
 *
 * Both give the same bytes: the same additions and multiplications of doubles in the same order (built with
 * -ffp-contract=off), and no call of a mathematical library. Times are seconds from the start; stamps are ns.
 */
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define VERSION 1
#define FEATURES 5
#define BASE_WEIGHTS 6
#define MOST_BATCHES 64
#define UNKNOWN (-1)
#define NOTHING (-2)

enum state { WAITING, RUNNING, PREEMPTED, FINISHED };
enum reason { DRAINED, LIMIT, ENDED, STALLED, NO_MEMORY };

typedef struct {
    int64_t max_num_seqs, max_num_batched_tokens, blocks, block_size, max_model_len, threshold, kept_free, batches, rest,
        pipeline;
    int32_t chunked_prefill, prefix_caching, by_priority, adaptive_threshold, whole_prompt, asynchronous, recent_first,
        skip_self, lone_threshold, shift_always;
} rules_t;

typedef struct {
    int32_t first, second;
    const double *factors;
} pair_t;

typedef struct {
    int32_t hinges, pairs;
    const double *weights, *knots;
    int32_t cut_counts[FEATURES];
    int32_t padding;
    const double *cuts[FEATURES];
    const pair_t *pair;
} cost_t;

typedef struct {
    int64_t prompt, output, computed, generated, expected, in_flight, stale, cached, resting_until, contents, content_count,
        stamps, filled, block_count, block_room;
    double arrival, first_scheduled;
    int32_t *blocks;
    int32_t number, priority, state, preemptions, planned;
} request_t;

typedef struct { /* a KV block: its neighbours in the ring of those that are free, and among those with the same content */
    int32_t next, last, users, place_next, place_last, padding;
    int64_t content;
} block_t;

typedef struct {
    int32_t request, answers;
    int64_t tokens;
} work_t;

typedef struct {
    work_t *work;
    int32_t count, room, answers;
    double end;
} step_t;

typedef struct { /* a row for those who look at steps; seen by Python */
    double start, end;
    int64_t tokens, decodes, context, prefills, running, waiting, blocks_used, preempted;
    double prefill_work;
} row_t;

typedef struct {
    rules_t rules;
    cost_t cost;
    request_t *requests;
    int32_t request_count, request_room;
    int32_t *queue; /* those that wait: a ring in order, or a heap by priority */
    int32_t queue_count, queue_head, queue_room;
    int32_t *running;
    int32_t running_count, running_room;
    int32_t *pending; /* those that have not arrived: numbers in order of arrival */
    int32_t pending_head, pending_count, pending_room;
    int64_t free_blocks, total_blocks;
    block_t *block;
    int32_t *place_first, *place_end; /* by content */
    int64_t content_room;
    int64_t *contents; /* of all requests */
    int64_t contents_count, contents_room;
    int64_t *stamps;
    int64_t stamps_count, stamps_room;
    step_t steps[MOST_BATCHES];
    int32_t step_first, step_count;
    work_t *plan;
    int32_t plan_count, plan_room;
    int64_t budget, plan_threshold, preempted_now;
    int64_t step_number, empty, preemptions;
    double now, stage_free, last_end, busy;
    int32_t *ended;
    int32_t ended_count, ended_room;
    int32_t keep_rows, keep_work, tell_first, failed, scheduled_nothing;
    row_t *rows;
    int64_t row_count, row_room;
    int64_t *log; /* of each step: how many, then (request, tokens) */
    int64_t log_count, log_room;
    int32_t *hits, *skipped;
    int64_t hits_room;
    int32_t skipped_room;
    int64_t **outs; /* of a leap: where the next stamp of each running request is written */
    int32_t *by_phase, *phases; /* places among the running, by how full their last block is; where each phase begins */
    int32_t outs_room, by_phase_room;
    int64_t phases_room;
} sim_t;

/* --- memory ---------------------------------------------------------------------------------------------------------- */

static int grown(void **array, int64_t *room, int64_t wanted, size_t size) {
    if (wanted <= *room) return 1;
    int64_t more = *room ? *room : 16;
    while (more < wanted) more += more / 2 + 1;
    void *made = realloc(*array, (size_t)more * size);
    if (!made) return 0;
    *array = made;
    *room = more;
    return 1;
}

static int grown32(void **array, int32_t *room, int64_t wanted, size_t size) {
    int64_t wide = *room;
    if (wanted > INT32_MAX || !grown(array, &wide, wanted, size)) return 0;
    *room = (int32_t)wide;
    return 1;
}

#define NEED(sim, array, room, wanted)                                                                                        \
    do {                                                                                                                      \
        if ((wanted) > (sim)->room && !grown((void **)&(sim)->array, &(sim)->room, wanted, sizeof *(sim)->array))             \
            (sim)->failed = 1;                                                                                                \
    } while (0)
#define NEED32(sim, array, room, wanted)                                                                                      \
    do {                                                                                                                      \
        if ((wanted) > (sim)->room && !grown32((void **)&(sim)->array, &(sim)->room, wanted, sizeof *(sim)->array))           \
            (sim)->failed = 1;                                                                                                \
    } while (0)

/* --- the KV cache: scheduling/blocks.py ------------------------------------------------------------------------------- */

static void unlink_block(sim_t *sim, int32_t block) {
    int32_t before = sim->block[block].last, after = sim->block[block].next;
    sim->block[before].next = after;
    sim->block[after].last = before;
}

static void link_block(sim_t *sim, int32_t block, int32_t before) {
    int32_t after = sim->block[before].next;
    sim->block[before].next = block;
    sim->block[after].last = block;
    sim->block[block].last = before;
    sim->block[block].next = after;
}

static void forget(sim_t *sim, int32_t block) {
    int64_t content = sim->block[block].content;
    sim->block[block].content = NOTHING;
    if (content < 0) return;
    int32_t before = sim->block[block].place_last, after = sim->block[block].place_next;
    if (before) sim->block[before].place_next = after; else sim->place_first[content] = after;
    if (after) sim->block[after].place_last = before; else sim->place_end[content] = before;
}

static void fill_block(sim_t *sim, int32_t block, int64_t content) {
    sim->block[block].content = content;
    if (content < 0) return;
    int32_t end = sim->place_end[content];
    sim->block[block].place_last = end;
    sim->block[block].place_next = 0;
    if (end) sim->block[end].place_next = block; else sim->place_first[content] = block;
    sim->place_end[content] = block;
}

static int add_block(sim_t *sim, request_t *one, int32_t block) {
    if (one->block_count >= one->block_room && !grown((void **)&one->blocks, &one->block_room, one->block_count + 1, sizeof *one->blocks)) {
        sim->failed = 1;
        return 0;
    }
    one->blocks[one->block_count++] = block;
    return 1;
}

static void take_blocks(sim_t *sim, request_t *one, int64_t count) {
    if (count <= 0) return;
    sim->free_blocks -= count;
    if (!sim->rules.prefix_caching) { /* then nobody asks which */
        one->block_count += count;
        return;
    }
    for (; count; count--) {
        int32_t block = sim->block[0].next;
        unlink_block(sim, block);
        forget(sim, block);
        sim->block[block].users = 1;
        if (!add_block(sim, one, block)) return;
    }
}

static void give_back(sim_t *sim, request_t *one) {
    if (!sim->rules.prefix_caching) {
        sim->free_blocks += one->block_count;
        one->block_count = 0;
        return;
    }
    /* what is not full yet goes to the front, so that the last one is the first to be taken; the others last, from behind */
    for (int64_t place = 0; place < one->block_count; place++) {
        int32_t block = one->blocks[place];
        if (--sim->block[block].users) continue;
        if (sim->block[block].content == NOTHING && sim->rules.recent_first) link_block(sim, block, 0);
        else sim->block[block].users = -1; /* to be put last */
        sim->free_blocks++;
    }
    for (int64_t place = one->block_count - 1; place >= 0; place--) {
        int32_t block = one->blocks[place];
        if (sim->block[block].users != -1) continue;
        sim->block[block].users = 0;
        link_block(sim, block, sim->block[0].last);
    }
    one->block_count = 0;
}

/* --- those that wait -------------------------------------------------------------------------------------------------- */

static int before(const sim_t *sim, int32_t left, int32_t right) {
    const request_t *a = sim->requests + left, *b = sim->requests + right;
    if (a->priority != b->priority) return a->priority < b->priority;
    if (a->arrival != b->arrival) return a->arrival < b->arrival;
    return a->number < b->number;
}

static void sift_up(sim_t *sim, int32_t at) {
    int32_t moved = sim->queue[at];
    while (at) {
        int32_t parent = (at - 1) / 2;
        if (!before(sim, moved, sim->queue[parent])) break;
        sim->queue[at] = sim->queue[parent];
        at = parent;
    }
    sim->queue[at] = moved;
}

static void sift_down(sim_t *sim, int32_t at) {
    int32_t moved = sim->queue[at];
    for (;;) {
        int32_t child = 2 * at + 1;
        if (child >= sim->queue_count) break;
        if (child + 1 < sim->queue_count && before(sim, sim->queue[child + 1], sim->queue[child])) child++;
        if (!before(sim, sim->queue[child], moved)) break;
        sim->queue[at] = sim->queue[child];
        at = child;
    }
    sim->queue[at] = moved;
}

static int queue_room(sim_t *sim) {
    if (sim->queue_count < sim->queue_room) return 1;
    int32_t room = sim->queue_room;
    int32_t *old = sim->queue;
    int32_t wanted = room ? 2 * room : 64;
    int32_t *made = malloc((size_t)wanted * sizeof *made);
    if (!made) {
        sim->failed = 1;
        return 0;
    }
    for (int32_t i = 0; i < sim->queue_count; i++) made[i] = old[(sim->queue_head + i) % room];
    free(old);
    sim->queue = made;
    sim->queue_room = wanted;
    sim->queue_head = 0;
    return 1;
}

static void wait_last(sim_t *sim, int32_t number) {
    if (!queue_room(sim)) return;
    if (sim->rules.by_priority) {
        sim->queue[sim->queue_count++] = number;
        sift_up(sim, sim->queue_count - 1);
        return;
    }
    sim->queue[(sim->queue_head + sim->queue_count++) % sim->queue_room] = number;
}

static void wait_first(sim_t *sim, int32_t number) {
    if (sim->rules.by_priority) {
        wait_last(sim, number);
        return;
    }
    if (!queue_room(sim)) return;
    sim->queue_head = (sim->queue_head + sim->queue_room - 1) % sim->queue_room;
    sim->queue[sim->queue_head] = number;
    sim->queue_count++;
}

static int32_t waiting_first(const sim_t *sim) { return sim->queue[sim->rules.by_priority ? 0 : sim->queue_head]; }

static int32_t waiting_pop(sim_t *sim) {
    int32_t number = waiting_first(sim);
    sim->queue_count--;
    if (!sim->rules.by_priority) {
        sim->queue_head = (sim->queue_head + 1) % sim->queue_room;
    } else if (sim->queue_count) {
        sim->queue[0] = sim->queue[sim->queue_count];
        sift_down(sim, 0);
    }
    return number;
}

static void waiting_remove(sim_t *sim, int32_t number) {
    int32_t head = sim->rules.by_priority ? 0 : sim->queue_head, kept = 0;
    for (int32_t i = 0; i < sim->queue_count; i++) {
        int32_t one = sim->queue[(head + i) % sim->queue_room];
        if (one != number) sim->queue[(head + kept++) % sim->queue_room] = one;
    }
    sim->queue_count = kept;
    if (sim->rules.by_priority)
        for (int32_t at = kept / 2 - 1; at >= 0; at--) sift_down(sim, at);
}

/* --- a step that is being planned ------------------------------------------------------------------------------------- */

static int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
static int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }
static int64_t length_of(const request_t *one) { return one->prompt + one->generated; }

static int64_t threshold_of(const sim_t *sim, int64_t requests) {
    int64_t limit = sim->rules.threshold;
    if (!sim->rules.lone_threshold || !limit) return limit;
    if (requests <= 1) return 0;
    return sim->rules.adaptive_threshold ? most(limit, sim->rules.max_num_batched_tokens / requests) : limit;
}

static int64_t tokens_for(const sim_t *sim, const request_t *one, int64_t wanted, int cut) {
    if (sim->plan_threshold > 0 && sim->plan_threshold < wanted) wanted = sim->plan_threshold;
    if (wanted > sim->budget && !cut) return 0;
    int64_t limit = sim->budget;
    if (sim->rules.max_model_len >= 0) limit = least(limit, sim->rules.max_model_len - one->computed - 1);
    return least(wanted, limit);
}

static void plan_add(sim_t *sim, int32_t number, int64_t tokens) {
    NEED32(sim, plan, plan_room, sim->plan_count + 1);
    if (sim->failed) return;
    sim->requests[number].planned = sim->plan_count;
    sim->plan[sim->plan_count++] = (work_t){number, 0, tokens};
    sim->budget -= tokens;
}

static int plan_drop(sim_t *sim, int32_t number) {
    request_t *one = sim->requests + number;
    if (one->planned < 0) return 0;
    int64_t tokens = sim->plan[one->planned].tokens;
    sim->plan[one->planned].request = -1;
    sim->budget += tokens;
    one->planned = -1;
    return tokens > 0;
}

static int64_t needed(const sim_t *sim, const request_t *one, int64_t tokens) {
    return (one->computed + tokens + sim->rules.block_size - 1) / sim->rules.block_size - one->block_count;
}

static int has_room(const sim_t *sim, const request_t *one, int64_t tokens) { return needed(sim, one, tokens) <= sim->free_blocks; }

static void fill(sim_t *sim, request_t *one, int64_t tokens) {
    if (!sim->rules.prefix_caching) return;
    int64_t full = tokens / sim->rules.block_size;
    for (int64_t place = one->filled; place < full; place++) {
        int64_t content = place < one->content_count ? sim->contents[one->contents + place] : UNKNOWN;
        fill_block(sim, one->blocks[place], content);
        one->filled = place + 1;
    }
}

static void give(sim_t *sim, request_t *one, int64_t tokens) {
    take_blocks(sim, one, needed(sim, one, tokens));
    if (!sim->failed) fill(sim, one, least(one->computed + tokens, length_of(one)));
}

static void preempt(sim_t *sim, int32_t number) {
    request_t *one = sim->requests + number;
    give_back(sim, one);
    one->filled = 0;
    one->computed = 0;
    one->stale = one->in_flight;
    one->expected = 0;
    one->state = PREEMPTED;
    one->preemptions++;
    sim->preemptions++;
    sim->preempted_now++;
    wait_first(sim, number);
}

static int32_t make_room(sim_t *sim, int32_t number, int64_t tokens, int32_t position) {
    request_t *one = sim->requests + number;
    while (one->state == RUNNING && !has_room(sim, one, tokens)) {
        int32_t at = sim->running_count - 1;
        if (sim->rules.by_priority) {
            at = 0;
            for (int32_t i = 1; i < sim->running_count; i++)
                if (before(sim, sim->running[at], sim->running[i])) at = i;
        }
        int32_t victim = sim->running[at];
        sim->running_count--;
        memmove(sim->running + at, sim->running + at + 1, (size_t)(sim->running_count - at) * sizeof *sim->running);
        int planned = plan_drop(sim, victim);
        position -= sim->rules.shift_always ? at < position : planned;
        preempt(sim, victim);
    }
    return position;
}

static void continue_running(sim_t *sim) {
    int32_t position = 0;
    while (position < sim->running_count && sim->budget > 0 && !sim->failed) {
        int32_t number = sim->running[position];
        request_t *one = sim->requests + number;
        int64_t tokens = tokens_for(sim, one, length_of(one) + one->expected - one->computed, 1);
        if (one->expected && one->computed + 2 - one->expected >= one->prompt + one->output) tokens = 0;
        if (sim->step_number < one->resting_until) tokens = 0;
        if (tokens && !has_room(sim, one, tokens)) {
            position = make_room(sim, number, tokens, position);
            if (one->state != RUNNING) {
                if (sim->rules.by_priority && sim->rules.skip_self) continue;
                return;
            }
        }
        if (tokens) {
            give(sim, one, tokens);
            plan_add(sim, number, tokens);
        }
        position++;
    }
}

static int64_t found(sim_t *sim, const request_t *one, int64_t limit) {
    if (!sim->rules.prefix_caching) return 0;
    limit = least(limit, one->content_count);
    NEED(sim, hits, hits_room, limit + 1);
    if (sim->failed) return 0;
    int64_t count = 0;
    while (count < limit) {
        int64_t content = sim->contents[one->contents + count];
        int32_t block = content >= 0 ? sim->place_first[content] : 0;
        if (!block) break;
        sim->hits[count++] = block;
    }
    return count;
}

static int may_enter(const sim_t *sim, const request_t *one, int64_t tokens, int64_t hits) {
    int64_t size = sim->rules.block_size, whole = sim->rules.whole_prompt ? length_of(one) : 0, unused = 0;
    for (int64_t i = 0; i < hits; i++) unused += !sim->block[sim->hits[i]].users;
    int64_t wanted = (most(whole, hits * size + tokens) + size - 1) / size - hits + unused;
    int64_t kept = sim->running_count ? sim->rules.kept_free : 0;
    return wanted + kept <= sim->free_blocks;
}

static void admit(sim_t *sim) {
    int32_t skipped = 0;
    while (sim->queue_count && sim->budget > 0 && sim->running_count < sim->rules.max_num_seqs && !sim->failed) {
        int32_t number = waiting_first(sim);
        request_t *one = sim->requests + number;
        if (one->stale) {
            NEED32(sim, skipped, skipped_room, skipped + 1);
            if (sim->failed) return;
            sim->skipped[skipped++] = waiting_pop(sim);
            continue;
        }
        int64_t hits = found(sim, one, (length_of(one) - 1) / sim->rules.block_size);
        int64_t cached = hits * sim->rules.block_size;
        int64_t tokens = tokens_for(sim, one, length_of(one) - cached, sim->rules.chunked_prefill);
        if (!tokens || !may_enter(sim, one, tokens, hits)) break;
        waiting_pop(sim);
        NEED32(sim, running, running_room, sim->running_count + 1);
        if (sim->failed) return;
        sim->running[sim->running_count++] = number;
        one->state = RUNNING;
        if (one->cached < 0) {
            one->cached = cached;
            one->first_scheduled = sim->now;
        }
        one->computed = cached;
        one->filled = hits;
        for (int64_t i = 0; i < hits; i++) {
            int32_t block = sim->hits[i];
            if (!sim->block[block].users) {
                unlink_block(sim, block);
                sim->free_blocks--;
            }
            sim->block[block].users++;
            if (!add_block(sim, one, block)) return;
        }
        give(sim, one, tokens);
        plan_add(sim, number, tokens);
    }
    for (; skipped; skipped--) wait_first(sim, sim->skipped[skipped - 1]);
}

/* --- how long a step takes: latency/tables.py ------------------------------------------------------------------------- */

static int32_t place_of(const cost_t *cost, int feature, double value) {
    const double *cuts = cost->cuts[feature];
    int32_t low = 0, high = cost->cut_counts[feature];
    while (low < high) { /* the number of cuts <= value */
        int32_t middle = (low + high) / 2;
        if (cuts[middle] <= value) low = middle + 1; else high = middle;
    }
    return low;
}

static double seconds_of(const cost_t *cost, const double *row) {
    double tokens = row[0], sum = cost->weights[0];
    for (int i = 0; i < FEATURES; i++) sum += cost->weights[1 + i] * row[i];
    for (int32_t i = 0; i < cost->hinges; i++) {
        if (tokens <= cost->knots[i]) break; /* ascending */
        sum += cost->weights[BASE_WEIGHTS + i] * (tokens - cost->knots[i]);
    }
    if (!cost->pairs) return sum;
    int32_t places[FEATURES];
    for (int i = 0; i < FEATURES; i++) {
        places[i] = place_of(cost, i, row[i]);
        if (cost->cut_counts[i] && (places[i] == 0 || places[i] == cost->cut_counts[i])) return sum; /* beyond the tables */
    }
    for (int32_t i = 0; i < cost->pairs; i++) {
        const pair_t *pair = cost->pair + i;
        int64_t at = places[pair->first];
        if (pair->first != pair->second) at = at * (cost->cut_counts[pair->second] + 1) + places[pair->second];
        sum *= pair->factors[at];
    }
    return sum;
}

double sim_seconds(const cost_t *cost, const double *row) { return seconds_of(cost, row); }

/* --- the loop: replica.py --------------------------------------------------------------------------------------------- */

static void log_work(sim_t *sim, const step_t *step) {
    NEED(sim, log, log_room, sim->log_count + 1 + 2 * step->count);
    if (sim->failed) return;
    sim->log[sim->log_count++] = step->count;
    for (int32_t i = 0; i < step->count; i++) {
        sim->log[sim->log_count++] = step->work[i].request;
        sim->log[sim->log_count++] = step->work[i].tokens;
    }
}

/* The planned step begins: at ``now``, or when the device is free. */
static void keep_row(sim_t *sim, double start, double end, const double *row) {
    NEED(sim, rows, row_room, sim->row_count + 1);
    if (sim->failed) return;
    sim->rows[sim->row_count++] = (row_t){start, end, (int64_t)row[0], (int64_t)row[1], (int64_t)row[2], (int64_t)row[4],
                                          sim->running_count, sim->queue_count, sim->total_blocks - sim->free_blocks,
                                          sim->preempted_now, row[3]};
}

static void begin(sim_t *sim) {
    step_t *step = sim->steps + (sim->step_first + sim->step_count) % MOST_BATCHES;
    if (sim->plan_count > step->room && !grown32((void **)&step->work, &step->room, sim->plan_count, sizeof *step->work)) {
        sim->failed = 1;
        return;
    }
    step->count = step->answers = 0;
    int64_t total = 0, decodes = 0, context = 0, prefills = 0;
    double work = 0.0;
    for (int32_t i = 0; i < sim->plan_count; i++) {
        work_t planned = sim->plan[i];
        if (planned.request < 0) continue;
        request_t *one = sim->requests + planned.request;
        one->planned = -1;
        int decode = planned.tokens == 1 && one->computed >= one->prompt && one->generated + one->expected > 0;
        if (decode) {
            decodes++;
            context += one->computed + 1;
        } else {
            prefills++;
            work += (double)planned.tokens * ((double)one->computed + 0.5 * (double)planned.tokens);
        }
        total += planned.tokens;
        one->computed += planned.tokens;
        one->in_flight += planned.tokens;
        if (one->computed >= length_of(one) + one->expected) {
            planned.answers = 1;
            step->answers++;
            if (sim->rules.asynchronous) {
                one->expected++;
                one->resting_until = sim->step_number + sim->rules.rest;
            }
        }
        step->work[step->count++] = planned;
    }
    if (!step->count) return;
    double row[FEATURES] = {(double)total, (double)decodes, (double)context, work, (double)prefills};
    double seconds = seconds_of(&sim->cost, row);
    double start = sim->stage_free > sim->now ? sim->stage_free : sim->now;
    double part = sim->rules.pipeline > 1 ? seconds / (double)sim->rules.pipeline : seconds;
    sim->stage_free = start + part;
    step->end = start + seconds;
    if (sim->rules.pipeline > 1 && step->end < sim->last_end + part) step->end = sim->last_end + part;
    sim->last_end = step->end;
    sim->busy += part;
    sim->step_count++;
    if (sim->keep_work) log_work(sim, step);
    if (sim->keep_rows) keep_row(sim, start, step->end, row);
}

static void leave(sim_t *sim, int32_t number) {
    request_t *one = sim->requests + number;
    one->state = FINISHED;
    give_back(sim, one);
    free(one->blocks);
    one->blocks = NULL;
    one->block_room = 0;
}

static void tell(sim_t *sim, int32_t what) {
    NEED32(sim, ended, ended_room, sim->ended_count + 1);
    if (!sim->failed) sim->ended[sim->ended_count++] = what;
}

static void compact_running(sim_t *sim) {
    int32_t kept = 0;
    for (int32_t i = 0; i < sim->running_count; i++)
        if (sim->requests[sim->running[i]].state == RUNNING) sim->running[kept++] = sim->running[i];
    sim->running_count = kept;
}

/* The oldest step has run: its tokens come out at ``now``. */
static void complete(sim_t *sim) {
    step_t *step = sim->steps + sim->step_first;
    sim->step_first = (sim->step_first + 1) % MOST_BATCHES;
    sim->step_count--;
    int64_t stamp = (int64_t)floor(sim->now * 1e9 + 0.5);
    int left = 0;
    for (int32_t i = 0; i < step->count; i++) {
        work_t *done = step->work + i;
        request_t *one = sim->requests + done->request;
        one->in_flight -= done->tokens;
        int stale = one->stale > 0;
        if (stale) one->stale -= done->tokens;
        if (one->state == FINISHED || !done->answers) continue;
        sim->stamps[one->stamps + one->generated++] = stamp;
        if (sim->tell_first && one->generated == 1 && one->output > 1) tell(sim, -1 - done->request);
        if (sim->rules.asynchronous) {
            one->expected -= !stale;
            if (one->state == RUNNING) fill(sim, one, one->computed - one->expected);
        }
        if (one->generated < one->output) continue;
        if (one->state == RUNNING) left = 1;
        else waiting_remove(sim, done->request);
        leave(sim, done->request);
        tell(sim, done->request);
    }
    if (left) compact_running(sim);
}

/* When the next one arrives; infinity: none does. */
static double next_arrival(sim_t *sim) {
    while (sim->pending_head < sim->pending_count) {
        const request_t *one = sim->requests + sim->pending[sim->pending_head];
        if (one->state == WAITING) return one->arrival;
        sim->pending_head++; /* its client has gone */
    }
    return INFINITY;
}

static void deliver(sim_t *sim) {
    while (next_arrival(sim) <= sim->now) wait_last(sim, sim->pending[sim->pending_head++]);
}

/* May the first that waits be let in beside ``sim->running_count`` decodes? */
static int first_enters(sim_t *sim) {
    if (!sim->queue_count || sim->running_count >= sim->rules.max_num_seqs) return 0;
    sim->budget = sim->rules.max_num_batched_tokens - sim->running_count;
    if (sim->budget <= 0) return 0;
    sim->plan_threshold = threshold_of(sim, (int64_t)sim->running_count + sim->queue_count);
    const request_t *one = sim->requests + waiting_first(sim);
    if (one->stale) return 1;
    int64_t hits = found(sim, one, (length_of(one) - 1) / sim->rules.block_size);
    int64_t tokens = tokens_for(sim, one, length_of(one) - hits * sim->rules.block_size, sim->rules.chunked_prefill);
    return tokens && may_enter(sim, one, tokens, hits);
}

/* How many steps of decodes alone follow, in which nobody ends, before others may be let in; 0: none, or not known. In each,
 * every running request computes one token, and one comes out, with one batch at a time or with two.
 */
static int64_t steps_alike(sim_t *sim, int64_t *context) {
    int32_t count = sim->running_count, flying = sim->step_count;
    if (!count || sim->rules.pipeline > 1 || count > sim->rules.max_num_batched_tokens || flying != sim->rules.batches - 1) return 0;
    const step_t *step = sim->steps + sim->step_first;
    if (flying && (step->count != count || step->answers != count)) return 0;
    int64_t steps = INT64_MAX;
    int unknown = 1;
    *context = 0;
    for (int32_t i = 0; i < count; i++) {
        const request_t *one = sim->requests + sim->running[i];
        if (!one->generated || one->computed != length_of(one) - 1 + flying || one->stale) return 0;
        if (flying && (one->expected != 1 || step->work[i].request != sim->running[i] || step->work[i].tokens != 1)) return 0;
        steps = least(steps, one->output - one->generated - 1);
        *context += one->computed + 1;
        unknown &= one->filled >= one->content_count;
    }
    if (steps < 2 || (sim->queue_count && sim->running_count < sim->rules.max_num_seqs && sim->rules.prefix_caching && !unknown)) return 0;
    return first_enters(sim) ? 0 : steps;
}

/* Take such steps without the scheduler, as far as memory, arrivals and ``limit`` allow; the bytes are the same. */
static void leap(sim_t *sim, double limit) {
    int64_t context = 0, size = sim->rules.block_size, steps = steps_alike(sim, &context), done = 0;
    int32_t count = sim->running_count;
    if (!steps) return;
    NEED32(sim, outs, outs_room, count);
    NEED32(sim, by_phase, by_phase_room, count);
    NEED(sim, phases, phases_room, size + 2);
    if (sim->failed) return;
    memset(sim->phases, 0, (size_t)(size + 2) * sizeof *sim->phases);
    for (int32_t i = 0; i < count; i++) {
        request_t *one = sim->requests + sim->running[i];
        sim->outs[i] = sim->stamps + one->stamps + one->generated;
        sim->phases[one->computed % size + 2]++;
    }
    for (int64_t phase = 2; phase < size + 2; phase++) sim->phases[phase] += sim->phases[phase - 1];
    for (int32_t i = 0; i < count; i++) sim->by_phase[sim->phases[sim->requests[sim->running[i]].computed % size + 1]++] = i;
    step_t *flying = sim->step_count ? sim->steps + sim->step_first : NULL;
    double row[FEATURES] = {(double)count, (double)count, 0.0, 0.0, 0.0}, arrival = next_arrival(sim);
    int64_t known = flying ? 0 : 1; /* length - computed */
    sim->preempted_now = 0;
    for (; done < steps && arrival > sim->now && sim->now < limit; done++) {
        int64_t taking = (size - done % size) % size, filling = (size - (done + known) % size) % size;
        if (sim->phases[taking + 1] - sim->phases[taking] > sim->free_blocks) break;
        row[2] = (double)(context + done * count);
        double seconds = seconds_of(&sim->cost, row);
        double start = sim->stage_free > sim->now ? sim->stage_free : sim->now, end = start + seconds;
        double out = flying ? flying->end : end;
        if (out >= limit) break;
        for (int32_t i = sim->phases[taking]; i < sim->phases[taking + 1]; i++)
            take_blocks(sim, sim->requests + sim->running[sim->by_phase[i]], 1);
        if (sim->rules.prefix_caching)
            for (int32_t i = sim->phases[filling]; i < sim->phases[filling + 1]; i++) {
                request_t *one = sim->requests + sim->running[sim->by_phase[i]];
                fill(sim, one, one->computed + done + known);
            }
        sim->stage_free = sim->last_end = end;
        sim->busy += seconds;
        if (sim->keep_rows) keep_row(sim, start, end, row);
        if (flying) flying->end = end;
        if (out > sim->now) sim->now = out;
        int64_t stamp = (int64_t)floor(sim->now * 1e9 + 0.5);
        for (int32_t i = 0; i < count; i++) sim->outs[i][done] = stamp;
        if (sim->failed) return;
    }
    for (int32_t i = 0; i < count; i++) {
        request_t *one = sim->requests + sim->running[i];
        one->computed += done;
        one->generated += done;
    }
    sim->step_number += done;
}

/* Until ``limit`` (events at it are left), or, with ``stop``, until requests have ended. */
int32_t sim_run(sim_t *sim, double limit, int32_t stop) {
    for (;;) {
        if (sim->failed) return NO_MEMORY;
        if (stop && sim->ended_count) return ENDED;
        if (sim->step_count < sim->rules.batches && !sim->scheduled_nothing) {
            deliver(sim);
            if (sim->queue_count || sim->running_count) {
                if (sim->now >= limit) return LIMIT;
                if (!sim->keep_work) leap(sim, limit);
                if (sim->failed) return NO_MEMORY;
                if (sim->now >= limit) return LIMIT;
                deliver(sim);
                sim->step_number++;
                sim->budget = sim->rules.max_num_batched_tokens;
                sim->plan_threshold = threshold_of(sim, (int64_t)sim->running_count + sim->queue_count);
                sim->plan_count = 0;
                sim->preempted_now = 0;
                continue_running(sim);
                if (!sim->preempted_now) admit(sim);
                if (sim->failed) return NO_MEMORY;
                int32_t steps = sim->step_count;
                begin(sim);
                if (sim->step_count > steps) {
                    sim->empty = 0;
                    continue;
                }
                sim->empty++;
                if (!sim->step_count && (sim->preempted_now || sim->empty <= sim->rules.rest)) continue;
            }
        }
        sim->scheduled_nothing = 0;
        if (sim->step_count) {
            double end = sim->steps[sim->step_first].end;
            if (end >= limit) {
                sim->scheduled_nothing = 1; /* not planned again for the same moment */
                return LIMIT;
            }
            if (end > sim->now) sim->now = end;
            complete(sim);
            continue;
        }
        double arrival = next_arrival(sim);
        if (arrival < INFINITY) {
            if (arrival >= limit) return LIMIT;
            if (arrival > sim->now) sim->now = arrival;
            continue;
        }
        return sim->queue_count || sim->running_count ? STALLED : DRAINED;
    }
}

/* --- seen by Python --------------------------------------------------------------------------------------------------- */

int32_t sim_version(void) { return VERSION; }

void sim_free(sim_t *sim) {
    if (!sim) return;
    for (int32_t i = 0; i < sim->request_count; i++) free(sim->requests[i].blocks);
    for (int i = 0; i < MOST_BATCHES; i++) free(sim->steps[i].work);
    void *all[] = {sim->requests, sim->queue, sim->running, sim->pending, sim->block, sim->place_first, sim->place_end, sim->contents, sim->stamps, sim->plan,
                   sim->ended, sim->rows, sim->log, sim->hits, sim->skipped, sim->outs, sim->by_phase, sim->phases};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) free(all[i]);
    free(sim);
}

sim_t *sim_new(const rules_t *rules, const cost_t *cost, int32_t keep_rows, int32_t keep_work, int32_t tell_first) {
    sim_t *sim = calloc(1, sizeof *sim);
    if (!sim || rules->batches > MOST_BATCHES || rules->blocks > INT32_MAX / 2) {
        free(sim);
        return NULL;
    }
    sim->rules = *rules;
    sim->cost = *cost; /* its arrays are Python's, which keeps them */
    sim->keep_rows = keep_rows;
    sim->keep_work = keep_work;
    sim->tell_first = tell_first;
    sim->total_blocks = sim->free_blocks = most(0, rules->blocks - 1);
    if (!rules->prefix_caching) return sim;
    size_t count = (size_t)most(1, rules->blocks);
    if (!(sim->block = calloc(count, sizeof *sim->block))) goto failed;
    for (size_t i = 0; i < count; i++) {
        sim->block[i].next = (int32_t)((i + 1) % count);
        sim->block[i].last = (int32_t)((i + count - 1) % count);
        sim->block[i].content = NOTHING;
    }
    return sim;
failed:
    sim_free(sim);
    return NULL;
}

/* Requests in order of arrival, none before the last of those before it. ``ends``: where the contents of each end in
 * ``contents``; ``contents``: numbers from 0, below ``kinds``. Returns the number of the first, or -1 without memory.
 */
int32_t sim_add(sim_t *sim, int32_t count, const double *arrivals, const int64_t *prompts, const int64_t *outputs,
                const int32_t *priorities, const int64_t *ends, const int64_t *contents, int64_t kinds) {
    int32_t first = sim->request_count;
    int64_t known = sim->rules.prefix_caching && count ? ends[count - 1] : 0, tokens = 0;
    for (int32_t i = 0; i < count; i++) tokens += outputs[i];
    NEED32(sim, requests, request_room, (int64_t)first + count);
    NEED32(sim, pending, pending_room, (int64_t)sim->pending_count + count);
    NEED(sim, stamps, stamps_room, sim->stamps_count + tokens);
    NEED(sim, contents, contents_room, sim->contents_count + known);
    if (sim->rules.prefix_caching && kinds > sim->content_room) {
        int64_t room = sim->content_room, same = sim->content_room;
        if (!grown((void **)&sim->place_first, &room, kinds, sizeof *sim->place_first) ||
            !grown((void **)&sim->place_end, &same, kinds, sizeof *sim->place_end))
            sim->failed = 1;
        else
            for (int64_t i = sim->content_room; i < room; i++) sim->place_first[i] = sim->place_end[i] = 0;
        sim->content_room = sim->failed ? sim->content_room : room;
    }
    if (sim->failed) return -1;
    if (tokens) memset(sim->stamps + sim->stamps_count, 0, (size_t)tokens * sizeof *sim->stamps);
    if (known) memcpy(sim->contents + sim->contents_count, contents, (size_t)known * sizeof *contents);
    for (int32_t i = 0; i < count; i++) {
        int64_t begin = known && i ? ends[i - 1] : 0;
        request_t *one = sim->requests + first + i;
        *one = (request_t){.prompt = prompts[i], .output = outputs[i], .priority = priorities[i], .arrival = arrivals[i],
                           .cached = -1, .number = first + i, .stamps = sim->stamps_count, .planned = -1,
                           .contents = sim->contents_count + begin, .content_count = known ? ends[i] - begin : 0,
                           .first_scheduled = -1.0};
        sim->stamps_count += outputs[i];
        sim->pending[sim->pending_count++] = first + i;
    }
    sim->contents_count += known;
    sim->request_count += count;
    return first;
}

/* Its client has gone. */
void sim_remove(sim_t *sim, int32_t number) {
    request_t *one = sim->requests + number;
    int32_t state = one->state;
    if (state == FINISHED) return;
    leave(sim, number);
    if (state == RUNNING) compact_running(sim);
    else waiting_remove(sim, number); /* one that has not arrived is not among them, and never will be */
}

double sim_now(const sim_t *sim) { return sim->now; }
double sim_busy(const sim_t *sim) { return sim->busy; }
int64_t sim_preemptions(const sim_t *sim) { return sim->preemptions; }
int64_t sim_step_count(const sim_t *sim) { return sim->step_number; }
int32_t sim_in_engine(const sim_t *sim) { return sim->running_count + sim->queue_count; }
int64_t sim_blocks_used(const sim_t *sim) { return sim->total_blocks - sim->free_blocks; }
const row_t *sim_rows(const sim_t *sim, int64_t *count) { *count = sim->row_count; return sim->rows; }
const int64_t *sim_log(const sim_t *sim, int64_t *count) { *count = sim->log_count; return sim->log; }
const int64_t *sim_stamps(const sim_t *sim, int64_t *count) { *count = sim->stamps_count; return sim->stamps; }

/* Those that have ended since the last call; -1 - n: the first token of n came out, and others follow. */
const int32_t *sim_ended(sim_t *sim, int32_t *count) {
    *count = sim->ended_count;
    sim->ended_count = 0;
    return sim->ended;
}

/* Of each request from ``first`` on: when it was first scheduled (s, -1: never), tokens that came out and were cached,
 * preemptions.
 */
void sim_requests(const sim_t *sim, int32_t first, int32_t count, double *scheduled, int64_t *generated, int64_t *cached,
                  int32_t *preemptions) {
    for (int32_t i = 0; i < count; i++) {
        const request_t *one = sim->requests + first + i;
        scheduled[i] = one->first_scheduled;
        generated[i] = one->generated;
        cached[i] = one->cached;
        preemptions[i] = one->preemptions;
    }
}

/* When something happens next, s: a step ends, one may be planned, or a request arrives; infinity: nothing will. */
double sim_next(sim_t *sim) {
    int planning = sim->step_count < sim->rules.batches && !sim->scheduled_nothing;
    if (planning && (sim->queue_count || sim->running_count)) return sim->now;
    if (sim->step_count) return sim->steps[sim->step_first].end;
    double arrival = next_arrival(sim);
    return arrival > sim->now ? arrival : sim->now;
}
