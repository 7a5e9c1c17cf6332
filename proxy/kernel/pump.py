"""The two hot loops: tunnel to kernel and kernel to tunnel, one flat pass for each packet of a memoised flow.

`packet/translate.py` is the readable twin of what stands inline here, and tests/kernel/test_pump.py holds them equal.
What the loops do not know goes to the packet plane. bench/packets.py measures why they are flat.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Callable
from functools import partial
from typing import Any

from proxy.errors import DropReason
from proxy.flow.flow import Path
from proxy.wire.ip import MAX_PACKET, TCP, UDP
from proxy.wire.virtio import HEADER_BYTES

BUDGET = 64  # packets per readiness event: one tunnel cannot starve another
BUFFER_BYTES = HEADER_BYTES + MAX_PACKET + 1  # one more, so that a longer datagram shows

_get16 = struct.Struct("!H").unpack_from
_put16 = struct.Struct("!H").pack_into
# First byte, total length, fragment offset, protocol, header checksum, addresses and ports, TCP checksum: all that is
# asked of a packet without options, in one call. What lies beyond a shorter packet's end is not looked at.
_get4 = struct.Struct("!BxHxxHxBH12s12xH").unpack_from  # instead of slices: bench/packets.py, -8 %
_get4_trusted = struct.Struct("!B9xH12s12xH").unpack_from  # the same of a packet that the kernel made
_put4 = struct.Struct("!H12s").pack_into  # IPv4 header checksum, addresses and ports
_put6 = struct.Struct("!36s").pack_into  # IPv6 addresses and ports

# One buffer for all loops: each packet is written on before the next one is read.
_buffer = bytearray(BUFFER_BYTES)
_view = memoryview(_buffer)


class RampPump:
    """Packets from one tunnel (or a TUN device that is one) to the bridge's TUN device, or to the packet plane."""

    def __init__(
        self,
        source: socket.socket | int,
        tun: int,
        header_bytes: int,
        paths: dict[bytes, Path],
        sessions: dict[bytes, Callable[[bytearray, int, int], DropReason | None]],
        slow: Callable[[bytearray, int], None],
        ended: Callable[[], bool],
        dropped: Callable[[DropReason], None],
    ) -> None:
        """`source` is read: a SEQPACKET socket, or a TUN's descriptor. `slow(buffer, end)` takes what is not memoised;
        `ended()` says whether a read of nothing was the end."""
        read: Callable[[Any], int]
        into: Any
        if isinstance(source, int):
            read, into = partial(os.readv, source), [_buffer]
        else:
            read, into = source.recv_into, _buffer
        self._arguments = read, into, tun, header_bytes, paths, sessions, slow, ended, dropped
        self.octets = 0
        self.packets = 0

    def ready(self, events: int) -> None:
        """Move what has arrived, up to the budget."""
        read, into, tun, v, paths, sessions, slow, ended, dropped = self._arguments
        buffer, view = _buffer, _view
        write, tcp, udp, get4, put4, put16 = os.write, paths.get, sessions.get, _get4, _put4, _put16
        shortest = v + 28
        for _ in range(BUDGET):
            try:
                n = read(into)
            except BlockingIOError:
                return
            except OSError:
                n = 0
            if n == 0 and ended():
                return
            self.packets += 1
            self.octets += n
            if n < shortest:
                slow(buffer, n)
                continue
            path = session = None
            first, length, fragment, protocol, ip_sum, key, l4_sum = get4(buffer, v)
            if first == 0x45:
                if length == n - v and not fragment & 0x3FFF:
                    if protocol == TCP:
                        path = tcp(key)
                    elif protocol == UDP:
                        session = udp(key)
            elif first >> 4 == 6 and n >= v + 48 and _get16(buffer, v + 4)[0] == n - v - 40:
                protocol = buffer[v + 6]
                if protocol == TCP:
                    path = tcp(bytes(buffer[v + 8 : v + 44]))
                elif protocol == UDP:
                    session = udp(bytes(buffer[v + 8 : v + 44]))
            if path is not None:
                if n < v + 40:
                    slow(buffer, n)
                    continue
                if first == 0x45:
                    c = 0xFFFF - ip_sum + path.ip_delta
                    put4(buffer, v + 10, 0xFFFF - ((c & 0xFFFF) + (c >> 16)), path.rewritten)
                    at = v + 36
                else:
                    if n < v + 60:
                        slow(buffer, n)
                        continue
                    _put6(buffer, v + 8, path.rewritten)
                    at = v + 56
                    l4_sum = _get16(buffer, at)[0]
                path.packets += 1
                path.octets += n - v
                if v and buffer[0] & 1:
                    c = l4_sum + path.ip_delta
                    put16(buffer, at, (c & 0xFFFF) + (c >> 16))
                else:
                    c = 0xFFFF - l4_sum + path.l4_delta
                    put16(buffer, at, 0xFFFF - ((c & 0xFFFF) + (c >> 16)))
                try:
                    write(tun, view[:n])
                except OSError as error:
                    dropped(DropReason.BAD_OFFLOAD if error.errno == errno.EINVAL else DropReason.KERNEL_IP)
            elif session is not None:
                reason = session(buffer, v + (20 if first == 0x45 else 40), n)
                if reason is not None:
                    dropped(reason)
            else:
                slow(buffer, n)


class BridgePump:
    """Packets from the bridge's TUN device back to the tunnels of their flows."""

    def __init__(self, tun: int, header_bytes: int, paths: dict[bytes, Path]) -> None:
        self._arguments = tun, header_bytes, paths
        self.strays = 0  # for flows that are over, and the kernel's own chatter (IPv6 router solicitations)

    def crashed(self, error: BaseException) -> None:
        """A bug while a packet was handled: that packet is lost, the bridge goes on."""

    def ready(self, events: int) -> None:
        """Move what the kernel has sent, up to the budget."""
        tun, v, paths = self._arguments
        buffer, view, vector = _buffer, _view, [_buffer]
        read, find, get4 = os.readv, paths.get, _get4_trusted
        for _ in range(BUDGET):
            try:
                n = read(tun, vector)
            except BlockingIOError:
                return
            first, ip_sum, key, l4_sum = get4(buffer, v)
            if first == 0x45:
                path = find(key)
                if path is None:
                    self.strays += 1
                    continue
                c = 0xFFFF - ip_sum + path.ip_delta
                _put4(buffer, v + 10, 0xFFFF - ((c & 0xFFFF) + (c >> 16)), path.rewritten)
                at = v + 36
            else:
                path = find(bytes(buffer[v + 8 : v + 44]))
                if path is None:
                    self.strays += 1
                    continue
                _put6(buffer, v + 8, path.rewritten)
                at = v + 56
                l4_sum = _get16(buffer, at)[0]
            path.packets += 1
            path.octets += n - v
            if v and buffer[0] & 1:
                c = l4_sum + path.ip_delta
                _put16(buffer, at, (c & 0xFFFF) + (c >> 16))
            else:
                c = 0xFFFF - l4_sum + path.l4_delta
                _put16(buffer, at, 0xFFFF - ((c & 0xFFFF) + (c >> 16)))
            path.send(view[:n])
