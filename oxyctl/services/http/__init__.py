"""The `http` and `https` services: HTTP/1.1 by h11, HTTP/2 by h2, with resources that make a transfer easy to check.

GET  /                 who you are to the server, when, and what you asked; JSON with `Accept: application/json`
GET  /bytes/N          N bytes, up to 1 TiB, the same ones each time; Range works
GET  /bytes/N.sha256   the SHA-256 of those bytes: compare with `curl http://web/bytes/N | sha256sum`
GET  /headers          the request's headers, in JSON
GET  /status/CODE      an empty answer with that status, 200 to 599
GET  /delay/SECONDS    an answer after so long
GET  /drip/N           N bytes, one every 0.1 s; `?interval=SECONDS` for another pace
GET  /events/N         N server-sent events, one every 0.1 s; `?interval=SECONDS` for another pace
GET  /ws               a WebSocket that sends each message back; over HTTP/2 by extended CONNECT (RFC 8441)
GET  /broken/KIND      an answer that breaks HTTP: short, long, cut, reset, lengths, framings, garbage, header, nothing
POST /echo             the body, sent back as it comes
POST /sink             {"bytes": ..., "sha256": ...} of the body; `?sha256=no` only counts
POST (gRPC)            whatever method is called, each message sent back as it comes, and status 0
GET  /path             a file below the node's `root`; where there is one, it comes before all of the above

content      the bytes of /bytes/N
messages     requests, responses, and the byte ranges they speak of
resources    the table above
answering    from a request to its response
grpc         calls
websocket    /ws
broken       /broken/KIND
closing      connections that end other than well
files        what is below `root`
connection   one connection of HTTP/1.1, request after request
h2_connection, h2_stream   one connection of HTTP/2, a task for each stream
server       listening, in the clear (HTTP/2 by prior knowledge) or with TLS (by ALPN)
"""
