"""One measurement of the hot loop, in a process and a namespace of its own.

`python -m bench.hotloop ours|FORWARDER FLOWS ROUNDS BYTES`

The same packets of the same flows are forwarded from a SEQPACKET socket to a TUN device, by `RampPump` or by the C
program FORWARDER. The kernel drops them behind the device, so only forwarding is compared.
"""

from __future__ import annotations

import os
import socket
import struct
import subprocess
import sys
import time
from typing import Any

from proxy.device.interface import bring_up
from proxy.device.namespaces import CLONE_NEWNET, unshare
from proxy.device.seqpacket import enlarge_send_buffer
from proxy.device.tun import open_tun
from proxy.flow.path import Path
from proxy.kernel.pump import RampPump
from proxy.packet.translate import set_rewrite
from proxy.wire import ip

_TCP = struct.Struct("!HHIIBBHHH")
CLIENTS, ORIGIN = 0x6460_0002, bytes((10, 50, 0, 10))
VIRTUAL = bytes((198, 18, 0, 2)) + bytes((198, 18, 0, 1))


def main(kind: str, flows: int, rounds: int, size: int) -> None:
    """Print nanoseconds of processor time per packet, which other processes on the core do not affect."""
    unshare(CLONE_NEWNET)
    tun = open_tun("hot0", offload=False)
    bring_up("hot0", mtu=1500, queue=100)
    ramp, feed = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    enlarge_send_buffer(feed)
    for sock in (ramp, feed):
        sock.setblocking(False)
    if kind == "ours":
        print(_ours(tun, ramp, feed, flows, rounds, size))
        return
    descriptors = (tun, ramp.fileno(), feed.fileno())
    command = [kind, *map(str, (*descriptors, flows, rounds, size))]
    sys.exit(subprocess.call(command, pass_fds=descriptors))


def packet(flow: int, size: int) -> bytes:
    """A segment of one of the flows, in the form of forwarder.c."""
    head = ip.ipv4_header((CLIENTS + flow).to_bytes(4, "big"), ORIGIN, ip.TCP, size - 20)
    return (head + _TCP.pack(20_000 + flow, 80, 0, 0, 5 << 4, 0x10, 0, 0, 0)).ljust(size, b"\0")


def memoised(packets: list[bytes]) -> dict[bytes, Path]:
    """Paths, memoised as the bridge does."""
    paths = {}
    for number, raw in enumerate(packets):
        path = Path()
        set_rewrite(path, raw[12:24], VIRTUAL + struct.pack("!HH", 1024 + number, 9000))
        paths[raw[12:24]] = path
    return paths


def _ours(tun: int, ramp: socket.socket, feed: socket.socket, flows: int, rounds: int, size: int) -> float:
    import select

    packets = [packet(flow, size) for flow in range(flows)]
    paths = memoised(packets)
    unexpected: list[Any] = []
    pump = RampPump(
        ramp, tun, 0, paths, {}, lambda buffer, end: unexpected.append(end), lambda: False, unexpected.append
    )
    epoll = select.epoll()
    epoll.register(ramp.fileno(), select.EPOLLIN)
    took = 0
    for _ in range(rounds):
        for raw in packets:
            feed.send(raw)
        began = time.thread_time_ns()
        while events := epoll.poll(0, 1):
            pump.ready(events[0][1])
        took += time.thread_time_ns() - began
    moved = sum(path.packets for path in paths.values())
    if unexpected or moved != flows * rounds:
        sys.exit(f"moved {moved} of {flows * rounds}, {unexpected[:3]}")
    return took / moved


if __name__ == "__main__":
    os.environ.setdefault("PYTHONHASHSEED", "0")
    main(sys.argv[1], *map(int, sys.argv[2:5]))
