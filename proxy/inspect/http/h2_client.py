"""The origin's side of HTTP/2: requests as streams of one connection."""

from __future__ import annotations

from typing import Protocol

import h2.errors
import h2.events as events
import h2.exceptions

from proxy.inspect.http import h2_wire
from proxy.inspect.http.exchange import Exchange
from proxy.inspect.http.faults import Fault, HttpError
from proxy.inspect.http.h2_end import COMMON_HANDLERS, H2End
from proxy.inspect.http.h2_stream import Stream, error_name
from proxy.inspect.http.h2_windows import Windows
from proxy.inspect.http.limits import Limits
from proxy.inspect.http.link import Link
from proxy.inspect.http.messages import Headers, ResponseHead
from proxy.inspect.stream import SessionView

_ERRORS = h2.errors.ErrorCodes


class Pool(Protocol):
    """The pool of connections to one origin, as this one sees it."""

    def room_available(self) -> None:
        """The connection takes more streams, or its settings have arrived."""
        ...

    def lost(self, connection: H2Client) -> None:
        """`connection` takes no more streams."""
        ...

    def retry(self, exchange: Exchange) -> None:
        """The origin has not processed this request: send it on another connection."""
        ...


class H2Client(H2End["ClientStream"]):
    """Sends requests and reads responses, concurrently."""

    def __init__(self, pool: Pool, link: Link, limits: Limits, session: SessionView) -> None:
        super().__init__(link, limits, session.now, is_client=True)
        self._pool = pool
        self.windows = Windows(limits, limits.wide_window_bytes, self.sender.widen)
        self.is_settled = False  # the origin's SETTINGS have arrived
        link.touch()

    @property
    def has_room(self) -> bool:
        """Whether another stream may be opened."""
        if self.is_over or self._is_going_away:
            return False
        most = min(self.h2.remote_settings.max_concurrent_streams, 1_000)
        return len(self.h2.streams) < most or self.h2.open_outbound_streams < most

    @property
    def takes_upgrades(self) -> bool:
        """Whether the origin supports WebSockets over HTTP/2 (RFC 8441)."""
        return bool(self.h2.remote_settings.enable_connect_protocol)

    def request(self, exchange: Exchange) -> None:
        """Open a stream for the exchange's request."""
        head = exchange.request
        number = self.h2.get_next_available_stream_id()
        stream = self.streams[number] = ClientStream(self, number, exchange)
        is_complete = head.is_bodiless and not head.is_tunnel
        self.sender.head(stream.out, h2_wire.request_fields(head), is_last=is_complete)
        exchange.origin_assigned(stream)

    # From the origin.

    def received(self, data: bytes) -> None:
        """Handle bytes of the origin."""
        if self.is_over:
            return
        try:
            self._incoming.read(data, self._now())
        except HttpError as error:
            self._fail(Fault.ORIGIN_PROTOCOL, f"{error.fault}: {error.detail}")
        except h2.exceptions.ProtocolError as error:
            self._fail(Fault.ORIGIN_PROTOCOL, str(error) or type(error).__name__)
        self.link.touch()

    def _informed(self, event: events.InformationalResponseReceived) -> None:
        stream = self.streams.get(event.stream_id or 0)
        if stream is not None:
            stream.exchange.informed(h2_wire.read_response(event.headers or [], self._limits))

    def _head_received(self, number: int, fields: Headers, is_complete: bool) -> None:
        """Handle a final response's head."""
        stream = self.streams.get(number)
        if stream is None:
            return
        head = h2_wire.read_response(fields, self._limits)
        request = stream.exchange.request
        if request.protocol is not None and 200 <= head.status < 300:
            _as_switch(head, request.protocol)
        elif is_complete and head.length is None and head.status not in (204, 304):
            head.length = None if request.method == b"HEAD" else 0
        stream.exchange.responded(head)

    def _complete(self, number: int) -> None:
        """Handle the end of a stream's response."""
        stream = self.streams.get(number)
        if stream is None:
            return
        stream.has_answered = True
        exchange = stream.exchange
        if exchange.request.is_tunnel and exchange.response is not None and exchange.response.status >= 300:
            stream.end([])  # it has refused to switch: nothing follows, and the stream takes no other's place
        stream.forget_if_done()
        stream.exchange.response_ended(stream.trailers)

    def _reset(self, event: events.StreamReset) -> None:
        if not event.remote_reset:
            self._guard.count_reset(self._now())
        stream = self.streams.get(event.stream_id or 0)
        if stream is None:
            return
        self.forget(stream)
        if event.error_code == _ERRORS.REFUSED_STREAM and stream.can_retry:
            self._pool.retry(stream.exchange)
            return
        has_head = stream.exchange.response is not None
        fault = Fault.RESPONSE_CUT if has_head else Fault.ORIGIN_RESET if event.remote_reset else Fault.ORIGIN_PROTOCOL
        stream.exchange.origin_failed(fault, f"the origin's stream was reset: {error_name(event.error_code)}")

    def _settings(self, _event: events.RemoteSettingsChanged) -> None:
        self.is_settled = True
        self._pump_all()
        self._pool.room_available()

    def _pump(self, stream: ClientStream) -> None:
        if self.sender.pump(stream.out):
            stream.exchange.origin_ready()
        stream.forget_if_done()
        if stream.out.is_over:
            stream.exchange.all_sent()

    def _goaway_received(self, last: int, code: int) -> None:
        """Handle GOAWAY: no more streams; those after `last` were not processed."""
        self._is_going_away = True
        for number, stream in list(self.streams.items()):
            if number > last:
                self.forget(stream)
                if stream.can_retry:
                    self._pool.retry(stream.exchange)
                else:
                    stream.exchange.origin_failed(Fault.ORIGIN_CLOSED, "the origin ends the connection")
        self._lose()

    def ended(self) -> None:
        """The origin has closed the connection."""
        self._fail(Fault.ORIGIN_CLOSED, "the origin has closed the connection")

    def broken(self, error: OSError) -> None:
        """The connection has failed."""
        self._fail(Fault.ORIGIN_CLOSED, f"the origin's connection: {error}")

    def drained(self) -> None:
        """The queue to the origin has drained: resume the streams."""
        self.link.is_full = False
        self._pump_all()
        for stream in list(self.streams.values()):
            if not stream.out.is_full:
                stream.exchange.origin_ready()

    def full(self) -> None:
        """The queue to the origin is full: pause the streams."""
        for stream in self.streams.values():
            stream.exchange.origin_full()

    # Windows and the end.

    def reset(self, stream: ClientStream, code: int) -> None:
        """Reset a stream."""
        self.sender.drop(stream.out)
        if not self.is_over:
            try:
                self.h2.reset_stream(stream.number, code)
            except h2.exceptions.ProtocolError:
                pass  # closed already
            self.link.touch()
        self.forget(stream)

    def forget(self, stream: ClientStream) -> None:
        """A stream has ended: there is room for another."""
        if self.streams.pop(stream.number, None) is not None:
            self.sender.drop(stream.out)
            stream.resume()
            self.windows.ended(stream)
            if self._is_going_away:
                if not self.streams and not self.is_over:
                    self.is_over = True
                    self.link.end()
            else:
                self._pool.room_available()

    def _fail(self, fault: Fault, detail: str) -> None:
        if self.is_over:
            return
        self.is_over = True
        self.link.flush()
        self.link.end()
        streams, self.streams = self.streams, {}
        self._lose()
        for stream in streams.values():
            has_head = stream.exchange.response is not None and fault is Fault.ORIGIN_CLOSED
            stream.exchange.origin_failed(Fault.RESPONSE_CUT if has_head else fault, detail)

    def _lose(self) -> None:
        self._pool.lost(self)


class ClientStream(Stream):
    """One stream: the origin's side of its exchange."""

    __slots__ = ("client", "exchange", "has_answered")

    def __init__(self, client: H2Client, number: int, exchange: Exchange) -> None:
        super().__init__(number, client.acknowledge)
        self.client = client
        self.exchange = exchange
        self.has_answered = False

    @property
    def can_retry(self) -> bool:
        """Whether the request can be sent on another connection, as nothing of its body was sent."""
        exchange = self.exchange
        if exchange.is_retried or exchange.request.is_tunnel:
            return False
        return exchange.request.is_bodiless and exchange.response is None

    @property
    def queued(self) -> int:
        """Bytes that the origin has not taken."""
        return self.out.size

    @property
    def is_behind(self) -> bool:
        """Whether what was written waits for a window, or for the connection."""
        return not self.out.is_over

    def received(self, data: bytes) -> None:
        """Take a part of the response's body."""
        self.exchange.response_data(data)

    def data(self, data: bytes) -> None:
        """Send a part of the body."""
        if self.out.is_over:
            return
        self.client.sender.data(self.out, data)
        if self.out.is_full:
            self.exchange.origin_full()

    def end(self, trailers: Headers) -> None:
        """End the request."""
        self.client.sender.end(self.out, trailers)
        self.forget_if_done()

    def forget_if_done(self) -> None:
        """Forget the stream once both halves are complete."""
        if self.has_answered and self.out.is_over:
            self.client.forget(self)

    def reset(self, fault: Fault) -> None:
        """Cancel the stream."""
        if self.exchange.websocket is not None:
            self.client.sender.end(self.out, [])
        self.client.reset(self, _ERRORS.CANCEL)


def _as_switch(head: ResponseHead, protocol: bytes) -> None:
    """A 2xx response to extended CONNECT as the 101 of HTTP/1.1 that it corresponds to (RFC 8441 5)."""
    head.status, head.reason, head.length, head.protocol = 101, b"", None, protocol


H2Client.handlers = COMMON_HANDLERS | {
    events.InformationalResponseReceived: H2Client._informed,
    events.StreamReset: H2Client._reset,
    events.RemoteSettingsChanged: H2Client._settings,
}
