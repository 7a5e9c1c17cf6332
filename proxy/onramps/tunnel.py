"""One connected tunnel: a SEQPACKET socket, and a queue of packets while its client does not read."""

from __future__ import annotations

import socket
from collections import deque
from collections.abc import Callable
from ipaddress import ip_address
from typing import Any

from proxy.context import TunnelContext
from proxy.device.seqpacket import is_end_of_file
from proxy.errors import DropReason
from proxy.flow.tenant import Tenant
from proxy.kernel.carrier import RampCarrier
from proxy.kernel.pump import RampPump
from proxy.packet.plane import Plane
from proxy.poller import IN, OUT, Poller
from proxy.settings.parts import DEFAULT_NETWORK

QUEUE_BYTES = 8 << 20  # for a client that does not read: more than the windows of all its flows together


class Tunnel(RampCarrier):
    """An accepted client's tunnel. `closed(tunnel)` is called once, when the client hangs up."""

    kind = "connected"

    def __init__(
        self,
        tunnel_id: str,
        sock: socket.socket,
        context: TunnelContext[Any],
        tenant: Tenant,
        addresses: frozenset[bytes],
        plane: Plane,
        poller: Poller,
        tun: int,
        closed: Callable[[Tunnel], None],
    ) -> None:
        """`tun`: the descriptor of the bridge's TUN device with the same headers."""
        offload = context.offload is not None
        super().__init__(
            tunnel_id, tenant, plane, mtu=context.mtu, offload=offload, user=context.user, device=context.device,
            network=context.network or DEFAULT_NETWORK, owned=addresses,
        )  # fmt: skip
        self.context = context
        self.extension = context.extension
        self.owns = addresses.__contains__
        self._addresses = addresses
        self._sock, self._send, self._poller, self._closed = sock, sock.send, poller, closed
        self._queue: deque[bytes] = deque()
        self.pump = RampPump(
            sock, tun, self.header_bytes, self.paths, self.sessions, self.take, self._has_ended, self.count,
            self.forwards,
        )  # fmt: skip
        poller.watch(sock.fileno(), IN, self._ready, self.crashed)

    @property
    def addresses(self) -> list[str]:
        return [str(ip_address(packed)) for packed in sorted(self._addresses, key=lambda a: (len(a), a))]

    def send(self, packet: bytes | memoryview) -> None:
        """Send a packet to the client, or queue it until the client reads."""
        if not self._queue:
            try:
                self._send(packet)
                self.packets_out += 1
                self.bytes_out += len(packet)
                return
            except BlockingIOError:
                pass
            except OSError:  # the client hung up, as the next read shows
                self.count(DropReason.TUNNEL_CLOSED)
                return
        self._enqueue(bytes(packet))

    def close(self) -> None:
        """Hang up. The caller ends the flows."""
        if self.is_closed:
            return
        self.is_closed = True
        self._poller.forget(self._sock.fileno())
        self._sock.close()
        self.tenant.held_bytes -= self.queued_bytes
        self._queue.clear()
        self.queued_bytes = 0

    def _ready(self, events: int) -> None:
        if events & OUT:
            self._flush()
        if events & ~OUT and not self.is_closed:
            self.pump.ready(events)

    def _has_ended(self) -> bool:
        if self.is_closed:
            return True
        if not is_end_of_file(self._sock):
            return False
        self.close()
        self._closed(self)
        return True

    def _enqueue(self, packet: bytes) -> None:
        limit = self.tenant.settings.limits.bytes_held
        size = len(packet)
        if self.is_closed or self.queued_bytes + size > QUEUE_BYTES or self.tenant.held_bytes + size > limit:
            self.count(DropReason.TUNNEL_CLOSED if self.is_closed else DropReason.TUNNEL_FULL)
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
                self.packets_out += 1
                self.bytes_out += len(queue[0])
            except BlockingIOError:
                return
            except OSError:  # the client hung up, as the next read shows
                self.count(DropReason.TUNNEL_CLOSED)
            size = len(queue.popleft())
            self.queued_bytes -= size
            self.tenant.held_bytes -= size
        self._poller.change(self._sock.fileno(), IN)
