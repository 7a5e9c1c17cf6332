"""Reassembly of fragments, bounded in number, bytes and time (RFC 791, RFC 8200)."""

from __future__ import annotations

from dataclasses import dataclass, field

from proxy.errors import DropReason
from proxy.wire import ip
from proxy.wire.checksum import checksum
from proxy.wire.ip import IPPacket

MAX_DATAGRAM = 65_535
MAX_PIECES = 1024  # per datagram: 64 KiB in pieces of 64 bytes

Key = tuple[object, bytes, bytes, int, int]


@dataclass(slots=True)
class _Datagram:
    deadline: float
    pieces: dict[int, bytes] = field(default_factory=dict)  # by offset
    received: int = 0
    length: int | None = None  # of the payload, known from the last fragment
    first: bytes = b""  # headers before the payload, from the fragment at offset 0


class Fragments:
    """Reassembly for one tenant. Any overlap discards the datagram, since evasion relies on overlaps (RFC 5722)."""

    def __init__(self, *, timeout_s: float, max_bytes: int, max_datagrams: int = 1024) -> None:
        self.timeout_s, self.max_bytes, self.max_datagrams = timeout_s, max_bytes, max_datagrams
        self.held_bytes = 0
        self._waiting: dict[Key, _Datagram] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def add(
        self, buffer: bytes | bytearray, packet: IPPacket, now: float, *, scope: object = None
    ) -> bytes | DropReason | None:
        """The whole packet if this fragment completes it, None if others are missing, or the reason for a drop.

        `scope`: the tunnel. Fragments of two scopes are never joined.
        """
        payload = bytes(buffer[packet.l4 : packet.end])
        problem = _problem(packet, len(payload))
        if problem is not None:
            return problem
        protocol = packet.protocol if packet.version == 4 else -1
        key = (scope, packet.source, packet.destination, protocol, packet.fragment_id)
        datagram = self._waiting.get(key)
        if datagram is None:
            if len(self._waiting) >= self.max_datagrams:
                return DropReason.FRAGMENT_LIMIT
            datagram = self._waiting[key] = _Datagram(now + self.timeout_s)
        if self.held_bytes + len(payload) > self.max_bytes or len(datagram.pieces) >= MAX_PIECES:
            self._discard(key)
            return DropReason.FRAGMENT_LIMIT
        if not self._store(datagram, packet, payload):
            self._discard(key)
            return DropReason.FRAGMENT_OVERLAP
        if packet.fragment_offset == 0:
            datagram.first = _headers(buffer, packet)
        if datagram.length is None or datagram.received < datagram.length or not datagram.first:
            return None
        self._discard(key)
        return _join(datagram, packet.version)

    def expire(self, now: float) -> int:
        """Drop fragments of datagrams that were not complete in time. Returns how many."""
        lost = 0
        for key in [key for key, datagram in self._waiting.items() if datagram.deadline <= now]:
            lost += len(self._waiting[key].pieces)
            self._discard(key)
        return lost

    def _store(self, datagram: _Datagram, packet: IPPacket, payload: bytes) -> bool:
        offset, end = packet.fragment_offset, packet.fragment_offset + len(payload)
        for other, piece in datagram.pieces.items():
            if other < end and offset < other + len(piece):
                return other == offset and piece == payload  # a duplicate is harmless
        if not packet.more_fragments:
            if datagram.length is not None or any(at + len(piece) > end for at, piece in datagram.pieces.items()):
                return False
            datagram.length = end
        elif datagram.length is not None and end > datagram.length:
            return False
        datagram.pieces[offset] = payload
        datagram.received += len(payload)
        self.held_bytes += len(payload)
        return True

    def _discard(self, key: Key) -> None:
        self.held_bytes -= self._waiting.pop(key).received


def _problem(packet: IPPacket, length: int) -> DropReason | None:
    if length == 0 or (packet.more_fragments and length % 8):
        return DropReason.BAD_HEADER
    if packet.fragment_offset + length > MAX_DATAGRAM:  # ping of death
        return DropReason.BAD_HEADER
    return None


def _headers(buffer: bytes | bytearray, packet: IPPacket) -> bytes:
    """The IP header of the whole packet, as before fragmentation, without extension headers."""
    if packet.version == 4:
        return bytes(buffer[packet.start : packet.l4])
    return ip.ipv6_header(
        packet.source, packet.destination, packet.protocol, 0, hop_limit=packet.ttl, traffic_class=packet.tos
    )


def _join(datagram: _Datagram, version: int) -> bytes | DropReason:
    payload = b"".join(datagram.pieces[offset] for offset in sorted(datagram.pieces))
    header = bytearray(datagram.first)
    if version == 6:
        header[4:6] = len(payload).to_bytes(2, "big")
        return bytes(header) + payload
    if len(header) + len(payload) > MAX_DATAGRAM:
        return DropReason.BAD_HEADER
    header[2:4] = (len(header) + len(payload)).to_bytes(2, "big")
    header[6:8] = bytes(2)
    header[10:12] = bytes(2)
    header[10:12] = checksum(header).to_bytes(2, "big")
    return bytes(header) + payload
