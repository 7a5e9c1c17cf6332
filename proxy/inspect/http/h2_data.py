"""A fast path around h2 for DATA frames: updates h2's windows and body lengths without frame objects and events.

h2's own path takes half of the time of 100 MB over HTTP/2 (bench/http.py). Anything unusual (a frame for a closed
stream, beyond a window, or beyond its Content-Length) is passed to h2 as it came, which rejects it.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

import h2.connection
import h2.events
from h2.exceptions import StreamClosedError
from h2.stream import H2Stream, StreamState

from proxy.inspect.http import h2_heads
from proxy.inspect.http.h2_guard import DATA, END_STREAM, MAX_FRAME, WINDOW_UPDATE, Data, FrameGuard, Head, frame_header
from proxy.inspect.http.messages import Headers

_RECEIVING = (StreamState.OPEN, StreamState.HALF_CLOSED_LOCAL)
_INCREMENT = struct.Struct(">L")


class Incoming:
    """Reads what a peer sends: most heads and data by the fast paths, everything else by h2.

    `handle` gets h2's events. `receive(made, head)` returns the fields of a head, or None to leave it to h2
    (`h2_heads`); `head_received(number, fields, is_complete)` gets them. `data_received(number, data, size)` gets a
    stream's data, with the size that counts against windows, and `complete(number)` its end.
    """

    def __init__(
        self,
        made: h2.connection.H2Connection,
        guard: FrameGuard,
        handle: Callable[[h2.events.Event], None],
        receive: h2_heads.Receive,
        head_received: Callable[[int, Headers, bool], None],
        data_received: Callable[[int, bytes, int], None],
        complete: Callable[[int], None],
    ) -> None:
        self._h2, self._guard = made, guard
        self._handle, self._receive, self._head_received = handle, receive, head_received
        self._data_received, self._complete = data_received, complete
        guard.is_receiving = lambda number: is_receiving(made, number)

    def read(self, data: bytes, now: float) -> None:
        """Handle `data`. HttpError: an attack, by name; h2.exceptions.ProtocolError: rejected by h2."""
        for part in self._guard.feed(data, now):
            if isinstance(part, Data):
                self._data(part)
            elif isinstance(part, Head):
                self._head(part)
            else:
                self._frames(part)

    def _frames(self, data: bytes) -> None:
        for event in self._h2.receive_data(data):
            self._handle(event)

    def _head(self, part: Head) -> None:
        fields = self._receive(self._h2, part)
        if fields is None:
            if not h2_heads.is_too_late(self._h2, part):
                self._frames(part.frame)
            return
        self._head_received(part.number, fields, part.is_last)
        if part.is_last:
            self._complete(part.number)

    def _data(self, part: Data) -> None:
        number = part.number
        if not account(self._h2, part):
            self._frames(frame_of(part))
            return
        self._data_received(number, part.data, len(part.data))
        if part.is_last:
            if end(self._h2, number):
                self._complete(number)
            else:
                self._frames(header(number, 0, END_STREAM))


def is_receiving(made: h2.connection.H2Connection, number: int) -> bool:
    """Whether the peer may send data on this stream."""
    stream = made.streams.get(number)
    return stream is not None and _receives(stream)


def _receives(stream: H2Stream) -> bool:
    machine = stream.state_machine
    return machine.state in _RECEIVING and bool(machine.headers_received)  # the head has arrived


def account(made: h2.connection.H2Connection, part: Data) -> bool:
    """Count `part` as received. False: leave the frame to h2 (`frame_of`)."""
    stream, size = made.streams.get(part.number), len(part.data)
    if stream is None or not _receives(stream):
        return False
    whole, own = made._inbound_flow_control_window_manager, stream._inbound_window_manager
    expected = stream._expected_content_length
    if size > whole.current_window_size or size > own.current_window_size:
        return False
    if expected is not None and stream._actual_content_length + size > expected:
        return False
    whole.window_consumed(size)
    own.window_consumed(size)
    stream._actual_content_length += size
    return True


def end(made: h2.connection.H2Connection, number: int) -> bool:
    """Note that the peer has ended this stream. False: leave it to h2."""
    stream = made.streams.get(number)
    if stream is None or not _receives(stream):
        return False
    if stream._expected_content_length not in (None, stream._actual_content_length):
        return False
    h2_heads.receive_end(made, stream)
    return True


def frame_of(part: Data) -> bytes:
    """The frame as on the wire; several if it exceeds the size of one."""
    number, data, frames = part.number, part.data, list[bytes]()
    while len(data) > MAX_FRAME:
        frames += (header(number, MAX_FRAME), data[:MAX_FRAME])
        data = data[MAX_FRAME:]
    return b"".join([*frames, header(number, len(data), END_STREAM if part.is_last else 0), data])


def header(number: int, size: int, flags: int = 0) -> bytes:
    """The header of a DATA frame."""
    return frame_header(size, DATA, flags, number)


def spend(made: h2.connection.H2Connection, number: int, size: int, *, is_last: bool = False) -> None:
    """Count `size` bytes, within both windows, as sent; `is_last`: end the stream. ProtocolError: it is closed."""
    stream = made.streams.get(number)
    if stream is None:
        raise StreamClosedError(number)
    made.outbound_flow_control_window -= size
    stream.outbound_flow_control_window -= size
    if is_last:
        h2_heads.send_end(made, stream)


def acknowledge(made: h2.connection.H2Connection, number: int, size: int) -> bytes:
    """Count `size` bytes of a stream, or of the connection (0), as consumed. Returns the WINDOW_UPDATE frame if one is
    due, or nothing."""
    window = made._inbound_flow_control_window_manager
    if number:
        stream = made.streams.get(number)
        if stream is None or not stream.open:
            return b""
        window = stream._inbound_window_manager
    increment = window.process_bytes(size)
    return frame_header(4, WINDOW_UPDATE, 0, number) + _INCREMENT.pack(increment) if increment else b""


def widen(made: h2.connection.H2Connection, number: int, size: int) -> bytes:
    """Widen the window of a stream by `size` bytes. Returns the WINDOW_UPDATE frame, or nothing if it is closed."""
    stream = made.streams.get(number)
    if stream is None or not _receives(stream):
        return b""
    window = stream._inbound_window_manager
    most = window.max_window_size + size
    window.window_opened(size)
    window.max_window_size = most
    return frame_header(4, WINDOW_UPDATE, 0, number) + _INCREMENT.pack(size)
