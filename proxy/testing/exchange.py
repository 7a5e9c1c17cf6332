"""An exchange of a simulated client: packets sent and received, and its record."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Protocol, TypeVar

from proxy.device.memory import MemoryTunnel
from proxy.errors import DropReason
from proxy.flow.flow import Flow
from proxy.flow.keys import reverse_key
from proxy.flow.record import CloseReason, Decision, FlowRecord
from proxy.testing import packets
from proxy.wire import tcp

ISN = 1000  # initial sequence number of clients; of origins 5000
ORIGIN_ISN = 5000

_Result = TypeVar("_Result")


class Stage(Protocol):
    """The rehearsal, as its clients use it."""

    opened: list[Flow]  # so far

    def give(self, carrier: MemoryTunnel, packet: bytes) -> DropReason | None:
        """Deliver a packet from a tunnel and wait for all hooks. Returns the reason if it was not forwarded."""
        ...

    def snapshot(self, flow: Flow) -> FlowRecord:
        """The flow's current record."""
        ...

    def call(self, function: Callable[[], _Result]) -> _Result:
        """Call the function on the proxy's loop, and wait for all hooks."""
        ...


class Client:
    """The client's end of a tunnel. Each exchange uses the next source port, unless one is given."""

    def __init__(self, stage: Stage, tunnel: MemoryTunnel, addresses: list[str]) -> None:
        self.tunnel = tunnel
        self._stage = stage
        self._addresses = {len(packed): packed for packed in map(packets.pack, reversed(addresses))}
        self._ports = itertools.count(40_000)

    def send(self, packet: bytes) -> DropReason | None:
        """Send any packet into the tunnel. Returns the reason if it was not forwarded, or None."""
        return self._stage.give(self.tunnel, packet)

    def received(self) -> list[bytes]:
        """The packets received from the tunnel since the last call."""
        return self.tunnel.take()

    def tcp(self, host: str, port: int, *, source_port: int | None = None) -> Exchange:
        """Open a connection: send a SYN."""
        source, destination, ports = self._endpoints(host, port, source_port)
        return self._begin(packets.segment(source, destination, ports, tcp.SYN, ISN), "tcp")

    def udp(self, host: str, port: int, payload: bytes = b"hello", *, source_port: int | None = None) -> Exchange:
        """Send a datagram."""
        source, destination, ports = self._endpoints(host, port, source_port)
        return self._begin(packets.datagram(source, destination, ports, payload), "udp")

    def ping(self, host: str, *, identifier: int = 7) -> Exchange:
        """Send an echo request."""
        source, destination, _ = self._endpoints(host, 0, 0)
        return self._begin(packets.echo_request(source, destination, identifier, b"ping"), "icmp")

    def _endpoints(self, host: str, port: int, source_port: int | None) -> tuple[bytes, bytes, tuple[int, int]]:
        destination = packets.pack(host)
        source = self._addresses[len(destination)]
        return source, destination, (next(self._ports) if source_port is None else source_port, port)

    def _begin(self, packet: bytes, protocol: str) -> Exchange:
        exchange = Exchange(self._stage, self, protocol)
        exchange.begin(packet)
        return exchange


class Exchange:
    """One flow as a test sees it."""

    def __init__(self, stage: Stage, client: Client, protocol: str) -> None:
        self._stage, self._client, self._protocol = stage, client, protocol
        self.flow: Flow | None = None
        self.dropped: DropReason | None = None  # why the last packet was not forwarded at once
        self.packets: list[bytes] = []  # sent to the client

    def begin(self, packet: bytes) -> None:
        """Send the first packet, and wait for the outcome."""
        before = len(self._stage.opened)
        self.send(packet)
        if len(self._stage.opened) > before:
            self.flow = self._stage.opened[before]

    def send(self, packet: bytes) -> None:
        """Send another packet of the client."""
        self.dropped = self._stage.give(self._client.tunnel, packet)
        self.packets += self._client.received()

    def accept(self) -> None:
        """Answer as the origin: a SYN-ACK, or a datagram."""
        self._answer(tcp.SYN | tcp.ACK, b"answer")

    def refuse(self) -> None:
        """Answer as the origin with RST."""
        self._answer(tcp.RST | tcp.ACK, b"")

    def close(self, reason: CloseReason = "client_closed") -> None:
        """End the flow."""
        flow = self._opened_flow
        if (handler := flow.handler) is not None:
            self._stage.call(lambda: handler.end(reason))
            self.packets += self._client.received()

    @property
    def record(self) -> FlowRecord:
        """The flow's record."""
        return self._stage.snapshot(self._opened_flow)

    @property
    def verdict(self) -> str:
        """The verdict in the record: `allowed`, `denied`, `redirected` or `error`."""
        return self._opened_flow.verdict

    @property
    def decisions(self) -> list[Decision]:
        """All decisions about the flow, in order."""
        return self._opened_flow.decisions

    @property
    def answers(self) -> list[str]:
        """Packets sent to the client, in short: `TCP RA`, `ICMP 3/13`."""
        return [packets.describe(packet) for packet in self.packets]

    @property
    def sent_on(self) -> list[bytes]:
        """Packets sent by the flow's off-ramp, including those of other flows that use it."""
        egress = self._opened_flow.egress
        return list(egress.sent) if isinstance(egress, MemoryTunnel) else []

    @property
    def _opened_flow(self) -> Flow:
        if self.flow is None:
            raise LookupError(f"the first packet opened no flow: {self.dropped}")
        return self.flow

    def _answer(self, flags: int, payload: bytes) -> None:
        flow = self._opened_flow
        egress = flow.egress
        if not isinstance(egress, MemoryTunnel):
            raise LookupError(f"{flow!r} does not leave as packets: there is nobody to answer")
        key = reverse_key(flow.outbound_key)
        size = len(flow.source)
        source, destination = key[:size], key[size : 2 * size]
        ports = int.from_bytes(key[-4:-2], "big"), int.from_bytes(key[-2:], "big")
        if self._protocol == "tcp":
            packet = packets.segment(source, destination, ports, flags, ORIGIN_ISN, ISN + 1)
        else:
            packet = packets.datagram(source, destination, ports, payload)
        self.dropped = self._stage.give(egress, packet)
        self.packets += self._client.received()
