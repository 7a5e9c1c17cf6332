"""The `http` and `https` services: HTTP/1.1 by h11, HTTP/2 by h2, with resources that make a transfer easy to check.

GET  /                 your address as the server sees it, the time, your request; JSON with `Accept: application/json`
GET  /bytes/N          N bytes, up to 1 TiB, the same each time; Range works
GET  /bytes/N.sha256   the SHA-256 of those bytes: compare with `curl http://web/bytes/N | sha256sum`
GET  /headers          the request's headers, in JSON
GET  /status/CODE      an empty response with that status, 200 to 599
GET  /delay/SECONDS    a response after this time
GET  /drip/N           N bytes, one every 0.1 s or `?interval=SECONDS`
GET  /events/N         N server-sent events, one every 0.1 s or `?interval=SECONDS`
GET  /ws               a WebSocket that sends each message back; over HTTP/2 by extended CONNECT (RFC 8441)
GET  /broken/KIND      an invalid response: short, long, cut, reset, lengths, framings, garbage, header, nothing
POST /echo             the body, sent back as it arrives
POST /sink             {"bytes": ..., "sha256": ...} of the body; `?sha256=no` only counts
POST (gRPC)            any method: each message sent back as it arrives, then status 0
GET  /path             a file below the node's `root`; it takes precedence over all of the above

content      the bytes of /bytes/N
messages     requests, responses, and byte ranges
resources    the table above
answering    chooses the response to a request
grpc         gRPC calls
websocket    /ws
broken       /broken/KIND
closing      abnormal ends of connections
files        files below `root`
connection   one HTTP/1.1 connection, request after request
h2_connection, h2_stream   one HTTP/2 connection, a task for each stream
server       listening, in the clear (HTTP/2 by prior knowledge) or with TLS (by ALPN)
"""
