"""The memoised handling of one direction of a flow, and what it counts."""

from __future__ import annotations

from typing import Any


class KernelPath:
    """The memoised handling of one direction of a flow that leaves by the kernel, and its counters.

    Less than half the size of a `Path`: of such flows there may be a million.
    """

    __slots__ = ("exit", "mtu", "octets", "packets", "send")

    def __init__(self) -> None:
        self.packets = 0
        self.octets = 0
        self.send: Any = None  # of the tunnel that they leave by, or who greets the first; None: they go to the kernel
        self.exit: Any = None  # writes them to the kernel, which counts their hop and looks at their size
        self.mtu = 0  # of that tunnel


class KernelTCPPath(KernelPath):
    """The same of a TCP connection, which begins and ends."""

    __slots__ = ("flagged", "last")

    def __init__(self) -> None:  # not by its base: a connection makes two
        self.packets = self.octets = self.mtu = 0
        self.send = self.exit = None
        self.flagged: Any = None  # takes those with FIN or RST: `flagged(data, l4, last)`; None: they are looked at
        self.last = b""  # sequence and acknowledgement number, flags and window of the packet that passed last


class Path(KernelTCPPath):
    """The same of a flow whose packets go to another tunnel, or to sockets of our own.

    `rewritten` replaces addresses and ports at once, `ip_delta` and `l4_delta` are what that adds to the IPv4 header's
    sum (or to the pseudo-header's) and to the transport checksum.
    """

    __slots__ = ("ip_delta", "l4_delta", "peer_socket", "prefix", "raw", "rewritten")

    def __init__(self) -> None:
        super().__init__()
        self.rewritten = b""
        self.ip_delta = 0
        self.l4_delta = 0
        self.prefix: Any = None  # bytes instead of the arriving virtio-net header; None: that is kept, if any
        self.raw: Any = None  # sends what needs no mark on its outer header: a socket's own method,
        self.peer_socket: Any = None  # and who counts what it sends, and hears of its errors
