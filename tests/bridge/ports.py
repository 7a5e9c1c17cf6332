"""A GuePump on a real UDP socket, with one site; what it gives to the packet plane, and what it refuses, is kept."""

from __future__ import annotations

import socket
import struct
from collections import Counter
from typing import Any

from proxy.errors import DropReason
from proxy.flow.path import Path
from proxy.kernel.tos import UDP_GRO
from proxy.kernel.unconnected import GuePump, Source
from proxy.wire import gue
from tests.bridge.pipes import pair, read_all

GRO = 20  # datagrams in one send that the kernel keeps joined
UDP_SEGMENT = 103
CONTEXT = gue.Context(7, 1, b"token")


class Port:
    """The site's header is remembered after its first packet, as the on-ramp does."""

    def __init__(self) -> None:
        self._near, self._far = (socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2))
        for sock in (self._near, self._far):
            sock.bind(("127.0.0.1", 0))
            sock.setblocking(False)
        self._near.setsockopt(socket.IPPROTO_IP, 13, 1)
        self._near.setsockopt(socket.IPPROTO_UDP, UDP_GRO, 1)
        self.kernel, self._tun = pair()
        self.paths: dict[bytes, Path] = {}
        self.sessions: dict[bytes, Any] = {}
        self.forwards: dict[bytes, Path] = {}
        self.slow: list[bytes] = []
        self.refused: list[bytes] = []
        self.drops: Counter[DropReason] = Counter()
        self.source = Source(self.paths, self.sessions, self.forwards, self._slow, self._dropped)
        self._known: dict[bytes, dict[bytes, Source]] = {b"\x7f\0\0\x01": {}}
        self.pump = GuePump(self._near, self._tun.fileno(), self._known, self._identify)

    def __enter__(self) -> Port:
        return self

    def __exit__(self, *_: object) -> None:
        for sock in (self._near, self._far, self.kernel, self._tun):
            sock.close()

    @property
    def address(self) -> Any:
        """Where it listens."""
        return self._near.getsockname()

    def header(self, version: int) -> bytes:
        return gue.header(version, CONTEXT)

    def _slow(self, buffer: bytearray, end: int) -> None:
        self.slow.append(bytes(buffer[:end]))

    def _dropped(self, reason: DropReason) -> None:
        self.drops[reason] += 1

    def _identify(self, host: bytes, buffer: bytearray, start: int, end: int) -> Source | None:
        found = gue.parse(buffer, start, end)
        if isinstance(found, DropReason) or found.context not in (CONTEXT, None) or host not in self._known:
            self.refused.append(bytes(buffer[start:end]))
            return None
        self._known[host][bytes(buffer[start : start + found.length + 1])] = self.source
        return self.source

    def put(self, *packets: bytes, header: bytes | None = None, tos: int = 0, joined: bool = False) -> None:
        """Send packets: they wait for the pump."""
        datagrams = [(self.header(p[0] >> 4) if header is None else header) + p for p in packets]
        ancillary: list[Any] = [(socket.IPPROTO_IP, socket.IP_TOS, struct.pack("=i", tos))] if tos else []
        if joined:
            ancillary.append((socket.IPPROTO_UDP, UDP_SEGMENT, struct.pack("=H", len(datagrams[0]))))
            datagrams = [b"".join(datagrams)]
        for datagram in datagrams:
            self._far.sendmsg([datagram], ancillary, 0, self.address)

    def give(self, *packets: bytes, **how: Any) -> list[bytes]:
        """Send packets, let the pump run once, and return what reached the TUN device."""
        self.put(*packets, **how)
        self.pump.ready(0)
        return read_all(self.kernel)
