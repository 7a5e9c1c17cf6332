"""Bytes that the kernel still has to deliver after the end of a relay, and how long to wait for them."""

from __future__ import annotations

import socket
from collections.abc import Callable

from proxy.flow.flow import Flow
from proxy.poller import Poller
from proxy.stream.queues import acknowledged_bytes, is_delivered
from proxy.stream.relay import LINGER_RESET

STALL_TIMEOUT_S = 60.0  # for a side that accepts nothing (the kernel's own limit is about 100 s, tcp_orphan_retries)
MIN_CHECK_S, MAX_CHECK_S = 0.001, 0.25


class Undelivered:
    """Bytes written to the client's socket, or to a leg's, that have not been acknowledged.

    After an orderly close of a socket of the host, its kernel delivers the rest without us. If one side broke,
    `intact_sock` is the other's, whatever kind of socket that is: it is reset after it has received everything that the
    broken side had delivered.
    """

    __slots__ = ("_acked_bytes", "_check_delay_s", "_client", "_flow", "_origin", "_progress_at", "intact_sock")

    def __init__(
        self, flow: Flow, client: socket.socket, origin: socket.socket, intact_sock: socket.socket | None, now: float
    ) -> None:
        self._flow, self._client, self._origin, self.intact_sock = flow, client, origin, intact_sock
        self._acked_bytes, self._progress_at, self._check_delay_s = 0, now, MIN_CHECK_S

    def pending(self) -> list[socket.socket]:
        """The sockets whose peers have not received everything yet, and still can."""
        history = self._flow.history
        sides = ((self._client, "f" in history), (self._origin, "F" in history))
        return [sock for sock, is_shut in sides if self._can_deliver(sock) and not is_delivered(sock, is_shut=is_shut)]

    def is_stalled(self, now: float) -> bool:
        """Whether the intact side's peer has accepted nothing for `STALL_TIMEOUT_S`."""
        return self.intact_sock is not None and self._has_stalled([self.intact_sock], now)

    def can_close(self, now: float) -> bool:
        """Whether the sockets may be closed: everything is acknowledged, or the peers still owed bytes accept nothing.
        Closing them then sends an RST to the intact side, if one broke, and to those peers."""
        pending = self.pending()
        if pending and not self._has_stalled(pending, now):
            return False
        for sock in pending if self.intact_sock is None else (self.intact_sock, *pending):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_RESET)
        return True

    def schedule_check(self, poller: Poller, check: Callable[[], None]) -> None:
        """Call `check` a little later if no packet that passes here shows when the origin has received everything."""
        if self.intact_sock is self._origin and self._flow.egress is None:
            poller.later(self._check_delay_s, check)
            self._check_delay_s = min(2 * self._check_delay_s, MAX_CHECK_S)

    def _has_stalled(self, pending: list[socket.socket], now: float) -> bool:
        acked_bytes = sum(map(acknowledged_bytes, pending))
        if acked_bytes != self._acked_bytes:
            self._acked_bytes, self._progress_at = acked_bytes, now
        return now - self._progress_at >= STALL_TIMEOUT_S

    def _can_deliver(self, sock: socket.socket) -> bool:
        flow = self._flow
        if self.intact_sock is not None and sock is not self.intact_sock:
            return False
        if sock is self._client:
            return flow.virtual is not None and not flow.carrier.is_closed
        return self.intact_sock is not None if flow.egress is None else not flow.egress.is_closed
