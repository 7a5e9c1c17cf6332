"""Traffic generators, which run inside a node's namespace as `python -m oxyctl.traffic`, and their client.

The program reads requests from standard input and writes progress and reports to standard output, all as lines of JSON
(`client` holds both ends of that contract). It knows nothing of labs.

An *exchange* is one thing that is sent and answered: a request, a connect, a datagram, an echo, a query. It succeeds,
or fails with a *kind*: one word such as `refused`, `timeout` or `nxdomain`.

    config      what can be asked for, one structure per kind of traffic
    targets     `host:port` and URLs, taken apart
    drive       exchanges in time: closed loop, or open loop at a rate
    timer       a clock that wakes to the microsecond
    tally       what happened, counted, and the distribution of latencies
    failures    why an exchange failed, as one word
    http websocket tcp udp ping dns     one file per kind of traffic
    http_connection, http2_connection   one connection, and the response that is read from it
    http2_wire  one connection of HTTP/2, a stream after another
    tls         contexts of those kinds that have TLS
    datagrams   what the datagram kinds share: which answer belongs to which, order, jitter
    messages    DNS messages, as bytes and back
    run         from a request to its report
    client      the other end: start the program, ask it, follow it
"""
