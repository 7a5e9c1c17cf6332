"""The origin's side of HTTP/1.1: one request at a time."""

from __future__ import annotations

import base64
import functools
import os
from typing import Protocol

import h11

from proxy.inspect.http import h1_plain, h1_wire
from proxy.inspect.http.exchange import Exchange
from proxy.inspect.http.faults import Fault, HttpError
from proxy.inspect.http.limits import Limits
from proxy.inspect.http.link import Link
from proxy.inspect.http.messages import Headers, ResponseHead, first
from proxy.inspect.http.websocket import accept_of, is_websocket


class Pool(Protocol):
    """The pool of connections to one origin, as one of them sees it."""

    def release(self, connection: H1Client) -> None:
        """`connection` can take another request."""
        ...

    def lost(self, connection: H1Client) -> None:
        """`connection` can take no more requests."""
        ...


class H1Client:
    """Sends requests and reads responses. h11 is given only what determines how each response ends."""

    def __init__(self, pool: Pool, link: Link, limits: Limits) -> None:
        self.link = link
        self.exchange: Exchange | None = None
        self._pool = pool
        self._limits = limits
        self._is_waiting = False  # for the first byte of a response
        # for heads that `h1_plain` leaves to it, and bodies without a length
        self._reader: h11.Connection | None = None
        self._remaining = 0  # bytes to come of a body of known length, which passes without h11
        self._is_chunked = self._is_raw = self._has_sent = self._closes = False
        self._key: bytes | None = None
        self._is_lost = False
        link.filled = self.full

    # To the origin.

    def request(self, exchange: Exchange) -> None:
        """Send the head of the exchange's request."""
        head = exchange.request
        self.exchange = exchange
        self._key = None
        if is_websocket(head) and first(head.headers, b"sec-websocket-key") is None:
            self._key = base64.b64encode(os.urandom(16))
        self._is_waiting = True
        self._is_chunked = head.length is None and not head.is_bodiless
        self._has_sent = head.is_bodiless
        self.link.write(h1_wire.write_request(head, self._key))
        exchange.origin_assigned(self)
        if self.link.is_full:  # with what the request before it has sent
            exchange.origin_full()

    def data(self, data: bytes) -> None:
        """Send a part of the body, or bytes of an upgraded connection."""
        self.link.write(h1_wire.chunk(data) if self._is_chunked and not self._is_raw else data)

    def end(self, trailers: Headers) -> None:
        """End the request. Trailers are sent only with chunked coding."""
        if self._is_raw:
            self.link.end()
        elif self._is_chunked:
            self.link.write(h1_wire.last_chunk(trailers))
        self._has_sent = True
        has_answered = self._reader is None and not self._is_waiting and not self._remaining
        if has_answered and not self._is_raw and not self._closes:
            self.exchange = None
            self._pool.release(self)

    def reset(self, fault: Fault) -> None:
        """Cancel the request, by closing the connection."""
        self.exchange = None
        if self._is_raw:
            self.link.end()  # a close frame of a WebSocket is queued before it
        elif fault is Fault.CLIENT_GONE and self._has_sent and self.link.has_unsent:
            self.link.pause()  # the rest of the request goes on, but nobody reads the answer
        else:
            self.link.abort()
        self._lose()

    @property
    def queued(self) -> int:
        """Bytes that the origin has not taken."""
        return self.link.stream.queued

    @property
    def is_behind(self) -> bool:
        """Never: everything written is in the stream's queue."""
        return False

    def pause(self) -> None:
        """Stop reading the response."""
        self.link.pause()

    def resume(self) -> None:
        """Continue reading."""
        self.link.resume()

    # From the origin.

    def received(self, data: bytes) -> None:
        """Handle bytes of the origin."""
        exchange = self.exchange
        if self._is_raw:
            if exchange is not None:
                exchange.response_data(data)
        elif self._remaining:
            self._receive_counted(data)
        elif self._is_waiting:
            self._begin(data)
        elif self._reader is None:
            self._fail(Fault.ORIGIN_PROTOCOL, "the origin has sent data without a request")
        else:
            self._reader.receive_data(data)
            self._read()

    def ended(self) -> None:
        """The origin has closed its half."""
        if self._is_raw:
            if self.exchange is not None:
                self.exchange.response_ended([])
        elif self._remaining:
            self._fail(Fault.RESPONSE_CUT, "the origin has closed the connection too early")
        elif self._reader is None and not self._is_waiting:
            self._closes = True
            self._lose()
            exchange, self.exchange = self.exchange, None
            self._end_upload(exchange)
        else:
            self._closes = True
            reader = self._reader or self._read_with_h11()
            reader.receive_data(b"")
            self._read(has_ended=True)

    def broken(self, error: OSError) -> None:
        """The connection has failed."""
        self._fail(
            Fault.ORIGIN_CLOSED if self._awaits_head else Fault.RESPONSE_CUT, f"the origin's connection: {error}"
        )

    def drained(self) -> None:
        """The queue to the origin has drained: resume the client."""
        self.link.is_full = False
        if self.exchange is not None:
            self.exchange.origin_ready()

    def full(self) -> None:
        """The queue to the origin is full: pause the client."""
        if self.exchange is not None:
            self.exchange.origin_full()

    @property
    def _awaits_head(self) -> bool:
        return self.exchange is not None and self.exchange.response is None

    def _begin(self, data: bytes) -> None:
        """Handle the first bytes of a response, in most cases a whole head that `h1_plain` reads."""
        exchange = self.exchange
        request = None if exchange is None else exchange.request
        if exchange is not None and request is not None and not request.is_tunnel:
            is_head = request.method == b"HEAD"
            plain = h1_plain.read_response(data, self._limits.header_bytes, is_bodiless=is_head)
            if plain is not None:
                status, reason, fields, size = plain
                try:
                    head = h1_wire.response_of(ResponseHead(status, reason), fields, self._limits)
                except HttpError as error:
                    self._fail(error.fault, error.detail)
                    return
                self._is_waiting = False
                self._closes = head.closes
                self._remaining = 0 if is_head or status in (204, 304) else head.length or 0
                exchange.responded(head)
                if self.exchange is exchange:  # it was not refused meanwhile
                    self._receive_counted(data[size:])
                return
        self._read_with_h11().receive_data(data)
        self._read()

    def _read_with_h11(self) -> h11.Connection:
        """Read the response by a new h11 connection that knows its request."""
        self._is_waiting = False
        reader = self._reader = h11.Connection(h11.CLIENT, max_incomplete_event_size=self._limits.header_bytes)
        head = None if self.exchange is None else self.exchange.request
        method = head.method if head is not None and head.method in (b"HEAD", b"CONNECT") else b"GET"
        for event in _stand_in_request(method, head is not None and head.protocol is not None):
            reader.send(event)
        return reader

    def _read(self, *, has_ended: bool = False) -> None:
        try:
            self._read_events()
        except h11.RemoteProtocolError as error:
            if has_ended:
                fault = Fault.ORIGIN_CLOSED if self._awaits_head else Fault.RESPONSE_CUT
                self._fail(fault, "the origin has closed the connection too early")
            elif error.error_status_hint == 431 and self._awaits_head:
                self._fail(Fault.RESPONSE_HEADERS_TOO_LARGE, h1_wire.error_text(error))
            else:
                self._fail(Fault.ORIGIN_PROTOCOL, h1_wire.error_text(error))
        except HttpError as error:
            self._fail(error.fault, error.detail)

    def _read_events(self) -> None:
        while self._reader is not None and self.exchange is not None:
            event = self._reader.next_event()
            if type(event) is h11.Data:
                self.exchange.response_data(bytes(event.data))
            elif type(event) is h11.Response:
                self._respond(event)
            elif type(event) is h11.EndOfMessage:
                rest = self._reader.trailing_data[0]
                self._complete(event.headers.raw_items() if event.headers else [], rest)
            elif type(event) is h11.InformationalResponse:
                self._inform(event)
            else:
                return

    def _respond(self, event: h11.Response) -> None:
        exchange, reader = self.exchange, self._reader
        assert exchange is not None
        assert reader is not None
        head = h1_wire.read_response(event, self._limits)
        length = head.length
        self._closes = head.closes
        if exchange.request.method == b"CONNECT" and 200 <= head.status < 300:
            self._switch(head)
        else:
            exchange.responded(head)
            if exchange.request.method == b"HEAD" or head.status in (204, 304):
                length = 0
            if self._reader is reader and length is not None:
                self._reader = None
                self._remaining = length
                self._receive_counted(reader.trailing_data[0])

    def _receive_counted(self, data: bytes) -> None:
        """Handle a part of a body of known length, perhaps followed by excess bytes."""
        rest = data[self._remaining :]
        if rest:
            data = data[: self._remaining]
        self._remaining -= len(data)
        if data and self.exchange is not None:
            self.exchange.response_data(data)
        if not self._remaining:
            self._complete([], rest)

    def _inform(self, event: h11.InformationalResponse) -> None:
        assert self.exchange is not None
        head = h1_wire.read_response(event, self._limits)
        if event.status_code != 101:
            self.exchange.informed(head)
            return
        if self._key is not None and first(head.headers, b"sec-websocket-accept") != accept_of(self._key):
            raise HttpError(Fault.ORIGIN_PROTOCOL, "Sec-WebSocket-Accept does not match the key")
        self._switch(head)

    def _switch(self, head: ResponseHead) -> None:
        exchange, reader = self.exchange, self._reader
        assert exchange is not None
        assert reader is not None
        self._is_raw = True
        self._closes = True
        leftover = reader.trailing_data[0]
        self._reader = None
        head.length = None
        exchange.responded(head)
        if leftover:
            exchange.response_data(leftover)

    def _complete(self, trailers: Headers, rest: bytes) -> None:
        exchange, self._reader = self.exchange, None
        if rest:
            self._closes = True  # unsolicited bytes belong to no response
        self.link.resume()  # an exchange that paused it will no longer resume it
        if self._has_sent or self._closes:
            self.exchange = None
        if self._closes:
            self._lose()
        elif self._has_sent:
            self._pool.release(self)  # first, so that a pipelined request gets this connection
        if exchange is not None:
            exchange.response_ended(trailers)
            if self._closes:
                self._end_upload(exchange)

    def _end_upload(self, exchange: Exchange | None) -> None:
        """End the upload if the request is incomplete, as the origin has answered and will not read the rest."""
        if exchange is not None and not exchange.client_ended:
            exchange.origin_failed(Fault.ORIGIN_CLOSED, "the origin has answered and closed before the request's end")

    def _fail(self, fault: Fault, detail: str) -> None:
        exchange, self.exchange = self.exchange, None
        self._reader, self._remaining, self._is_waiting = None, 0, False
        self.link.abort()
        self._lose()
        if exchange is not None:
            exchange.origin_failed(fault, detail)

    def _lose(self) -> None:
        if not self._is_lost:
            self._is_lost = True
            self.link.end()
            self._pool.lost(self)


@functools.cache
def _stand_in_request(method: bytes, is_upgrade: bool) -> tuple[h11.Event, ...]:
    """A stand-in request of this method, from which h11 knows how the response ends."""
    headers = [("Host", "origin")]
    if is_upgrade:
        headers += [("Connection", "Upgrade"), ("Upgrade", "any")]
    return h11.Request(method=method, target="/", headers=headers), h11.EndOfMessage()
