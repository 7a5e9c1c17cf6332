"""DATA frames without a frame object each: what h2 keeps of them is windows and the length of the body.

Of 100 MB that pass over HTTP/2, h2's own way of a frame takes half of the time (bench/http.py). What is not as usual, a
frame for a stream that is closed, beyond a window or beyond its Content-Length, h2 gets as it came, and refuses it.
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
    """What a peer sends: frames by h2, whose events `handle` gets, and heads and data beside it.

    `receive(made, head)`: the fields of a head that h2 need not see (`h2_heads`); `headed(number, fields, is_complete)`
    gets them. `took(number, data, size)`: data of a stream, with the size that its windows count; `complete(number)`:
    there is no more of it.
    """

    def __init__(
        self,
        made: h2.connection.H2Connection,
        guard: FrameGuard,
        handle: Callable[[h2.events.Event], None],
        receive: h2_heads.Receive,
        headed: Callable[[int, Headers, bool], None],
        took: Callable[[int, bytes, int], None],
        complete: Callable[[int], None],
    ) -> None:
        self._h2, self._guard = made, guard
        self._handle, self._receive, self._headed = handle, receive, headed
        self._took, self._complete = took, complete
        guard.is_receiving = lambda number: is_receiving(made, number)

    def read(self, data: bytes, now: float) -> None:
        """`HttpError` names an attack; `h2.exceptions.ProtocolError` is what h2 does not allow."""
        for part in self._guard.feed(data, now):
            if isinstance(part, Data):
                self._plain(part)
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
        self._headed(part.number, fields, part.is_last)
        if part.is_last:
            self._complete(part.number)

    def _plain(self, part: Data) -> None:
        number = part.number
        if not account(self._h2, part):
            self._frames(frame_of(part))
            return
        self._took(number, part.data, len(part.data))
        if part.is_last:
            if end(self._h2, number):
                self._complete(number)
            else:
                self._frames(header(number, 0, END_STREAM))


def is_receiving(made: h2.connection.H2Connection, number: int) -> bool:
    """Whether the stream is there, and its peer may send data on it."""
    stream = made.streams.get(number)
    return stream is not None and _receives(stream)


def _receives(stream: H2Stream) -> bool:
    machine = stream.state_machine
    return machine.state in _RECEIVING and bool(machine.headers_received)  # no response begins with its body


def account(made: h2.connection.H2Connection, part: Data) -> bool:
    """Count `part` as received; False: h2 has to see the frame itself (`frame_of`)."""
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
    """Take note that nothing more comes on this stream; False: h2 has to see it."""
    stream = made.streams.get(number)
    if stream is None or not _receives(stream):
        return False
    if stream._expected_content_length not in (None, stream._actual_content_length):
        return False
    h2_heads.receive_end(made, stream)
    return True


def frame_of(part: Data) -> bytes:
    """The frame as it is on the wire; several, where there is more than one may hold."""
    number, data, frames = part.number, part.data, list[bytes]()
    while len(data) > MAX_FRAME:
        frames += (header(number, MAX_FRAME), data[:MAX_FRAME])
        data = data[MAX_FRAME:]
    return b"".join([*frames, header(number, len(data), END_STREAM if part.is_last else 0), data])


def header(number: int, size: int, flags: int = 0) -> bytes:
    """Of a DATA frame."""
    return frame_header(size, DATA, flags, number)


def spend(made: h2.connection.H2Connection, number: int, size: int, *, is_last: bool = False) -> None:
    """Count `size` bytes, which both windows allow, as sent; `is_last`: as all. ProtocolError when it is closed."""
    stream = made.streams.get(number)
    if stream is None:
        raise StreamClosedError(number)
    made.outbound_flow_control_window -= size
    stream.outbound_flow_control_window -= size
    if is_last:
        h2_heads.send_end(made, stream)


def acknowledge(made: h2.connection.H2Connection, number: int, size: int) -> bytes:
    """Count `size` bytes as dealt with: the WINDOW_UPDATE frames that open windows again, if it is time for them."""
    frames = b""
    if increment := made._inbound_flow_control_window_manager.process_bytes(size):
        frames = frame_header(4, WINDOW_UPDATE, 0, 0) + _INCREMENT.pack(increment)
    stream = made.streams.get(number)
    if stream is not None and stream.open and (increment := stream._inbound_window_manager.process_bytes(size)):
        frames += frame_header(4, WINDOW_UPDATE, 0, number) + _INCREMENT.pack(increment)
    return frames


def widen(made: h2.connection.H2Connection, number: int, size: int) -> bytes:
    """Let the peer send `size` bytes more before they are dealt with, on this stream, or on the connection (0): the
    frame that says so, if it is still open."""
    if number:
        stream = made.streams.get(number)
        if stream is None or not _receives(stream):
            return b""
        window = stream._inbound_window_manager
    else:
        window = made._inbound_flow_control_window_manager
    most = window.max_window_size + size
    window.window_opened(size)
    window.max_window_size = most
    return frame_header(4, WINDOW_UPDATE, 0, number) + _INCREMENT.pack(size)
