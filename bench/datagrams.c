/* UDP at a steady rate, and a receiver that counts.
 *
 *   datagrams send ADDRESS PORT FLOWS RATE SECONDS BYTES   one datagram on each flow, a pause, then RATE datagrams/s
 *                                                          over all flows in turn; prints how many, and in what time
 *   datagrams receive PORT                                 prints how many came, when stdin ends
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { BATCH = 64, SIZE = 2048, RECEIVE_BUFFER = 32 << 20, PERIOD_NS = 1000000, PAUSE_NS = 200000000 };

static uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + t.tv_nsec;
}

static void sleep_until(uint64_t when)
{
    struct timespec t = { when / 1000000000u, when % 1000000000u };
    clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL);
}

static int send_all(int argc, char **argv)
{
    if (argc != 8) return 2;
    struct sockaddr_in to = { .sin_family = AF_INET, .sin_port = htons(atoi(argv[3])) };
    inet_pton(AF_INET, argv[2], &to.sin_addr);
    int flows = atoi(argv[4]), size = atoi(argv[7]);
    double rate = atof(argv[5]), seconds = atof(argv[6]);
    static char payload[SIZE];
    int *fds = calloc(flows, sizeof *fds);
    uint64_t sent = 0;
    for (int i = 0; i < flows; i++) {
        fds[i] = socket(AF_INET, SOCK_DGRAM, 0);
        if (connect(fds[i], (struct sockaddr *)&to, sizeof to) < 0) { perror("connect"); return 1; }
        if (send(fds[i], payload, size, 0) == size) sent++;
    }
    sleep_until(now_ns() + PAUSE_NS);
    uint64_t first = sent, began = now_ns(), until = began + (uint64_t)(seconds * 1e9), now;
    while ((now = now_ns()) < until) {
        uint64_t due = (uint64_t)((now - began) * rate / 1e9);
        while (sent - first < due) {
            if (send(fds[sent % flows], payload, size, 0) == size) sent++;
            else if (errno != EAGAIN && errno != ENOBUFS && errno != ECONNREFUSED) { perror("send"); return 1; }
        }
        sleep_until(now + PERIOD_NS);
    }
    printf("{\"sent\": %lu, \"paced\": %lu, \"seconds\": %.6f}\n", sent, sent - first, (now_ns() - began) / 1e9);
    return 0;
}

static int receive_all(int argc, char **argv)
{
    if (argc != 3) return 2;
    struct sockaddr_in at = { .sin_family = AF_INET, .sin_port = htons(atoi(argv[2])) };
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK, 0), room = RECEIVE_BUFFER;
    if (setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &room, sizeof room) < 0)
        setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &room, sizeof room);
    if (bind(fd, (struct sockaddr *)&at, sizeof at) < 0) { perror("bind"); return 1; }
    puts("ready");
    fflush(stdout);
    static char buffers[BATCH][SIZE];
    struct mmsghdr messages[BATCH] = { 0 };
    struct iovec vectors[BATCH];
    for (int i = 0; i < BATCH; i++) {
        vectors[i] = (struct iovec){ buffers[i], SIZE };
        messages[i].msg_hdr.msg_iov = &vectors[i];
        messages[i].msg_hdr.msg_iovlen = 1;
    }
    struct pollfd polled[2] = { { fd, POLLIN, 0 }, { 0, POLLIN, 0 } };
    uint64_t received = 0;
    for (;;) {
        poll(polled, 2, -1);
        int n;
        while ((n = recvmmsg(fd, messages, BATCH, MSG_DONTWAIT, NULL)) > 0) received += n;
        if (polled[1].revents) break;
    }
    printf("%lu\n", received);
    return 0;
}

int main(int argc, char **argv)
{
    if (argc > 1 && !strcmp(argv[1], "send")) return send_all(argc, argv);
    if (argc > 1 && !strcmp(argv[1], "receive")) return receive_all(argc, argv);
    return 2;
}
