/* The physical limit: the least that a client in C can do with one core. STREAMS connections, each sends its next request when
 * its answer has ended; one epoll, one recv per event, nothing kept but sums.
 *   client PORT STREAMS REQUESTS TOKENS     prints JSON
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

struct stream { int fd, chunks; int64_t sent; };

static int64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static int ascending(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

int main(int argc, char **argv) {
    if (argc != 5) return fprintf(stderr, "usage: client PORT STREAMS REQUESTS TOKENS\n"), 2;
    int port = atoi(argv[1]), n = atoi(argv[2]), total = atoi(argv[3]), tokens = atoi(argv[4]), started = 0, ended = 0;
    char body[2048], request[4096], buffer[65536];
    int length = sprintf(body, "{\"model\":\"mock\",\"prompt\":\"");
    for (int i = 0; i < 64; i++) length += sprintf(body + length, "word ");
    length += sprintf(body + length, "\",\"max_tokens\":%d,\"temperature\":0,\"stream\":true}", tokens);
    int size = sprintf(request, "POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", length, body);
    struct stream *streams = calloc((size_t)n, sizeof *streams);
    double *ttft = malloc(8 * (size_t)total);
    int poll = epoll_create1(0), on = 1, firsts = 0;
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr = {htonl(INADDR_LOOPBACK)}};
    for (int i = 0; i < n; i++) {
        streams[i].fd = socket(AF_INET, SOCK_STREAM, 0);
        if (connect(streams[i].fd, (struct sockaddr *)&a, sizeof a)) return perror("client"), 1;
        setsockopt(streams[i].fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        struct epoll_event e = {.events = EPOLLIN, .data.ptr = &streams[i]};
        epoll_ctl(poll, EPOLL_CTL_ADD, streams[i].fd, &e);
    }
    struct rusage before, after;
    getrusage(RUSAGE_SELF, &before);
    int64_t begun = now_ns(), events = 0;
    for (int i = 0; i < n && started < total; i++, started++) {
        streams[i].sent = now_ns();
        if (write(streams[i].fd, request, (size_t)size) != size) return perror("client"), 1;
    }
    struct epoll_event ready[1024];
    while (ended < started) {
        int found = epoll_wait(poll, ready, 1024, -1);
        for (int k = 0; k < found; k++) {
            struct stream *s = ready[k].data.ptr;
            ssize_t r = recv(s->fd, buffer, sizeof buffer, 0);
            if (r <= 0) return fprintf(stderr, "client: the server closed a connection\n"), 1;
            if (!s->chunks++) ttft[firsts++] = (double)(now_ns() - s->sent) / 1e6;
            for (char *at = buffer; (at = memmem(at, (size_t)(buffer + r - at), "data: ", 6)); at += 6) events++;
            if (r >= 5 && !memcmp(buffer + r - 5, "0\r\n\r\n", 5)) {
                ended++; s->chunks = 0;
                if (started < total) {
                    started++; s->sent = now_ns();
                    if (write(s->fd, request, (size_t)size) != size) return perror("client"), 1;
                }
            }
        }
    }
    double seconds = (double)(now_ns() - begun) / 1e9, sum = 0;
    getrusage(RUSAGE_SELF, &after);
    double cpu = (double)(after.ru_utime.tv_sec - before.ru_utime.tv_sec + after.ru_stime.tv_sec - before.ru_stime.tv_sec)
        + (double)(after.ru_utime.tv_usec - before.ru_utime.tv_usec + after.ru_stime.tv_usec - before.ru_stime.tv_usec) / 1e6;
    for (int i = 0; i < firsts; i++) sum += ttft[i];
    qsort(ttft, (size_t)firsts, 8, ascending);
    printf("{\"seconds\":%.3f,\"events\":%ld,\"cpu_s\":%.4f,\"ttft_mean_ms\":%.3f,\"ttft_p50_ms\":%.3f,\"ttft_p99_ms\":%.3f}\n",
        seconds, (long)events, cpu, sum / firsts, ttft[firsts / 2], ttft[(int)(firsts * 0.99)]);
    return 0;
}
