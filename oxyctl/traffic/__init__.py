"""Traffic generators, which run inside a node's namespace as `python -m oxyctl.traffic`, and their client.

The program reads requests from standard input and writes progress and reports to standard output, all as lines of JSON
(`client` holds both ends of that contract). It knows nothing of labs.

An *exchange* is one thing that is sent and answered: a request, a connect, a datagram, an echo, a query. It succeeds,
or fails with a *kind*: one word such as `refused`, `timeout` or `nxdomain`.

    config      requests, one structure per kind of traffic
    targets     `host:port` and URLs, parsed
    drive       schedules exchanges: closed loop, or open loop at a rate
    timer       a timer with microsecond resolution
    tally       counters, and the distribution of latencies
    failures    why an exchange failed, as one word
    http websocket tcp udp ping dns     one file per kind of traffic
    http_connection, http2_connection   one connection, and the response that is read from it
    http2_wire  one HTTP/2 connection, one stream after another
    tls         contexts for the kinds that use TLS
    datagrams   what the datagram kinds share: matching answers, order, jitter
    messages    encodes and decodes DNS messages
    run         from a request to its report
    client      the other end: starts the program, sends requests, follows progress
"""
