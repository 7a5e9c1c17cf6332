"""UDP mappings: a client's endpoint has one socket, so one address and port, towards all origins (RFC 4787).

The tenant's filter decides whether other senders may use that port; each gets a flow of its own.
"""

from __future__ import annotations

import socket
import time
from collections import Counter
from functools import partial

from proxy.errors import DropReason
from proxy.flow.flow import Flow, next_number
from proxy.flow.record import CloseReason
from proxy.flow.tenant import Carrier
from proxy.kernel.batch import ENDPOINT, Batch
from proxy.kernel.tos import ancillary, set_tos
from proxy.offramps import sockets
from proxy.poller import ERROR, IN
from proxy.stream.datagrams import DatagramFlow, DatagramPlane
from proxy.verdict import Verdict
from proxy.wire import ip

ERRORS = 64  # ICMP errors read per readiness event

_batches: dict[int, Batch] = {}  # per address family, shared: each datagram is forwarded before the next read


def endpoint_of(flow: Flow) -> tuple[Carrier, bytes, int]:
    """The key of a mapping: the address and port of a client, in its tunnel."""
    return flow.carrier, flow.source, flow.source_port


class EndpointSession(DatagramFlow):
    """A flow from a client's endpoint to one origin, as used by the endpoint's mapping."""

    __slots__ = ()

    def forward_reply(self, payload: memoryview, segment: int, tos: int) -> None:
        """Forward data from the origin: one datagram, or several of `segment` bytes each."""
        raise NotImplementedError

    def quote(self, payload: bytes) -> bytes:
        """The packet as the client sent it, for an ICMP error that quotes `payload`."""
        raise NotImplementedError

    def admitted(self, payload: bytes, segment: int, tos: int, verdict: Verdict) -> None:
        """Act on the verdict on a flow that the origin opened."""
        raise NotImplementedError


class Mapping:
    """A client's endpoint, its socket, and its sessions by origin."""

    __slots__ = ("_filtering", "_first_flow", "_has_offload", "_plane", "_sessions_per_host", "family", "hop",
                 "sessions", "sock", "users")  # fmt: skip

    def __init__(self, plane: DatagramPlane, flow: Flow) -> None:
        self._plane, self._first_flow = plane, flow
        self.family = socket.AF_INET if len(flow.source) == 4 else socket.AF_INET6
        self.sock: socket.socket | None = None
        self.users: dict[EndpointSession, None] = {}
        self.sessions: dict[bytes, EndpointSession] = {}  # open ones, by the origin's sockaddr bytes
        self._sessions_per_host: Counter[bytes] = Counter()
        self.hop: tuple[int, bool, int] | None = None  # TTL, don't-fragment and TOS set on the socket
        self._filtering = flow.tenant.settings.udp_filtering
        self._has_offload = plane.udp_offload and flow.carrier.header_bytes > 0

    def open(self, flow: Flow) -> str:
        """Open the socket if needed. Returns its local address towards the flow's origin. Raises OSError: no route."""
        device = flow.tenant.settings.egress
        local = sockets.source_address(*flow.target, device)
        if self.sock is None:
            self.sock = sockets.open_udp(self.family, gro=self._has_offload, device=device)
            self._plane.poller.watch(self.sock.fileno(), IN, self.ready, self.crashed)
        return local

    def add(self, session: EndpointSession) -> None:
        """Add a session, whose origin may send from now on."""
        self.sessions[_sockaddr(session.flow)] = session
        self._sessions_per_host[session.flow.target[0]] += 1

    def remove(self, session: EndpointSession) -> None:
        """Remove a session, whose origin may no longer send. The socket is closed with the last one."""
        endpoint = _sockaddr(session.flow)
        if self.sessions.get(endpoint) is session:
            del self.sessions[endpoint]
            host = session.flow.target[0]
            self._sessions_per_host[host] -= 1
            if not self._sessions_per_host[host]:
                del self._sessions_per_host[host]
        self.users.pop(session, None)
        if not self.users:
            self._close()
            self._plane.mappings.pop(endpoint_of(session.flow), None)
            self._plane.lifecycle.descriptors.give(session.flow.tenant, 1, self)

    def _close(self) -> None:
        if self.sock is not None:
            self._plane.poller.forget(self.sock.fileno())
            if lost := sockets.overflows(self.sock):
                self._first_flow.tenant.drops[DropReason.SOCKET_OVERFLOW] += lost
            self.sock.close()
            self.sock = None

    def activity(self) -> int:
        return sum(session.flow.activity() for session in self.users)

    def evict(self) -> None:
        """Give up the descriptor for another flow."""
        self._end_sessions("evicted")

    def crashed(self, error: BaseException) -> None:
        """End the sessions that share this socket, and no others, after a bug."""
        self._end_sessions("proxy_error")

    def set_ttl(self, hop: tuple[int, bool, int]) -> None:
        """Set TTL, don't-fragment and TOS for the next datagram, where they differ from the last one's."""
        assert self.sock is not None
        before, (ttl, dont_fragment, tos) = self.hop, hop
        if before is None or before[:2] != hop[:2]:
            sockets.set_ttl(self.sock, 4 if self.family == socket.AF_INET else 6, ttl - 1, dont_fragment)
        if before is None or before[2] != tos:
            set_tos(self.sock, self._first_flow.tenant.remark_tos(tos))
        self.hop = hop

    def ready(self, events: int) -> None:
        """Handle datagrams from origins and errors from the network."""
        if events & ERROR:
            self.report_errors()
        if self.sock is None:
            return
        batch = _batches.get(self.family) or _batches.setdefault(self.family, Batch(self.family, ENDPOINT))
        view, controls, sessions = memoryview(batch.data), batch.controls, self.sessions
        for (control_bytes, size), (begin, control, peer) in zip(
            batch.receive(self.sock.fileno()), batch.slots, strict=False
        ):
            tos, segment = ancillary(controls, control, control_bytes)
            session = sessions.get(endpoint := bytes(peer))
            payload = view[begin : begin + size]
            if session is None:
                self._handle_unsolicited(endpoint, payload, segment, tos)
            else:
                session.forward_reply(payload, segment, tos)

    def report_errors(self) -> None:
        """Pass ICMP errors to the clients concerned, with their original senders."""
        for _ in range(ERRORS):
            report = None if self.sock is None else sockets.network_error(self.sock)
            if report is None:
                return
            session = self.sessions.get(_sockaddr_of(*report.destination)) if report.destination else None
            if session is not None:
                quoted = session.quote(report.quoted)
                self._plane.errors.pass_on(session.flow.carrier, report, quoted, time.monotonic())

    def _handle_unsolicited(self, endpoint: bytes, payload: memoryview, segment: int, tos: int) -> None:
        """Open a flow for a sender to whom the client has not sent, if the tenant's filter admits it."""
        flow, address, port = self._first_flow, endpoint[-4 if self.family == socket.AF_INET else -16 :], endpoint[:2]
        tenant, carrier, now = flow.tenant, flow.carrier, time.monotonic()
        key = flow.source + address + flow.source_port.to_bytes(2, "big") + port
        if not self._admits(address) or tenant.find(carrier, ip.UDP, key) is not None:
            tenant.drops[DropReason.UNSOLICITED] += 1
            return
        if refusal := tenant.refusal(now):
            tenant.drops[refusal] += 1
            return
        parent = next((each.flow for each in self.sessions.values() if each.flow.target[0] == address), flow)
        now_ns = time.time_ns()
        child = Flow(
            next_number(), tenant, carrier, "udp", key, flow.source, flow.source_port, address,
            int.from_bytes(port, "big"), now, now_ns,
        )  # fmt: skip
        child.parent_id, child.offramp = parent.id, "socket"
        session = self._plane.kind(self._plane, child)
        assert isinstance(session, EndpointSession)  # never a UdpTunnelSession
        session.reserve()
        self.add(session)
        lifecycle, then = self._plane.lifecycle, partial(session.admitted, bytes(payload), segment, tos)
        lifecycle.begin(child, session, partial(lifecycle.admission.ask, child, then))

    def _end_sessions(self, reason: CloseReason) -> None:
        for session in list(self.users):
            session.end(reason)

    def _admits(self, address: bytes) -> bool:
        if self._filtering == "address":
            return address in self._sessions_per_host
        return self._filtering == "endpoint"


def _sockaddr(flow: Flow) -> bytes:
    return _sockaddr_of(*flow.target)


def _sockaddr_of(address: bytes, port: int) -> bytes:
    """Port and address as in a sockaddr, where IPv6 has the flow label between them."""
    return port.to_bytes(2, "big") + (address if len(address) == 4 else bytes(4) + address)
