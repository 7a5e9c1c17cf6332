"""The hot loops: tunnel to kernel or tunnel, and kernel to tunnel, in one flat pass per packet of a memoised flow.

`packet/translate.py` and `packet/forward.py` are the readable versions of the code inlined here, and
tests/bridge/test_pump.py and test_forward.py check that both behave alike. `kernel/unconnected.py` is the loop of GUE
tunnels. Packets of unknown flows go to the packet plane. bench/packets.py measures the benefit of flat loops.
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
from proxy.flow.path import Path
from proxy.wire.ip import MAX_PACKET, TCP, UDP
from proxy.wire.virtio import GSO_ECN, GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4, HEADER_BYTES, NEEDS_CSUM

BUDGET = 64  # packets per readiness event, so that one tunnel cannot starve another
SINGLES = 4  # events with one read each after an event with one packet, as a read that finds nothing costs as much
UNKNOWN_BUDGET = 16  # packets without a path: a flow's first costs as much as twenty; 4 cost a connection 11 % more
BUFFER_BYTES = HEADER_BYTES + MAX_PACKET + 1  # one more, to detect longer datagrams

_get16 = struct.Struct("!H").unpack_from
_put16 = struct.Struct("!H").pack_into
# First byte, total length, fragment offset, protocol, header checksum, addresses and ports, what follows, TCP checksum:
# everything needed of a packet without options, in one call. Fields beyond the end of a shorter packet are not used.
_get4 = struct.Struct("!BxHxxHxBH12s12sH").unpack_from  # instead of slices: bench/packets.py, -8 %
_get4_trusted = struct.Struct("!B9xH12s12sH").unpack_from  # the same for a packet that the kernel made
_put4 = struct.Struct("!H12s12sH").pack_into  # both checksums and what is between: one call, bench/packets.py, -1 %
_put_hop = struct.Struct("!BBH").pack_into  # TTL, protocol, IPv4 header checksum
_get_virtio = struct.Struct("<BBHHHH").unpack_from
_put6 = struct.Struct("!36s").pack_into  # IPv6 addresses and ports

# One buffer for all loops, as each packet is written before the next one is read.
_buffer = bytearray(BUFFER_BYTES)
_view = memoryview(_buffer)


class RampPump:
    """Packets from a tunnel (or a TUN device used as one) to the bridge's TUN device, or to the packet plane."""

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
        forwards: dict[bytes, Path] | None = None,
    ) -> None:
        """`source`: a SEQPACKET socket, or a TUN's descriptor. `slow(buffer, end)` takes packets without a memoised
        path; `ended()` tells whether an empty read means EOF."""
        read: Callable[[Any], int]
        into: Any
        if isinstance(source, int):
            read, into = partial(os.readv, source), [_buffer]
        else:
            read, into = source.recv_into, _buffer
        self._arguments = read, into, tun, header_bytes, paths, sessions, slow, ended, dropped
        self._forwards = {} if forwards is None else forwards
        self._singles = 0
        self.octets = 0
        self.packets = 0

    def ready(self, events: int) -> None:
        """Move the packets that have arrived, up to the budget."""
        read, into, tun, v, paths, sessions, slow, ended, dropped = self._arguments
        buffer, view, forward = _buffer, _view, self._forwards.get
        write, tcp, udp, get4, put4 = os.write, paths.get, sessions.get, _get4, _put4
        from_bytes, keeps_offload, put_hop, shortest = int.from_bytes, _keeps_offload, _put_hop, v + 28
        unknown, budget = UNKNOWN_BUDGET, BUDGET
        if self._singles:
            self._singles, budget = self._singles - 1, 1
        for i in range(budget):
            try:
                n = read(into)
            except BlockingIOError:
                if i == 1:
                    self._singles = SINGLES
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
            first, length, fragment, protocol, ip_sum, key, between, l4_sum = get4(buffer, v)
            if first == 0x45:
                if length == n - v and not fragment & 0x3FFF:
                    if protocol == TCP:
                        path = tcp(key)
                    elif protocol == UDP:
                        session = udp(key)
                        if session is None:
                            path = forward(key)
            elif first >> 4 == 6 and n >= v + 48 and _get16(buffer, v + 4)[0] == n - v - 40:
                protocol = buffer[v + 6]
                if protocol == TCP:
                    path = tcp(bytes(buffer[v + 8 : v + 44]))
                elif protocol == UDP:
                    key = bytes(buffer[v + 8 : v + 44])
                    session = udp(key)
                    if session is None:
                        path = forward(key)
            if path is not None:
                send = path.send
                if send is not None:
                    exit_ = path.exit
                    if exit_ is not None:  # to the kernel, which checks header checksum, TTL and size
                        if protocol == TCP:
                            at = v + 20 if first == 0x45 else v + 40
                            if n < at + 20 or buffer[at + 13] & 7:
                                flagged, ttl = path.flagged, buffer[v + 8 if first == 0x45 else v + 7]
                                if flagged is None or ttl < 2 or n < at + 20 or buffer[at + 13] & 2:
                                    slow(buffer, n)
                                else:  # bench/levels.py: a FIN costs a fifth of the slow path
                                    flagged(view[:n], at, between if first == 0x45 else bytes(buffer[at + 4 : at + 16]))
                                continue
                            path.last = between if first == 0x45 else bytes(buffer[at + 4 : at + 16])
                        if buffer[v + 8 if first == 0x45 else v + 7] < 2:
                            slow(buffer, n)
                            continue
                        path.packets += 1
                        path.octets += n - v
                        try:
                            exit_(view[:n])
                        except OSError as error:
                            dropped(DropReason.BAD_OFFLOAD if error.errno == errno.EINVAL else DropReason.KERNEL_IP)
                        continue
                    if first == 0x45:
                        at, ttl = v + 20, buffer[v + 8]
                        is_slow = ttl < 2 or from_bytes(buffer[v:at]) % 0xFFFF  # a valid header sums to 0
                    else:
                        at, ttl = v + 40, buffer[v + 7]
                        is_slow = ttl < 2
                    # SYN, FIN and RST take the slow path; so do packets whose TTL expires here.
                    if is_slow or (protocol == TCP and (n < at + 20 or buffer[at + 13] & 7)):
                        slow(buffer, n)
                        continue
                    if not v:
                        is_slow = n > path.mtu
                    elif buffer[0] & 1 or buffer[1]:
                        is_slow = path.prefix is not None or not keeps_offload(buffer, v, at, n, protocol, path.mtu)
                    else:
                        is_slow = n - v > path.mtu
                    if is_slow:
                        slow(buffer, n)
                        continue
                    if first == 0x45:
                        c = ip_sum + 0x100
                        put_hop(buffer, v + 8, ttl - 1, protocol, c if c < 0xFFFF else c - 0xFFFF)
                    else:
                        buffer[v + 7] = ttl - 1
                    if protocol == TCP:
                        path.last = between if first == 0x45 else bytes(buffer[at + 4 : at + 16])
                    path.packets += 1
                    path.octets += n - v
                    raw, prefix = path.raw, path.prefix
                    if raw is None or (buffer[v + 1] if first == 0x45 else first != 0x60 or buffer[v + 1] & 0xF0):
                        send(view[:n] if prefix is None or raw is not None else prefix + view[v:n])
                        continue
                    try:
                        raw(prefix + view[:n])
                    except OSError as error:
                        path.peer_socket.failed(error, view[:n])
                    else:
                        peer_socket = path.peer_socket
                        peer_socket.packets += 1
                        peer_socket.octets += n
                    continue
                # SYN and RST take the slow path: a SYN may start a new flow, and an RST ends this one.
                if first == 0x45:
                    if n < v + 40 or between[9] & 6:
                        slow(buffer, n)
                        continue
                else:
                    if n < v + 60 or buffer[v + 53] & 6:
                        slow(buffer, n)
                        continue
                    l4_sum = _get16(buffer, v + 56)[0]
                path.packets += 1
                path.octets += n - v
                l4_sum = (l4_sum + path.ip_delta if v and buffer[0] & 1 else l4_sum - path.l4_delta) % 0xFFFF
                if first == 0x45:
                    put4(buffer, v + 10, (ip_sum - path.ip_delta) % 0xFFFF, path.rewritten, between, l4_sum)
                else:
                    _put6(buffer, v + 8, path.rewritten)
                    _put16(buffer, v + 56, l4_sum)
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
                unknown -= 1
                if not unknown:
                    return


def _keeps_offload(buffer: bytearray, v: int, l4: int, n: int, protocol: int, mtu: int) -> bool:
    """Whether a packet with offload has consistent virtio-net fields, and its segments fit into `mtu` bytes."""
    flags, kind, _, gso, start, offset = _get_virtio(buffer)
    if flags & NEEDS_CSUM and (start != l4 - v or offset != (16 if protocol == TCP else 6)):
        return False
    if not kind:
        return n - v <= mtu
    if not flags & NEEDS_CSUM or not gso:
        return False
    if protocol == TCP:
        wanted = GSO_TCPV4 if l4 == v + 20 else GSO_TCPV6
        return kind & ~GSO_ECN == wanted and bool(l4 - v + (buffer[l4 + 12] >> 4) * 4 + gso <= mtu)
    return kind == GSO_UDP_L4 and bool(l4 - v + 8 + gso <= mtu)


class BridgePump:
    """Packets from the bridge's TUN device back to the tunnels of their flows."""

    def __init__(self, tun: int, header_bytes: int, paths: dict[bytes, Path]) -> None:
        self._arguments = tun, header_bytes, paths
        self._singles = 0
        self.strays = 0  # for ended flows, and unsolicited kernel packets (IPv6 router solicitations)

    def crashed(self, error: BaseException) -> None:
        """Drop the packet whose handling failed; the bridge keeps running."""

    def ready(self, events: int) -> None:
        """Move the packets that the kernel has sent, up to the budget."""
        tun, v, paths = self._arguments
        buffer, view, vector = _buffer, _view, [_buffer]
        read, find, get4 = os.readv, paths.get, _get4_trusted
        budget = BUDGET
        if self._singles:
            self._singles, budget = self._singles - 1, 1
        for i in range(budget):
            try:
                n = read(tun, vector)
            except BlockingIOError:
                if i == 1:
                    self._singles = SINGLES
                return
            first, ip_sum, key, between, l4_sum = get4(buffer, v)
            if first == 0x45:
                path = find(key)
            else:
                path = find(bytes(buffer[v + 8 : v + 44]))
                l4_sum = _get16(buffer, v + 56)[0]
            if path is None:
                self.strays += 1
                continue
            path.packets += 1
            path.octets += n - v
            l4_sum = (l4_sum + path.ip_delta if v and buffer[0] & 1 else l4_sum - path.l4_delta) % 0xFFFF
            if first == 0x45:
                _put4(buffer, v + 10, (ip_sum - path.ip_delta) % 0xFFFF, path.rewritten, between, l4_sum)
            else:
                _put6(buffer, v + 8, path.rewritten)
                _put16(buffer, v + 56, l4_sum)
            path.send(view[:n])
