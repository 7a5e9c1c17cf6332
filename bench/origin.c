/* The smallest origin server that will do where nginx is not installed: 1 KiB for every GET, from one thread.
 *
 *   origin PORT
 */
#define _GNU_SOURCE
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum { BODY = 1024, EVENTS = 256, REQUEST = 4096 };

static char answer[2][BODY + 256]; /* [1]: the last on its connection */
static size_t length[2];

static void serve(int fd)
{
    char request[REQUEST + 1];
    ssize_t n = recv(fd, request, REQUEST, 0); /* the load generators send a request in one piece */
    if (n <= 0) { close(fd); return; }
    request[n] = 0;
    int last = strcasestr(request, "connection: close") || strstr(request, "HTTP/1.0");
    if (send(fd, answer[last], length[last], MSG_NOSIGNAL) < 0 || last) close(fd);
}

int main(int argc, char **argv)
{
    if (argc != 2) return 2;
    for (int last = 0; last < 2; last++) {
        int n = sprintf(answer[last], "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n%s\r\n", BODY,
                        last ? "Connection: close\r\n" : "");
        memset(answer[last] + n, 'x', BODY);
        length[last] = n + BODY;
    }
    struct sockaddr_in at = { .sin_family = AF_INET, .sin_port = htons(atoi(argv[1])) };
    int one = 1, listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), epoll_fd = epoll_create1(0);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    setsockopt(listener, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (bind(listener, (struct sockaddr *)&at, sizeof at) < 0 || listen(listener, 4096) < 0) { perror("origin"); return 1; }
    struct epoll_event event = { .events = EPOLLIN, .data.fd = listener }, events[EVENTS];
    epoll_ctl(epoll_fd, EPOLL_CTL_ADD, listener, &event);
    for (;;) {
        int n = epoll_wait(epoll_fd, events, EVENTS, -1);
        for (int i = 0; i < n; i++) {
            if (events[i].data.fd != listener) { serve(events[i].data.fd); continue; }
            for (int fd; (fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0;) {
                struct epoll_event added = { .events = EPOLLIN, .data.fd = fd };
                epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &added);
            }
        }
    }
}
