/* The hot loop in C: what a compiled program makes of the same system calls, beside which bench/packets.py sets ours.
 *
 *   forwarder TUN RAMP FEED FLOWS ROUNDS BYTES     the first three are descriptors, made by bench/hotloop.py
 *
 *   forwarder UDP RAMP FEED FLOWS ROUNDS BYTES client      no NAT: a hop less, then sent behind a GUE header by a
 *                                                          connected UDP socket, as from a client to a site
 *   forwarder UDP RAMP FEED FLOWS ROUNDS BYTES site        RAMP is a UDP socket too, and GUE headers come off
 *
 * In each round a packet of every flow is put into FEED (not timed); then all are moved from RAMP (a SEQPACKET socket)
 * through hash lookup and NAT to TUN: epoll_wait, up to 64 times recv and write, until nothing is left (timed).
 * Prints the nanoseconds of processor time for one packet: others on the core do not count.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { HEADROOM = 64, CONTEXT = 28, BUDGET = 64, SLOTS = 1 << 16, KEY = 12, BUFFER = 65586 };

struct path {
    unsigned char key[KEY], rewritten[KEY];
    uint32_t ip_delta, l4_delta;
    uint64_t packets, octets;
    int used;
};

static struct path table[SLOTS];
static unsigned char room[HEADROOM + BUFFER], *buffer = room + HEADROOM;
static unsigned char header[CONTEXT] = { 6, 4, 0, 0, 'O', 'X', 1, 1, 4, 0, 0, 0, 7, 2, 4, 0, 0, 0, 1, 3, 6, 's', 'e', 'c' };
static int forwards, from_site;

static uint32_t hash(const unsigned char *key)
{
    uint32_t h = 2166136261u;
    for (int i = 0; i < KEY; i++) h = (h ^ key[i]) * 16777619u;
    return h % SLOTS;
}

static struct path *find(const unsigned char *key)
{
    uint32_t slot = hash(key);
    while (table[slot].used && memcmp(table[slot].key, key, KEY)) slot = (slot + 1) % SLOTS;
    return &table[slot];
}

static uint16_t get16(const unsigned char *at) { return at[0] << 8 | at[1]; }
static void put16(unsigned char *at, uint16_t v) { at[0] = v >> 8; at[1] = v; }

static uint32_t sum(const unsigned char *data, int n)
{
    uint32_t total = 0;
    for (int i = 0; i < n; i += 2) total += get16(data + i);
    return total % 0xFFFF;
}

static void update(unsigned char *field, uint32_t delta)
{
    uint32_t c = 0xFFFFu - get16(field) + delta;
    put16(field, 0xFFFF - ((c & 0xFFFF) + (c >> 16)));
}

static void make_packet(unsigned char *p, int flow, int size)
{
    memset(p, 0, size);
    p[0] = 0x45;
    put16(p + 2, size);
    p[8] = 64;
    p[9] = 6;
    uint32_t source = htonl(0x64600002u + flow), destination = htonl(0x0A32000Au); /* 100.96.0.2.., 10.50.0.10 */
    memcpy(p + 12, &source, 4);
    memcpy(p + 16, &destination, 4);
    put16(p + 20, 20000 + flow);
    put16(p + 22, 80);
    p[32] = 5 << 4;
    p[33] = 0x10;
    uint32_t s = sum(p, 20);
    put16(p + 10, 0xFFFF - (s ? s : 0xFFFF));
}

static uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (uint64_t)t.tv_sec * 1000000000u + t.tv_nsec;
}

static ssize_t receive(int ramp)
{
    struct sockaddr_in peer;
    char control[128];
    struct iovec into = { buffer - CONTEXT, BUFFER };
    struct msghdr message = { &peer, sizeof peer, &into, 1, control, sizeof control, 0 };
    ssize_t n = recvmsg(ramp, &message, 0);
    if (n < CONTEXT || memcmp(buffer - CONTEXT, header, CONTEXT)) return -1;
    struct cmsghdr *c = CMSG_FIRSTHDR(&message);
    if (peer.sin_addr.s_addr != htonl(INADDR_LOOPBACK) || !c || c->cmsg_type != IP_TOS || *CMSG_DATA(c) & 3) return -1;
    return n - CONTEXT;
}

static void move(int epoll_fd, int ramp, int tun)
{
    struct epoll_event event;
    while (epoll_wait(epoll_fd, &event, 1, 0) > 0) {
        for (int i = 0; i < BUDGET; i++) {
            ssize_t n = from_site ? receive(ramp) : recv(ramp, buffer, BUFFER, 0);
            if (n < 40) break;
            if (buffer[0] != 0x45 || get16(buffer + 2) != n || get16(buffer + 6) & 0x3FFF || buffer[9] != 6) continue;
            struct path *path = find(buffer + 12);
            if (!path->used) continue;
            path->packets++;
            path->octets += n;
            if (forwards) {
                if (sum(buffer, 20) || buffer[8] < 2 || buffer[33] & 7) continue;
                buffer[8]--;
                update(buffer + 10, 0xFEFF);
                memcpy(buffer - CONTEXT, header, CONTEXT);
                if (send(tun, buffer - CONTEXT, n + CONTEXT, 0) < 0 && errno != EAGAIN) { perror("send"); exit(1); }
                continue;
            }
            update(buffer + 10, path->ip_delta);
            memcpy(buffer + 12, path->rewritten, KEY);
            update(buffer + 36, path->l4_delta);
            if (write(tun, buffer, n) < 0 && errno != EAGAIN) { perror("write"); exit(1); }
        }
    }
}

int main(int argc, char **argv)
{
    if (argc != 7 && argc != 8) return 2;
    forwards = argc == 8;
    from_site = forwards && !strcmp(argv[7], "site");
    int tun = atoi(argv[1]), ramp = atoi(argv[2]), feed = atoi(argv[3]);
    int flows = atoi(argv[4]), rounds = atoi(argv[5]), size = atoi(argv[6]);
    for (int i = 0; i < flows; i++) {
        make_packet(buffer, i, size);
        struct path *path = find(buffer + 12);
        path->used = 1;
        memcpy(path->key, buffer + 12, KEY);
        uint32_t client = htonl(0xC6120002u), listener = htonl(0xC6120001u);
        memcpy(path->rewritten, &client, 4);
        memcpy(path->rewritten + 4, &listener, 4);
        put16(path->rewritten + 8, 1024 + i);
        put16(path->rewritten + 10, 9000);
        path->ip_delta = (sum(path->rewritten, 8) + 0xFFFF - sum(path->key, 8)) % 0xFFFF;
        path->l4_delta = (sum(path->rewritten, 12) + 0xFFFF - sum(path->key, 12)) % 0xFFFF;
    }
    int epoll_fd = epoll_create1(0);
    struct epoll_event event = { .events = EPOLLIN, .data.fd = ramp };
    epoll_ctl(epoll_fd, EPOLL_CTL_ADD, ramp, &event);
    uint64_t took = 0;
    for (int round = 0; round < rounds; round++) {
        for (int i = 0; i < flows;) {
            for (int burst = 0; burst < (from_site ? 100 : flows) && i < flows; burst++, i++) {
                make_packet(buffer, i, size);
                int before = from_site ? CONTEXT : 0;
                memcpy(buffer - CONTEXT, header, CONTEXT);
                if (send(feed, buffer - before, size + before, 0) < 0) { perror("send"); return 1; }
            }
            uint64_t began = now_ns();
            move(epoll_fd, ramp, tun);
            took += now_ns() - began;
        }
    }
    uint64_t moved = 0;
    for (int i = 0; i < SLOTS; i++) moved += table[i].packets;
    if (moved != (uint64_t)flows * rounds) { fprintf(stderr, "moved %lu\n", moved); return 1; }
    printf("%f\n", (double)took / moved);
    return 0;
}
