"""The client's side of HTTP/2: each stream is an exchange."""

from __future__ import annotations

import math

import h2.errors
import h2.events as events
import h2.exceptions
from hyperframe.frame import GoAwayFrame

from proxy.inspect.http import h2_wire, timing
from proxy.inspect.http.exchange import Exchange
from proxy.inspect.http.faults import Fault, HttpError, report_of
from proxy.inspect.http.front import Owner
from proxy.inspect.http.h2_end import COMMON_HANDLERS, H2End
from proxy.inspect.http.h2_stream import Stream, error_name
from proxy.inspect.http.h2_windows import Windows
from proxy.inspect.http.h2_wire import Codes
from proxy.inspect.http.link import Link
from proxy.inspect.http.messages import Headers, RequestHead, ResponseHead

_ERRORS = h2.errors.ErrorCodes
_NO_BODY = (204, 304)
_TOO_LARGE = 431
# from an early response to the reset that stops the upload: curl loses a response that arrives with a reset
STOP_S = 0.5


class H2Server(H2End["ServerStream"]):
    """Reads a client's streams. The window of each is reopened as its origin takes the data."""

    def __init__(self, owner: Owner, link: Link, scheme: bytes, default_host: bytes) -> None:
        """`default_host` is recorded for requests that cannot be parsed."""
        super().__init__(link, owner.limits, owner.session.now, is_client=False)
        self.owner = owner
        widest = owner.limits.upload_window_bytes
        self.windows = Windows(owner.limits, widest, self.sender.widen, owner.session.at_end)
        self._scheme, self._default_host = scheme, default_host
        self._stops: dict[int, float] = {}  # streams answered before their requests were complete: when to reset them
        self.idle_since = owner.session.now()

    def start(self) -> None:
        """Send SETTINGS."""
        self.link.touch()

    def allow_upgrades(self) -> None:
        """Offer WebSockets over HTTP/2 (RFC 8441 3), since the origin supports WebSockets."""
        if not self.is_over:
            self.h2.update_settings({Codes.ENABLE_CONNECT_PROTOCOL: 1})
            self.link.touch()

    # From the client.

    def received(self, data: bytes) -> None:
        """Handle bytes of the client."""
        if self.is_over:
            return
        try:
            self._incoming.read(data, self.owner.session.now())
        except HttpError as error:
            self._end(error)
        except h2.exceptions.ProtocolError as error:
            self._end(h2_wire.fault_of(error))
        self.link.touch()

    def _head_received(self, number: int, fields: Headers, is_complete: bool) -> None:
        """Open a stream for a request."""
        if self._is_going_away:
            self._refuse(number, _ERRORS.REFUSED_STREAM)
            return
        try:
            head = h2_wire.read_request(fields, self.owner.limits, self._scheme, is_complete=is_complete)
        except HttpError as error:
            self._reject(number, error, fields, is_complete=is_complete)
            return
        stream = self.streams[number] = ServerStream(self, number, head)
        stream.has_ended = is_complete
        stream.exchange.begin(is_complete=is_complete)

    def _reject(self, number: int, error: HttpError, fields: Headers, *, is_complete: bool) -> None:
        """Answer a request that is too large by a page. A malformed one has its stream reset (RFC 9113 8.1.1)."""
        if report_of(error.fault).status != _TOO_LARGE:
            self._record(error)
            self._refuse(number, _ERRORS.PROTOCOL_ERROR)
            return
        head = self._unparsed()
        head.method = next((value for name, value in fields if name == b":method" and value == b"HEAD"), b"")
        stream = self.streams[number] = ServerStream(self, number, head)
        stream.has_ended, stream.exchange.client_ended = is_complete, True
        stream.exchange.refuse(error.fault, error.detail, by="client")

    def _unparsed(self) -> RequestHead:
        """The head of a request that could not be parsed."""
        return RequestHead(b"", self._scheme, self._default_host, b"", "2")

    def _record(self, error: HttpError) -> None:
        """Record a request that could not be parsed, and gets no response."""
        exchange = Exchange(self.owner, _NullResponder(), self._unparsed())
        exchange.client_ended = True
        exchange.client_gone(error.fault, error.detail)

    def _complete(self, number: int) -> None:
        """Handle the end of a stream's request."""
        stream = self.streams.get(number)
        if stream is not None:
            stream.has_ended = True
            stream.exchange.request_ended(stream.trailers)

    def _reset(self, event: events.StreamReset) -> None:
        if not event.remote_reset:
            self._guard.count_reset(self._now())
        stream = self.streams.get(event.stream_id or 0)
        if stream is not None:
            self.sender.drop(stream.out)
            fault = Fault.CANCELLED if event.remote_reset else Fault.BAD_FRAME
            stream.exchange.client_gone(fault, f"the stream was reset: {error_name(event.error_code)}")

    def _settings(self, _event: events.RemoteSettingsChanged) -> None:
        self._pump_all()

    def _pump(self, stream: ServerStream) -> None:
        if self.sender.pump(stream.out):
            stream.exchange.client_ready()
        if stream.out.is_over:
            stream.exchange.all_sent()

    def _goaway_received(self, _last: int, code: int) -> None:
        """Handle GOAWAY: the client opens no more streams; those in progress are completed."""
        self._is_going_away = True
        if code != _ERRORS.NO_ERROR:
            self.owner.note_fault(Fault.CLIENT_GONE)
        if not self.streams:
            self._close()

    def ended(self) -> None:
        """The client has closed its half, which ends HTTP/2: it reads no more responses."""
        self.broken("the client has closed the connection")
        if not self.is_over and not self.streams:
            self.is_over = True
            self.owner.close_client("client_closed", "client")

    def broken(self, detail: str) -> None:
        """The connection to the client has failed. Requests that are complete may still be on their way."""
        for stream in list(self.streams.values()):
            stream.exchange.client_gone(Fault.CLIENT_GONE, detail)
            self.sender.drop(stream.out)
        self._is_going_away = True

    def _end(self, error: HttpError) -> None:
        """Nothing more can be read: send GOAWAY with the reason, and close."""
        if not self.streams:
            self._record(error)
        self.owner.note_fault(error.fault)
        for stream in list(self.streams.values()):
            stream.unacknowledged = 0  # no window is reopened any more
            stream.exchange.client_gone(error.fault, error.detail)
        if not self.is_over:
            self.is_over = True
            code = _ERRORS.PROTOCOL_ERROR if error.fault is Fault.BAD_FRAME else _ERRORS.ENHANCE_YOUR_CALM
            self.link.flush()
            self._go_away(code, error.fault.encode())
            self.link.end()
            self.owner.close_client(None, "client")

    # To the client.

    def _refuse(self, number: int, code: int) -> None:
        try:
            self.h2.reset_stream(number, code)
        except h2.exceptions.ProtocolError:
            pass  # closed by the client meanwhile
        self.link.touch()

    def reset(self, stream: ServerStream, code: int) -> None:
        """Reset a stream."""
        self.sender.drop(stream.out)
        if not self.is_over:
            self._refuse(stream.number, code)

    def done(self, stream: ServerStream) -> None:
        """A stream is complete, or was reset."""
        self.streams.pop(stream.number, None)
        self.windows.ended(stream)
        self.idle_since = self.owner.session.now()
        if not self.streams:
            if self._is_going_away:
                self._close()
            else:
                self.owner.wake(self.idle_since + self.owner.limits.idle_s)

    def stop_later(self, number: int) -> None:
        """Reset the stream after `STOP_S` if the client is still sending its request, which was answered early."""
        self._stops[number] = at = self._now() + STOP_S
        self.owner.wake(at)

    def _go_away(self, code: int, detail: bytes = b"") -> None:
        last = self.h2.highest_inbound_stream_id
        frame = GoAwayFrame(0, last_stream_id=last, error_code=code, additional_data=detail)
        self.link.write(frame.serialize())

    def _close(self) -> None:
        if not self.is_over:
            self.is_over = True
            self.link.end()
            self.owner.close_client(None, "client")

    # Back-pressure, deadlines and the end.

    def full(self) -> None:
        """The client's queue is full: pause the origins."""
        for stream in self.streams.values():
            stream.exchange.client_full()

    def ready(self) -> None:
        """The client's queue has drained: resume the origins."""
        self._pump_all()
        for stream in list(self.streams.values()):
            if not stream.out.is_full:
                stream.exchange.client_ready()

    def drain(self) -> None:
        """Send GOAWAY, and close after the last stream."""
        if self._is_going_away or self.is_over:
            return
        self._is_going_away = True
        self._go_away(_ERRORS.NO_ERROR)
        for stream in list(self.streams.values()):
            if stream.exchange.websocket is not None:
                stream.exchange.websocket.drain()
        if not self.streams:
            self._close()

    def due(self, now: float) -> float:
        """The time of the next deadline: of a stream, or of an idle connection."""
        limits = self.owner.limits
        stop = min(self._stops.values(), default=math.inf)
        if not self.streams:
            return min(stop, self.idle_since + limits.idle_s)
        return min(stop, *(timing.due(stream.exchange, limits) for stream in self.streams.values()))

    def expired(self, now: float) -> None:
        """Act on the deadlines that have passed."""
        limits = self.owner.limits
        for number in [number for number, at in self._stops.items() if at <= now]:
            del self._stops[number]
            if not self.is_over:
                self._refuse(number, _ERRORS.NO_ERROR)
        if not self.streams:
            if self.idle_since + limits.idle_s <= now:
                self.drain()
            return
        for stream in list(self.streams.values()):
            if timing.due(stream.exchange, limits) <= now:
                timing.expire(stream.exchange, now, limits)


class ServerStream(Stream):
    """One stream: the client's side of its exchange."""

    __slots__ = ("exchange", "has_ended", "server")

    def __init__(self, server: H2Server, number: int, head: RequestHead) -> None:
        super().__init__(number, server.acknowledge)
        self.server = server
        self.has_ended = False
        self.exchange = Exchange(server.owner, self, head)

    def received(self, data: bytes) -> None:
        """Take a part of the request's body."""
        self.exchange.request_data(data)

    @property
    def queued(self) -> int:
        """Bytes queued for the client."""
        return self.out.size + self.server.link.stream.queued

    @property
    def is_behind(self) -> bool:
        """Whether written data waits for a window, or for the connection."""
        return not self.out.is_over

    def inform(self, head: ResponseHead) -> None:
        """Send an interim response."""
        self._send_head(head, is_complete=False)

    def respond(self, head: ResponseHead) -> None:
        """Send the response's head; a 101 becomes a 200 (RFC 8441 5)."""
        if head.status == 101:
            head.status = 200
        if self.exchange.is_switched:
            head.length = None
        bodiless = self.exchange.request.method == b"HEAD" or head.status in _NO_BODY or head.length == 0
        self._send_head(head, is_complete=bodiless and not self.exchange.is_switched)

    def _send_head(self, head: ResponseHead, *, is_complete: bool) -> None:
        try:
            self.server.sender.head(self.out, h2_wire.response_fields(head), is_last=is_complete)
        except h2.exceptions.ProtocolError:
            self.server.sender.drop(self.out)  # reset by the client, whose event follows

    def data(self, data: bytes) -> None:
        """Send a part of the body."""
        if self.out.is_over:
            return
        self.server.sender.data(self.out, data)
        if self.out.is_full:
            self.exchange.client_full()

    def end(self, trailers: Headers) -> None:
        """End the response."""
        self.server.sender.end(self.out, trailers)

    def reset(self, fault: Fault) -> None:
        """Reset the stream."""
        is_too_slow = fault in (Fault.SLOW_READ, Fault.SLOW_BODY)
        if self.exchange.websocket is not None and fault is not Fault.RESPONSE_CUT:
            self.server.sender.end(self.out, [])  # behind the close frame
        if not self.out.is_over:
            self.server.reset(self, _ERRORS.ENHANCE_YOUR_CALM if is_too_slow else _ERRORS.INTERNAL_ERROR)

    def done(self) -> None:
        """The exchange is complete. If the client is still sending its request, stop it a moment later."""
        self.resume()
        if not self.has_ended and self.out.is_over:
            self.server.stop_later(self.number)
        self.server.done(self)


class _NullResponder:
    """The client's side of a request that could not be parsed: the reset is the answer."""

    queued = 0
    is_behind = False

    def inform(self, head: ResponseHead) -> None: ...
    def respond(self, head: ResponseHead) -> None: ...
    def data(self, data: bytes) -> None: ...
    def end(self, trailers: Headers) -> None: ...
    def reset(self, fault: Fault) -> None: ...
    def pause(self) -> None: ...
    def resume(self) -> None: ...
    def done(self) -> None: ...


H2Server.handlers = COMMON_HANDLERS | {
    events.StreamReset: H2Server._reset,
    events.RemoteSettingsChanged: H2Server._settings,
}
