"""A pump between real sockets: a SEQPACKET pair is the tunnel, another one stands in for the TUN device."""

from __future__ import annotations

import socket
from collections import Counter
from collections.abc import Callable
from typing import Any

from proxy.errors import DropReason
from proxy.flow.path import Path
from proxy.kernel.pump import BridgePump, RampPump


def pair() -> tuple[socket.socket, socket.socket]:
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for sock in (near, far):
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
    return near, far


def read_all(sock: socket.socket) -> list[bytes]:
    """Every datagram that waits on `sock`."""
    packets = []
    while True:
        try:
            packets.append(sock.recv(70_000))
        except BlockingIOError:
            return packets


class Ramp:
    """A RampPump; what it gives to the packet plane and what it drops is kept."""

    def __init__(self, header_bytes: int = 0, slow: Callable[[bytearray, int], None] | None = None) -> None:
        self.header_bytes = header_bytes
        self.client, self._near = pair()
        self.kernel, self._tun = pair()
        self.paths: dict[bytes, Path] = {}
        self.sessions: dict[bytes, Any] = {}
        self.forwards: dict[bytes, Path] = {}
        self.slow: list[bytes] = []
        self.drops: Counter[DropReason] = Counter()
        self.ends = 0
        self.is_closed = False
        self.pump = RampPump(
            self._near,
            self._tun.fileno(),
            header_bytes,
            self.paths,
            self.sessions,
            slow or self._slow,
            self._ended,
            self._dropped,
            self.forwards,
        )

    def __enter__(self) -> Ramp:
        return self

    def __exit__(self, *_: object) -> None:
        for sock in (self.client, self._near, self.kernel, self._tun):
            sock.close()

    def _slow(self, buffer: bytearray, end: int) -> None:
        self.slow.append(bytes(buffer[:end]))

    def _dropped(self, reason: DropReason) -> None:
        self.drops[reason] += 1

    def _ended(self) -> bool:
        self.ends += 1
        return self.is_closed

    def give(self, *packets: bytes) -> list[bytes]:
        """Send `packets` from the client, let the pump run once, and return what reached the TUN device."""
        for packet in packets:
            self.client.send(packet)
        self.pump.ready(0)
        return read_all(self.kernel)


class Bridged:
    """A BridgePump whose TUN device is a socket; `sent` is what went to the tunnel."""

    def __init__(self, header_bytes: int = 0) -> None:
        self.kernel, self._tun = pair()
        self.paths: dict[bytes, Path] = {}
        self.sent: list[bytes] = []
        self.pump = BridgePump(self._tun.fileno(), header_bytes, self.paths)

    def __enter__(self) -> Bridged:
        return self

    def __exit__(self, *_: object) -> None:
        for sock in (self.kernel, self._tun):
            sock.close()

    def give(self, *packets: bytes) -> list[bytes]:
        for packet in packets:
            self.kernel.send(packet)
        self.pump.ready(0)
        sent, self.sent = self.sent, []
        return sent

    def keep(self, packet: memoryview) -> None:
        self.sent.append(bytes(packet))
