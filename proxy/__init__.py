"""A proxy that takes raw IP packets of many tenants from tunnels, tracks them as flows, and lifts flows to streams.

    device --(tunnel)--> on-ramp --> flow table --> path --> off-ramp --> origin
                              first packet only: hooks, policy, route   (memoised for all that follow)

Words
    tenant      the customer that a packet belongs to; every key, table, pool and counter is inside one
    tunnel      a carrier of raw IP packets with context
    context     facts about a tunnel or flow besides its bytes: tenant, user, device
    on-ramp     where traffic enters; off-ramp: where it leaves
    flow        both directions of one exchange: tenant, addresses, ports (or ICMP identifier), protocol
    path        the memoised handling of one direction of a flow
    upgrade     packets to stream; downgrade: stream to packets
    relay       bytes moved between two sockets, unread
    session     two connected sockets and their flow, read by an inspector
    inspector   a process without privileges that reads sessions: TLS, HTTP, SSH
    origin      the server at the far end

Layers, each importing only those before it (ARCHITECTURE.md says what is in each; tests/meta enforces the order)
    errors context verdict settings    leaves
    ca          authorities of tenants
    wire        parses and builds packets and messages
    flow        assigns packets to flows, and records them
    hooks policy    decide about flows, and about what is in them
    session inspect    the messages to inspectors, and the inspectors
    packet      the packet plane: one packet in, one path out
    device kernel   TUN, tunnels, the kernel's TCP in a private namespace, forwarding by the kernel
    offramps stream onramps    where traffic leaves, flows as streams and datagrams, where traffic enters
    telemetry control    records and metrics, the API
    app         the composition root
"""

__version__ = "0.1.0"
