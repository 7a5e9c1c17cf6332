"""Protocol detection by peeking: nothing is consumed, so that the session can still be relayed unread."""

from __future__ import annotations

import socket
from collections.abc import Callable
from dataclasses import dataclass, replace

from proxy.poller import EDGE, HANGUP, IN, RDHUP, Watcher
from proxy.wire.client_hello import MAX_HELLO, Hello, Malformed, parse
from proxy.wire.sniff import SSH_BANNER, Sniffed, sniff

FIRST_PEEK = 4_096


@dataclass(frozen=True, slots=True)
class Finding:
    """What was detected; `why`: the reason if it cannot be read."""

    protocol: Sniffed
    hello: Hello | None = None
    why: str | None = None
    has_ended: bool = False  # the client has already sent FIN


class Sniffer:
    """Peeks until the protocol is known. Stops watching the sockets, then calls `then`, once.

    Who speaks first matters: where the server does, it is neither TLS nor HTTP.
    """

    def __init__(
        self, client: socket.socket, origin: socket.socket, poller: Watcher, then: Callable[[Finding], None]
    ) -> None:
        self._client, self._origin, self._poller, self._then = client, origin, poller, then
        self._needed = 1
        self._is_over = False
        poller.watch(client.fileno(), IN | RDHUP | EDGE, self._client_ready, self._crashed)
        if not self._is_over:
            poller.watch(origin.fileno(), IN | RDHUP | EDGE, self._origin_ready, self._crashed)

    def expired(self) -> None:
        """The client has not sent enough in time."""
        self._conclude(Finding(Sniffed.UNKNOWN, why="the client sent too little in time"))

    def stop(self) -> None:
        """Stop peeking."""
        if not self._is_over:
            self._is_over = True
            self._poller.forget(self._client.fileno())
            self._poller.forget(self._origin.fileno())

    def _client_ready(self, events: int) -> None:
        data = _peek(self._client, max(FIRST_PEEK, min(self._needed, MAX_HELLO) + 1_024))
        if data and len(data) >= self._needed:
            finding = self._detect(data)
            if finding is not None:
                if events & (RDHUP | HANGUP):
                    finding = replace(finding, has_ended=True)
                self._conclude(finding)
                return
        if events & (RDHUP | HANGUP):
            self._conclude(Finding(Sniffed.UNKNOWN, why="the client sent too little before it closed"))

    def _detect(self, data: bytes) -> Finding | None:
        found = sniff(data)
        if found is None:
            self._needed = len(data) + 1
            return None
        if found is not Sniffed.TLS:
            return Finding(found, why="neither TLS nor HTTP" if found is Sniffed.UNKNOWN else None)
        hello = parse(data)
        if isinstance(hello, int):
            self._needed = hello
            return None
        if isinstance(hello, Malformed):
            return Finding(Sniffed.UNKNOWN, why=hello.value)
        return Finding(Sniffed.TLS, hello)

    def _origin_ready(self, events: int) -> None:
        data = _peek(self._origin, len(SSH_BANNER))
        if data == SSH_BANNER:  # both sides send one, in either order (RFC 4253 4.2)
            self._conclude(Finding(Sniffed.SSH))
        elif events & (RDHUP | HANGUP) or data:
            self._conclude(Finding(Sniffed.UNKNOWN, why="the origin speaks first"))

    def _conclude(self, finding: Finding) -> None:
        if not self._is_over:
            self.stop()
            self._then(finding)

    def _crashed(self, error: BaseException) -> None:
        self._conclude(Finding(Sniffed.UNKNOWN, why="protocol detection failed"))


def _peek(sock: socket.socket, count: int) -> bytes:
    """Up to `count` of the bytes that have arrived, left in the socket."""
    try:
        return sock.recv(count, socket.MSG_PEEK)
    except OSError:
        return b""
