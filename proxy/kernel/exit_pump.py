"""The hot loop of devices into the kernel: from a TUN device, where the kernel forwards replies, to the flows' tunnels.

The kernel has already checked each packet, decremented its TTL and translated it back. The loop finds the flow, counts,
and checks the tunnel's MTU. `kernel/pump.py` explains why such loops are flat.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable

from proxy.flow.path import Path
from proxy.kernel.pump import BUDGET, BUFFER_BYTES, SINGLES, UNKNOWN_BUDGET
from proxy.wire.ip import TCP, UDP

_get4 = struct.Struct("!BxHxxHxB2x12s12s").unpack_from  # see kernel/pump.py
_get_gso = struct.Struct("<H").unpack_from

_buffer = bytearray(BUFFER_BYTES)
_view = memoryview(_buffer)


class ExitPump:
    """Packets from one device to the tunnels of their flows, or to the packet plane."""

    def __init__(
        self,
        fd: int,
        header_bytes: int,
        paths: dict[bytes, Path],
        forwards: dict[bytes, Path],
        slow: Callable[[bytearray, int], None],
    ) -> None:
        """`paths` (TCP) and `forwards` (UDP) by addresses and ports; `slow(buffer, end)` takes other packets."""
        self._arguments = fd, header_bytes, paths, forwards, slow
        self._singles = 0
        self.octets = 0
        self.packets = 0

    def ready(self, events: int) -> None:
        """Move the packets that the kernel has forwarded to us, up to the budget."""
        fd, v, paths, forwards, slow = self._arguments
        buffer, view, vector, read, get4 = _buffer, _view, [_buffer], os.readv, _get4
        find_tcp, find_udp, unknown, budget = paths.get, forwards.get, UNKNOWN_BUDGET, BUDGET
        if self._singles:
            self._singles, budget = self._singles - 1, 1
        for i in range(budget):
            try:
                n = read(fd, vector)
            except BlockingIOError:
                if i == 1:
                    self._singles = SINGLES
                return
            self.packets += 1
            self.octets += n
            path = None
            first, _, fragment, protocol, key, between = get4(buffer, v)
            if first == 0x45:
                l4 = v + 20
                if protocol == TCP:
                    path = find_tcp(key)
                elif protocol == UDP and not fragment & 0x3FFF:
                    path = find_udp(key)
            elif first >> 4 == 6:
                l4, protocol = v + 40, buffer[v + 6]
                if protocol == TCP:
                    path = find_tcp(bytes(buffer[v + 8 : v + 44]))
                    between = bytes(buffer[v + 44 : v + 56])
                elif protocol == UDP:
                    path = find_udp(bytes(buffer[v + 8 : v + 44]))
            if path is None:
                slow(buffer, n)
                unknown -= 1
                if not unknown:
                    return
                continue
            if protocol == TCP:
                if buffer[l4 + 13] & 7:  # SYN, FIN, RST: the flow itself handles its start and end
                    if path.flagged is None or n - v > path.mtu:
                        slow(buffer, n)
                    else:
                        path.flagged(view[:n], l4, between)
                    continue
                path.last = between
            size = n - v
            if size > path.mtu:
                gso = _get_gso(buffer, 2)[0] if v and buffer[1] else 0
                headers = l4 - v + ((buffer[l4 + 12] >> 4) * 4 if protocol == TCP else 8)
                if not gso or headers + gso > path.mtu:
                    slow(buffer, n)
                    continue
            path.packets += 1
            path.octets += size
            path.send(view[:n])
