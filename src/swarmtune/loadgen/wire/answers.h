/* Where does an answer end? HTTP/1.1 framing, and the lines of an event stream inside it; part of native.c. */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

enum { HEAD_LIMIT = 64 * 1024, REFUSAL_LIMIT = 1024 * 1024, LINE_BEGIN = 48, CHUNK_DIGITS = 16 };
enum { IDLE, HEAD, LENGTH, CHUNK_SIZE, CHUNK_EXTENSION, CHUNK_LF, CHUNK_DATA, CHUNK_END, TRAILER, UNTIL_CLOSE, DONE };
enum { BEGINS, INSIDE, BLANKS, LINE_CR, BLANK_CR };   /* where in a line: of a chunk's size, of the trailer */

struct connection {
    int fd, state, connecting, watched, keep_alive, until_close, kept_on, status, line, digits, in_use, answering_told;
    int64_t exchange, left, bytes, limit, emptied_ns;   /* limit: of bytes; emptied_ns: when a read last left nothing behind */
    char *head; size_t head_length, head_room;          /* an unfinished head */
    char *kept; size_t kept_length, kept_room;          /* raw answer, if asked for, or of a failure */
    char *out; size_t out_sent, out_length;             /* unsent rest of a request */
    char begin[LINE_BEGIN]; size_t begin_length;        /* of the body's unfinished line */
    int last_event, streamed, streamed_told;            /* the event that ends the stream has begun; it is whole */
    void *tls, *ssl; int greeted;                       /* Python's part of the connection, see struct python */
    int news, news_error;                               /* what that part has to tell: a kind of happening, or 0 */
};

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
    if (chunked) { c->digits = 0; c->left = 0; c->line = BEGINS; return CHUNK_SIZE; }
    if (body >= 0) { c->left = body; return body ? LENGTH : DONE; }
    c->until_close = 1; c->keep_alive = 0;
    return UNTIL_CLOSE;
}

/* Where the head ends that has no blank line before `from`; its lines may end in LF alone. 0: nowhere yet, -1: a CR stands alone. */
static ssize_t head_end(const char *head, size_t length, size_t from) {
    for (size_t i = from; i < length; i++) {
        if (head[i] == '\r' && i + 1 < length && head[i + 1] != '\n') return -1;
        if (head[i] != '\n' || i + 1 == length) continue;
        if (head[i + 1] == '\n') return (ssize_t)i + 2;
        if (head[i + 1] == '\r' && i + 2 < length && head[i + 2] == '\n') return (ssize_t)i + 3;
    }
    return 0;
}

static int hex(char c) {
    if (c >= '0' && c <= '9') return c - '0';
    c |= 32;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* Lines that begin the last event of a stream, those first that are whole without a line end; base.LAST_EVENTS of Python has
 * the same. */
enum { DONE_LINES = 2 };
static const char *const LAST_EVENTS[] = {
    "data: [DONE]", "data:[DONE]", "event: response.completed", "event: response.incomplete", "event: response.failed",
    "data: {\"type\":\"response.completed\"", "event: message_stop", NULL,
};

/* Does the body's unfinished line begin as one of the first `count` of them? */
static int ends_stream(const struct connection *c, int count) {
    for (int i = 0; i < count && LAST_EVENTS[i]; i++) {
        size_t wanted = strlen(LAST_EVENTS[i]);
        if (c->begin_length >= wanted && !memcmp(c->begin, LAST_EVENTS[i], wanted)) return 1;
    }
    return 0;
}

/* Follow the lines of a body. The event that ends a stream is whole when its blank line has come, or with its [DONE]. */
static void follow_lines(struct connection *c, const char *at, size_t length) {
    const char *end = at + length;
    if (c->status != 200) return;
    while (at < end && !c->streamed) {
        const char *stop = memchr(at, '\n', (size_t)(end - at));
        size_t n = (size_t)((stop ? stop : end) - at), room = LINE_BEGIN - c->begin_length;
        if (n > room) n = room;
        memcpy(c->begin + c->begin_length, at, n);
        c->begin_length += n;
        if (!stop) { c->streamed = ends_stream(c, DONE_LINES); return; }
        if (!c->begin_length || (c->begin_length == 1 && c->begin[0] == '\r')) c->streamed = c->last_event;
        else if (ends_stream(c, INT32_MAX)) {
            c->last_event = 1;
            c->streamed = ends_stream(c, DONE_LINES);
        }
        c->begin_length = 0;
        at = stop + 1;
    }
}

/* Follow the framing of the answer through these bytes. 0, or -1 if this is not HTTP. */
static int follow(struct connection *c, const char *at, size_t length) {
    const char *end = at + length;
    while (at < end) {
        switch (c->state) {
        case HEAD: {
            size_t before = c->head_length;
            if (append(&c->head, &c->head_length, &c->head_room, at, (size_t)(end - at))) return -1;
            ssize_t head = head_end(c->head, c->head_length, before > 3 ? before - 3 : 0);
            if (head < 0 || memcmp(c->head, "HTTP/1.", c->head_length < 7 ? c->head_length : 7)) return -1;
            if (!head) return c->head_length > HEAD_LIMIT ? -1 : 0;
            at += (size_t)head - before;
            c->head_length = 0;
            c->state = understand(c, c->head, (size_t)head);
            if (c->state < 0) return -1;
            if (c->status >= 400 && !c->kept_on) {      /* keep it, with what came of its head before */
                c->kept_on = 1;
                if (append(&c->kept, &c->kept_length, &c->kept_room, c->head, before)) return -1;
            }
            break;
        }
        case LENGTH: case CHUNK_DATA: {
            int64_t n = end - at < c->left ? end - at : c->left;
            follow_lines(c, at, (size_t)n);
            c->left -= n; at += n;
            if (!c->left) { c->line = BEGINS; c->state = c->state == LENGTH ? DONE : CHUNK_END; }
            break;
        }
        case CHUNK_SIZE: {
            int digit = hex(*at);
            if (digit >= 0 && c->line < BLANKS) {
                if ((digit || c->digits) && ++c->digits > CHUNK_DIGITS) return -1;
                uint64_t left = (uint64_t)c->left * 16 + (uint64_t)digit;
                c->left = left > INT64_MAX ? INT64_MAX : (int64_t)left;
                c->line = INSIDE;
            } else if (c->line == BEGINS) return -1;
            else if (*at == ' ' || *at == '\t') c->line = BLANKS;
            else if (*at == ';') c->state = CHUNK_EXTENSION;
            else if (*at == '\r') c->state = CHUNK_LF;
            else return -1;
            at++;
            break;
        }
        case CHUNK_EXTENSION:
            if (*at == '\n') return -1;
            if (*at++ == '\r') c->state = CHUNK_LF;
            break;
        case CHUNK_LF:
            if (*at++ != '\n') return -1;
            c->line = BEGINS; c->state = c->left ? CHUNK_DATA : TRAILER;
            break;
        case CHUNK_END:
            if (*at != (c->line == BEGINS ? '\r' : '\n')) return -1;
            if (*at++ == '\r') c->line = LINE_CR;
            else { c->digits = 0; c->left = 0; c->line = BEGINS; c->state = CHUNK_SIZE; }
            break;
        case TRAILER:
            if ((*at == '\n') != (c->line >= LINE_CR)) return -1;
            if (*at == '\n') { if (c->line == BLANK_CR) c->state = DONE; c->line = BEGINS; }
            else if (*at == '\r') c->line = c->line == BEGINS ? BLANK_CR : LINE_CR;
            else c->line = INSIDE;
            at++;
            break;
        case UNTIL_CLOSE:
            follow_lines(c, at, (size_t)(end - at));
            return 0;
        default:                                    /* bytes that nobody asked for */
            c->keep_alive = 0;
            return 0;
        }
    }
    return 0;
}
