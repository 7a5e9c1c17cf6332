"""The client's side of HTTP/1.1: requests are read one after another, and answered in their order."""

from __future__ import annotations

import enum

import h11

from proxy.inspect.http import h1_wire, timing
from proxy.inspect.http.exchange import Exchange
from proxy.inspect.http.faults import Fault, HttpError, report_of
from proxy.inspect.http.front import Owner
from proxy.inspect.http.link import Link
from proxy.inspect.http.messages import Headers, RequestHead, ResponseHead, first
from proxy.inspect.http.websocket import accept_of

_HEAD_END = b"\r\n\r\n"
_MAX_BLANK_BYTES = 8  # bytes of empty lines before a request (RFC 9112 2.2)
_CHUNK_ALLOWANCE = 16  # bytes of header that each chunk may have, plus twice the size of its data


class Framing(enum.Enum):
    """How the end of a response's body is marked."""

    NONE = "none"
    LENGTH = "length"
    CHUNKED = "chunked"
    CLOSE = "close"
    RAW = "raw"  # the connection has been upgraded


class H1Server:
    """Reads a client's requests. Pipelined requests wait, unread, until those before them are complete."""

    def __init__(self, owner: Owner, link: Link, scheme: bytes, default_host: bytes) -> None:
        self.owner = owner
        self.link = link
        self.exchange: Exchange | None = None
        self._scheme = scheme
        self._default_host = default_host
        self._limits = owner.limits
        self._buffer = bytearray()  # not yet parsed
        self._searched = 0  # bytes of it that were searched for the end of a head
        self._body: h11.Connection | None = None  # the reader of a chunked body
        self._remaining = 0  # bytes to come of a body of known length, which passes without h11
        self._excess = 0  # bytes of chunk headers beyond the allowance
        self._framing = Framing.NONE
        self._head: RequestHead | None = None
        self._closes = False
        self._has_ended = False  # the client has sent FIN
        self._is_advancing = False
        self.is_lingering = False
        self.head_began: float | None = None
        self.idle_since = owner.session.now()
        link.filled = self.full

    # From the client.

    def received(self, data: bytes) -> None:
        """Handle bytes of the client."""
        if self.is_lingering:
            return
        if self._framing is Framing.RAW:
            if self.exchange is not None:
                self.exchange.request_data(data)
        elif self._remaining:
            self._receive_counted(data)
        elif self._body is not None:
            self._body.receive_data(data)
            self._read_body(len(data))
        else:
            self._buffer += data
            if self.exchange is None and not self.link.is_full:
                self._advance()
            elif len(self._buffer) > self._limits.header_bytes:
                self.link.pause()  # pipelined requests are read in their turn

    def ended(self) -> None:
        """The client has closed its half."""
        self._has_ended = True
        exchange = self.exchange
        if self.is_lingering:
            self.owner.close_client(None, "proxy")
        elif exchange is None:
            self._advance()
        elif self._framing is Framing.RAW:
            exchange.request_ended([])
        else:
            self._end_body(exchange)

    def broken(self, detail: str) -> None:
        """The connection to the client is gone."""
        if self.exchange is not None:
            self.exchange.client_gone(Fault.CLIENT_GONE, detail)

    def _advance(self) -> None:
        """Begin requests while there are complete heads and no request is in progress."""
        if self._is_advancing:
            return
        self._is_advancing = True
        try:
            while self.exchange is None and self._buffer and not self.is_lingering and not self.link.is_full:
                if not self._begin():
                    break
            if self._has_ended and self.exchange is None and not self.is_lingering and not self.link.is_full:
                if self._buffer:
                    raise HttpError(Fault.HEADERS_CUT, "the connection ended within a request's head")
                self.owner.close_client("client_closed", "client")
        except HttpError as error:
            self._reject(error)
        finally:
            self._is_advancing = False

    def _begin(self) -> bool:
        """Begin a request if its head is complete. Returns whether one was begun."""
        buffer = self._buffer
        if buffer[0] in b"\r\n":
            self._skip_blank()
        end = buffer.find(_HEAD_END, max(self._searched - 3, 0))
        if end < 0 or end > self._limits.header_bytes:
            if len(buffer) > self._limits.header_bytes:
                raise HttpError(Fault.HEADERS_TOO_LARGE, f"a head of more than {self._limits.header_bytes} bytes")
            # not a method: TLS, binary data or white space
            if buffer and buffer[0] < 0x21 and buffer[0] not in b"\r\n":
                raise HttpError(Fault.BAD_REQUEST, "not the beginning of a request")
            h1_wire.check_line_ends(buffer, self._searched)
            self._searched = len(buffer)
            if buffer and self.head_began is None:
                self.head_began = self.owner.session.now()
                self.owner.wake(self.head_began + self._limits.header_s)
            return False
        head = bytes(buffer[: end + 4])
        del buffer[: end + 4]
        self._searched = 0
        self.head_began = None
        self._start(head)
        return True

    def _skip_blank(self) -> None:
        stripped = self._buffer.lstrip(b"\r\n")
        blank = len(self._buffer) - len(stripped)
        if blank > _MAX_BLANK_BYTES or (blank > 1 and self._buffer[:blank].replace(b"\r\n", b"").strip(b"\r")):
            raise HttpError(Fault.BAD_LINE_END, "empty lines before a request")
        if stripped or blank > 2:
            self._buffer[:] = stripped
        self._searched = 0

    def _start(self, data: bytes) -> None:
        body, head = h1_wire.read_request(data, self._limits, self._scheme, self._default_host)
        self._head = head
        self._closes = head.closes
        exchange = self.exchange = Exchange(self.owner, self, head)
        if head.length:
            self._remaining = head.length
        elif not head.is_bodiless:
            self._body, self._excess = body, 0
        exchange.begin(is_complete=head.is_bodiless)
        if self._buffer and (self._remaining or self._body is not None):
            rest = bytes(self._buffer)
            self._buffer.clear()
            if self._body is None:
                self._receive_counted(rest)
            else:
                self._body.receive_data(rest)
                self._read_body(len(rest))
        if self._has_ended and self.exchange is exchange:
            self._end_body(exchange)

    def _end_body(self, exchange: Exchange) -> None:
        """The client has closed its half: end the request's body."""
        if self._remaining or self._body is not None:
            exchange.client_gone(Fault.BODY_CUT, "the connection ended within a request's body")

    def _receive_counted(self, data: bytes) -> None:
        """Handle a part of a body of known length, perhaps followed by pipelined requests."""
        if len(data) > self._remaining:
            self._buffer += data[self._remaining :]
            data = data[: self._remaining]
        self._remaining -= len(data)
        exchange = self.exchange
        if exchange is not None:
            exchange.request_data(data)
            if not self._remaining:
                exchange.request_ended([])

    def _read_body(self, size: int) -> None:
        body, exchange = self._body, self.exchange
        assert body is not None
        try:
            while True:
                event = body.next_event()
                if type(event) is h11.Data:
                    size -= len(event.data)
                    if event.chunk_start:
                        self._excess -= _CHUNK_ALLOWANCE
                    self._excess -= 2 * len(event.data)
                    if exchange is not None:
                        exchange.request_data(bytes(event.data))
                elif type(event) is h11.EndOfMessage:
                    self._buffer += body.trailing_data[0]
                    self._body = None
                    if exchange is not None:
                        exchange.request_ended(event.headers.raw_items() if event.headers else [])
                    return
                else:
                    break
        except h11.RemoteProtocolError as error:
            self._reject(HttpError(Fault.BAD_FRAMING, h1_wire.error_text(error)))
            return
        self._excess = max(self._excess + size, 0)
        if self._excess > self._limits.chunk_overhead_bytes:
            self._reject(HttpError(Fault.CHUNK_OVERHEAD, "chunk headers larger than what they frame"))

    def _reject(self, error: HttpError) -> None:
        """Reject what cannot be parsed, and everything after it."""
        self._body, self._remaining = None, 0
        self._closes = True
        exchange = self.exchange
        if exchange is None:
            head = RequestHead(b"", self._scheme, self._default_host, b"", "1.1")
            head.size = len(self._buffer)
            self._buffer.clear()
            self._head = head
            exchange = self.exchange = Exchange(self.owner, self, head)
            exchange.client_ended = True
            exchange.started = self.head_began or exchange.started
            self.owner.note_fault(error.fault)
        exchange.refuse(error.fault, error.detail, by=report_of(error.fault).by)

    # To the client.

    def inform(self, head: ResponseHead) -> None:
        """Send an interim response, except to HTTP/1.0."""
        if self._head is not None and self._head.version != "1.0":
            self.link.write(h1_wire.write_response(head, is_chunked=False, closes=False))

    def respond(self, head: ResponseHead) -> None:
        """Send a response's head, with a framing that the client understands."""
        request = self._head
        assert request is not None
        assert self.exchange is not None
        status = head.status
        if self.exchange.is_switched:
            self._framing = Framing.RAW
            key = first(request.headers, b"sec-websocket-key")
            # an origin with HTTP/2 does not send it
            if key is not None and first(head.headers, b"sec-websocket-accept") is None:
                head.headers.append((b"Sec-WebSocket-Accept", accept_of(key)))
            self.link.write(h1_wire.write_response(head, is_chunked=False, closes=False))
            self._switched(self.exchange)
            return
        if head.closes or self.owner.is_draining:
            self._closes = True
        if request.method == b"HEAD" or status in (204, 304):
            self._framing = Framing.NONE
        elif head.length is not None:
            self._framing = Framing.LENGTH
        elif request.version == "1.0":
            self._framing, self._closes = Framing.CLOSE, True
        else:
            self._framing = Framing.CHUNKED
        is_chunked = self._framing is Framing.CHUNKED
        self.link.write(h1_wire.write_response(head, is_chunked=is_chunked, closes=self._closes))

    def _switched(self, exchange: Exchange) -> None:
        """Treat bytes received after the request as the new protocol's."""
        rest = bytes(self._buffer)
        self._buffer.clear()
        if rest:
            self.link.resume()
            exchange.request_data(rest)
        if self._has_ended:
            exchange.request_ended([])

    def data(self, data: bytes) -> None:
        """Send a part of the body."""
        if self._framing is Framing.CHUNKED:
            self.link.write(h1_wire.chunk(data))
        elif self._framing is not Framing.NONE:
            self.link.write(data)

    def end(self, trailers: Headers) -> None:
        """End the response. Trailers are sent only with chunked coding."""
        if self._framing is Framing.CHUNKED:
            self.link.write(h1_wire.last_chunk(trailers))
        elif self._framing is Framing.RAW:
            self.link.end()

    def reset(self, fault: Fault) -> None:
        """Abort the response so that the client does not take it for complete."""
        if self._framing is Framing.RAW:
            self.link.end()  # a close frame of a WebSocket is queued before it
        else:
            self.link.abort()
        self.owner.note_fault(fault)

    @property
    def queued(self) -> int:
        """Bytes queued for the client."""
        return self.link.stream.queued

    @property
    def is_behind(self) -> bool:
        """Never: everything written is in the stream's queue."""
        return False

    def pause(self) -> None:
        """Stop reading from the client."""
        self.link.pause()

    def resume(self) -> None:
        """Continue reading."""
        self.link.resume()

    def done(self) -> None:
        """The exchange is complete: begin the next request, or end."""
        exchange, self.exchange, self._head = self.exchange, None, None
        self.idle_since = self.owner.session.now()
        if exchange is not None and exchange.ended_first == "origin":
            self.owner.close_client("origin_closed", "origin")
        elif self._framing is Framing.RAW or not self.link.is_open:
            self.owner.close_client(None, "proxy")
        elif self._closes or self._remaining or self._body is not None or self.owner.is_draining:
            if exchange is not None and exchange.fault is not None and exchange.fault_by == "client":
                self.owner.note_fault(exchange.fault)  # not the origin, whose connection was closed because of it
            self._linger()
        elif self._has_ended and not self._buffer:
            self.owner.close_client("client_closed", "client")
        else:
            self.link.resume()
            self.owner.wake(self.idle_since + self._limits.idle_s)
            self._advance()

    def _linger(self) -> None:
        """Close the sending half and wait a while: closing with unread data would reset, and lose the response."""
        self.is_lingering = True
        self._buffer.clear()
        self.link.end()
        if self._has_ended:
            self.owner.close_client(None, "proxy")
        else:
            self.link.resume()
            self.owner.wake(self.idle_since + self._limits.linger_s)

    # Back-pressure, deadlines and the end.

    def full(self) -> None:
        """The client's queue is full: pause the origin."""
        if self.exchange is not None:
            self.exchange.client_full()

    def ready(self) -> None:
        """The client's queue has drained: resume the origin."""
        if self.exchange is not None:
            self.exchange.client_ready()
        else:
            self.link.resume()
            self._advance()

    def drain(self) -> None:
        """End after the request in progress, or at once."""
        exchange = self.exchange
        if exchange is not None and exchange.websocket is not None:
            exchange.websocket.drain()
        elif exchange is None and not self.is_lingering:
            self._linger()

    def due(self, now: float) -> float:
        """The time of the next deadline, at which `expired` is called."""
        limits = self._limits
        if self.is_lingering:
            return self.idle_since + limits.linger_s
        if self.exchange is not None:
            return timing.due(self.exchange, limits)
        if self.head_began is not None:
            return self.head_began + limits.header_s
        return self.idle_since + limits.idle_s

    def expired(self, now: float) -> None:
        """Act on the deadlines that have passed."""
        if self.is_lingering:
            self.owner.close_client(None, "proxy")
        elif self.exchange is not None:
            self._closes = timing.expire(self.exchange, now, self._limits) or self._closes
        elif self.head_began is not None:
            self._reject(HttpError(Fault.SLOW_HEADERS, f"incomplete head after {self._limits.header_s:g} s"))
        else:
            self.owner.close_client("client_idle_timeout", "client")
