"""The hot loop of unconnected tunnels: from a UDP socket, without the GUE header, to the kernel or another tunnel.

`packet/translate.py` and `packet/forward.py` are the readable versions of the code inlined here, and
tests/bridge/test_forward.py checks that both behave alike.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Callable, Iterable
from typing import Any

from proxy.errors import DropReason
from proxy.flow.path import Path
from proxy.kernel.batch import Batch
from proxy.kernel.tos import ONE_CONTROL, ancillary
from proxy.wire.ecn import arrive
from proxy.wire.ip import TCP, UDP

NOBODY: dict[bytes, Any] = {}  # the tunnels of an unknown peer

_get16 = struct.Struct("!H").unpack_from
_put16 = struct.Struct("!H").pack_into
_get4 = struct.Struct("!BBHxxHBBH12s12sH").unpack_from  # see kernel/pump.py; also TOS and TTL
_put4 = struct.Struct("!H12s12sH").pack_into
_put_hop = struct.Struct("!BBH").pack_into  # TTL, protocol, IPv4 header checksum
_put6 = struct.Struct("!36s").pack_into


class Source:
    """One tunnel as the loop uses it: the targets of packets with one header from one peer."""

    __slots__ = ("dropped", "forwards", "inner", "octets", "packets", "paths", "sessions", "slow")

    def __init__(
        self,
        paths: dict[bytes, Path],
        sessions: dict[bytes, Any],
        forwards: dict[bytes, Path],
        slow: Callable[[bytearray, int], None],
        dropped: Callable[[DropReason], None],
    ) -> None:
        self.paths, self.sessions, self.forwards = paths.get, sessions.get, forwards.get
        self.slow, self.dropped = slow, dropped
        self.packets = self.octets = 0


class GuePump:
    """Packets from all the sites of one UDP port.

    `known[peer's address][GUE header and first byte of the packet]` is the tunnel of packets with this beginning. For
    others `identify(address, buffer, start, end)` returns the tunnel, or None after dropping the packet; the header's
    length follows from its first byte. Addresses are packed.
    """

    def __init__(
        self,
        sock: socket.socket,
        tun: int,
        known: dict[bytes, dict[bytes, Source]],
        identify: Callable[[bytes, bytearray, int, int], Source | None],
    ) -> None:
        """`tun`: the descriptor of the bridge's TUN device without offload."""
        self._batch, self._fd = Batch(sock.family), sock.fileno()
        self._view = memoryview(self._batch.data)
        self._arguments = tun, known, identify

    def ready(self, events: int) -> None:
        """Move one batch of packets."""
        batch, view = self._batch, self._view
        buffer, controls = batch.data, batch.controls
        tun, known, identify = self._arguments
        get4, get16, put16, put_hop, from_bytes = _get4, _get16, _put16, _put_hop, int.from_bytes
        begins = buffer.startswith
        host, source, head, skip = b"", None, b"", 0
        for (control_bytes, size), (begin, control, peer) in zip(batch.receive(self._fd), batch.slots, strict=False):
            pieces: Iterable[tuple[int, int]] = ((begin, begin + size),)
            if control_bytes == ONE_CONTROL:
                tos = controls[control + 16]
            else:
                tos, each = ancillary(controls, control, control_bytes)
                if each:
                    pieces = _cut(begin, begin + size, each)
            if peer != host:
                host, source = peer.tobytes(), None
            for at, n in pieces:
                if source is None or not begins(head, at):  # most have the same header as the one before
                    first = buffer[at]
                    v = at if first > 0x3F else at + 4 + (first << 2)
                    head = bytes(view[at : v + 1])  # the packet's first byte holds its IP version
                    source = known.get(host, NOBODY).get(head)
                    skip = v - at
                v = at + skip
                octets = n - v
                if source is None or octets < 28:
                    source = identify(host, buffer, at, n)
                    if source is None:
                        continue
                    if octets < 28:  # no header and ports: the packet plane finds the reason
                        source.packets += 1
                        source.octets += octets
                        source.slow(bytearray(view[v:n]), octets)
                        continue
                source.packets += 1
                source.octets += octets
                if tos & 3 and (reason := arrive(buffer, v, tos)):
                    source.dropped(reason)
                    continue
                path = session = None
                first, mark, length, fragment, ttl, protocol, ip_sum, key, between, l4_sum = get4(buffer, v)
                is_ipv4, l4 = first == 0x45, v + 20
                if is_ipv4:
                    if length == octets and not fragment & 0x3FFF:
                        if protocol == TCP:
                            path = source.paths(key)
                        elif protocol == UDP:
                            session = source.sessions(key)
                            if session is None:
                                path = source.forwards(key)
                elif first >> 4 == 6 and octets >= 48 and get16(buffer, v + 4)[0] == octets - 40:
                    l4, protocol = v + 40, buffer[v + 6]
                    if protocol == TCP:
                        path = source.paths(bytes(view[v + 8 : v + 44]))
                    elif protocol == UDP:
                        key = bytes(view[v + 8 : v + 44])
                        session = source.sessions(key)
                        if session is None:
                            path = source.forwards(key)
                if session is not None:
                    reason = session(bytearray(view[v:n]), l4 - v, octets)
                    if reason is not None:
                        source.dropped(reason)
                    continue
                if path is None or (protocol == TCP and n < l4 + 20):
                    source.slow(bytearray(view[v:n]), octets)
                    continue
                send = path.send
                if send is not None:
                    exit_ = path.exit
                    if exit_ is not None:  # to the kernel, which checks header checksum, TTL and size
                        ttl = ttl if is_ipv4 else buffer[v + 7]
                        if ttl < 2 or (protocol == TCP and buffer[l4 + 13] & 7):
                            source.slow(bytearray(view[v:n]), octets)
                            continue
                        if protocol == TCP:
                            path.last = between if is_ipv4 else bytes(view[l4 + 4 : l4 + 16])
                        path.packets += 1
                        path.octets += octets
                        try:
                            exit_(view[v:n])
                        except OSError:
                            source.dropped(DropReason.KERNEL_IP)
                        continue
                    if is_ipv4:
                        is_slow = from_bytes(buffer[v:l4]) % 0xFFFF  # a valid header sums to 0
                    else:
                        ttl, mark, is_slow = buffer[v + 7], first & 15 or mark & 0xF0, 0
                    # SYN, FIN and RST take the slow path; so do packets whose TTL expires here.
                    if is_slow or ttl < 2 or octets > path.mtu or (protocol == TCP and buffer[l4 + 13] & 7):
                        source.slow(bytearray(view[v:n]), octets)
                        continue
                    if is_ipv4:
                        c = ip_sum + 0x100
                        put_hop(buffer, v + 8, ttl - 1, protocol, c if c < 0xFFFF else c - 0xFFFF)
                    else:
                        buffer[v + 7] = ttl - 1
                    if protocol == TCP:
                        path.last = between if is_ipv4 else bytes(view[l4 + 4 : l4 + 16])
                    path.packets += 1
                    path.octets += octets
                    raw, prefix = path.raw, path.prefix
                    if mark or raw is None:
                        send(view[v:n] if prefix is None or raw is not None else prefix + view[v:n])
                        continue
                    try:
                        raw(prefix + view[v:n])
                    except OSError as error:
                        path.peer_socket.failed(error, view[v:n])
                    else:
                        peer_socket = path.peer_socket
                        peer_socket.packets += 1
                        peer_socket.octets += octets
                    continue
                if buffer[l4 + 13] & 6:  # SYN and RST
                    source.slow(bytearray(view[v:n]), octets)
                    continue
                path.packets += 1
                path.octets += octets
                if is_ipv4:
                    l4_sum = (l4_sum - path.l4_delta) % 0xFFFF
                    _put4(buffer, v + 10, (ip_sum - path.ip_delta) % 0xFFFF, path.rewritten, between, l4_sum)
                else:
                    _put6(buffer, v + 8, path.rewritten)
                    put16(buffer, v + 56, (get16(buffer, v + 56)[0] - path.l4_delta) % 0xFFFF)
                try:
                    os.write(tun, view[v:n])
                except OSError as error:
                    source.dropped(DropReason.BAD_OFFLOAD if error.errno == errno.EINVAL else DropReason.KERNEL_IP)


def _cut(begin: int, stop: int, each: int) -> Iterable[tuple[int, int]]:
    """Starts and ends of the datagrams that the kernel coalesced. The last one may be shorter."""
    return [(at, min(at + each, stop)) for at in range(begin, stop, each)]
