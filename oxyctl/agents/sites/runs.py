"""Datagrams of one size sent in one call (UDP_SEGMENT): the packets of a bulk transfer."""

from __future__ import annotations

import socket

from oxyctl.agents.sites import sockets

MAX_SEGMENTS = 64  # linux/udp.h, before it was raised to 128
MAX_BYTES = 65_000  # of one call: IP's limit less all headers


class Run:
    """Datagrams that wait for one socket, as headers and packets in turn; all but the last have `size` bytes."""

    __slots__ = ("bytes", "count", "parts", "size", "sock", "traffic_class")

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.size = self.bytes = self.count = self.traffic_class = 0
        self.parts: list[bytes | memoryview] = []

    def fits(self, size: int, traffic_class: int) -> bool:
        """Whether a datagram of `size` bytes fits into the same call."""
        return (
            size <= self.size
            and traffic_class == self.traffic_class
            and self.count < MAX_SEGMENTS
            and self.bytes + size <= MAX_BYTES
            and self.bytes == self.size * self.count
        )

    def add(self, header: bytes, packet: memoryview, size: int, traffic_class: int) -> None:
        """Add a datagram that `fits`, or the first one."""
        if not self.count:
            self.size, self.traffic_class = size, traffic_class
        self.parts += (header, packet) if header else (packet,)
        self.bytes += size
        self.count += 1

    def clear(self) -> None:
        self.bytes = self.count = self.size = 0
        self.parts.clear()

    def send(self, address: tuple[str, int]) -> None:
        """Send all in one call. OSError: none was sent."""
        ancillary = sockets.with_class(self.sock.family, self.traffic_class)
        if self.count > 1:
            ancillary = ancillary + sockets.segmented(self.size)
        self.sock.sendmsg(self.parts, ancillary, 0, address)
