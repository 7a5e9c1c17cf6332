"""One flow: both directions of a point-to-point exchange, its counters, and its outcome."""

from __future__ import annotations

import itertools
from functools import lru_cache
from ipaddress import ip_address
from sys import intern
from typing import Any, TypeVar

from proxy.flow import community
from proxy.flow.context import FlowContext
from proxy.flow.details import NONE, Detail
from proxy.flow.handler import FlowHandler
from proxy.flow.keys import reverse_key
from proxy.flow.path import KernelPath, KernelTCPPath, Path
from proxy.flow.record import (
    ClosedBy,
    CloseReason,
    Decision,
    Event,
    FlowRecord,
    Level,
    Protocol,
    SSHRecord,
    State,
    TLSRecord,
    Totals,
    Verdict,
)
from proxy.flow.tenant import Carrier, Tenant
from proxy.flow.tracking import Direction, acknowledged

PROTOCOL_NUMBERS: dict[Protocol, int] = {
    "icmp": 1, "tcp": 6, "udp": 17, "gre": 47, "esp": 50, "ah": 51, "icmpv6": 58, "sctp": 132,
}  # fmt: skip
HEADER_BYTES: dict[Protocol, int] = {  # without options
    "icmp": 8, "tcp": 20, "udp": 8, "gre": 4, "esp": 8, "ah": 12, "icmpv6": 8, "sctp": 12,
}  # fmt: skip
ECHO_PORTS: dict[Protocol, tuple[int, int]] = {"icmp": (8, 0), "icmpv6": (128, 0)}  # type and code in place of ports
AS_REQUESTED = ""  # the origin is the requested destination
CLOSED_BY: dict[str, ClosedBy] = {"client": "client", "origin": "origin"}

Record = TypeVar("Record", bound=FlowRecord)

_numbers = itertools.count(1)
# One object per 16-bit number used by flows, such as ports: saves 28 bytes for each use.
_small_integers: dict[int, int] = {}
_share_integer = _small_integers.setdefault


class Flow:
    """Identity, state and counters of one flow. Its `handler` moves the bytes."""

    __slots__ = (
        "_id",
        "_reply_key",
        "carrier",
        "chunk",
        "chunk_index",
        "client_path",
        "close_reason",
        "connected_at",
        "decisions",
        "destination",
        "destination_port",
        "details",
        "dscp",
        "egress",
        "egress_ip",
        "ended_ns",
        "handler",
        "history",
        "idle_checks",
        "is_recorded",
        "key",
        "last_count",
        "level",
        "offramp",
        "origin",
        "origin_path",
        "origin_tcp_ms",
        "policy_ms",
        "protocol",
        "route",
        "seq",
        "source",
        "source_port",
        "started_at",
        "started_ns",
        "state",
        "tenant",
        "timer_due",
        "timer_slot",
        "tracked",
        "ttfb_ms",
        "verdict",
    )  # fmt: skip

    client_payload, origin_payload, spliced = Detail[int](), Detail[int](), Detail[int]()
    client_tcp_ms = Detail[float | None]()
    detected_protocol, parent_id = Detail[str | None](), Detail[str | None]()
    extension, virtual = Detail[Any](), Detail[Any]()
    last_totals = Detail[Totals | None]()
    redirect = Detail[tuple[bytes, int] | None]()
    tls = Detail[TLSRecord | None]()
    ssh = Detail[SSHRecord | None]()
    wanted_level = Detail[Level | None]()

    def __init__(
        self, flow_id: str | int, tenant: Tenant, carrier: Carrier, protocol: Protocol, key: bytes,
        source: bytes, source_port: int, destination: bytes, destination_port: int, now: float, now_ns: int,
        path: type[KernelPath] = Path,
    ) -> None:  # fmt: skip
        """`flow_id`: an id, or a number of `next_number` (saves 67 bytes), which makes an id together with `now_ns`."""
        self._id, self.tenant, self.carrier, self.protocol, self.key = flow_id, tenant, carrier, protocol, key
        self.details = NONE
        self.source, self.source_port = source, _share_integer(source_port, source_port)
        self.destination, self.destination_port = destination, _share_integer(destination_port, destination_port)
        self.started_at, self.started_ns = now, now_ns
        self.ended_ns: int | None = None
        self.connected_at: float | None = None
        self.state: State = "new"
        self.level: Level = "packet"
        self.verdict: Verdict = "allowed"
        self.decisions: list[Decision] = []
        self.client_path: Any = path()  # a Path, if it needs more than a KernelPath
        self.origin_path: Any = path()
        self.handler: FlowHandler | None = None  # None: not yet open, or removed
        self.egress: Carrier | None = None  # the tunnel by which it leaves; None: a socket of the host
        self.route: str | None = None  # the route chosen for it
        self.dscp: int | None = None  # of its first packet
        self.origin: str | None = None
        self.egress_ip: str | None = None
        self.offramp: str | None = None
        self.origin_tcp_ms: float | None = None
        self.policy_ms: float | None = None
        self.ttfb_ms: float | None = None
        self.history = ""  # equal histories share one object: see `add_history`
        self._reply_key: bytes | None = None
        self.close_reason: CloseReason | None = None
        self.tracked: tuple[Direction, Direction] | None = None  # of uninspected TCP: the client's, the origin's
        self.is_recorded = False  # its end record was published
        self.chunk: list[Flow] | None = None  # the list that holds it among its tenant's flows; None: not in the tables
        self.chunk_index = 0
        self.seq = 0
        self.timer_slot = self.timer_due = 0
        self.idle_checks = 0
        self.last_count = 0

    def __repr__(self) -> str:
        return f"<flow {self.id} {self.protocol} {self.source_text} -> {self.destination_text} {self.state}>"

    @property
    def id(self) -> str:
        """A unique id, which sorts by time."""
        number = self._id
        return number if isinstance(number, str) else _format_id(self.started_ns, number)

    @id.setter
    def id(self, name: str) -> None:
        self._id = name

    @property
    def onramp(self) -> str:
        """The kind of on-ramp by which the flow entered."""
        return self.carrier.kind

    @property
    def closed_by(self) -> ClosedBy | None:
        """The side that ended the flow, or None while it lives."""
        return None if self.close_reason is None else _closed_by(self.close_reason)

    @property
    def source_text(self) -> str:
        return endpoint(self.source, self.source_port)

    @property
    def destination_text(self) -> str:
        return endpoint(self.destination, self.destination_port)

    @property
    def target(self) -> tuple[bytes, int]:
        """The address and port of the actual destination."""
        return self.redirect or (self.destination, self.destination_port)

    @property
    def target_text(self) -> str:
        return endpoint(*self.target)

    @property
    def outbound_key(self) -> bytes:
        """The flow's key in packets to the origin."""
        return self.key_towards(self.redirect)

    @property
    def reply_key(self) -> bytes:
        """The key of the flow's replies: one object for all tables, which saves 45 bytes per flow."""
        if self.details.redirect is not None:
            return reverse_key(self.outbound_key)
        if self._reply_key is None:
            self._reply_key = reverse_key(self.key)
        return self._reply_key

    def add_history(self, letter: str) -> None:
        """Add a letter to the history. Equal histories share one string, which saves 51 bytes per flow."""
        self.history = intern(self.history + letter)

    def key_towards(self, redirect: tuple[bytes, int] | None) -> bytes:
        """The flow's key in packets to this address and port; None: to the requested destination."""
        if redirect is None:
            return self.key
        address, port = redirect
        return self.source + address + self.source_port.to_bytes(2, "big") + port.to_bytes(2, "big")

    @property
    def dst_host(self) -> str | None:
        """The host name that the client asked for, if known."""
        return None if self.tls is None else self.tls.sni

    @property
    def tls_action(self) -> str | None:
        """How the proxy handled the flow's TLS, or None if it has none, or was not examined."""
        return None if self.tls is None else self.tls.action

    @property
    def is_ended(self) -> bool:
        return self.ended_ns is not None

    def close(self, reason: CloseReason, now_ns: int) -> bool:
        """Record the reason for the flow's end. Returns False if it had ended before: the first reason is kept."""
        if self.ended_ns is not None:
            return False
        self.ended_ns = now_ns
        self.tenant.ended(self)
        self.state = "closed"
        self.close_reason = reason
        return True

    def use_full_paths(self) -> None:
        """Replace the paths by those needed to leave otherwise than by the kernel off-ramp."""
        if not isinstance(self.client_path, Path):
            old, (self.client_path, self.origin_path) = (self.client_path, self.origin_path), (Path(), Path())
            for new, before in zip((self.client_path, self.origin_path), old, strict=True):
                new.packets, new.octets = before.packets, before.octets
                if isinstance(before, KernelTCPPath):
                    new.last = before.last

    def activity(self) -> int:
        """A counter that grows with all the flow's traffic: two equal readings mean that it was idle."""
        packets: int = self.client_path.packets + self.origin_path.packets
        return packets + self.details.client_payload + self.details.origin_payload

    def totals(self) -> Totals:
        """The current counters of both directions."""
        client, origin = self.client_path, self.origin_path
        up, down = self.payload()
        spliced = self.details.spliced
        return Totals(client.packets, client.octets, up, origin.packets, origin.octets, down, spliced)

    def payload(self) -> tuple[int, int]:
        """Bytes of payload delivered by the client and by the origin."""
        client, origin, details = self.client_path, self.origin_path, self.details
        payload = details.client_payload, details.origin_payload
        if self.egress is not None and self.level == "packet":  # unread packets: computed from header sizes
            headers = (20 if len(self.source) == 4 else 40) + HEADER_BYTES[self.protocol]
            payload = client.octets - headers * client.packets, origin.octets - headers * origin.packets
            if self.tracked is not None:
                payload = self._tracked_payload(*self.tracked, *payload)
        return payload

    def _tracked_payload(self, up: Direction, down: Direction, max_up: int, max_down: int) -> tuple[int, int]:
        """Payload by TCP sequence numbers. If the kernel carries the flow, only the first and last ones are known."""
        client, origin = self.client_path, self.origin_path
        if down.initial is None and up.initial is not None:  # SYNs only
            return 0, 0
        if self.egress is not self.carrier:
            sent = up.delivered(acknowledged(origin.last), max_up)
            return sent, down.delivered(acknowledged(client.last), max_down)
        options = down.options  # in each segment except the SYN, which has more
        max_up -= options * (client.packets - 1) + up.first_options
        max_down -= options * (origin.packets - 1) + down.first_options
        return up.delivered_without_acks(max_up), down.delivered_without_acks(max_down)

    def conn_state(self) -> str:
        """Zeek's state of a TCP connection. Other protocols have SF if the origin has answered, else S0."""
        if self.protocol != "tcp":
            return "SF" if self.origin_path.packets else "S0"
        if self.close_reason == "origin_refused":
            return "REJ"
        if "h" not in self.history:
            return "S0"
        if "R" in self.history:
            return "RSTO"
        if "r" in self.history:
            return "RSTR"
        if self.state != "closed":
            return "S1"
        return {(True, True): "SF", (True, False): "S2", (False, True): "S3"}.get(
            ("F" in self.history, "f" in self.history), "S1"
        )

    def record(self, event: Event, node: str, now_ns: int) -> FlowRecord:
        """The current record as an event: `seq` is incremented, and the delta of updates starts again at zero."""
        total = self.totals()
        delta = total.minus(self.last_totals or Totals()) if event == "update" else None
        seq, self.seq = self.seq, self.seq + 1
        if event == "update":
            self.last_totals = total
        return self._fill(event, node, now_ns, seq, total, delta)

    def snapshot(self, node: str, now_ns: int) -> FlowRecord:
        """The current record for display, without changing any state."""
        return self._fill("end" if self.is_recorded else "update", node, now_ns, self.seq, self.totals(), None)

    def hook_context(self, node: str, now_ns: int) -> FlowContext[Any]:
        """The current record for an application, with its extension."""
        event: Event = "end" if self.is_recorded else "update"
        context = self._fill(event, node, now_ns, self.seq, self.totals(), None, FlowContext)
        context.extension = self.carrier.extension if self.extension is None else self.extension
        return context

    def restore(self, record: FlowRecord) -> None:
        """Restore the state of the flow from its `record`."""
        self.id, self.started_ns, self.seq, self.decisions = (
            record.flow_id, record.start, record.seq + 1, record.decisions,
        )  # fmt: skip
        self.parent_id, self.route, self.egress_ip, self.history = (
            record.parent_id, record.route, record.egress_ip, record.history,
        )  # fmt: skip
        self.origin_tcp_ms, self.policy_ms = record.origin_tcp_ms, record.policy_ms

    def _fill(
        self, event: Event, node: str, now_ns: int, seq: int, total: Totals, delta: Totals | None,
        kind: type[Record] = FlowRecord,  # type: ignore[assignment]  # the default is what the type variable is then
    ) -> Record:  # fmt: skip
        carrier, details, ended_ns, reason = self.carrier, self.details, self.ended_ns, self.close_reason
        record = kind(
            event=event, seq=seq, final=event == "end",
            flow_id=self.id, community_id=self.community_id(), tenant=self.tenant.name,
            user=carrier.user, device=carrier.device, node=node,
            vnet=carrier.network.name, onramp=carrier.kind, tunnel=carrier.id, offramp=self.offramp, route=self.route,
            start=self.started_ns, end=ended_ns, duration_ms=((ended_ns or now_ns) - self.started_ns) / 1e6,
            origin_tcp_ms=self.origin_tcp_ms, policy_ms=self.policy_ms, ttfb_ms=self.ttfb_ms,
            protocol=self.protocol, src=address_text(self.source), src_port=self.source_port,
            dst=address_text(self.destination), dst_port=self.destination_port,
            dscp=self.dscp, origin=self.destination_text if self.origin is AS_REQUESTED else self.origin,
            egress_ip=self.egress_ip, total=total, delta=delta, level=self.level,
            verdict=self.verdict, decisions=self.decisions,
            state=self.state, conn_state=self.conn_state(), history=self.history,
            closed_by=None if reason is None else _closed_by(reason), close_reason=reason,
        )  # fmt: skip
        if details is not NONE:  # each of so many arguments costs time, even if it is None
            record.parent_id, record.client_tcp_ms = details.parent_id, details.client_tcp_ms
            record.detected_protocol, record.tls, record.ssh = details.detected_protocol, details.tls, details.ssh
            if details.tls is not None and details.tls.sni is not None:
                record.dst_host, record.host_source = details.tls.sni, "sni"
        if self.offramp == "tunnel" and self.egress:
            record.offramp_tunnel = self.egress.id
        return record

    def community_id(self) -> str:
        """The flow's Community ID, as in other tools (`proxy.flow.community`)."""
        ports = ECHO_PORTS.get(self.protocol, (self.source_port, self.destination_port))
        return community.community_id(self.source, self.destination, PROTOCOL_NUMBERS[self.protocol], *ports)


def next_number() -> int:
    """A number that, with the time of the start, makes a flow's id."""
    number = next(_numbers) & 0xFFFF
    return _share_integer(number, number)


def new_flow_id(now_ns: int) -> str:
    """A unique id that sorts by time."""
    return _format_id(now_ns, next_number())


def _format_id(now_ns: int, number: int) -> str:
    return f"{now_ns // 1000:014x}{number:04x}"


@lru_cache
def _closed_by(reason: CloseReason) -> ClosedBy:
    return CLOSED_BY.get(reason.partition("_")[0], "proxy")


@lru_cache(4096)  # each connection calls it four times
def address_text(address: bytes) -> str:
    """`192.0.2.1` or `2001:db8::1`."""
    return str(ip_address(address))


def endpoint(address: bytes, port: int) -> str:
    """`192.0.2.1:80` or `[2001:db8::1]:80`."""
    text = address_text(address)
    return f"[{text}]:{port}" if len(address) == 16 else f"{text}:{port}"
