"""Connections to origins: assigns requests to them, and dials when needed."""

from __future__ import annotations

import ssl
from collections.abc import Callable

from proxy.errors import ProxyError
from proxy.inspect.http.exchange import Exchange
from proxy.inspect.http.faults import Fault
from proxy.inspect.http.h1_client import H1Client
from proxy.inspect.http.h2_client import H2Client
from proxy.inspect.http.limits import Limits
from proxy.inspect.http.link import Link, Links
from proxy.inspect.stream import SessionView, Stream

Connection = H1Client | H2Client


class Target:
    """An origin: its address, and how to connect."""

    __slots__ = ("alpn", "host", "port", "server_name")

    def __init__(self, host: str, port: int, server_name: str | None, alpn: tuple[str, ...]) -> None:
        self.host, self.port = host, port
        self.server_name = server_name  # for TLS; None: plain TCP
        self.alpn = alpn


class OriginPool:
    """The connections to one origin. Requests wait in order for a free one."""

    def __init__(
        self,
        session: SessionView,
        target: Target,
        limits: Limits,
        links: Links,
        *,
        on_lost: Callable[[], None] = lambda: None,
        on_upgrades: Callable[[], None] = lambda: None,
    ) -> None:
        self._session = session
        self._target = target
        self._limits = limits
        self._links = links
        self._on_lost = on_lost  # called when the last connection is gone
        self._on_upgrades = on_upgrades  # called when WebSockets over HTTP/2 turn out to be supported
        self._http1: OriginPool | None = None  # of HTTP/1.1, for upgrades that the origin's HTTP/2 does not support
        self._idle: list[H1Client] = []
        self._busy: set[H1Client] = set()
        self._multiplexed: H2Client | None = None
        self._dialling = 0
        self._max_connections = limits.origin_connections
        self._waiting: list[Exchange] = []
        self.speaks_h2 = False

    def adopt(self, stream: Stream, *, h2: bool) -> Connection:
        """Add an existing connection."""
        return self._began(stream, h2=h2)

    def submit(self, exchange: Exchange) -> None:
        """Send the exchange's request, now or when a connection is free."""
        multiplexed = self._multiplexed
        if multiplexed is not None and exchange.request.protocol is not None and not multiplexed.takes_upgrades:
            if multiplexed.is_settled:
                self._http1_pool().submit(exchange)
            else:
                exchange.wait()
                self._waiting.append(exchange)
        elif multiplexed is not None and multiplexed.has_room:
            multiplexed.request(exchange)
        elif self._idle:
            connection = self._idle.pop()
            self._busy.add(connection)
            connection.request(exchange)
        elif len(self._waiting) >= self._limits.waiting:
            exchange.refuse(Fault.BUSY, f"{self._limits.waiting} requests wait for this origin", by="proxy")
        else:
            exchange.wait()
            self._waiting.append(exchange)
            self._dial()

    def _dial(self) -> None:
        if self._multiplexed is not None or len(self._busy) + self._dialling >= self._max_connections:
            return
        if self.speaks_h2 and self._dialling:
            return
        self._dialling += 1
        target = self._target
        receiver = _DeferredReceiver(self._links)
        self._session.dial(
            target.host,
            target.port,
            server_name=target.server_name,
            alpn=target.alpn,
            receiver=receiver,
            then=lambda answer: self._dialled(answer, receiver),
        )

    def _dialled(self, answer: Stream | ProxyError, receiver: _DeferredReceiver) -> None:
        self._dialling -= 1
        if isinstance(answer, ProxyError) and self._busy:
            self._max_connections = len(self._busy)  # the origin accepts no more: requests wait for the existing ones
        elif isinstance(answer, ProxyError):
            fault = fault_of(answer)
            waiting, self._waiting = self._waiting, []
            for exchange in waiting:
                exchange.origin_failed(fault, str(answer), by="origin")
        else:
            is_h2 = answer.tls.alpn == "h2" if answer.tls is not None else self._target.alpn == ("h2",)
            receiver.target = self._began(answer, h2=is_h2)
            self._serve()
        self._links.settle()

    def _began(self, stream: Stream, *, h2: bool) -> Connection:
        link = Link(stream, self._links)
        if h2:
            self.speaks_h2 = True
            self._multiplexed = H2Client(self, link, self._limits, self._session)
            return self._multiplexed
        connection = H1Client(self, link, self._limits)
        self._idle.append(connection)
        return connection

    def _serve(self) -> None:
        for _ in range(len(self._waiting)):
            if not self._idle and (self._multiplexed is None or not self._multiplexed.has_room):
                return
            exchange = self._waiting.pop(0)
            if not exchange.is_done:
                self.submit(exchange)

    def _http1_pool(self) -> OriginPool:
        """The same origin by HTTP/1.1, for WebSockets that its HTTP/2 does not support."""
        if self._http1 is None:
            target = self._target
            plain = Target(target.host, target.port, target.server_name, ("http/1.1",))
            self._http1 = OriginPool(self._session, plain, self._limits, self._links)
        return self._http1

    def retry(self, exchange: Exchange) -> None:
        """Repeat a request that the origin has refused unprocessed."""
        exchange.retried()
        self.submit(exchange)

    def release(self, connection: H1Client) -> None:
        """`connection` can take another request."""
        self._busy.discard(connection)
        self._idle.append(connection)
        self._serve()

    def room_available(self) -> None:
        """The multiplexed connection takes more streams, or its settings have arrived."""
        if self._multiplexed is not None and self._multiplexed.takes_upgrades:
            on_upgrades, self._on_upgrades = self._on_upgrades, lambda: None
            on_upgrades()
        self._serve()

    def lost(self, connection: Connection) -> None:
        """`connection` takes no more requests."""
        if connection is self._multiplexed:
            self._multiplexed = None
        elif isinstance(connection, H1Client):
            self._busy.discard(connection)
            if connection in self._idle:
                self._idle.remove(connection)
        self._max_connections = self._limits.origin_connections
        if self._waiting:
            self._dial()
        elif not self._busy and not self._idle and self._multiplexed is None and not self._dialling:
            self._on_lost()


class _DeferredReceiver:
    """The receiver of a dialled stream, until and after its connection object exists."""

    __slots__ = ("_links", "target")

    def __init__(self, links: Links) -> None:
        self._links = links
        self.target: Connection | None = None

    def received(self, data: bytes) -> None:
        if self.target is not None:
            self.target.received(data)
            self._links.settle()

    def ended(self) -> None:
        if self.target is not None:
            self.target.ended()
            self._links.settle()

    def broken(self, error: OSError) -> None:
        if self.target is not None:
            self.target.broken(error)
            self._links.settle()

    def drained(self) -> None:
        if self.target is not None:
            self.target.drained()
            self._links.settle()


def fault_of(error: ProxyError) -> Fault:
    """The fault of a failed connection, by the cause of `error`."""
    cause = error.__cause__
    if isinstance(cause, ssl.SSLError):
        return Fault.ORIGIN_TLS
    if isinstance(cause, ConnectionRefusedError):
        return Fault.ORIGIN_REFUSED
    if isinstance(cause, TimeoutError):
        return Fault.ORIGIN_TIMEOUT
    return Fault.ORIGIN_UNREACHABLE
