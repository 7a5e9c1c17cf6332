"""The `http` and `https` services: HTTP/1.1 by h11, with resources that make a transfer easy to check.

GET  /                 who you are to the server, when, and what you asked; JSON with `Accept: application/json`
GET  /bytes/N          N bytes, up to 1 TiB, the same ones each time; Range works
GET  /bytes/N.sha256   the SHA-256 of those bytes: compare with `curl http://web/bytes/N | sha256sum`
GET  /headers          the request's headers, in JSON
GET  /status/CODE      an empty answer with that status, 200 to 599
GET  /delay/SECONDS    an answer after so long
GET  /drip/N           N bytes, one every 0.1 s; `?interval=SECONDS` for another pace
GET  /events/N         N server-sent events, one every 0.1 s; `?interval=SECONDS` for another pace
GET  /ws               a WebSocket that sends each message back
GET  /broken/KIND      an answer that breaks HTTP: short, long, cut, lengths, framings, garbage, header, nothing
POST /echo             the body, sent back as it comes
POST /sink             {"bytes": ..., "sha256": ...} of the body; `?sha256=no` only counts
GET  /path             a file below the node's `root`; where there is one, it comes before all of the above

content      the bytes of /bytes/N
messages     requests, responses, and the byte ranges they speak of
resources    the table above
websocket    /ws
broken       /broken/KIND
files        what is below `root`
connection   one connection, request after request
server       listening, in the clear or with TLS
"""
