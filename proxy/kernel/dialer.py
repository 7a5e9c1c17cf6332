"""The bridge in reverse: a socket in the private namespace dials a virtual peer, and its packets go into a tunnel.

    socket -- SYN --> TUN --> BridgePump: as from the client to its destination --> egress tunnel
    socket <-- TUN <-- RampPump of the egress tunnel: as from the virtual peer <-- SYN-ACK

The peer is virtual so that flows with equal addresses, of two tenants or of two networks, never meet in the kernel.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping

from proxy.errors import DropReason
from proxy.flow.flow import Flow
from proxy.flow.keys import reverse_key
from proxy.flow.path import Path
from proxy.flow.tenant import Carrier
from proxy.kernel.bridge import FAMILIES, Bridge
from proxy.kernel.private import PrivateNamespace
from proxy.kernel.tos import set_tos
from proxy.packet.routes import flow_hash
from proxy.packet.translate import set_reverse, set_rewrite
from proxy.wire import ip
from proxy.wire.ip import IPPacket

POOL = 32  # made per visit to the namespace's thread: a visit costs 100 us, a socket 5 us
HEADERS = {4: 40, 6: 60}  # IP and TCP headers: MTU minus MSS
MAX_MSS = 32_767  # the kernel's limit for TCP_MAXSEG
IP_RECVERR, IPV6_RECVERR = 11, 25


class Dialer:
    """Makes legs: sockets of the private namespace whose peers are behind tunnels."""

    def __init__(self, namespace: PrivateNamespace, bridges: Mapping[int, Bridge]) -> None:
        """`bridges`: by size of the virtio-net header, 0 plain and 10 with offload."""
        self._namespace, self._bridges = namespace, bridges
        self._idle: dict[int, list[socket.socket]] = {4: [], 6: []}

    def dial(self, flow: Flow, egress: Carrier, tos: int = 0) -> Leg:
        """A leg whose socket connects to the flow's destination through the tunnel `egress`, from the client's own
        address and port. `tos` is set on its packets. Raises OSError if there are no sockets left."""
        version = 4 if len(flow.source) == 4 else 6
        bridge = self._bridges[egress.header_bytes]
        sock = self._take(version)
        try:
            mss = min(egress.mtu - HEADERS[version], MAX_MSS)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, mss)
            if tos:
                set_tos(sock, tos)
            text, peer, peer_port = bridge.next_peer(version)
            code = sock.connect_ex((text, peer_port))
            port: int = sock.getsockname()[1]
        except BaseException:
            sock.close()
            raise
        ports = port.to_bytes(2, "big") + peer_port.to_bytes(2, "big")
        inside = bridge.near_address(version) + peer + ports
        return Leg(sock, code, bridge, inside, flow, egress)

    def close(self) -> None:
        for sockets in self._idle.values():
            while sockets:
                sockets.pop().close()

    def _take(self, version: int) -> socket.socket:
        idle = self._idle[version]
        if not idle:
            idle += self._namespace.run(_make, version)
        return idle.pop()


class Leg:
    """The origin's side of a flow that goes back to packets: its socket, and the paths of both directions."""

    __slots__ = ("_bridge", "_egress", "_inside", "_reply_key", "code", "inward", "outward", "sock")

    def __init__(
        self, sock: socket.socket, code: int, bridge: Bridge, inside: bytes, flow: Flow, egress: Carrier
    ) -> None:
        """`inside`: addresses and ports of the socket's packets. `code`: the result of its connect(2)."""
        self.sock, self.code = sock, code
        self._bridge, self._egress, self._inside = bridge, egress, inside
        self._reply_key = reverse_key(flow.outbound_key)
        self.outward, self.inward = Path(), Path()
        set_rewrite(self.outward, inside, flow.outbound_key)
        set_reverse(self.inward, self.outward, reverse_key(inside))
        self.outward.send = egress.sender(flow_hash(ip.TCP, flow.key))
        bridge.paths[inside] = self.outward
        egress.paths[self._reply_key] = self.inward

    def packet(self, buffer: bytearray, packet: IPPacket) -> DropReason | None:
        """Give the kernel a checked packet from the tunnel for which no path is memoised."""
        return self._bridge.write(buffer, packet, self.inward)

    def error(self, buffer: bytes | bytearray, packet: IPPacket) -> DropReason | None:
        """Give the socket an ICMP error from the tunnel that quotes a packet of this leg."""
        return self._bridge.report(buffer, packet, self._inside)

    def forget_answers(self) -> None:
        """Stop memoising packets from the tunnel, so that the start of a new connection is seen."""
        if self._egress.paths.get(self._reply_key) is self.inward:
            del self._egress.paths[self._reply_key]

    def release(self) -> None:
        """Forget the leg's addresses. Later packets of the kernel for it are dropped as stray."""
        self._bridge.paths.pop(self._inside, None)
        self.forget_answers()


def _make(version: int) -> list[socket.socket]:
    """Sockets of the calling thread's namespace: fewer if descriptors run out. Raises OSError if there are none."""
    made: list[socket.socket] = []
    try:
        for _ in range(POOL):
            made.append(_socket(version))
    except OSError:
        if not made:
            raise
    return made


def _socket(version: int) -> socket.socket:
    sock = socket.socket(FAMILIES[version], socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)
    if version == 4:
        sock.setsockopt(socket.IPPROTO_IP, IP_RECVERR, 1)
    else:
        sock.setsockopt(socket.IPPROTO_IPV6, IPV6_RECVERR, 1)
    return sock
