"""A conversation: the handler of a session that speaks HTTP."""

from __future__ import annotations

import ssl

from proxy.errors import ProxyError
from proxy.flow.record import ClosedBy, CloseReason
from proxy.inspect.http.exchange import Exchange
from proxy.inspect.http.faults import Fault, close_reason, report_of
from proxy.inspect.http.front import Front
from proxy.inspect.http.h1_server import H1Server
from proxy.inspect.http.h2_server import H2Server
from proxy.inspect.http.limits import Identity, Limits
from proxy.inspect.http.link import Link, Links
from proxy.inspect.http.origins import Connection, OriginPool, Target, fault_of
from proxy.inspect.http.recording import record_of
from proxy.inspect.stream import SessionView, Side

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_LIMITS, _IDENTITY = Limits(), Identity()
OPEN_RECORD_INTERVAL_S = 30.0  # between records of an exchange that is still open
_DEFAULT_END: tuple[CloseReason, ClosedBy] = ("client_closed", "client")


class Conversation:
    """Speaks HTTP/1.1 or HTTP/2 with the client and with the origin, independently.

    `failure`: why there is no connection to the origin, if so; each request is answered with it.
    """

    def __init__(
        self,
        session: SessionView,
        *,
        limits: Limits | None = None,
        identity: Identity | None = None,
        failure: ProxyError | None = None,
    ) -> None:
        self.session = session
        self.limits = limits or _LIMITS
        self.identity = identity or _IDENTITY
        self.is_draining = False
        self._failure = failure
        self._links = Links()
        self._number = 0
        self._active = 0
        self._front: Front | None = None
        self._client = Link(session.client, self._links)
        self._main: Connection | None = None
        self._pool: OriginPool | None = None
        self._pools: dict[tuple[str, int], OriginPool] = {}
        self._opening = bytearray()  # the client's first bytes, until its version is known
        self._armed: float | None = None
        self._is_origin_lost = False
        self._end = _DEFAULT_END  # reason and side for the record, replaced by a fault's
        self._fault: Fault | None = None
        self._fault_by: ClosedBy = "proxy"
        self._is_over = False
        self._exchanges: dict[int, Exchange] = {}

    # Events of the session.

    def start(self) -> None:
        """Begin: both sides are ready."""
        tls = self.session.client.tls
        if tls is not None and tls.alpn is not None:
            self._start_client_side(tls.alpn)
            self._links.settle()
        else:
            self.wake(self.session.now() + self.limits.header_s)

    def received(self, side: Side, data: bytes) -> None:
        """Handle bytes of either side."""
        if self._is_over:
            return
        if side is Side.ORIGIN:
            if self._main is None:
                self._start_origin_side()  # the server speaks first, so it is not HTTP: read as HTTP/1.1, and rejected
            if self._main is not None:
                self._main.received(data)
        elif self._front is not None:
            self._front.received(data)
        else:
            self._open(data)
        self._links.settle()

    def ended(self, side: Side) -> None:
        """Handle the end of either side's half."""
        if self._is_over:
            return
        if side is Side.ORIGIN:
            if self._main is None:
                self._start_origin_side()
            if self._main is not None:
                self._main.ended()
        elif self._front is not None:
            self._front.ended()
        elif self._opening:
            self._start_client_side("http/1.1")
            assert self._front is not None
            self._front.ended()
        else:
            self.close_client("client_closed", "client")
        self._links.settle()

    def broken(self, side: Side, error: OSError) -> None:
        """Handle the loss of either side."""
        if self._is_over:
            return
        if side is Side.CLIENT:
            self._client.is_open = False
            self._end = ("client_reset", "client")
            if self._front is not None:
                is_tls = isinstance(error, ssl.SSLError)
                self._front.broken("the TLS connection broke" if is_tls else error.strerror or str(error))
            if not self._active:
                self._finish("client_reset", "client")
        elif self._main is not None:
            self._main.broken(error)
        self._links.settle()

    def drained(self, side: Side) -> None:
        """Resume the other side, since the queue of this one is nearly empty."""
        if side is Side.CLIENT:
            self._client.is_full = False
            if self._front is not None:
                self._front.ready()
        elif self._main is not None:
            self._main.drained()
        self._links.settle()

    def expired(self, now: float) -> None:
        """Run the timers that are due."""
        self._armed = None
        if self._is_over:
            return
        if self._front is None:
            self._start_client_side("http/1.1")
        assert self._front is not None
        if self._front.due(now) <= now:
            self._front.expired(now)
        self._links.settle()
        if not self._is_over:
            self._record_open(now)
            self.wake(max(self._front.due(now), now))

    def drain(self) -> None:
        """End after the requests in progress."""
        self.is_draining = True
        self._end = ("drain", "proxy")
        if self._front is not None:
            self._front.drain()
        else:
            self.close_client("drain", "proxy")
        self._links.settle()

    # Versions.

    def _open(self, data: bytes) -> None:
        """Detect the client's version by its first bytes, without TLS (RFC 9113 3.3)."""
        self._opening += data
        opening = bytes(self._opening)
        if len(opening) < len(PREFACE) and PREFACE.startswith(opening):
            return
        self._start_client_side("h2" if opening.startswith(PREFACE) else "http/1.1")

    def _start_client_side(self, version: str) -> None:
        """Create the client's side for `version`, and feed it what has arrived."""
        if version == "h2":
            self._front = H2Server(self, self._client, self._scheme, self._default_host)
        else:
            self._front = H1Server(self, self._client, self._scheme, self._default_host)
        self._start_origin_side()
        opening, self._opening = bytes(self._opening), bytearray()
        if isinstance(self._front, H2Server):
            self._front.start()
        if opening:
            self._front.received(opening)
        self.wake(self._front.due(self.session.now()))

    def _start_origin_side(self) -> None:
        """Create the origin's side: of the version in ALPN, or without TLS of the client's version."""
        stream, flow = self.session.origin, self.session.flow
        if self._pool is not None or self._failure is not None:
            return
        is_clear_h2 = isinstance(self._front, H2Server) and self.session.client.tls is None
        tls = self.session.client.tls
        alpn = ("h2",) if is_clear_h2 else ("h2", "http/1.1") if isinstance(self._front, H2Server) else ("http/1.1",)
        target = Target(flow.dst, flow.dst_port, (tls.sni or flow.dst) if tls is not None else None, alpn)
        self._pool = OriginPool(
            self.session, target, self.limits, self._links, on_lost=self._origin_lost, on_upgrades=self._allow_upgrades
        )
        if stream is not None:
            is_h2 = stream.tls.alpn == "h2" if stream.tls is not None else is_clear_h2
            self._main = self._pool.adopt(stream, h2=is_h2)
            if not is_h2:
                self._allow_upgrades()

    def _allow_upgrades(self) -> None:
        """Offer WebSockets over HTTP/2 to the client, once it is known that the origin supports WebSockets."""
        if isinstance(self._front, H2Server):
            self._front.allow_upgrades()

    @property
    def _scheme(self) -> bytes:
        return b"https" if self.session.client.tls is not None else b"http"

    @property
    def _default_host(self) -> bytes:
        """The host of a request without a Host field."""
        flow, tls = self.session.flow, self.session.client.tls
        host = tls.sni if tls is not None and tls.sni else f"[{flow.dst}]" if ":" in flow.dst else flow.dst
        return (host if flow.dst_port == (443 if tls else 80) else f"{host}:{flow.dst_port}").encode("latin-1")

    # For exchanges and the client's side.

    def next_number(self) -> int:
        """The number of a new request."""
        self._number += 1
        self._active += 1
        return self._number

    def began(self, exchange: Exchange) -> None:
        """Record the exchange while it is open, if it takes long."""
        self._exchanges[exchange.number] = exchange
        self.wake(exchange.record_at)

    def assign_origin(self, exchange: Exchange) -> None:
        """Assign an origin: the session's own, or the one to which policy sends this request."""
        if exchange.origin_address is not None:
            self._pool_for(exchange.origin_address).submit(exchange)
        elif self._failure is not None:
            exchange.origin_failed(fault_of(self._failure), str(self._failure), by="origin")
        else:
            assert self._pool is not None
            self._pool.submit(exchange)

    def _pool_for(self, address: tuple[str, int]) -> OriginPool:
        pool = self._pools.get(address)
        if pool is None:
            host, port = address
            name = host if self.session.client.tls is not None and port != 80 else None
            target = Target(host, port, name, ("http/1.1",))
            pool = OriginPool(self.session, target, self.limits, self._links)
            self._pools[address] = pool
        return pool

    def finished(self, exchange: Exchange) -> None:
        """Record the exchange."""
        self._active -= 1
        self._exchanges.pop(exchange.number, None)
        if self._is_origin_lost and not self._active:
            self.is_draining = True
        self.session.record(record_of(exchange, self.session.flow, self.session.now()))

    def _record_open(self, now: float) -> None:
        """Record exchanges that have been open for a while."""
        for exchange in self._exchanges.values():
            if now >= exchange.record_at:
                exchange.record_at = now + OPEN_RECORD_INTERVAL_S
                self.session.record(record_of(exchange, self.session.flow, now, is_open=True))
            self.wake(exchange.record_at)

    def settle(self) -> None:
        """Flush what was written after an answer of the proxy."""
        self._links.settle()

    def wake(self, at: float) -> None:
        """Arrange for `expired` at `at`."""
        if self._armed is None or at < self._armed:
            self._armed = at
            self.session.arm(max(at - self.session.now(), 0.0))

    def note_fault(self, fault: Fault) -> None:
        """Note why the conversation ends."""
        if self._fault is None:
            self._fault = fault
            self._fault_by = report_of(fault).by

    def close_client(self, reason: CloseReason | None, by: ClosedBy) -> None:
        """End the session."""
        if reason is None and self._fault is not None:
            reason, by = close_reason(self._fault, report_of(self._fault).by), self._fault_by
        elif reason is None:
            reason, by = self._end
        self._links.settle()
        self._finish(reason, by)

    def _origin_lost(self) -> None:
        """The origin has closed its connection. Between requests, this ends the client's as well."""
        self._is_origin_lost = True
        if self._end == _DEFAULT_END:
            self._end = ("origin_closed", "origin")
        if self._active == 0 and self._front is not None and not self._is_over:
            self.is_draining = True
            self._front.drain()

    def _finish(self, reason: CloseReason, by: ClosedBy) -> None:
        if not self._is_over:
            self._is_over = True
            self.session.arm(None)
            self.session.finish(reason, by)
