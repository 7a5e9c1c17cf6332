"""The stream plane on a packet plane, with a tunnel and a bridge in memory, and real sockets to origins on loopback."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterator
from typing import Any

from proxy.errors import DropReason
from proxy.flow.flow import Flow
from proxy.flow.path import Path
from proxy.flow.record import FlowRecord
from proxy.hooks import HookRunner, Hooks
from proxy.offramps import sockets
from proxy.packet.icmp_errors import IcmpErrors
from proxy.packet.plane import Plane
from proxy.settings.model import Timeouts
from proxy.stream.datagrams import DatagramPlane
from proxy.stream.descriptors import Descriptors
from proxy.stream.echo import EchoFlow
from proxy.stream.flow_setup import FlowSetup
from proxy.stream.lifecycle import Lifecycle
from proxy.stream.relay import close_pool
from proxy.stream.tcp import TcpPlane
from proxy.stream.udp import UdpSession
from proxy.wire import ip
from proxy.wire.ip import IPPacket
from tests.flows import make_tenant, make_tunnel
from tests.loops import Loop, running
from tests.packet.script import describe
from tests.stream.relays import tcp_pair

LOCALHOST = {4: "127.0.0.1", 6: "::1"}


class MemoryBridge:
    """A bridge whose kernel is the test: `written` is what it was given, by flow."""

    def __init__(self) -> None:
        self.written: list[tuple[Flow, bytes]] = []
        self.admitted: list[Flow] = []
        self.released: list[Flow] = []
        self.reported: list[bytes] = []  # addresses and ports of what ICMP errors are about, as the kernel sent it

    def admit(self, flow: Flow) -> None:
        self.admitted.append(flow)
        flow.virtual = (f"198.18.0.{len(self.admitted)}", 1024, b"")

    def release(self, flow: Flow) -> None:
        self.released.append(flow)
        flow.virtual = None

    def report(self, buffer: bytearray, packet: IPPacket, sent: bytes) -> None:
        self.reported.append(sent)

    def write(self, buffer: bytearray, packet: IPPacket, path: Path) -> DropReason | None:
        (flow,) = (flow for flow in self.admitted if flow.client_path is path)
        self.written.append((flow, bytes(buffer[packet.start : packet.end])))
        path.packets += 1
        path.octets += packet.end - packet.start
        return None


class World:
    """One tunnel of one tenant, every opener, and the clock in the test's hand: `tick(seconds)` lets time pass."""

    def __init__(
        self, loop: Loop, *, hooks: Hooks | None = None, offload: bool = False, descriptors: int = 2000,
        timeouts: Timeouts | None = None, mtu: int = 1280, **limits: Any,
    ) -> None:  # fmt: skip
        self.loop = loop
        self.tenant = make_tenant(**limits)
        self.tunnel = make_tunnel(self.tenant, offload=offload, mtu=mtu)
        self.hooks = HookRunner(hooks or Hooks())
        self.lifecycle = Lifecycle("edge", self.hooks, Descriptors(descriptors))
        self.records: list[FlowRecord] = []
        self.lifecycle.subscribe(self.records.append)
        self.bridge = MemoryBridge()
        errors, timeouts = IcmpErrors(), timeouts or Timeouts()
        bridges: Any = {0: self.bridge, 10: self.bridge}
        dialer: Any = None
        self.tcp = TcpPlane(loop.poller, bridges, self.lifecycle, errors, timeouts, dialer)
        udp = DatagramPlane(UdpSession, loop.poller, self.lifecycle, errors, timeouts, False)
        echo = DatagramPlane(EchoFlow, loop.poller, self.lifecycle, errors, timeouts, False)
        openers = {"tcp": self.tcp, "udp": udp, "icmp": echo, "icmpv6": echo}
        self.plane = Plane(FlowSetup(self.lifecycle, errors, openers, None), errors)
        self.sockets: list[socket.socket] = []
        self._ahead = 0.0

    def give(self, packet: bytes) -> DropReason | None:
        """A packet from the client; what the packet plane said of it. `at_once`: what had happened by then."""
        buffer = bytearray(self.tunnel.header_bytes) + packet

        def handle() -> DropReason | None:
            reason = self.plane.handle(self.tunnel, buffer, len(buffer), time.monotonic(), time.time_ns())
            self.at_once = self.events(), len(self.bridge.written)
            return reason

        return self.loop.call(handle)

    def give_all(self, *packets: bytes) -> list[DropReason | None]:
        """The same for packets that stand in the tunnel together."""
        buffers = [bytearray(self.tunnel.header_bytes) + packet for packet in packets]
        handle = self.plane.handle
        return self.loop.call(
            lambda: [handle(self.tunnel, b, len(b), time.monotonic(), time.time_ns()) for b in buffers]
        )

    def replies(self) -> list[str]:
        return [describe(packet) for packet in self.tunnel.take()]

    def accept(self, flow: Flow) -> socket.socket:
        """Let the client's handshake with our kernel be done; the far end of the connection."""
        near, far = tcp_pair()
        self.sockets.append(far)
        self.loop.call(lambda: self.tcp.accepted(flow, near))
        return far

    def tick(self, seconds: float) -> None:
        """Let the timers be at `seconds` from now; what is armed behind their back is due at the next tick."""
        self._ahead = max(seconds, self._ahead)
        self.loop.call(lambda: self.lifecycle.tick(time.monotonic() + seconds))

    @property
    def flow(self) -> Flow:
        """The only flow."""
        (flow,) = self.tenant.live()
        return flow

    def events(self, *kinds: str) -> list[str]:
        return [record.event for record in self.records if not kinds or record.event in kinds]

    def close(self) -> None:
        for flow in list(self.tenant.live()):
            self.loop.call(lambda flow=flow: flow.handler.end("drain"))
        for wait in range(1, 5):
            self.tick(self._ahead + 5 * wait)
        for sock in self.sockets:
            sock.close()
        close_pool()


def distant(monkeypatch: Any) -> None:
    """Let origins on this host answer as late as all others: connect(2) begins, and the poller tells of its end."""
    monkeypatch.setattr(sockets, "connect", lambda sock, address: sock.connect_ex(address))


@contextlib.contextmanager
def world(monkeypatch: Any, **options: Any) -> Iterator[World]:
    """A world in which loopback addresses are as good as any. At its end every flow has ended once, and is gone."""
    monkeypatch.setattr(ip, "is_unicast", lambda address: True)
    with running() as loop:
        made = World(loop, **options)
        try:
            yield made
        finally:
            made.close()
        started = [record.flow_id for record in made.records if record.event == "start"]
        ended = [record.flow_id for record in made.records if record.event == "end"]
        assert sorted(started) == sorted(ended)
        assert list(made.tenant.live()) == []
        assert (made.lifecycle.flows, len(made.lifecycle.wheel)) == (0, 0)
        assert made.lifecycle.descriptors.held_by(made.tenant) == made.tenant.count == made.tenant.lingering == 0


@contextlib.contextmanager
def listening(version: int = 4, *, backlog: int = 8) -> Iterator[socket.socket]:
    """A TCP origin on loopback that has not accepted anybody yet."""
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    with socket.socket(family, socket.SOCK_STREAM) as listener:
        listener.bind((LOCALHOST[version], 0))
        listener.listen(backlog)
        yield listener


def closed_port(version: int = 4, kind: int = socket.SOCK_STREAM) -> int:
    """A port of loopback on which nobody listens."""
    with socket.socket(socket.AF_INET if version == 4 else socket.AF_INET6, kind) as sock:
        sock.bind((LOCALHOST[version], 0))
        return int(sock.getsockname()[1])
