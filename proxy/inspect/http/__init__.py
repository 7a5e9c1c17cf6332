"""HTTP conversations: what a client and its origin say to each other, whichever versions they speak.

conversation   a handler of the session's streams: which version, time limits, the end
exchange       one request and its response: judged, asked about, sent on. Knows no version; `progress` is its state
messages       the heads of requests and responses as exchanges see them
h1_server      the client's side of HTTP/1.1; h2_server of HTTP/2
h1_client      the origin's side of HTTP/1.1; h2_client of HTTP/2
h1_wire        heads and chunks of HTTP/1.1 as they are written, and what h11 must not let pass; h1_plain: most heads
h2_end         what both sides of HTTP/2 do alike, and h2_stream what their streams do
h2_wire        frames out within the peer's windows; h2_guard bounds what comes in
h2_data        what is as usual passes beside h2: bodies here, heads in h2_heads, their fields in h2_hpack
origins        the connections to origins, and which of them takes a request
body           a body that a hook reads, or that waits until it is known where it goes
passing        who waits for whom; ruling: what policies and hooks say
forwarding     Via, CDN-Loop, Max-Forwards, Alt-Svc
rules          facts for the policy phase `http`, and the effects of its verdicts
websocket      a connection that was upgraded: `frames` checks and counts, `reading` puts messages together for hooks
faults         what can go wrong, by name, and how it is told; pages writes it
limits         sizes and times
front, sides   what these know of each other; timing: how long an exchange may take; recording: its record
link           one stream, with its writes gathered

A server side gives each request to an exchange, and is its `Responder`; the exchange takes a client side from
`origins`, which is its `Requester`. Bodies pass through as they come: a side that cannot write has the other paused.
"""
