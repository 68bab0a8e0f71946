/* The wire's hot path in C: look at many sockets at once, read each with its kernel receive stamp, append what came to
 * the spool, and tell only what a worker must act on. It behaves as python.py does; tests/loadgen/test_wire.py runs the
 * same tests on both. Linux only. One thread. Times are CLOCK_MONOTONIC nanoseconds.
 *
 * A record of the spool: struct record, then `length` bytes. Little endian, as the machine is.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { SPOOL_BYTES = 512 * 1024, READ_BYTES = 64 * 1024, HEAD_LIMIT = 64 * 1024, EVENTS = 1024 };
enum { READABLE = EPOLLIN | EPOLLRDHUP | EPOLLET }; /* edges: each socket is read until it is empty */
enum { SLEPT_NS = 100000, WAKE_NS = 500000, CLOSE_NS = 5000 };       /* a wait this long has slept; the way from a wake-up to us */
enum { CONNECTED = 1, ENDED = 2, CLOSED = 3, WATCHED = 4, ANSWERING = 5 };            /* kinds of happening */
enum { PIECE = 0, NOTE = 1 };                                                        /* kinds of record */
enum { MALFORMED = 10001, PEER_CLOSED = 10002, SPOOL_FAILED = 10003, UNASKED = 10004 }; /* errors beside errno */
enum { IDLE, HEAD, LENGTH, CHUNK_SIZE, CHUNK_EXTENSION, CHUNK_DATA, CHUNK_END, TRAILER, UNTIL_CLOSE, DONE };

struct record { uint32_t length, kind; int64_t exchange, read_ns, kernel_ns, last_empty_ns; };

struct happening {
    int32_t connection, kind;
    int64_t exchange, ns, read_ns, bytes;
    int32_t status, error, keep_alive, unused;
};

struct connection {
    int fd, state, connecting, watched, keep_alive, until_close, kept_on, status, line, digits, in_use, answering_told;
    int64_t exchange, left, bytes, emptied_ns;      /* emptied_ns: when a read last left nothing behind */
    char *head; size_t head_length, head_room;          /* an unfinished head */
    char *kept; size_t kept_length, kept_room;          /* raw answer, if asked for, or of a failure */
    char *out; size_t out_sent, out_length;             /* unsent rest of a request */
};

struct wire {
    int epoll, spool, failed, schedstat, crowded;   /* crowded: there was more to read than one look shows */
    pthread_t thread;
    int64_t to_monotonic;                           /* to be added to a stamp of the wall clock */
    int64_t delay_ns;                               /* time that this thread has waited for a CPU so far */
    int64_t last_empty_ns, returned_ns, batch_ns;   /* last_empty_ns: then, every socket without a later read was empty */
    int read_before;
    struct connection **connections; int count, room;
    char *buffer; size_t filled;
    int64_t spooled;
};

static int64_t clock_ns(clockid_t which) {
    struct timespec t;
    clock_gettime(which, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

struct wire *wire_new(int spool_fd, int64_t batch_ns) {
    struct wire *w = calloc(1, sizeof *w);
    if (!w) return NULL;
    w->epoll = epoll_create1(EPOLL_CLOEXEC);
    w->spool = spool_fd;
    w->schedstat = -1;
    w->batch_ns = batch_ns;
    w->buffer = malloc(SPOOL_BYTES);
    w->last_empty_ns = w->returned_ns = clock_ns(CLOCK_MONOTONIC);
    if (w->epoll < 0 || !w->buffer) { if (w->epoll >= 0) close(w->epoll); free(w->buffer); free(w); return NULL; }
    return w;
}

/* 0, or -1 when the disk took it not: errno tells. */
int wire_flush(struct wire *w) {
    size_t done = 0;
    while (done < w->filled) {
        ssize_t n = write(w->spool, w->buffer + done, w->filled - done);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) { w->failed = n < 0 ? errno : EIO; errno = w->failed; return -1; }
        done += (size_t)n;
    }
    w->filled = 0;
    return 0;
}

static char *room_for(struct wire *w, size_t bytes) {
    if (w->filled + bytes > SPOOL_BYTES && wire_flush(w) < 0) w->filled = 0;    /* lost, and told by `failed` */
    return w->buffer + w->filled;
}

int wire_note(struct wire *w, int64_t exchange, const char *data, uint32_t length) {
    if (length > READ_BYTES) return -1;
    char *at = room_for(w, sizeof(struct record) + length);
    struct record r = {length, NOTE, exchange, 0, 0, 0};
    memcpy(at, &r, sizeof r);
    memcpy(at + sizeof r, data, length);
    w->filled += sizeof r + length;
    w->spooled += (int64_t)(sizeof r + length);
    return w->failed ? -1 : 0;
}

/* Take over a non-blocking socket that is connecting or connected (stamps switched on by the caller), or, with `watched`,
 * a descriptor of which only readability is told. Returns the connection's number, or -1. */
int wire_add(struct wire *w, int fd, int watched) {
    int number = 0;
    while (number < w->count && w->connections[number]->in_use) number++;
    if (number == w->count) {
        if (w->count == w->room) {
            int room = w->room ? 2 * w->room : 64;
            struct connection **more = realloc(w->connections, (size_t)room * sizeof *more);
            if (!more) return -1;
            w->connections = more; w->room = room;
        }
        w->connections[number] = calloc(1, sizeof(struct connection));
        if (!w->connections[number]) return -1;
        w->count++;
    }
    struct connection *c = w->connections[number];
    char *head = c->head, *kept = c->kept;
    size_t head_room = c->head_room, kept_room = c->kept_room;
    memset(c, 0, sizeof *c);
    c->head = head; c->head_room = head_room; c->kept = kept; c->kept_room = kept_room;
    c->fd = fd; c->watched = watched; c->connecting = !watched; c->in_use = 1; c->exchange = -1;
    struct epoll_event e = {.events = watched ? EPOLLIN : READABLE | EPOLLOUT, .data.u32 = (uint32_t)number};
    if (epoll_ctl(w->epoll, EPOLL_CTL_ADD, fd, &e) < 0) { c->in_use = 0; return -1; }
    return number;
}

void wire_drop(struct wire *w, int number) {
    struct connection *c = w->connections[number];
    if (!c->in_use) return;
    epoll_ctl(w->epoll, EPOLL_CTL_DEL, c->fd, NULL);
    if (!c->watched) close(c->fd);
    free(c->out); c->out = NULL;
    if (c->kept_room > READ_BYTES) { free(c->kept); c->kept = NULL; c->kept_room = 0; }
    c->in_use = 0;
}

static void want(struct wire *w, int number, uint32_t events) {
    struct epoll_event e = {.events = events, .data.u32 = (uint32_t)number};
    epoll_ctl(w->epoll, EPOLL_CTL_MOD, w->connections[number]->fd, &e);
}

/* Send a request; what does not fit into the socket now follows by itself. Returns the stamp taken before the first byte was
 * written, or -errno. One request at a time. */
int64_t wire_send(struct wire *w, int number, int64_t exchange, const char *data, size_t length, int keep) {
    struct connection *c = w->connections[number];
    if (!c->in_use || (c->state != IDLE && c->state != DONE)) return -EBUSY;
    c->exchange = exchange; c->state = HEAD; c->kept_on = keep; c->answering_told = 0;
    c->head_length = c->kept_length = 0; c->status = 0; c->bytes = 0; c->until_close = 0;
    int64_t now = clock_ns(CLOCK_MONOTONIC);
    ssize_t n = send(c->fd, data, length, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (n < 0 && errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR) return -errno;
    if (n < 0) n = 0;
    if ((size_t)n < length) {
        c->out = malloc(length - (size_t)n);
        if (!c->out) return -ENOMEM;
        c->out_length = length - (size_t)n; c->out_sent = 0;
        memcpy(c->out, data + n, c->out_length);
        want(w, number, READABLE | EPOLLOUT);
    }
    return now;
}

static int append(char **to, size_t *length, size_t *room, const char *data, size_t n) {
    if (*length + n > *room) {
        size_t wanted = 2 * (*length + n);
        char *more = realloc(*to, wanted);
        if (!more) return -1;
        *to = more; *room = wanted;
    }
    memcpy(*to + *length, data, n);
    *length += n;
    return 0;
}

/* Does this header line have this name (lower case, with its colon)? Then its value is from *value on. */
static int named(const char *line, size_t length, const char *name, const char **value) {
    size_t n = strlen(name);
    if (length < n || strncasecmp(line, name, n)) return 0;
    *value = line + n;
    return 1;
}

static int has_word(const char *text, const char *end, const char *word) {
    size_t n = strlen(word);
    for (; text + n <= end; text++)
        if (!strncasecmp(text, word, n)) return 1;
    return 0;
}

/* Understand a whole head: the state that follows, or -1 if it is none. */
static int understand(struct connection *c, const char *head, size_t length) {
    const char *end = head + length, *line = head;
    if (length < 12 || memcmp(head, "HTTP/1.", 7) || head[8] != ' ') return -1;
    for (int i = 9; i < 12; i++) if (head[i] < '0' || head[i] > '9') return -1;
    c->status = (head[9] - '0') * 100 + (head[10] - '0') * 10 + head[11] - '0';
    c->keep_alive = head[7] != '0';
    int chunked = 0; int64_t body = -1;
    while ((line = memchr(line, '\n', (size_t)(end - line))) && ++line < end) {
        const char *stop = memchr(line, '\n', (size_t)(end - line)), *value;
        if (!stop) stop = end;
        size_t n = (size_t)(stop - line);
        if (named(line, n, "content-length:", &value)) {
            while (value < stop && (*value == ' ' || *value == '\t')) value++;
            if (value == stop || *value < '0' || *value > '9') return -1;
            body = 0;
            while (value < stop && *value >= '0' && *value <= '9') {
                body = body * 10 + (*value++ - '0');
                if (body > ((int64_t)1 << 50)) return -1;
            }
        } else if (named(line, n, "transfer-encoding:", &value)) {
            chunked = has_word(value, stop, "chunked");
        } else if (named(line, n, "connection:", &value)) {
            if (has_word(value, stop, "close")) c->keep_alive = 0;
            else if (has_word(value, stop, "keep-alive")) c->keep_alive = 1;
        }
    }
    if (c->status < 200) return c->status == 101 ? -1 : HEAD;
    if (c->status == 204 || c->status == 304) return DONE;
    if (chunked) { c->digits = 0; c->left = 0; return CHUNK_SIZE; }
    if (body >= 0) { c->left = body; return body ? LENGTH : DONE; }
    c->until_close = 1; c->keep_alive = 0;
    return UNTIL_CLOSE;
}

static int hex(char c) {
    if (c >= '0' && c <= '9') return c - '0';
    c |= 32;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* Follow the framing of the answer through these bytes. 0, or -1 if this is not HTTP. */
static int follow(struct connection *c, const char *at, size_t length) {
    const char *end = at + length;
    while (at < end) {
        switch (c->state) {
        case HEAD: {
            size_t before = c->head_length;
            if (append(&c->head, &c->head_length, &c->head_room, at, (size_t)(end - at))) return -1;
            size_t from = before > 3 ? before - 3 : 0;
            char *stop = memmem(c->head + from, c->head_length - from, "\r\n\r\n", 4);
            if (!stop) {
                if (c->head_length > HEAD_LIMIT || (c->head_length >= 5 && memcmp(c->head, "HTTP/", 5))) return -1;
                return 0;
            }
            size_t head = (size_t)(stop - c->head) + 4;
            at += head - before;
            c->head_length = 0;
            c->state = understand(c, c->head, head - 2);
            if (c->state < 0) return -1;
            if (c->status >= 400 && !c->kept_on) {      /* keep it, with what came of its head before */
                c->kept_on = 1;
                if (append(&c->kept, &c->kept_length, &c->kept_room, c->head, before)) return -1;
            }
            break;
        }
        case LENGTH: case CHUNK_DATA: {
            int64_t n = end - at < c->left ? end - at : c->left;
            c->left -= n; at += n;
            if (!c->left) { c->line = 0; c->state = c->state == LENGTH ? DONE : CHUNK_END; }
            break;
        }
        case CHUNK_SIZE: {
            int digit = hex(*at);
            if (digit >= 0) {
                if (++c->digits > 15) return -1;
                c->left = c->left * 16 + digit; at++;
            } else if (!c->digits) return -1;
            else c->state = CHUNK_EXTENSION;
            break;
        }
        case CHUNK_EXTENSION: {
            const char *newline = memchr(at, '\n', (size_t)(end - at));
            if (!newline) return 0;
            at = newline + 1;
            c->line = 0; c->state = c->left ? CHUNK_DATA : TRAILER;
            break;
        }
        case CHUNK_END:
            if (*at == '\n') { c->digits = 0; c->left = 0; c->state = CHUNK_SIZE; }
            else if (*at != '\r') return -1;
            at++;
            break;
        case TRAILER:                               /* c->line: characters of the line so far */
            if (*at == '\n') { if (!c->line) c->state = DONE; c->line = 0; }
            else if (*at != '\r') c->line++;
            at++;
            break;
        case UNTIL_CLOSE:
            return 0;
        default:                                    /* bytes that nobody asked for */
            c->keep_alive = 0;
            return 0;
        }
    }
    return 0;
}

static int told(struct happening *out, int number, struct connection *c, int kind, int error, int64_t ns, int64_t read_ns) {
    *out = (struct happening){number, kind, c->exchange, ns, read_ns, c->bytes, c->status, error, c->keep_alive, 0};
    return 1;
}

/* Read what one socket has, to its end if `closing`. Returns how many happenings were written (at most 2). */
static int take(struct wire *w, int number, int closing, int64_t to_monotonic, int64_t now, int tell_answering, struct happening *out) {
    struct connection *c = w->connections[number];
    union { char bytes[128]; struct cmsghdr align; } control;
    int found = 0;
    for (;;) {
        char *at = room_for(w, sizeof(struct record) + READ_BYTES);
        struct iovec piece = {at + sizeof(struct record), READ_BYTES};
        struct msghdr message = {.msg_iov = &piece, .msg_iovlen = 1, .msg_control = control.bytes, .msg_controllen = sizeof control};
        ssize_t n = recvmsg(c->fd, &message, MSG_DONTWAIT);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) return found;
        if (n <= 0) {
            int busy = c->state != IDLE && c->state != DONE;
            int well = n == 0 && c->state == UNTIL_CLOSE;
            if (busy && well) { c->state = DONE; return found + told(out + found, number, c, ENDED, 0, now, now); }
            int error = n < 0 ? errno : PEER_CLOSED;
            c->state = IDLE;
            return found + told(out + found, number, c, CLOSED, error, now, now);
        }
        int64_t kernel = 0;
        for (struct cmsghdr *m = CMSG_FIRSTHDR(&message); m; m = CMSG_NXTHDR(&message, m))
            if (m->cmsg_level == SOL_SOCKET && m->cmsg_type == SCM_TIMESTAMPNS) {
                struct timespec t;
                memcpy(&t, CMSG_DATA(m), sizeof t);
                kernel = (int64_t)t.tv_sec * 1000000000 + t.tv_nsec + to_monotonic;
            }
        if (now < kernel) now = kernel;             /* it came after this look had begun */
        int64_t last_empty = c->emptied_ns > w->last_empty_ns ? c->emptied_ns : w->last_empty_ns;
        struct record r = {(uint32_t)n, PIECE, c->exchange, now, kernel, last_empty};
        if ((size_t)n < READ_BYTES) c->emptied_ns = now;
        memcpy(at, &r, sizeof r);
        const char *data = at + sizeof r;
        if (c->state == IDLE || c->state == DONE) {
            c->state = IDLE;
            return found + told(out + found, number, c, CLOSED, UNASKED, kernel ? kernel : now, now);
        }
        w->filled += sizeof r + (size_t)n;
        w->spooled += (int64_t)sizeof r + n;
        c->bytes += n;
        int wrong = follow(c, data, (size_t)n);
        if (c->kept_on && append(&c->kept, &c->kept_length, &c->kept_room, data, (size_t)n)) wrong = -1;
        if (wrong) { c->state = IDLE; return found + told(out + found, number, c, CLOSED, MALFORMED, kernel ? kernel : now, now); }
        if (c->state == DONE) {
            if (closing || c->out) c->keep_alive = 0;   /* or it answered before it had read the whole request */
            return found + told(out + found, number, c, ENDED, 0, kernel ? kernel : now, now);
        }
        if (tell_answering && !c->answering_told && c->state != HEAD) {
            c->answering_told = 1;
            found += told(out + found, number, c, ANSWERING, 0, kernel ? kernel : now, now);
        }
        if ((size_t)n < READ_BYTES && !closing) return found;
    }
}

static int write_rest(struct wire *w, int number, struct happening *out) {
    struct connection *c = w->connections[number];
    int64_t now = clock_ns(CLOCK_MONOTONIC);
    if (c->connecting) {
        int error = 0; socklen_t size = sizeof error;
        getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &error, &size);
        c->connecting = 0;
        want(w, number, READABLE);
        return told(out, number, c, error ? CLOSED : CONNECTED, error, now, now);
    }
    ssize_t n = send(c->fd, c->out + c->out_sent, c->out_length - c->out_sent, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (n < 0) return 0;                            /* a broken socket is told by its reading side */
    c->out_sent += (size_t)n;
    if (c->out_sent == c->out_length) { free(c->out); c->out = NULL; want(w, number, READABLE); }
    return 0;
}

/* Relate the wall clock, which the kernel stamps with, to the monotonic one. Between the two readings this thread may lose the
 * CPU: only close readings count, else the relation stays as it was. Returns the monotonic time of before. */
static int64_t relate(struct wire *w) {
    int64_t now = clock_ns(CLOCK_MONOTONIC), before = now;
    for (int i = 0; i < 4; i++) {
        int64_t real = clock_ns(CLOCK_REALTIME), after = clock_ns(CLOCK_MONOTONIC);
        if (after - before < CLOSE_NS || (i == 3 && !w->to_monotonic)) { w->to_monotonic = before + (after - before) / 2 - real; break; }
        before = after;
    }
    return now;
}

/* How long this thread has waited for a CPU since it was last asked. */
static int64_t delayed(struct wire *w) {
    char text[96];
    ssize_t n = pread(w->schedstat, text, sizeof text - 1, 0);
    if (n <= 0) return INT64_MAX / 4;
    text[n] = 0;
    char *second = strchr(text, ' ');
    int64_t total = second ? strtoll(second, NULL, 10) : INT64_MAX / 4, delay = total - w->delay_ns;
    w->delay_ns = total;
    return delay;
}

/* After a wait that has slept: until it was woken, every socket was empty. It was woken when it began to wait for a CPU. */
static void slept(struct wire *w, int64_t from, int64_t until) {
    if (w->schedstat < 0 || !pthread_equal(w->thread, pthread_self())) {            /* begin, for this thread */
        if (w->schedstat >= 0) close(w->schedstat);
        w->thread = pthread_self();
        w->schedstat = open("/proc/thread-self/schedstat", O_RDONLY | O_CLOEXEC);
        if (w->schedstat >= 0) delayed(w);
        return;
    }
    if (until - from < SLEPT_NS) return;
    int64_t delay = delayed(w), woken = until - delay - WAKE_NS;
    if (delay >= 0 && woken > from && woken > w->last_empty_ns) w->last_empty_ns = woken;
}

static int look(struct wire *w, struct epoll_event *events, int most, int64_t timeout_ns) {
    struct timespec t = {timeout_ns / 1000000000, timeout_ns % 1000000000};
    return epoll_pwait2(w->epoll, events, most, timeout_ns < 0 ? NULL : &t, NULL);
}

/* Wait at most timeout_ns (-1: for ever) and write down what happened. Returns how many happenings, 0 after a signal or the
 * timeout, -errno on failure. When sockets bring more than one event per batch_ns, it lets them gather for that long: the
 * kernel has stamped them. */
int wire_wait(struct wire *w, int64_t timeout_ns, int tell_answering, struct happening *out, int most) {
    struct epoll_event events[EVENTS];
    int limit = most / 3 < EVENTS ? most / 3 : EVENTS, found = 0;
    if (w->batch_ns && w->read_before > 1 && !w->crowded && (timeout_ns < 0 || timeout_ns > 0)) {
        int64_t spent = clock_ns(CLOCK_MONOTONIC) - w->returned_ns, pause = w->batch_ns - spent;
        if (timeout_ns >= 0 && pause > timeout_ns) pause = timeout_ns;
        if (pause > 20000) {
            struct timespec t = {pause / 1000000000, pause % 1000000000};
            clock_nanosleep(CLOCK_MONOTONIC, 0, &t, NULL);
            if (timeout_ns >= 0) timeout_ns -= pause;
        }
    }
    int64_t entered = clock_ns(CLOCK_MONOTONIC);
    int ready = look(w, events, limit, timeout_ns);
    int64_t now = relate(w), to_monotonic = w->to_monotonic;
    w->returned_ns = now;
    slept(w, entered, now);
    if (ready < 0) return errno == EINTR ? 0 : -errno;
    w->read_before = 0;
    for (int i = 0; i < ready; i++) {
        int number = (int)events[i].data.u32;
        struct connection *c = w->connections[number];
        if (!c->in_use) continue;
        if (c->watched) { found += told(out + found, number, c, WATCHED, 0, now, now); continue; }
        if (c->connecting || (c->out && events[i].events & EPOLLOUT)) {
            found += write_rest(w, number, out + found);
            if (c->connecting || (found && out[found - 1].connection == number && out[found - 1].kind == CLOSED)) continue;
        }
        int closing = (events[i].events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR)) != 0;
        if (closing || events[i].events & EPOLLIN) {
            w->read_before++;
            now = (i & 15) ? now : clock_ns(CLOCK_MONOTONIC);
            found += take(w, number, closing, to_monotonic, now, tell_answering, out + found);
        }
    }
    w->crowded = ready == limit;
    if (!w->crowded) w->last_empty_ns = w->returned_ns;
    return w->failed && !found ? -w->failed : found;
}

const char *wire_kept(struct wire *w, int number, size_t *length) {
    *length = w->connections[number]->kept_length;
    return w->connections[number]->kept;
}

int64_t wire_spooled(struct wire *w) { return w->spooled; }

void wire_free(struct wire *w) {
    for (int i = 0; i < w->count; i++) {
        wire_drop(w, i);
        free(w->connections[i]->head); free(w->connections[i]->kept); free(w->connections[i]);
    }
    close(w->epoll);
    if (w->schedstat >= 0) close(w->schedstat);
    free(w->connections); free(w->buffer); free(w);
}
