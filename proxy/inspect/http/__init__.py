"""HTTP conversations between a client and its origins, in any pairing of versions.

conversation   the handler of a session's streams: detects the version, keeps time limits, ends the session
exchange       one request and its response: applies policies and hooks, forwards; independent of the version
progress       the state of an exchange; timing: its time limits; recording: its record
messages       heads of requests and responses, as exchanges see them
h1_server      the client's side of HTTP/1.1; h2_server: of HTTP/2
h1_client      the origin's side of HTTP/1.1; h2_client: of HTTP/2
h1_wire        reads and writes heads and chunks of HTTP/1.1, with checks beyond h11's; h1_plain: a fast path for heads
h2_end         common to both sides of HTTP/2; h2_stream: common to their streams; h2_windows: flow control
h2_wire        sends frames within the peer's windows; h2_guard: limits on received frames
h2_data        fast paths around h2: for bodies; h2_heads: for heads; h2_hpack: for header compression
origins        the connections to an origin; assigns requests to them
body           bodies that a hook reads, or that are held until the request has an origin
passing        back-pressure; ruling: verdicts of policies and hooks
forwarding     Via, CDN-Loop, Max-Forwards, Alt-Svc
rules          facts for the policy phase `http`, and effects of its verdicts
websocket      upgraded connections; frames: checks and counts frames; reading: assembles messages for hooks
faults         everything that can go wrong, by name; pages: the responses that report it
limits         sizes and times
front, sides   interfaces between conversation, exchange and the two sides
link           one stream, with its writes batched

The client's side passes each request to an exchange, and is its `Responder`. The exchange gets a connection from
`origins`, its `Requester`. Bodies are streamed: when one side cannot take more, the other is paused.
"""
