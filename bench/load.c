/* HTTP load from one thread, so cheap that it is not what is measured: bench/connections.py proves it by kernel forwarding.
 *
 *   load fresh     ADDRESS PORT PARALLEL SECONDS   a connection for each GET, read to the end of file
 *   load keepalive ADDRESS PORT PARALLEL SECONDS   GETs one after the other on each connection
 *   load hold      ADDRESS PORT COUNT    SECONDS   COUNT connections with one GET each, then idle until stdin ends;
 *                                                  what is not answered after SECONDS has failed. For each line on
 *                                                  stdin every connection that answered asks once more
 * Prints one JSON object (hold: one more for each line). An answer counts when it is a 200 with its whole body.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
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

enum { FRESH, KEEPALIVE, HOLD };
enum { BODY = 1024, CHUNK = 65536, EVENTS = 256 };

struct connection {
    int fd, sent;
    size_t got;
    uint64_t began;
    char head[16];
};

static int mode, epoll_fd, live;
static struct sockaddr_in target;
static char request[256];
static size_t request_length, expected; /* bytes of a whole answer, once one was seen */
static uint64_t done, failed, octets, deadline;
static uint32_t *latency_us;
static size_t latencies, room;

static uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + t.tv_nsec;
}

static void note_latency(uint64_t began)
{
    if (latencies == room) {
        room = room ? room * 2 : 1 << 16;
        latency_us = realloc(latency_us, room * sizeof *latency_us);
        if (!latency_us) exit(1);
    }
    latency_us[latencies++] = (now_ns() - began) / 1000;
}

static void dial(struct connection *c)
{
    int one = 1;
    c->sent = 0;
    c->got = 0;
    c->began = now_ns();
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    if (c->fd < 0) { perror("socket"); exit(1); }
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (connect(c->fd, (struct sockaddr *)&target, sizeof target) < 0 && errno != EINPROGRESS) {
        perror("connect");
        exit(1);
    }
    struct epoll_event event = { .events = EPOLLOUT, .data.ptr = c };
    epoll_ctl(epoll_fd, EPOLL_CTL_ADD, c->fd, &event);
    live++;
}

static void finish(struct connection *c, int good)
{
    if (good) { done++; note_latency(c->began); } else failed++;
    close(c->fd);
    c->fd = -1;
    live--;
    if (mode != HOLD && now_ns() < deadline) dial(c);
}

static void ask(struct connection *c)
{
    c->sent = 1;
    c->got = 0;
    if (mode == KEEPALIVE) c->began = now_ns();
    if (send(c->fd, request, request_length, MSG_NOSIGNAL) != (ssize_t)request_length) finish(c, 0);
}

static void answered(struct connection *c)
{
    if (strncmp(c->head, "HTTP/1.1 200", 12) != 0) { finish(c, 0); return; }
    done++;
    note_latency(c->began);
    if (mode == KEEPALIVE) {
        if (now_ns() < deadline) { ask(c); return; }
        close(c->fd);
        c->fd = -1;
        live--;
    }
}

static void learn_length(const char *answer, size_t n)
{
    const char *end = memmem(answer, n, "\r\n\r\n", 4);
    if (end) expected = end - answer + 4 + BODY;
}

static void ready(struct connection *c, uint32_t events)
{
    static char chunk[CHUNK];
    if (!c->sent) {
        int error = 0;
        socklen_t size = sizeof error;
        getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &error, &size);
        if (error) { finish(c, 0); return; }
        struct epoll_event event = { .events = EPOLLIN, .data.ptr = c };
        epoll_ctl(epoll_fd, EPOLL_CTL_MOD, c->fd, &event);
        ask(c);
        return;
    }
    ssize_t n = recv(c->fd, chunk, sizeof chunk, 0);
    if (n < 0) {
        if (errno != EAGAIN) finish(c, 0);
        return;
    }
    if (n == 0) {
        finish(c, mode == FRESH && c->got == expected && !strncmp(c->head, "HTTP/1.1 200", 12));
        return;
    }
    if (c->got < sizeof c->head)
        memcpy(c->head + c->got, chunk, (size_t)n < sizeof c->head - c->got ? (size_t)n : sizeof c->head - c->got);
    if (!expected) learn_length(chunk, n);
    c->got += n;
    octets += n;
    if (mode != FRESH && c->got == expected) answered(c);
}

static void run(uint64_t until, uint64_t answers)
{
    struct epoll_event events[EVENTS];
    while (live > 0 && done + failed < answers) {
        if (now_ns() > until) break;
        int n = epoll_wait(epoll_fd, events, EVENTS, 100);
        for (int i = 0; i < n; i++) ready(events[i].data.ptr, events[i].events);
    }
}

static int by_value(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

static void report(uint64_t began)
{
    double took = (now_ns() - began) / 1e9;
    qsort(latency_us, latencies, sizeof *latency_us, by_value);
    printf("{\"done\": %lu, \"failed\": %lu, \"bytes\": %lu, \"seconds\": %.4f, \"p50_us\": %u, \"p99_us\": %u}\n",
           done, failed, octets, took, latencies ? latency_us[latencies / 2] : 0,
           latencies ? latency_us[latencies * 99 / 100] : 0);
    fflush(stdout);
}

static void ask_again(struct connection *all, int count)
{
    uint64_t began = now_ns(), asked = 0;
    done = failed = octets = latencies = 0;
    for (int i = 0; i < count; i++) {
        if (all[i].fd <= 0 || all[i].got != expected) continue;
        asked++;
        ask(&all[i]);
        if (asked % 50 == 0) run(began + 30000000000u, asked);
    }
    run(began + 30000000000u, asked);
    report(began);
}

int main(int argc, char **argv)
{
    if (argc != 6) { fprintf(stderr, "usage: load fresh|keepalive|hold ADDRESS PORT COUNT SECONDS\n"); return 2; }
    mode = !strcmp(argv[1], "fresh") ? FRESH : !strcmp(argv[1], "keepalive") ? KEEPALIVE : HOLD;
    target.sin_family = AF_INET;
    target.sin_port = htons(atoi(argv[3]));
    if (inet_pton(AF_INET, argv[2], &target.sin_addr) != 1) return 2;
    int count = atoi(argv[4]);
    double seconds = atof(argv[5]);
    struct rlimit limit;
    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
    request_length = snprintf(request, sizeof request, "GET /1k HTTP/1.1\r\nHost: origin\r\n%s\r\n",
                              mode == FRESH ? "Connection: close\r\n" : "");
    epoll_fd = epoll_create1(0);
    struct connection *all = calloc(count, sizeof *all);
    uint64_t began = now_ns();
    deadline = began + (uint64_t)(seconds * 1e9);
    if (mode == HOLD) { /* a few at a time: this is about holding, not about a storm of SYNs */
        for (int i = 0; i < count && now_ns() < deadline; i++) {
            dial(&all[i]);
            if (i % 50 == 49 || i == count - 1) run(deadline, i + 1);
        }
        failed += count - done - failed;
    } else {
        for (int i = 0; i < count; i++) dial(&all[i]);
        run(deadline + 5000000000u, UINT64_MAX);
        failed += live; /* no answer 5 s after the end */
    }
    report(began);
    if (mode == HOLD)
        for (int c = getchar(); c != EOF; c = getchar()) ask_again(all, count);
    return 0;
}
