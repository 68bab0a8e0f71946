/* A server of exact timing: every completion gets its first token TTFT after its request came, and the further ones at even
 * intervals, each in a write of its own, whatever the client does. It logs when each write began: the truth that clients are
 * compared with.   mock PORT TTFT_MS ITL_MS LOG      (SIGTERM or SIGINT: write the log and end)
 * Compiled with -DTLS -lssl -lcrypto it speaks TLS:   mock PORT TTFT_MS ITL_MS LOG CERTIFICATE KEY
 *
 * Log, little endian: per request u32 tokens, u32 0, i64 received_ns, i64 written_ns[tokens]   (CLOCK_MONOTONIC).
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>
#ifdef TLS
#include <openssl/ssl.h>
static SSL_CTX *context;
#endif

enum { CONNECTIONS = 70000, BUFFER = 256 * 1024, QUEUE = 1 << 18 };

struct stream { char *in; int filled, active, tokens, done, streamed; uint32_t id; int64_t arrived, received, due, *stamps; };
struct queue { int fds[QUEUE]; uint32_t ids[QUEUE]; unsigned head, tail; };

static struct stream streams[CONNECTIONS];
static struct queue firsts, nexts;
static FILE *truth;
static volatile sig_atomic_t ended;
static int64_t ttft_ns, itl_ns;

static int64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static void end(int number) { (void)number; ended = 1; }

static void push(struct queue *q, int fd) {
    q->fds[q->tail % QUEUE] = fd; q->ids[q->tail % QUEUE] = streams[fd].id; q->tail++;
}

static int alive(struct queue *q, unsigned i) { return streams[q->fds[i % QUEUE]].id == q->ids[i % QUEUE] && streams[q->fds[i % QUEUE]].active; }

static long number_after(const char *text, const char *limit, const char *key, long otherwise) {
    char *at = memmem(text, (size_t)(limit - text), key, strlen(key));
    return at ? strtol(at + strlen(key), NULL, 10) : otherwise;
}

#ifdef TLS
static SSL *sessions[CONNECTIONS];
#endif

static void say(int fd, const char *data, size_t length) {
#ifdef TLS
    int written;
    while ((written = SSL_write(sessions[fd], data, (int)length)) <= 0 && SSL_get_error(sessions[fd], written) == SSL_ERROR_WANT_WRITE) usleep(50);
    return;
#endif
    while (length) {
        ssize_t n = send(fd, data, length, MSG_NOSIGNAL);
        if (n < 0 && errno == EAGAIN) { usleep(50); continue; }
        if (n <= 0) return;
        data += n; length -= (size_t)n;
    }
}

#define HEAD "HTTP/1.1 200 OK\r\ndate: now\r\nserver: mock\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n"
#define EVENT(text, reason) "data: {\"id\":\"cmpl-0123456789abcdef\",\"object\":\"text_completion\",\"created\":1763800000,\"model\":\"mock\",\"choices\":[{\"index\":0,\"text\":\"" text "\",\"logprobs\":null,\"finish_reason\":" reason "}]}\n\n"
#define WHOLE "{\"id\":\"cmpl-1\",\"object\":\"text_completion\",\"created\":1,\"model\":\"mock\",\"choices\":[{\"index\":0,\"text\":\" the\",\"finish_reason\":\"length\"}],\"usage\":{\"prompt_tokens\":64,\"completion_tokens\":1,\"total_tokens\":65}}"

static char token[512], last[512], whole[512];
static size_t token_length, last_length, whole_length;

static void compose(void) {
    token_length = (size_t)sprintf(token, "%zx\r\n%s\r\n", sizeof EVENT(" token", "null") - 1, EVENT(" token", "null"));
    last_length = (size_t)sprintf(last, "%zx\r\n%s\r\n", sizeof EVENT(" token", "\"length\"") - 1, EVENT(" token", "\"length\""));
    whole_length = (size_t)sprintf(whole, "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %zu\r\n\r\n%s", sizeof WHOLE - 1, WHOLE);
}

static void answer(int fd) {
    struct stream *s = &streams[fd];
    int ends = s->done + 1 == s->tokens;
    const char *data = ends ? last : token;
    size_t length = ends ? last_length : token_length;
    char out[1024];
    if (s->streamed && !s->done) {
        memcpy(out, HEAD, sizeof HEAD - 1); memcpy(out + sizeof HEAD - 1, data, length);
        data = out; length += sizeof HEAD - 1;
    }
    s->stamps[s->done++] = now_ns();
    if (s->streamed) say(fd, data, length);
    else { say(fd, whole, whole_length); s->done = s->tokens; }
    if (s->done < s->tokens) { s->due += itl_ns; push(&nexts, fd); return; }
    if (s->streamed) {
        char event[512];
        int e = sprintf(event, "data: {\"id\":\"cmpl-0123456789abcdef\",\"object\":\"text_completion\",\"created\":1763800000,\"model\":\"mock\",\"choices\":[],\"usage\":{\"prompt_tokens\":64,\"completion_tokens\":%d,\"total_tokens\":%d}}\n\ndata: [DONE]\n\n", s->tokens, 64 + s->tokens);
        int used = sprintf(out, "%x\r\n%s\r\n0\r\n\r\n", (unsigned)e, event);
        say(fd, out, (size_t)used);
    }
    uint32_t head[2] = {(uint32_t)s->tokens, 0};
    fwrite(head, 4, 2, truth); fwrite(&s->received, 8, 1, truth); fwrite(s->stamps, 8, (size_t)s->tokens, truth);
    free(s->stamps); s->stamps = NULL; s->active = 0;
}

/* Read, with the time at which the kernel had it: a busy mock must not count its own late reading. */
static ssize_t receive(int fd, struct stream *s) {
#ifdef TLS
    int read = SSL_read(sessions[fd], s->in + s->filled, BUFFER - 1 - s->filled);
    s->arrived = now_ns();
    if (read > 0) return read;
    errno = EAGAIN;
    return SSL_get_error(sessions[fd], read) == SSL_ERROR_WANT_READ ? -1 : 0;
#endif
    union { char bytes[128]; struct cmsghdr align; } control;
    struct iovec piece = {s->in + s->filled, (size_t)(BUFFER - 1 - s->filled)};
    struct msghdr message = {.msg_iov = &piece, .msg_iovlen = 1, .msg_control = control.bytes, .msg_controllen = sizeof control};
    ssize_t n = recvmsg(fd, &message, 0);
    s->arrived = now_ns();
    for (struct cmsghdr *m = n > 0 ? CMSG_FIRSTHDR(&message) : NULL; m; m = CMSG_NXTHDR(&message, m))
        if (m->cmsg_level == SOL_SOCKET && m->cmsg_type == SCM_TIMESTAMPNS) {
            struct timespec t, real;
            memcpy(&t, CMSG_DATA(m), sizeof t);
            clock_gettime(CLOCK_REALTIME, &real);
            s->arrived += (t.tv_sec - real.tv_sec) * 1000000000L + (t.tv_nsec - real.tv_nsec);
        }
    return n;
}

static void request(int fd) {
    struct stream *s = &streams[fd];
    char *stop = memmem(s->in, (size_t)s->filled, "\r\n\r\n", 4);
    if (!stop) return;
    *stop = 0;
    char *field = strcasestr(s->in, "\r\ncontent-length:");
    long body = field ? strtol(field + 17, NULL, 10) : 0;
    *stop = '\r';
    int head = (int)(stop - s->in) + 4;
    if (s->filled < head + body) return;
    if (!memcmp(s->in, "GET", 3)) {
        static const char models[] = "{\"object\":\"list\",\"data\":[{\"id\":\"mock\",\"object\":\"model\",\"max_model_len\":131072}]}";
        char out[512];
        int n = snprintf(out, sizeof out, "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %zu\r\n\r\n%s", sizeof models - 1, models);
        say(fd, out, (size_t)n);
    } else {
        static uint32_t requests;
        const char *from = s->in + head, *limit = from + body;
        s->streamed = memmem(from, (size_t)body, "\"stream\":true", 13) || memmem(from, (size_t)body, "\"stream\": true", 14);
        s->tokens = (int)number_after(from, limit, "max_tokens\":", 0);
        if (!s->tokens) s->tokens = (int)number_after(from, limit, "max_completion_tokens\":", 16);
        if (s->tokens < 1 || !s->streamed) s->tokens = 1;
        s->id = ++requests; s->done = 0; s->active = 1;
        s->received = s->arrived; s->due = s->received + ttft_ns;
        s->stamps = malloc(8 * (size_t)s->tokens);
        push(&firsts, fd);
    }
    memmove(s->in, s->in + head + body, (size_t)(s->filled - head - body));
    s->filled -= head + (int)body;
}

int main(int argc, char **argv) {
#ifdef TLS
    if (argc != 7) return fprintf(stderr, "usage: mock PORT TTFT_MS ITL_MS LOG CERTIFICATE KEY\n"), 2;
    context = SSL_CTX_new(TLS_server_method());
    if (SSL_CTX_use_certificate_file(context, argv[5], SSL_FILETYPE_PEM) != 1 || SSL_CTX_use_PrivateKey_file(context, argv[6], SSL_FILETYPE_PEM) != 1) return 1;
    argc = 5;
#endif
    if (argc != 5) return fprintf(stderr, "usage: mock PORT TTFT_MS ITL_MS LOG\n"), 2;
    compose();
    ttft_ns = (int64_t)(atof(argv[2]) * 1e6); itl_ns = (int64_t)(atof(argv[3]) * 1e6);
    truth = fopen(argv[4], "wb");
    struct rlimit files = {CONNECTIONS, CONNECTIONS};
    if (setrlimit(RLIMIT_NOFILE, &files)) { getrlimit(RLIMIT_NOFILE, &files); files.rlim_cur = files.rlim_max; setrlimit(RLIMIT_NOFILE, &files); }
    signal(SIGTERM, end); signal(SIGINT, end); signal(SIGPIPE, SIG_IGN);
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), on = 1;
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(argv[1])), .sin_addr = {htonl(INADDR_LOOPBACK)}};
    socklen_t size = sizeof a;
    if (!truth || bind(listener, (struct sockaddr *)&a, sizeof a) || listen(listener, 4096)) return perror("mock"), 1;
    getsockname(listener, (struct sockaddr *)&a, &size);
    printf("%d\n", ntohs(a.sin_port)); fflush(stdout);
    int poll = epoll_create1(0);
    struct epoll_event e = {.events = EPOLLIN, .data.fd = listener}, events[1024];
    epoll_ctl(poll, EPOLL_CTL_ADD, listener, &e);
    while (!ended) {
        int64_t now = now_ns(), due = INT64_MAX;
        for (;;) {
            struct queue *q = NULL;
            due = INT64_MAX;
            for (int k = 0; k < 2; k++) {
                struct queue *p = k ? &nexts : &firsts;
                while (p->head != p->tail && !alive(p, p->head)) p->head++;
                if (p->head != p->tail && streams[p->fds[p->head % QUEUE]].due < due) { due = streams[p->fds[p->head % QUEUE]].due; q = p; }
            }
            if (!q || due > now) break;
            answer(q->fds[q->head++ % QUEUE]);
            now = now_ns();
            static int turns;
            if (++turns % 64 == 0) { due = now; break; }                /* requests must not wait for a backlog */
        }
        int64_t left = due == INT64_MAX ? 200000000 : due > now ? due - now : 0;
        struct timespec t = {left / 1000000000, left % 1000000000};
        int n = epoll_pwait2(poll, events, 1024, &t, NULL);
        for (int i = 0; i < n; i++) {
            int fd = events[i].data.fd;
            if (fd == listener) {
                int c;
                while ((c = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
                    if (c >= CONNECTIONS) { close(c); continue; }
                    setsockopt(c, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
                    setsockopt(c, SOL_SOCKET, SO_TIMESTAMPNS, &on, sizeof on);
                    struct stream *s = &streams[c];
                    if (!s->in) s->in = malloc(BUFFER);
                    s->filled = s->active = 0;
#ifdef TLS
                    SSL_free(sessions[c]);
                    sessions[c] = SSL_new(context);
                    SSL_set_fd(sessions[c], c); SSL_set_accept_state(sessions[c]);
#endif
                    struct epoll_event add = {.events = EPOLLIN, .data.fd = c};
                    epoll_ctl(poll, EPOLL_CTL_ADD, c, &add);
                }
                continue;
            }
            struct stream *s = &streams[fd];
            ssize_t r = receive(fd, s);
            if (r < 0 && errno == EAGAIN) continue;
            if (r <= 0) { close(fd); if (s->active) { free(s->stamps); s->stamps = NULL; } s->active = 0; s->id = 0; continue; }
            s->filled += (int)r;
            request(fd);
        }
    }
    fclose(truth);
    return 0;
}
