"""One measurement of the forward path, in a process and a namespace of its own.

`python -m bench.forwarding client|site ours|FORWARDER FLOWS ROUNDS BYTES`

The same packets of the same flows are forwarded from a tunnel to a site, with a GUE header, through a connected UDP
socket whose far end reads nothing. They come from a client, by a SEQPACKET socket, through `RampPump` or the C program
FORWARDER; or from another site, by UDP, through `GuePump`.
"""

from __future__ import annotations

import os
import select
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from bench.hotloop import packet
from proxy.device.interface import bring_up
from proxy.device.namespaces import CLONE_NEWNET, unshare
from proxy.device.seqpacket import enlarge_send_buffer
from proxy.flow.path import Path
from proxy.kernel.pump import RampPump
from proxy.kernel.unconnected import GuePump, Source
from proxy.offramps.peer_sockets import PeerSocket
from proxy.wire import gue

CONTEXT = gue.Context(7, 1, b"secret")
HEADERS = {version: gue.header(version, CONTEXT) for version in (4, 6)}
BURST = 100  # packets that wait in the UDP socket at once


def main(source: str, kind: str, flows: int, rounds: int, size: int) -> None:
    """Print nanoseconds of processor time per packet, which other processes on the core do not affect."""
    unshare(CLONE_NEWNET)
    bring_up("lo")
    sink, out = (socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2))
    sink.bind(("127.0.0.1", 0))
    out.connect(sink.getsockname())
    ramp, feed = _ends(source)
    if kind == "ours":
        print(_ours(source, out, ramp, feed, [packet(flow, size) for flow in range(flows)], rounds))
        return
    descriptors = out.fileno(), ramp.fileno(), feed.fileno()
    command = [kind, *map(str, (*descriptors, flows, rounds, size)), source]
    sys.exit(subprocess.call(command, pass_fds=descriptors))


def _ends(source: str) -> tuple[socket.socket, socket.socket]:
    """The source and the destination of packets."""
    if source == "client":
        ramp, feed = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        enlarge_send_buffer(feed)
    else:
        ramp, feed = (socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2))
        ramp.bind(("127.0.0.1", 0))
        ramp.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
        ramp.setsockopt(socket.IPPROTO_IP, 13, 1)
        feed.connect(ramp.getsockname())
    for sock in (ramp, feed):
        sock.setblocking(False)
    return ramp, feed


def _ours(
    source: str, out: socket.socket, ramp: socket.socket, feed: socket.socket, packets: list[bytes], rounds: int
) -> float:
    sender: Any = SimpleNamespace(count=_unexpected, learn_mtu=_unexpected)
    peer_socket = PeerSocket(out, HEADERS, sender)
    paths = {raw[12:24]: _path(peer_socket) for raw in packets}
    ready: Callable[[int], None]
    if source == "client":
        ready = RampPump(ramp, -1, 0, paths, {}, _unexpected, lambda: False, _unexpected).ready
        sent = packets
    else:
        site = Source(paths, {}, {}, _unexpected, _unexpected)
        ready = GuePump(ramp, -1, {b"\x7f\0\0\x01": {HEADERS[4] + bytes([0x45]): site}}, _unexpected).ready
        sent = [HEADERS[4] + raw for raw in packets]
    epoll = select.epoll()
    epoll.register(ramp.fileno(), select.EPOLLIN)
    took = 0
    for _ in range(rounds):
        for at in range(0, len(sent), BURST):
            for raw in sent[at : at + BURST]:
                feed.send(raw)
            began = time.thread_time_ns()
            while events := epoll.poll(0, 1):
                ready(events[0][1])
            took += time.thread_time_ns() - began
    moved = sum(path.packets for path in paths.values())
    if moved != len(packets) * rounds or peer_socket.packets != moved:
        sys.exit(f"moved {moved} of {len(packets) * rounds}, sent {peer_socket.packets}")
    return took / moved


def _path(peer_socket: PeerSocket) -> Path:
    path = Path()
    path.send, path.mtu = peer_socket.send, 1500
    path.raw, path.peer_socket, path.prefix = peer_socket.raw, peer_socket, peer_socket.headers[4]
    return path


def _unexpected(*what: Any) -> Any:
    sys.exit(f"not forwarded: {what[-1]!r}")


if __name__ == "__main__":
    os.environ.setdefault("PYTHONHASHSEED", "0")
    main(sys.argv[1], sys.argv[2], *map(int, sys.argv[3:6]))
