/* The wire's hot path in C: look at many sockets at once, read each with its kernel receive stamp, append what came to
 * the spool, and tell only what a worker must act on. It behaves as python.py does; tests/loadgen/wire runs the
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
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>
#include "answers.h"

enum { SPOOL_BYTES = 512 * 1024, READ_BYTES = 64 * 1024, EVENTS = 1024 };
enum { READABLE = EPOLLIN | EPOLLRDHUP | EPOLLET }; /* edges: each socket is read until it is empty */
enum { SLEPT_NS = 100000, WAKE_NS = 500000, CLOSE_NS = 5000 };       /* a wait this long has slept; the way from a wake-up to us */
enum { CONNECTED = 1, ENDED, CLOSED, WATCHED, ANSWERING, STREAMED };                   /* kinds of happening */
enum { PIECE = 0, NOTE = 1 };                                                        /* kinds of record */
enum { MALFORMED = 10001, PEER_CLOSED, SPOOL_FAILED, UNASKED, TLS_FAILED, CERTIFICATE_WANTED, TOO_LONG }; /* errors beside errno */
enum { VERSION = 3, MOST_OF_ONE = 4 };              /* of the functions below; happenings of one read: ANSWERING, STREAMED, CLOSED */

struct record { uint32_t length, kind; int64_t exchange, read_ns, kernel_ns, last_empty_ns; };

struct happening {
    int32_t connection, kind;
    int64_t exchange, ns, read_ns, bytes;
    int32_t status, error, keep_alive, unused;
};

/* Functions of the Python that has loaded us: PyGILState_Ensure, PyGILState_Release, PyBytes_FromStringAndSize,
 * PyObject_Vectorcall, PyBytes_AsStringAndSize, Py_DecRef, PyErr_Clear. TLS is Python's ssl: `tls` of a connection is a callable
 * that takes what was read and gives what it meant; it calls wire_write and wire_tell. With nothing it looks what is wrong. */
struct python {
    int (*hold)(void);
    void (*release)(int);
    void *(*bytes)(const char *, ssize_t);
    void *(*call)(void *, void *const *, size_t, void *);
    int (*content)(void *, char **, ssize_t *);
    void (*drop)(void *);
    void (*forget_error)(void);
};

/* Functions of the OpenSSL that Python's ssl uses: SSL_read, SSL_pending, SSL_get_error, SSL_get_rbio, SSL_get_wbio, BIO_write,
 * BIO_ctrl. With them a connection that has greeted is read here; `ssl` of a connection is OpenSSL's part of it, which Python
 * has made, or NULL where that is not to be had. */
struct openssl {
    int (*read)(void *, void *, int);
    int (*pending)(const void *);
    int (*error)(const void *, int);
    void *(*incoming)(const void *);
    void *(*outgoing)(const void *);
    int (*write)(void *, const void *, int);
    long (*ctrl)(void *, int, long, void *);
};
enum { BIO_PENDING = 10, WANT_READ = 2 };           /* BIO_CTRL_PENDING and SSL_ERROR_WANT_READ, in every version */

struct wire {
    struct openssl openssl;
    struct python python; int holding, hold;        /* the interpreter's lock, while TLS is read */
    char *cipher;                                   /* what a TLS connection has brought */
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

int wire_version(void) { return VERSION; }

/* `openssl`: or NULL. */
struct wire *wire_new(int spool_fd, int64_t batch_ns, const struct python *python, const struct openssl *openssl) {
    struct wire *w = calloc(1, sizeof *w);
    if (!w) return NULL;
    w->epoll = epoll_create1(EPOLL_CLOEXEC);
    w->spool = spool_fd;
    w->schedstat = -1;
    w->batch_ns = batch_ns;
    w->python = *python;
    if (openssl) w->openssl = *openssl;
    w->buffer = malloc(SPOOL_BYTES);
    w->cipher = malloc(READ_BYTES);
    w->last_empty_ns = w->returned_ns = clock_ns(CLOCK_MONOTONIC);
    if (w->epoll < 0 || !w->buffer || !w->cipher) {
        if (w->epoll >= 0) close(w->epoll);
        free(w->buffer); free(w->cipher); free(w);
        return NULL;
    }
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
 * a descriptor of which only readability is told. `tls`, `ssl`: see struct python and struct openssl, or NULL; the caller keeps
 * them until the connection is dropped. Returns the connection's number, or -1. */
int wire_add(struct wire *w, int fd, int watched, void *tls, void *ssl) {
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
    c->tls = tls; c->ssl = ssl;
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

/* Write these bytes; what does not fit into the socket now follows by itself. 0, or -errno. */
int wire_write(struct wire *w, int number, const char *data, size_t length) {
    struct connection *c = w->connections[number];
    ssize_t n = c->out ? 0 : send(c->fd, data, length, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (n < 0 && errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR) return -errno;
    if (n < 0) n = 0;
    size_t rest = length - (size_t)n, before = c->out ? c->out_length - c->out_sent : 0;
    if (!rest) return 0;
    char *more = malloc(before + rest);
    if (!more) return -ENOMEM;
    if (before) memcpy(more, c->out + c->out_sent, before);
    memcpy(more + before, data + n, rest);
    free(c->out);
    c->out = more; c->out_length = before + rest; c->out_sent = 0;
    want(w, number, READABLE | EPOLLOUT);
    return 0;
}

/* Send a request, encrypted already if there is TLS. Returns the stamp taken before the first byte was written, or -errno. One
 * request at a time. `limit`: bytes that its answer may have. */
int64_t wire_send(struct wire *w, int number, int64_t exchange, const char *data, size_t length, int keep, int64_t limit) {
    struct connection *c = w->connections[number];
    if (!c->in_use || (c->state != IDLE && c->state != DONE)) return -EBUSY;
    c->exchange = exchange; c->state = HEAD; c->kept_on = keep; c->answering_told = 0;
    c->head_length = c->kept_length = 0; c->status = 0; c->bytes = 0; c->until_close = 0; c->limit = limit;
    c->begin_length = 0; c->last_event = c->streamed = c->streamed_told = 0;
    int64_t now = clock_ns(CLOCK_MONOTONIC);
    int wrong = wire_write(w, number, data, length);
    return wrong ? wrong : now;
}

/* What TLS has to tell: CONNECTED, or CLOSED with an error and its text. It is told when the read is over. */
void wire_tell(struct wire *w, int number, int kind, int error, const char *text, size_t length) {
    struct connection *c = w->connections[number];
    c->news = kind; c->news_error = error;
    if (length) { c->kept_length = 0; append(&c->kept, &c->kept_length, &c->kept_room, text, length); }
}

static int told(struct happening *out, int number, struct connection *c, int kind, int error, int64_t ns, int64_t read_ns) {
    *out = (struct happening){number, kind, c->exchange, ns, read_ns, c->bytes, c->status, error, c->keep_alive, 0};
    return 1;
}

struct stamps { int64_t now, kernel; };

static int64_t arrival(struct stamps s) { return s.kernel ? s.kernel : s.now; }

/* The peer has closed, or the connection is broken. */
static int broken(struct connection *c, int number, int error, int64_t now, struct happening *out) {
    int well = error == PEER_CLOSED && c->state == UNTIL_CLOSE;
    c->state = well ? DONE : IDLE;
    return told(out, number, c, well ? ENDED : CLOSED, well ? 0 : error, now, now);
}

/* These bytes came, and lie in the spool's buffer behind room for their record. Is the connection over, or the answer? Then *over
 * is set. Returns how many happenings were written (at most 2). */
static int received(struct wire *w, int number, size_t n, struct stamps s, int closing, int tell_answering, struct happening *out, int *over) {
    struct connection *c = w->connections[number];
    char *at = w->buffer + w->filled;
    const char *data = at + sizeof(struct record);
    int64_t last_empty = c->emptied_ns > w->last_empty_ns ? c->emptied_ns : w->last_empty_ns, ns = arrival(s);
    struct record r = {(uint32_t)n, PIECE, c->exchange, s.now, s.kernel, last_empty};
    int found = 0;
    *over = 1;
    memcpy(at, &r, sizeof r);
    if (c->state == IDLE || c->state == DONE) {
        c->state = IDLE;
        return told(out, number, c, CLOSED, UNASKED, ns, s.now);
    }
    w->filled += sizeof r + n;
    w->spooled += (int64_t)(sizeof r + n);
    c->bytes += (int64_t)n;
    int wrong = !follow(c, data, n) ? 0 : c->head_length > HEAD_LIMIT ? TOO_LONG : MALFORMED;
    if (c->kept_on && append(&c->kept, &c->kept_length, &c->kept_room, data, n)) wrong = MALFORMED;
    if (!wrong && c->state != DONE && c->bytes > (c->status >= 400 && c->limit > REFUSAL_LIMIT ? REFUSAL_LIMIT : c->limit)) wrong = TOO_LONG;
    if (wrong) { c->state = IDLE; return told(out, number, c, CLOSED, wrong, ns, s.now); }
    if (c->state == DONE) {
        if (closing || c->out) c->keep_alive = 0;   /* or it answered before it had read the whole request */
        return told(out, number, c, ENDED, 0, ns, s.now);
    }
    *over = 0;
    if (tell_answering && !c->answering_told && c->state != HEAD) {
        c->answering_told = 1;
        found += told(out + found, number, c, ANSWERING, 0, ns, s.now);
    }
    if (c->streamed && !c->streamed_told) {
        c->streamed_told = 1;
        found += told(out + found, number, c, STREAMED, 0, ns, s.now);
    }
    return found;
}

/* Give Python's TLS what was read, and take what it meant. As `received`. */
static int asked(struct wire *w, int number, size_t n, struct stamps s, int closing, int tell_answering, struct happening *out, int *over) {
    struct connection *c = w->connections[number];
    int found = 0;
    char *plain; ssize_t length;
    *over = 0;
    if (!w->holding) { w->hold = w->python.hold(); w->holding = 1; }
    c->news = 0;
    void *given = w->python.bytes(w->cipher, (ssize_t)n), *got = NULL;
    if (given) { got = w->python.call(c->tls, &given, 1, NULL); w->python.drop(given); }
    if (!got || w->python.content(got, &plain, &length) < 0) {
        w->python.forget_error();
        wire_tell(w, number, CLOSED, TLS_FAILED, NULL, 0);
        length = 0;
    }
    if (c->news == CONNECTED) c->greeted = 1;
    if (c->news == CONNECTED) found += told(out + found, number, c, CONNECTED, 0, s.now, s.now);
    for (ssize_t at = 0, part; at < length && !*over; at += part) {
        part = length - at < READ_BYTES ? length - at : READ_BYTES;
        char *to = room_for(w, sizeof(struct record) + (size_t)part);
        memcpy(to + sizeof(struct record), plain + at, (size_t)part);
        found += received(w, number, (size_t)part, s, closing, tell_answering, out + found, over);
    }
    if (got) w->python.drop(got);
    if (c->news == CLOSED && !*over) {
        *over = 1;
        found += broken(c, number, c->news_error, s.now, out + found);
    }
    return found;
}

/* The same, by OpenSSL itself where that can be: Python is asked to greet, to answer the peer's TLS, and what has failed. */
static int decrypted(struct wire *w, int number, size_t n, struct stamps s, int closing, int tell_answering, struct happening *out, int *over) {
    const struct openssl *o = &w->openssl;
    struct connection *c = w->connections[number];
    int found = 0, got = 1;
    if (!c->ssl || !c->greeted) return asked(w, number, n, s, closing, tell_answering, out, over);
    void *in = o->incoming(c->ssl);
    if (o->write(in, w->cipher, (int)n) != (int)n) got = 0;
    *over = 0;
    for (size_t length = 1; got > 0 && length && !*over;) {
        char *to = room_for(w, sizeof(struct record) + READ_BYTES) + sizeof(struct record);
        for (length = 0; length < READ_BYTES && (o->pending(c->ssl) || o->ctrl(in, BIO_PENDING, 0, NULL)); length += (size_t)got)
            if ((got = o->read(c->ssl, to + length, (int)(READ_BYTES - length))) <= 0) break;
        if (length) found += received(w, number, length, s, closing, tell_answering, out + found, over);
    }
    int well = got > 0 || o->error(c->ssl, got) == WANT_READ;
    if (!*over && (!well || o->ctrl(o->outgoing(c->ssl), BIO_PENDING, 0, NULL)))
        found += asked(w, number, 0, s, closing, tell_answering, out + found, over);
    return found;
}

/* Read what one socket has, to its end if `closing`. Returns how many happenings were written (at most MOST_OF_ONE). */
static int take(struct wire *w, int number, int closing, int64_t to_monotonic, int64_t now, int tell_answering, struct happening *out) {
    struct connection *c = w->connections[number];
    union { char bytes[128]; struct cmsghdr align; } control;
    int found = 0, over = 0;
    if (c->ssl) { __builtin_prefetch(c->ssl); __builtin_prefetch((char *)c->ssl + 64); __builtin_prefetch((char *)c->ssl + 128); }
    for (;;) {
        char *at = c->tls ? w->cipher : room_for(w, sizeof(struct record) + READ_BYTES) + sizeof(struct record);
        struct iovec piece = {at, READ_BYTES};
        struct msghdr message = {.msg_iov = &piece, .msg_iovlen = 1, .msg_control = control.bytes, .msg_controllen = sizeof control};
        ssize_t n = recvmsg(c->fd, &message, MSG_DONTWAIT);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) return found;
        if (n <= 0) return found + broken(c, number, n < 0 ? errno : PEER_CLOSED, now, out + found);
        struct stamps s = {now, 0};
        for (struct cmsghdr *m = CMSG_FIRSTHDR(&message); m; m = CMSG_NXTHDR(&message, m))
            if (m->cmsg_level == SOL_SOCKET && m->cmsg_type == SCM_TIMESTAMPNS) {
                struct timespec t;
                memcpy(&t, CMSG_DATA(m), sizeof t);
                s.kernel = (int64_t)t.tv_sec * 1000000000 + t.tv_nsec + to_monotonic;
            }
        if (now < s.kernel) now = s.now = s.kernel;     /* it came after this look had begun */
        found += (c->tls ? decrypted : received)(w, number, (size_t)n, s, closing, tell_answering, out + found, &over);
        if ((size_t)n < READ_BYTES) c->emptied_ns = now;
        if (over || ((size_t)n < READ_BYTES && !closing)) return found;
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
        struct stamps s = {now, 0};
        if (c->tls && !error) return decrypted(w, number, 0, s, 0, 0, out, &error);     /* its greeting */
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

/* One wait and one look at what came; *ready: how many sockets had something. See wire_wait. */
static int look_once(struct wire *w, int64_t timeout_ns, int tell_answering, struct happening *out, int most, int *ready_now) {
    struct epoll_event events[EVENTS];
    int limit = most / (2 * MOST_OF_ONE) < EVENTS ? most / (2 * MOST_OF_ONE) : EVENTS, found = 0;
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
    int ready = *ready_now = look(w, events, limit, timeout_ns);
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
    if (w->holding) { w->holding = 0; w->python.release(w->hold); }
    w->crowded = ready == limit;
    if (!w->crowded) w->last_empty_ns = w->returned_ns;
    return w->failed && !found ? -w->failed : found;
}

/* Wait at most timeout_ns (-1: for ever) and write down what happened. Returns how many happenings, 0 after a signal or the
 * timeout, -errno on failure. When sockets bring more than one event per batch_ns, it lets them gather for that long: the kernel
 * has stamped them; and it goes on while they bring only what has to be spooled. */
int wire_wait(struct wire *w, int64_t timeout_ns, int tell_answering, struct happening *out, int most) {
    int64_t until_ns = timeout_ns > 0 ? clock_ns(CLOCK_MONOTONIC) + timeout_ns : 0;
    for (;;) {
        int ready, found = look_once(w, timeout_ns, tell_answering, out, most, &ready);
        if (found || ready <= 1 || !timeout_ns) return found;
        if (timeout_ns > 0 && (timeout_ns = until_ns - clock_ns(CLOCK_MONOTONIC)) <= 0) return 0;
    }
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
    free(w->connections); free(w->buffer); free(w->cipher); free(w);
}
