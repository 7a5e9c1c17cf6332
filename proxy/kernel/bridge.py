"""The bridge between flows and sockets: a TUN device in the private namespace, virtual addresses, and listeners there.

An admitted flow gets a virtual peer, which is an address and a port; its packets are rewritten to go from there to a
listener. The socket that the kernel then accepts belongs to the flow that its peer address identifies. Replies are
rewritten in reverse. `kernel/dialer.py` uses the same device for sockets that dial a virtual peer.

Each peer has an address of its own, because the kernel keeps a path's MTU per address.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable
from functools import partial
from ipaddress import IPv4Address, IPv6Address

from proxy.device.interface import add_route, bring_up
from proxy.device.tun import has_udp_offload, open_tun
from proxy.errors import DropReason, ProxyError
from proxy.flow.flow import Flow
from proxy.flow.keys import reverse_key
from proxy.flow.path import Path
from proxy.kernel.private import PrivateNamespace
from proxy.packet.translate import set_reverse, set_rewrite, translate
from proxy.poller import IN, Poller
from proxy.wire import icmp, ip
from proxy.wire.ip import IPPacket
from proxy.wire.virtio import NO_OFFLOAD

PORT = 9000
IPV6_FREEBIND = 78
FIRST_PORT, PORTS = 1024, 64_000
PEERS = 0x07FF_FFFE  # addresses in an IPv4 range; each is used with one port, then all with the next port
QUOTED_PORTS = 8  # bytes of the transport header that every ICMP error quotes (RFC 792)
QUEUE = 10_000  # packets queued in the kernel for us; beyond it they are lost
ACCEPTS = 64  # connections accepted per readiness event
FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}

Accepted = Callable[[Flow, socket.socket], None]


class Bridge:
    """One TUN device, with or without offload, its address ranges and two listeners.

    Virtual peers are in 240.0.0.0/4 (reserved, so unused by others), and in a ULA prefix.
    """

    def __init__(self, namespace: PrivateNamespace, *, offload: bool, mtu: int, backlog: int) -> None:
        self.offload = offload
        self.paths: dict[bytes, Path] = {}  # paths of TCP packets from the kernel, by virtual addresses and ports
        self._awaited: dict[tuple[str, int], Flow] = {}
        self._peers = 0
        self._peers_v4 = 0xF000_0000 if offload else 0xF800_0000
        self._peers_v6 = 0xFD6F_7879 << 96 | (2 if offload else 3) << 64
        self._near_v4 = bytes((198, 18 if offload else 19, 0, 1))
        self._near_v6 = (0xFD6F_7879 << 96 | (0 if offload else 1) << 64 | 1).to_bytes(16, "big")
        try:
            self.tun, self.listeners = namespace.run(self._open, mtu, backlog)
        except OSError as error:
            raise ProxyError(
                f"cannot open a TUN device: {error.strerror or error} (is /dev/net/tun there, and may we use it?)"
            ) from error
        self.udp_offload = offload and has_udp_offload(self.tun)

    def start(self, poller: Poller, accepted: Accepted) -> None:
        """Begin to accept: `accepted` gets each flow with its socket."""
        self._accepted = accepted
        for version, listener in self.listeners.items():
            poller.watch(listener.fileno(), IN, partial(self._accept, version), self._lost)

    def close(self, poller: Poller) -> None:
        for listener in self.listeners.values():
            poller.forget(listener.fileno())
            listener.close()
        poller.forget(self.tun)
        os.close(self.tun)

    def admit(self, flow: Flow) -> None:
        """Give the flow its virtual peer and both paths. From now on its packets may pass."""
        version = 4 if len(flow.source) == 4 else 6
        name, address, port = self.next_peer(version)
        listener = self.near_address(version)
        ports = port.to_bytes(2, "big") + PORT.to_bytes(2, "big")
        inside = address + listener + ports
        reply_key = reverse_key(inside)
        set_rewrite(flow.client_path, flow.key, inside)
        set_reverse(flow.origin_path, flow.client_path, reverse_key(flow.key))
        flow.origin_path.send = flow.carrier.send
        self.paths[reply_key] = flow.origin_path
        self._awaited[name, port] = flow
        flow.virtual = (name, port, reply_key)

    def release(self, flow: Flow) -> None:
        """Forget the flow's virtual peer. Later packets of the kernel for it are dropped as stray."""
        if flow.virtual is not None:
            name, port, reply_key = flow.virtual
            self.paths.pop(reply_key, None)
            self._awaited.pop((name, port), None)
            flow.virtual = None

    def write(self, buffer: bytearray, packet: IPPacket, path: Path) -> DropReason | None:
        """Count a packet, translate it by `path`, and give it to the kernel."""
        path.packets += 1
        path.octets += packet.end - packet.start
        return self.give(buffer, packet, path)

    def give(self, buffer: bytearray | memoryview, packet: IPPacket, path: Path) -> DropReason | None:
        """As `write`, for a packet that was counted before."""
        translate(buffer, packet, path)
        try:
            os.write(self.tun, memoryview(buffer)[: packet.end])
        except OSError as error:
            return DropReason.BAD_OFFLOAD if error.errno == errno.EINVAL else DropReason.KERNEL_IP
        return None

    def report(self, buffer: bytes | bytearray, packet: IPPacket, sent: bytes) -> DropReason | None:
        """Give the kernel an ICMP error about a packet of ours, with the quoted packet translated back to `sent`: the
        source, destination and ports that the kernel used. The socket then gets the error, with its sender.

        Of the quoted packet the kernel checks TCP's sequence number, but no checksum.
        """
        version, at, start = packet.version, packet.l4, packet.l4 + icmp.HEADER_BYTES
        quoted = bytearray(buffer[start : packet.end])
        addresses, ports = (12, 20) if version == 4 else (8, 40)
        if len(quoted) < ports + QUOTED_PORTS or buffer[at] not in icmp.REPORTS[version]:
            return DropReason.ICMP_UNSUPPORTED
        if quoted[0] != 0x45 if version == 4 else quoted[0] >> 4 != 6:
            return DropReason.ICMP_UNSUPPORTED
        quoted[addresses:ports] = sent[:-4]
        quoted[ports : ports + 4] = sent[-4:]
        near = self.near_address(version)
        rest = int.from_bytes(buffer[at + 4 : start], "big")
        body = icmp.message(packet.source + near, buffer[at], buffer[at + 1], rest, bytes(quoted))
        head = ip.header(packet.source, near, ip.ICMP if version == 4 else ip.ICMPV6, len(body))
        try:
            os.write(self.tun, (NO_OFFLOAD if self.offload else b"") + head + body)
        except OSError:
            return DropReason.KERNEL_IP
        return None

    def near_address(self, version: int) -> bytes:
        """The kernel's address in the private namespace, used by the listeners and by dialled connections."""
        return self._near_v4 if version == 4 else self._near_v6

    def next_peer(self, version: int) -> tuple[str, bytes, int]:
        """A virtual address that no flow has used recently, as text and packed, and a port."""
        count, self._peers = self._peers, self._peers + 1
        port = FIRST_PORT + count // PEERS % PORTS
        if version == 4:
            packed = (self._peers_v4 + 1 + count % PEERS).to_bytes(4, "big")
            return socket.inet_ntop(socket.AF_INET, packed), packed, port
        packed = (self._peers_v6 + 1 + count).to_bytes(16, "big")
        return socket.inet_ntop(socket.AF_INET6, packed), packed, port

    def accept(self, version: int) -> None:
        """Accept the connection that a packet has just completed, so that the next packet finds a memoised path."""
        self._accept_one(version)

    def _open(self, mtu: int, backlog: int) -> tuple[int, dict[int, socket.socket]]:
        name = "offload" if self.offload else "plain"
        tun = open_tun(name, offload=self.offload, udp_offload=False)
        addresses = IPv4Address(self._near_v4), IPv6Address(self._near_v6)
        try:
            bring_up(name, mtu=mtu, queue=QUEUE, addresses=[f"{addresses[0]}/32", f"{addresses[1]}/128"])
            add_route(name, f"{IPv4Address(self._peers_v4)}/5")
            add_route(name, f"{IPv6Address(self._peers_v6)}/64")
            return tun, {address.version: _listen(str(address), backlog) for address in addresses}
        except BaseException:
            os.close(tun)
            raise

    def _lost(self, error: BaseException) -> None:
        """Ignore that one connection could not be accepted; the listeners stay."""

    def _accept(self, version: int, events: int) -> None:
        for _ in range(ACCEPTS):
            if not self._accept_one(version):
                return

    def _accept_one(self, version: int) -> bool:
        try:  # the core of accept(), which also asks the listener for its family and type each time, at 4 us
            fd, peer = self.listeners[version]._accept()  # type: ignore[attr-defined]  # typeshed has public names only
        except OSError:  # none waits, or the peer gave up; descriptors were counted when the flow was opened
            return False
        sock = socket.socket(FAMILIES[version], socket.SOCK_STREAM, 0, fd)
        flow = self._awaited.pop(peer[:2], None)
        if flow is None:
            sock.close()
        else:
            sock.setblocking(False)
            self._accepted(flow, sock)
        return True


def _listen(address: str, backlog: int) -> socket.socket:
    family = FAMILIES[6 if ":" in address else 4]
    listener = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # accepted sockets inherit this and the next option
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)
    if family == socket.AF_INET6:  # the kernel finishes adding an address asynchronously, in a work queue
        listener.setsockopt(socket.IPPROTO_IPV6, IPV6_FREEBIND, 1)
    listener.bind((address, PORT))
    listener.listen(backlog)
    return listener
