"""The memoised handling of one direction of a flow, with its counters."""

from __future__ import annotations

from typing import Any


class KernelPath:
    """The memoised handling of one direction of a flow that leaves by the kernel, and its counters.

    Less than half the size of a `Path`, as there may be a million such flows.
    """

    __slots__ = ("exit", "mtu", "octets", "packets", "send")

    def __init__(self) -> None:
        self.packets = 0
        self.octets = 0
        self.send: Any = None  # sends packets into the tunnel, or handles the first ones; None: they go to the kernel
        self.exit: Any = None  # writes packets to the kernel, which checks TTL and size
        self.mtu = 0  # of the tunnel


class KernelTCPPath(KernelPath):
    """The same for a TCP connection, which has a beginning and an end."""

    __slots__ = ("flagged", "last")

    def __init__(self) -> None:  # does not call the base's, as each connection makes two
        self.packets = self.octets = self.mtu = 0
        self.send = self.exit = None
        self.flagged: Any = None  # handles FIN and RST: `flagged(data, l4, last)`; None: they take the slow path
        self.last = b""  # sequence and acknowledgement numbers, offset, flags and window of the last packet


class Path(KernelTCPPath):
    """The same for a flow whose packets go to another tunnel, or to sockets of our own.

    `rewritten` replaces addresses and ports in one write. `ip_delta` and `l4_delta` are the resulting differences of
    the sums in the IPv4 header (or in the pseudo-header) and of the transport checksum.
    """

    __slots__ = ("ip_delta", "l4_delta", "peer_socket", "prefix", "raw", "rewritten")

    def __init__(self) -> None:
        super().__init__()
        self.rewritten = b""
        self.ip_delta = 0
        self.l4_delta = 0
        self.prefix: Any = None  # bytes in place of the virtio-net header; None: it is kept, if there is one
        self.raw: Any = None  # sends packets whose outer header needs no TOS: the socket's own method,
        self.peer_socket: Any = None  # and the PeerSocket that counts these and handles errors
