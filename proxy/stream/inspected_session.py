"""A session that is in an inspector: the state that stays in the proxy, and how the session ends."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable
from typing import Any, Protocol

from proxy.flow.flow import Flow, address_text
from proxy.flow.record import CloseReason
from proxy.session.facts import FlowFacts
from proxy.session.messages import Ended, SessionFacts
from proxy.stream.queues import received_bytes
from proxy.stream.relay import LINGER_RESET
from proxy.stream.ssh_broker import SSHGrants


class Inspector(Protocol):
    """The inspector, as its sessions use it."""

    def kill(self, session: InspectedSession) -> None:
        """End in the inspector a session that has ended in the proxy."""
        ...


class InspectedSession:
    """A session in an inspector. The proxy keeps both sockets, for counters, resets, and bytes not yet delivered.

    `finished(reason, is_cut)` is called once; `passed()` instead, if the inspector returns the session unread.
    """

    __slots__ = ("_client", "_closed_bytes", "_extra_origins", "_inspector", "_is_over", "_origin", "finished",
                 "flow", "grants", "is_handed_over", "number", "passed")  # fmt: skip

    def __init__(
        self, number: int, flow: Flow, client: socket.socket, origin: socket.socket, inspector: Inspector,
        finished: Callable[[CloseReason, bool], None], passed: Callable[[socket.socket], None],
    ) -> None:  # fmt: skip
        self.number, self.flow, self._client, self._origin, self._inspector = number, flow, client, origin, inspector
        self.finished, self.passed = finished, passed
        self.grants = SSHGrants()
        self._extra_origins: dict[int, socket.socket] = {}  # further connections to origins, by dial request
        self._closed_bytes = 0  # received on those that have been closed
        self._is_over = self.is_handed_over = False

    @property
    def is_over(self) -> bool:
        """Whether the session has ended, or was given back."""
        return self._is_over

    def descriptors(self) -> list[int]:
        """The file descriptors of the client's and the origin's sockets."""
        return [self._client.fileno(), self._origin.fileno()]

    def add_origin(self, sock: socket.socket, request: int | None) -> None:
        """Add a connection dialled on this request. If `request` is None, it replaces the session's own."""
        if request is None:
            self._close_origin(self._origin)
            self._origin = sock
        else:
            self._extra_origins[request] = sock

    def dial_closed(self, request: int) -> None:
        """Close a further connection, which the inspector has closed."""
        if (sock := self._extra_origins.pop(request, None)) is not None:
            self._close_origin(sock)

    def _close_origin(self, sock: socket.socket) -> None:
        with contextlib.suppress(OSError):
            self._closed_bytes += received_bytes(sock)
        sock.close()

    def source(self) -> str:
        """The address that the origin sees."""
        if self.flow.egress is not None:  # flows into a tunnel keep the client's address
            return address_text(self.flow.source)
        address: str = self._origin.getsockname()[0]
        return address

    def count(self) -> None:
        """Update the flow's totals while the inspector has the session."""
        if self._is_over:
            return
        flow = self.flow
        try:
            flow.client_payload = received_bytes(self._client, has_fin="F" in flow.history)
            origin = received_bytes(self._origin, has_fin="f" in flow.history)
            flow.origin_payload = origin + self._closed_bytes + sum(map(received_bytes, self._extra_origins.values()))
        except OSError:
            pass

    def add_facts(self, message: SessionFacts) -> None:
        """Record what the inspector has learnt about the session."""
        flow = self.flow
        if message.protocol is not None:
            flow.detected_protocol = message.protocol
        if message.level is not None:
            flow.level = message.level
        if message.tls is not None:
            flow.tls = message.tls
        if message.decisions:
            flow.decisions = [*flow.decisions, *message.decisions]

    def ended(self, message: Ended) -> None:
        """Handle the inspector's end of the session."""
        self.flow.history += message.history
        if message.reason == "denied":
            self.flow.verdict = "denied"
        for name, sock in (("client", self._client), ("origin", self._origin)):
            if message.cut in (name, "both"):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_RESET)
        self._finish(message.reason, message.cut == "both")

    def give_back(self) -> None:
        """Take back the session, of which the inspector has read nothing."""
        if not self._is_over:
            self._is_over = True
            self.flow.client_payload = self.flow.origin_payload = 0  # the relay counts all bytes, as none were read
            for sock in self._extra_origins.values():
                sock.close()
            self.passed(self._origin)

    def died(self) -> None:
        """End the session, as its inspector has died."""
        self._cut("inspector_died")

    def client_reset(self) -> None:
        """Handle the client's reset. Only the inspector knows whether the client had closed the connection before, as
        most do while our close_notify is on its way: it sees the reset as well, and reports how the session ended. If
        it does not have the session yet, the session ends here."""
        if not self.is_handed_over:
            self.abort("client_reset")

    def abort(self, reason: CloseReason) -> None:
        """End both sides with RST."""
        if not self._is_over:
            self._inspector.kill(self)
            self._cut(reason)

    def _cut(self, reason: CloseReason) -> None:
        for sock in (self._client, self._origin):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_RESET)
        self._finish(reason, True)

    def _finish(self, reason: CloseReason, is_cut: bool) -> None:
        if self._is_over:
            return
        self.count()
        self._is_over = True
        for sock in self._extra_origins.values():
            sock.close()
        self.finished(reason, is_cut)


def facts_of(flow: Flow, policy_facts: dict[str, Any]) -> FlowFacts:
    """The facts about the flow that are sent to the inspector. `known`: the fields that policies may use."""
    carrier = flow.carrier
    return FlowFacts(
        id=flow.id,
        tenant=flow.tenant.name,
        onramp=flow.onramp,
        tunnel=carrier.id,
        src=address_text(flow.source),
        src_port=flow.source_port,
        dst=address_text(flow.destination),
        dst_port=flow.destination_port,
        network=carrier.network.name,
        user=carrier.user,
        device=carrier.device,
        policy_facts=policy_facts,
    )
