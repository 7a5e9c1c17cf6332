"""Packets that nftables rules log to a group (nfnetlink_log): copies of their first bytes, in batches.

The addresses in a copy depend on the rule's hook and priority. Destinations are translated in prerouting at dstnat
(-100), the client's source in postrouting at srcnat (100), and replies at the same two places, so that a copy made

    in prerouting before dstnat (raw, mangle)    is the packet as received: replies go to the public address
    after dstnat, and in forward                 has the client's own address and the true origin's, both ways
    in postrouting after srcnat                  is the packet as sent
"""

from __future__ import annotations

import errno
import os
import select
import socket
import struct

from proxy.kernel.netfilter import open_socket
from proxy.wire.netlink import NLM_F_ACK, NLMSG_ERROR, attribute, error_code, header, message, messages, subsystem

PACKET, CONFIG = 0x400, 0x401  # message types
CFG_CMD, CFG_MODE, CFG_NLBUFSIZ, CFG_TIMEOUT, CFG_QTHRESH = 1, 2, 3, 4, 5
BIND, COPY_PACKET = 1, 2
MARK, TIMESTAMP, IFINDEX_INDEV, PAYLOAD = 2, 3, 4, 9
SO_TIMESTAMP = 29
RECEIVE_BYTES = 8 << 20
HEAD_BYTES = header.size
MAX_DATAGRAM_BYTES = 1 << 17  # the kernel's limit for one datagram

_head = struct.Struct("=HH")
_number = struct.Struct(">I")
_mode = struct.Struct(">IBx")
_time = struct.Struct(">QQ")  # seconds, microseconds
_FORMATS = {MARK: "I", IFINDEX_INDEV: "I", TIMESTAMP: "QQ"}
_NO_BYTES = bytearray()


class PacketLog:
    """The only receiver of log group `group` in the calling thread's network namespace.

    The kernel wakes us after `threshold` packets or `flush_cs` hundredths of a second; a rule's own `queue-threshold`
    and `snaplen` apply if they are smaller. Raises OSError: EPERM without rights over the namespace, and if the group
    has a receiver already. `lost` counts how many times the receive buffer overflowed; the number of lost packets is
    unknown.
    """

    def __init__(
        self,
        group: int,
        *,
        snap_bytes: int = 128,
        threshold: int = 32,
        flush_cs: int = 1,
        buffer_bytes: int = 1 << 16,
        receive_bytes: int = RECEIVE_BYTES,
    ) -> None:
        self.lost = 0
        self._layout = _Layout(bytearray())
        self._buffer = bytearray(MAX_DATAGRAM_BYTES)
        self._sock = open_socket(receive_bytes)
        self._clock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        self._clock.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMP, 1)  # has the kernel timestamp packets
        try:
            self._configure(group, attribute(CFG_CMD, bytes([BIND])))
            self._configure(group, attribute(CFG_MODE, _mode.pack(snap_bytes, COPY_PACKET)))
            numbers = (CFG_NLBUFSIZ, buffer_bytes), (CFG_TIMEOUT, flush_cs), (CFG_QTHRESH, threshold)
            self._configure(group, b"".join(attribute(kind, _number.pack(value)) for kind, value in numbers))
        except BaseException:
            self.close()
            raise

    def fileno(self) -> int:
        return self._sock.fileno()

    def close(self) -> None:
        self._sock.close()
        self._clock.close()

    def read(self, budget: int = 256) -> list[tuple[int, int, bytes, int]]:
        """Packets: mark, index of the ingress interface (0: none), the bytes from the IP header on, and the arrival
        time (Unix ns; 0: unknown).

        Whole datagrams are read until there are `budget` packets.
        """
        packets: list[tuple[int, int, bytes, int]] = []
        buffer, receive, head, add = self._buffer, self._sock.recv_into, header.unpack_from, packets.append
        while len(packets) < budget:
            try:
                size = receive(buffer)
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                self.lost += 1
                continue
            at, read = 0, self._layout.read
            while at + HEAD_BYTES <= size:  # `messages` written out, which saves a generator step per copy
                length, kind, *_ = head(buffer, at)
                if length < HEAD_BYTES or at + length > size:
                    break
                if kind == PACKET:
                    packet = read(buffer, at + HEAD_BYTES, at + length)
                    if packet is None and (packet := self._learn(buffer, at + HEAD_BYTES, at + length)) is not None:
                        read = self._layout.read
                    if packet is not None:
                        add(packet)
                at += length + 3 & ~3
        return packets

    def _learn(self, buffer: bytearray, start: int, end: int) -> tuple[int, int, bytes, int] | None:
        """Parse a packet attribute by attribute, and note the layout, which the next ones are likely to share."""
        packet = _parse(buffer, start + subsystem.size, end)
        if packet is not None:
            self._layout = _Layout(buffer, start, end)
        return packet

    def _configure(self, group: int, settings: bytes) -> None:
        body = subsystem.pack(0, 0, socket.htons(group)) + settings
        self._sock.send(message(CONFIG, NLM_F_ACK, 0, body))
        while True:
            select.select([self._sock], [], [])
            size = self._sock.recv_into(self._buffer)
            for kind, _, _, start, end in messages(self._buffer, size):
                if kind == NLMSG_ERROR:
                    code = error_code(self._buffer, start, end)
                    if code:
                        raise OSError(code, f"log group {group}: {os.strerror(code)}")
                    return


class _Layout:
    """Offsets of the attributes that we read, for messages with the same layout as one parsed before."""

    def __init__(self, buffer: bytearray = _NO_BYTES, start: int = 0, end: int = 0) -> None:
        """`start`: offset of the message's body, after its header."""
        self._payload = 0
        mask, fields, at = bytearray(end - start), {}, start + subsystem.size
        while at + 4 <= end:
            length, kind = _head.unpack_from(buffer, at)
            if kind == PAYLOAD:
                self._payload = at - start
                break
            mask[at - start : at - start + 4] = b"\xff" * 4
            if kind in _FORMATS:
                fields[kind] = at + 4 - start
            at += length + 3 & ~3
        self._mask = int.from_bytes(mask[: self._payload], "little")
        self._fixed = int.from_bytes(buffer[start : start + self._payload], "little") & self._mask
        text, place = ">", 0
        for kind, where in sorted(fields.items(), key=lambda field: field[1]):
            text += f"{where - place}x{_FORMATS[kind]}"
            place = where + struct.calcsize(">" + _FORMATS[kind])
        self._values = struct.Struct(text).unpack_from
        present = [kind for kind in sorted(fields, key=fields.__getitem__) for _ in _FORMATS[kind]]
        wanted = (MARK, IFINDEX_INDEV, TIMESTAMP, TIMESTAMP)
        first = {kind: present.index(kind) for kind in fields}
        self._order = tuple(
            first[kind] + (nth == 3) if kind in first else len(present) for nth, kind in enumerate(wanted)
        )

    def read(self, buffer: bytearray, start: int, end: int) -> tuple[int, int, bytes, int] | None:
        """The packet, or None if the message has another layout."""
        payload = start + self._payload
        if payload == start or payload + 4 > end:
            return None
        if int.from_bytes(buffer[start:payload], "little") & self._mask != self._fixed:
            return None
        length, kind = _head.unpack_from(buffer, payload)
        if kind != PAYLOAD or payload + length > end:
            return None
        values = (*self._values(buffer, start), 0)
        mark, incoming, seconds, microseconds = self._order
        arrived = values[seconds] * 1_000_000_000 + values[microseconds] * 1000
        return values[mark], values[incoming], bytes(buffer[payload + 4 : payload + length]), arrived


def _parse(buffer: bytearray, at: int, end: int) -> tuple[int, int, bytes, int] | None:
    """The packet, or None if it is malformed. The payload is the last attribute."""
    mark = incoming = arrived = 0
    unpack, number = _head.unpack_from, _number.unpack_from
    while at + 4 <= end:
        length, kind = unpack(buffer, at)
        if length < 4 or at + length > end:
            return None
        if kind == PAYLOAD:
            return mark, incoming, bytes(buffer[at + 4 : at + length]), arrived
        if length == 8:
            if kind == MARK:
                (mark,) = number(buffer, at + 4)
            elif kind == IFINDEX_INDEV:
                (incoming,) = number(buffer, at + 4)
        elif kind == TIMESTAMP and length == 20:
            arrived = _nanoseconds(*_time.unpack_from(buffer, at + 4))
        at += length + 3 & ~3
    return None


def _nanoseconds(seconds: int, microseconds: int) -> int:
    return seconds * 1_000_000_000 + microseconds * 1000
