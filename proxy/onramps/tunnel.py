"""One connected tunnel: what it may send, what waits until its client reads, and its packets' way in."""

from __future__ import annotations

import socket
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from proxy.context import TunnelContext
from proxy.device.seqpacket import is_end_of_file
from proxy.errors import DropReason
from proxy.flow.flow import Path
from proxy.flow.tenant import Tenant
from proxy.kernel.pump import TunnelPump
from proxy.packet.fragment import split
from proxy.packet.plane import Plane
from proxy.poller import IN, OUT, Poller
from proxy.wire.virtio import HEADER_BYTES, NO_OFFLOAD

QUEUE_BYTES = 8 << 20  # for a client that does not read: beyond the windows of the flows that a client has at once
CONTROL = 0x7B  # "{": no IP version begins with it


class Tunnel:
    """A Carrier over a connected SEQPACKET socket. `closed(tunnel)` is called once, when the client hangs up."""

    kind = "connected"

    def __init__(
        self,
        tunnel_id: str,
        sock: socket.socket,
        context: TunnelContext,
        tenant: Tenant,
        addresses: frozenset[bytes],
        plane: Plane,
        poller: Poller,
        tun: int,
        closed: Callable[[Tunnel], None],
    ) -> None:
        self.id, self.context, self.tenant, self.addresses = tunnel_id, context, tenant, addresses
        self.user, self.device, self.mtu = context.user, context.device, context.mtu
        self.header_bytes = HEADER_BYTES if context.offload else 0
        self.paths: dict[bytes, Path] = {}
        self.sessions: dict[bytes, Any] = {}
        self.owns = addresses.__contains__
        self.is_closed = False
        self.opened_ns = time.time_ns()
        self.packets_out = self.bytes_out = 0
        self.queued_bytes = 0
        self._sock, self._send, self._plane, self._poller, self._closed = sock, sock.send, plane, poller, closed
        self._queue: deque[bytes] = deque()
        self._fragment_ids = 0
        self.pump = TunnelPump(
            sock, tun, self.header_bytes, self.paths, self.sessions, self._slow, self._has_ended, self._count
        )
        poller.watch(sock.fileno(), IN, self._ready, self.crashed)

    def __repr__(self) -> str:
        return f"<tunnel {self.id} of {self.tenant.name}>"

    def send(self, packet: bytes | memoryview) -> None:
        """Pass a packet (with its virtio-net header, if this tunnel has them) to the client, or let it wait."""
        self.packets_out += 1
        self.bytes_out += len(packet)
        if not self._queue:
            try:
                self._send(packet)
                return
            except BlockingIOError:
                pass
            except OSError:  # it hung up; the next read says so
                self._count(DropReason.TUNNEL_CLOSED)
                return
        self._enqueue(bytes(packet))

    def deliver(self, packet: bytes) -> None:
        """Send a bare IP packet without options, in fragments when it is larger than the tunnel's MTU."""
        prefix = NO_OFFLOAD if self.header_bytes else b""
        if len(packet) <= self.mtu:
            self.send(prefix + packet)
            return
        self._fragment_ids += 1
        for piece in split(packet, self.mtu, self._fragment_ids):
            self.send(prefix + piece)

    def close(self) -> None:
        """Hang up; the caller ends the flows."""
        if self.is_closed:
            return
        self.is_closed = True
        self._poller.forget(self._sock.fileno())
        self._sock.close()
        self.tenant.held_bytes -= self.queued_bytes
        mine = self.pump.packets, self.pump.octets, self.packets_out, self.bytes_out
        before = self.tenant.closed_traffic
        self.tenant.closed_traffic = (
            before[0] + mine[0],
            before[1] + mine[1],
            before[2] + mine[2],
            before[3] + mine[3],
        )
        self._queue.clear()
        self.queued_bytes = 0

    def crashed(self, error: BaseException) -> None:
        """A bug while a packet was handled: that packet is lost, the tunnel goes on."""
        self._count(DropReason.PROXY_ERROR)

    def _ready(self, events: int) -> None:
        if events & OUT:
            self._flush()
        if events & ~OUT and not self.is_closed:
            self.pump.ready(events)

    def _slow(self, buffer: bytearray, end: int) -> None:
        if end and buffer[0] == CONTROL and not self.header_bytes:
            reason: DropReason | None = DropReason.BAD_CONTROL
        else:
            reason = self._plane.handle(self, buffer, end, time.monotonic(), time.time_ns())
        if reason is not None:
            self._count(reason)

    def _has_ended(self) -> bool:
        if self.is_closed:
            return True
        if not is_end_of_file(self._sock):
            return False
        self.close()
        self._closed(self)
        return True

    def _count(self, reason: DropReason) -> None:
        self.tenant.drops[reason] += 1

    def _enqueue(self, packet: bytes) -> None:
        limit = self.tenant.settings.limits.bytes_held
        size = len(packet)
        if self.is_closed or self.queued_bytes + size > QUEUE_BYTES or self.tenant.held_bytes + size > limit:
            self._count(DropReason.TUNNEL_CLOSED if self.is_closed else DropReason.TUNNEL_FULL)
            return
        if not self._queue:
            self._poller.change(self._sock.fileno(), IN | OUT)
        self._queue.append(packet)
        self.queued_bytes += size
        self.tenant.held_bytes += size

    def _flush(self) -> None:
        queue = self._queue
        while queue:
            try:
                self._send(queue[0])
            except BlockingIOError:
                return
            except OSError:  # it hung up; the next read says so
                self._count(DropReason.TUNNEL_CLOSED)
            size = len(queue.popleft())
            self.queued_bytes -= size
            self.tenant.held_bytes -= size
        self._poller.change(self._sock.fileno(), IN)
