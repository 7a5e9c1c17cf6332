"""Between flows and sockets: a TUN device in the private namespace, virtual addresses, and the listeners there.

A flow that is admitted gets a virtual client address and port; its packets are rewritten to go from there to a
listener, and the socket that the kernel then accepts is the flow's: its peer address names it. Replies come back the
mirror way.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable
from functools import partial
from ipaddress import IPv4Address, IPv6Address

from proxy.device.interface import bring_up
from proxy.device.tun import has_udp_offload, open_tun
from proxy.errors import DropReason, ProxyError
from proxy.flow.flow import Flow, Path
from proxy.kernel.private import PrivateNamespace
from proxy.packet.translate import set_reverse, set_rewrite, translate
from proxy.poller import IN, Poller
from proxy.wire.ip import IPPacket

PORT = 9000
IPV6_FREEBIND = 78
FIRST_PORT, PORTS = 1024, 64_000
ADDRESSES = 60_000  # virtual clients in each range; with the ports of each, a pair returns after 3.8e9 flows
QUEUE = 10_000  # packets the kernel may hold for us; a full queue is loss
ACCEPTS = 64  # connections taken per readiness event

Accepted = Callable[[Flow, socket.socket], None]


class Bridge:
    """One TUN device with or without offload, its ranges (198.18.0.0/15 and a ULA prefix) and its two listeners."""

    def __init__(self, namespace: PrivateNamespace, *, offload: bool, mtu: int, backlog: int) -> None:
        self.offload = offload
        self.paths: dict[bytes, Path] = {}  # TCP from the listeners, by virtual client
        self._awaited: dict[tuple[str, int], Flow] = {}
        self._admitted = 0
        self._host = 0, 0  # version and number of the virtual client in use
        self._host_address = "", b""
        self._v4 = 0xC612_0000 if offload else 0xC613_0000
        self._v6 = 0xFD6F_7879 << 96 | (0 if offload else 1) << 64
        self._listener_v4 = (self._v4 + 1).to_bytes(4, "big")
        self._listener_v6 = (self._v6 + 1).to_bytes(16, "big")
        try:
            self.tun, self.listeners = namespace.run(self._open, mtu, backlog)
        except OSError as error:
            raise ProxyError(
                f"cannot open a TUN device: {error.strerror or error} (is /dev/net/tun there, and may we use it?)"
            ) from error
        self.udp_offload = offload and has_udp_offload(self.tun)

    def start(self, poller: Poller, accepted: Accepted) -> None:
        """Hand each accepted socket to `accepted` with its flow."""
        self._accepted = accepted
        for listener in self.listeners:
            poller.watch(listener.fileno(), IN, partial(self._take, listener), self._lost)

    def close(self, poller: Poller) -> None:
        for listener in self.listeners:
            poller.forget(listener.fileno())
            listener.close()
        poller.forget(self.tun)
        os.close(self.tun)

    def admit(self, flow: Flow) -> None:
        """Give the flow its virtual client and both paths; from now on its packets may pass."""
        version = 4 if len(flow.source) == 4 else 6
        name, address, port = self._next_virtual(version)
        listener = self._listener_v4 if version == 4 else self._listener_v6
        ports = port.to_bytes(2, "big") + PORT.to_bytes(2, "big")
        inside = address + listener + ports
        backwards = listener + address + ports[2:] + ports[:2]
        key = flow.key
        half = len(address)
        answer = key[half : 2 * half] + key[:half] + key[-2:] + key[-4:-2]
        set_rewrite(flow.client_path, key, inside)
        set_reverse(flow.origin_path, flow.client_path, answer)
        flow.origin_path.send = flow.carrier.send
        self.paths[backwards] = flow.origin_path
        self._awaited[name, port] = flow
        flow.virtual = (name, port, backwards)

    def release(self, flow: Flow) -> None:
        """Forget the flow's virtual client; what the kernel still sends for it is dropped as stray."""
        if flow.virtual is not None:
            name, port, backwards = flow.virtual
            self.paths.pop(backwards, None)
            self._awaited.pop((name, port), None)
            flow.virtual = None

    def write(self, buffer: bytearray, packet: IPPacket, flow: Flow) -> DropReason | None:
        """Translate a packet of an admitted flow and give it to the kernel."""
        translate(buffer, packet, flow.client_path)
        path = flow.client_path
        path.packets += 1
        path.octets += packet.end - packet.start
        try:
            os.write(self.tun, memoryview(buffer)[: packet.end])
        except OSError as error:
            return DropReason.BAD_OFFLOAD if error.errno == errno.EINVAL else DropReason.KERNEL_IP
        return None

    def accept(self, version: int) -> None:
        """Take the connection that a packet has just completed: the flow's next packet finds its path memoised."""
        self._take_one(self.listeners[version == 6])

    def _next_virtual(self, version: int) -> tuple[str, bytes, int]:
        count = self._admitted = self._admitted + 1
        host, port = 2 + count // PORTS % ADDRESSES, FIRST_PORT + count % PORTS
        if self._host != (version, host):
            self._host = version, host
            address = IPv4Address(self._v4 + host) if version == 4 else IPv6Address(self._v6 + host)
            self._host_address = str(address), address.packed
        return *self._host_address, port

    def _open(self, mtu: int, backlog: int) -> tuple[int, list[socket.socket]]:
        name = "offload" if self.offload else "plain"
        tun = open_tun(name, offload=self.offload, udp_offload=False)
        addresses = IPv4Address(self._listener_v4), IPv6Address(self._listener_v6)
        try:
            bring_up(name, mtu=mtu, queue=QUEUE, addresses=[f"{addresses[0]}/16", f"{addresses[1]}/64"])
            return tun, [_listen(str(address), backlog) for address in addresses]
        except BaseException:
            os.close(tun)
            raise

    def _lost(self, error: BaseException) -> None:
        """One connection could not be taken over; the listeners go on."""

    def _take(self, listener: socket.socket, events: int) -> None:
        for _ in range(ACCEPTS):
            if not self._take_one(listener):
                return

    def _take_one(self, listener: socket.socket) -> bool:
        try:
            sock, peer = listener.accept()
        except OSError:  # none, or the peer gave up; descriptors were counted when the flow was opened
            return False
        flow = self._awaited.pop(peer[:2], None)
        if flow is None:
            sock.close()
        else:
            sock.setblocking(False)
            self._accepted(flow, sock)
        return True


def _listen(address: str, backlog: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # inherited by what is accepted
    if family == socket.AF_INET6:  # the kernel finishes adding an address in a work queue, after we asked
        listener.setsockopt(socket.IPPROTO_IPV6, IPV6_FREEBIND, 1)
    listener.bind((address, PORT))
    listener.listen(backlog)
    return listener
