"""Bytes that the kernel still has to deliver after the end of a relay, and how long to wait for them."""

from __future__ import annotations

import socket
from collections.abc import Callable

from proxy.flow.flow import Flow
from proxy.poller import Poller
from proxy.stream.queues import acknowledged_bytes, is_delivered
from proxy.stream.relay import LINGER_RESET

PATIENCE_S = 60.0  # for a side that accepts nothing (the kernel's own limit is about 100 s, tcp_orphan_retries)
SHORTEST_WAIT_S, LONGEST_WAIT_S = 0.001, 0.25


class Debts:
    """Bytes written to the client's socket, or to a leg's, that have not been acknowledged.

    After an orderly close of a socket of the host, its kernel delivers the rest without us. If one side broke, the
    other is the `survivor`, whatever its socket: it is reset after it has received everything that the broken side had
    delivered.
    """

    __slots__ = ("_client", "_flow", "_moved_at", "_origin", "_taken", "_wait_s", "survivor")

    def __init__(
        self, flow: Flow, client: socket.socket, origin: socket.socket, survivor: socket.socket | None, now: float
    ) -> None:
        self._flow, self._client, self._origin, self.survivor = flow, client, origin, survivor
        self._taken, self._moved_at, self._wait_s = 0, now, SHORTEST_WAIT_S

    def owed(self) -> list[socket.socket]:
        """The sockets whose peers have not received everything yet, and still can."""
        history = self._flow.history
        sides = ((self._client, "f" in history), (self._origin, "F" in history))
        return [sock for sock, is_shut in sides if self._is_reached(sock) and not is_delivered(sock, is_shut=is_shut)]

    def is_refused(self, now: float) -> bool:
        """Whether the survivor's peer has accepted nothing for `PATIENCE_S`."""
        return self.survivor is not None and self._is_stuck([self.survivor], now)

    def are_settled(self, now: float) -> bool:
        """Whether the sockets may be closed: everything is acknowledged, or the peers still owed bytes accept nothing.
        Closing them then sends an RST to the survivor, if there is one, and to those peers."""
        owed = self.owed()
        if owed and not self._is_stuck(owed, now):
            return False
        for sock in owed if self.survivor is None else (self.survivor, *owed):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_RESET)
        return True

    def look_again(self, poller: Poller, look: Callable[[], None]) -> None:
        """Call `look` a little later if no packet that passes here shows when the origin has received everything."""
        if self.survivor is self._origin and self._flow.egress is None:
            poller.later(self._wait_s, look)
            self._wait_s = min(2 * self._wait_s, LONGEST_WAIT_S)

    def _is_stuck(self, owed: list[socket.socket], now: float) -> bool:
        taken = sum(map(acknowledged_bytes, owed))
        if taken != self._taken:
            self._taken, self._moved_at = taken, now
        return now - self._moved_at >= PATIENCE_S

    def _is_reached(self, sock: socket.socket) -> bool:
        flow = self._flow
        if self.survivor is not None and sock is not self.survivor:
            return False
        if sock is self._client:
            return flow.virtual is not None and not flow.carrier.is_closed
        return self.survivor is not None if flow.egress is None else not flow.egress.is_closed
