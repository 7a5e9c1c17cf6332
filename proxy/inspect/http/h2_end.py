"""Common to both ends of HTTP/2: dispatches h2's events to streams, and sends what waits as windows open."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, Generic, TypeVar

import h2.events as events

from proxy.inspect.http import h2_heads, h2_wire
from proxy.inspect.http.h2_data import Incoming
from proxy.inspect.http.h2_guard import FrameGuard
from proxy.inspect.http.h2_stream import Stream
from proxy.inspect.http.h2_windows import Windows
from proxy.inspect.http.h2_wire import Sender
from proxy.inspect.http.limits import Limits
from proxy.inspect.http.link import Link
from proxy.inspect.http.messages import Headers

AnyStream = TypeVar("AnyStream", bound=Stream)


class H2End(ABC, Generic[AnyStream]):
    """One end of a connection, and its streams by their numbers."""

    windows: Windows
    handlers: ClassVar[dict[type[events.Event], Callable[[Any, Any], None]]]  # by event

    def __init__(self, link: Link, limits: Limits, now: Callable[[], float], *, is_client: bool) -> None:
        self.link = link
        self.streams: dict[int, AnyStream] = {}
        self.h2 = h2_wire.connection(limits, is_client=is_client)
        self._now, self._limits = now, limits
        self._guard = FrameGuard(limits, now(), self._goaway_received, has_preface=not is_client)
        receive = h2_heads.receive_response if is_client else h2_heads.receive_request
        self._incoming = Incoming(
            self.h2, self._guard, self._handle, receive, self._head_received, self._data_received, self._complete
        )
        self.sender = Sender(self.h2, link, self._guard)
        self.is_over = self._is_going_away = False
        link.source = self.h2.data_to_send
        link.filled = self.full

    # Implemented by each end.

    @abstractmethod
    def full(self) -> None:
        """The queue to the peer is full."""

    @abstractmethod
    def _head_received(self, number: int, fields: Headers, is_complete: bool) -> None:
        """Handle the head of a request, or of a final response."""

    @abstractmethod
    def _complete(self, number: int) -> None:
        """Handle the end of what the peer sends on this stream."""

    @abstractmethod
    def _pump(self, stream: AnyStream) -> None:
        """Send what is queued on this stream, as far as windows allow."""

    @abstractmethod
    def _goaway_received(self, last: int, code: int) -> None:
        """Handle GOAWAY."""

    # Common to both.

    def acknowledge(self, number: int, size: int) -> None:
        """Reopen the window of a stream by `size` bytes."""
        if size and not self.is_over:
            self.sender.acknowledge(number, size)

    def _handle(self, event: events.Event) -> None:
        handle = self.handlers.get(type(event))
        if handle is not None:
            handle(self, event)

    def _began(self, event: events.RequestReceived | events.ResponseReceived) -> None:
        self._head_received(event.stream_id or 0, event.headers or [], event.stream_ended is not None)

    def _data(self, event: events.DataReceived) -> None:
        self._data_received(event.stream_id or 0, event.data or b"", event.flow_controlled_length or 0)

    def _data_received(self, number: int, data: bytes, size: int) -> None:
        """Pass data to its stream. `size`: including padding.

        The connection's window is reopened at once: the windows of the streams bound what is held.
        """
        self.sender.acknowledge(0, size)
        stream = self.streams.get(number)
        if stream is None:
            return
        if data:
            stream.received(data)
        reopened = stream.consumed(size)
        if reopened and number in self.streams:
            self.windows.count(stream, reopened)

    def _trailers(self, event: events.TrailersReceived) -> None:
        stream = self.streams.get(event.stream_id or 0)
        if stream is not None:
            stream.trailers = [(bytes(name), bytes(value)) for name, value in event.headers or []]

    def _ended(self, event: events.StreamEnded) -> None:
        self._complete(event.stream_id or 0)

    def _window(self, event: events.WindowUpdated) -> None:
        if not event.stream_id:
            self._pump_all()
        elif (stream := self.streams.get(event.stream_id)) is not None:
            self._pump(stream)

    def _pump_all(self) -> None:
        for number in list(self.sender.waiting):
            stream = self.streams.get(number)
            if stream is not None:
                self._pump(stream)


COMMON_HANDLERS: dict[type[events.Event], Callable[[Any, Any], None]] = {
    events.RequestReceived: H2End._began,
    events.ResponseReceived: H2End._began,
    events.DataReceived: H2End._data,
    events.TrailersReceived: H2End._trailers,
    events.StreamEnded: H2End._ended,
    events.WindowUpdated: H2End._window,
}
