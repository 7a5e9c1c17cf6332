"""Limits on what an HTTP/2 peer may send: counts frames by their headers, before h2 processes them.

h2 takes some 20 us for a frame of nine bytes, so a flood would cost two seconds a megabyte. Here a frame costs 0.4 us,
and each kind of attack has a name. GOAWAY is taken out: h2 would end the connection, but streams in progress may be
completed (RFC 9113 6.8).
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from typing import NamedTuple

from proxy.inspect.http.faults import Fault, HttpError
from proxy.inspect.http.limits import Limits

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
END_STREAM, ACK, END_HEADERS, PADDED, HAS_PRIORITY = 0x1, 0x1, 0x4, 0x8, 0x20
MAX_FRAME = 16_384  # bytes, as announced to both sides
PREFACE_BYTES = 24
MIN_PART = 4_096  # bytes of an incomplete DATA frame that are passed on
_HEADER = struct.Struct(">HBBBL")
_MAX_CONTINUATIONS = 32
_UPDATES_FOR_A_FRAME = 10  # WINDOW_UPDATE frames allowed per DATA frame sent, as in Envoy

# by frame type: burst, rate per second, and the fault beyond; for RST_STREAM as in nghttp2
_BOUNDS: dict[int, tuple[int, float, Fault]] = {
    PRIORITY: (1_000, 100, Fault.PRIORITY_FLOOD),
    RST_STREAM: (1_000, 33, Fault.RAPID_RESET),
    SETTINGS: (100, 10, Fault.SETTINGS_FLOOD),
    PING: (200, 20, Fault.PING_FLOOD),
}
_EMPTY = (100, 10.0, Fault.EMPTY_FRAMES)
_UNKNOWN = (1_000, 100.0, Fault.UNKNOWN_FRAMES)


class _Bucket:
    """A token bucket: a burst, and a rate per second."""

    __slots__ = ("burst", "fault", "rate", "since", "tokens")

    def __init__(self, burst: int, rate: float, fault: Fault, now: float) -> None:
        self.burst, self.rate, self.fault = burst, rate, fault
        self.tokens, self.since = float(burst), now

    def take(self, now: float) -> None:
        self.tokens = min(self.burst, self.tokens + (now - self.since) * self.rate) - 1
        self.since = now
        if self.tokens < 0:
            raise HttpError(self.fault, f"more than {self.burst} at once and {self.rate:g} a second")


class Data(NamedTuple):
    """The data of one DATA frame, of several in a row, or of a part of one; all without padding."""

    number: int  # of the stream
    data: bytes
    is_last: bool  # END_STREAM


class Head(NamedTuple):
    """A HEADERS frame with a complete header block, without padding."""

    number: int  # of the stream
    block: bytes
    is_last: bool  # END_STREAM
    frame: bytes  # the whole frame, as received


def frame_header(size: int, kind: int, flags: int, number: int) -> bytes:
    """A frame header (RFC 9113 4.1)."""
    return _HEADER.pack(size >> 8, size & 0xFF, kind, flags, number)


class FrameGuard:
    """Follows one direction of a connection. `goaway` is called with the last stream's number and the error code."""

    def __init__(
        self, limits: Limits, now: float, goaway: Callable[[int, int], None], *, has_preface: bool = False
    ) -> None:
        self._limits = limits
        self._goaway = goaway
        self.is_receiving: Callable[[int], bool] = lambda number: False  # whether data is allowed on this stream
        self._data: tuple[int, bool] | None = None  # if the current frame is DATA: its stream, and END_STREAM
        self._held = b""  # the part of its payload not yet passed on
        self._is_in_block = False  # CONTINUATION must follow
        self._remaining = PREFACE_BYTES if has_preface else 0  # bytes of the current frame still to come
        self._partial = b""  # an incomplete frame header or GOAWAY
        self._buckets = {kind: _Bucket(*bound, now) for kind, bound in _BOUNDS.items()}
        self._empty, self._unknown = _Bucket(*_EMPTY, now), _Bucket(*_UNKNOWN, now)
        self._block = 0  # bytes of the current header block
        self._continuations = 0
        self._updates = 1_000
        self.sent = 0  # DATA frames sent in the other direction

    def feed(self, data: bytes, now: float) -> Iterator[bytes | Data | Head]:
        """Split `data` into bytes for h2, and data and heads for the fast paths, in order. HttpError: an attack.

        A generator; each part must be handled before the next one is requested.
        """
        if self._partial:
            data = self._partial + data
            self._partial = b""
        position, start, size = self._remaining, 0, len(data)
        if self._data is not None:
            run, position = self._run(data, 0, self._data[0])
            if run is not None:
                yield run
            start = position
        while position + 9 <= size:
            high, low, kind, flags, number = _HEADER.unpack_from(data, position)
            length = (high << 8) | low
            end = position + 9 + length
            if length > MAX_FRAME:
                raise HttpError(Fault.BAD_FRAME, f"a frame of {length} bytes, or something else than HTTP/2")
            if kind == DATA and length:
                if not flags & PADDED and not self._is_in_block:
                    if start < position:
                        yield data[start:position]
                        start = position
                    if self.is_receiving(number):
                        run, position = self._run(data, position, number)
                        if run is not None:
                            yield run
                        start = position
                        continue
            elif kind == GOAWAY:
                if end > size:
                    break
                if start < position:
                    yield data[start:position]
                self._goaway_received(data[position + 9 : end])
                start = end
            else:
                self._count(kind, flags, length, now)
                if kind == HEADERS and flags & (END_HEADERS | PADDED) == END_HEADERS and end <= size:
                    if start < position:
                        yield data[start:position]
                    start = end
                    yield _head(number, flags, data[position:end])
            position = end
        if position < size:
            self._partial = data[position:]
        self._remaining = max(position - size, 0)
        if start < min(position, size):
            yield data[start : min(position, size)]

    def _run(self, data: bytes, position: int, number: int) -> tuple[Data | None, int]:
        """The data of consecutive DATA frames of one stream from `position` on, beginning with the rest of an
        incomplete one, and where they end; None: too little to pass on.

        For bulk it takes a third of the time of one iteration of `feed` per frame.
        """
        parts, view, size, is_last = list[bytes | memoryview](), memoryview(data), len(data), False
        if self._data is not None:
            position = self._remaining
            rest = self._rest(data[:position])
            if rest is not None:
                parts.append(rest.data)
                is_last = rest.is_last
        while position + 9 <= size and not is_last:
            high, low, kind, flags, of = _HEADER.unpack_from(data, position)
            length = (high << 8) | low
            if kind != DATA or of != number or not length or flags & PADDED or length > MAX_FRAME:
                break
            begin = position + 9
            position = begin + length
            if position > size:
                self._data, self._remaining = (number, bool(flags & END_STREAM)), length
                if (rest := self._rest(data[begin:])) is not None:
                    parts.append(rest.data)
                break
            parts.append(view[begin:position])
            is_last = bool(flags & END_STREAM)
        if not parts:
            return None, position
        return Data(number, b"".join(parts), is_last), position

    def _rest(self, data: bytes) -> Data | None:
        """More data of the current DATA frame; None: too little to pass on by itself."""
        assert self._data is not None
        number, is_last = self._data
        self._remaining -= len(data)
        if self._held:
            data = self._held + data
            self._held = b""
        if not self._remaining:
            self._data = None
            return Data(number, data, is_last)
        if len(data) < MIN_PART:
            self._held = data
            return None
        return Data(number, data, False)

    def count_reset(self, now: float) -> None:
        """Count a stream that the peer made this side reset: rapid reset from the other end (CVE-2025-8671)."""
        self._buckets[RST_STREAM].take(now)

    def _goaway_received(self, payload: bytes) -> None:
        if len(payload) < 8:
            raise HttpError(Fault.BAD_FRAME, "a GOAWAY that is too short")
        last, code = struct.unpack_from(">LL", payload)
        self._goaway(last & 0x7FFFFFFF, code)

    def _count(self, kind: int, flags: int, length: int, now: float) -> None:
        if kind in (HEADERS, PUSH_PROMISE, CONTINUATION):
            self._is_in_block = not flags & END_HEADERS
        if kind in (HEADERS, PUSH_PROMISE):
            self._block, self._continuations = length, 0
        elif kind == CONTINUATION:
            self._block += length
            self._continuations += 1
            if self._continuations > _MAX_CONTINUATIONS or self._block > self._limits.header_bytes:
                detail = f"a header block of {self._continuations} more frames and {self._block} bytes"
                raise HttpError(Fault.CONTINUATION_FLOOD, detail)
        elif kind == WINDOW_UPDATE:
            self._updates -= 1
            if self._updates + self.sent * _UPDATES_FOR_A_FRAME < 0:
                raise HttpError(Fault.WINDOW_FLOOD, f"{1_000 - self._updates} window updates for {self.sent} frames")
        elif kind == DATA:
            if not flags & END_STREAM:
                self._empty.take(now)
        elif (bucket := self._buckets.get(kind)) is not None:
            bucket.take(now)
        else:
            self._unknown.take(now)


def _head(number: int, flags: int, frame: bytes) -> Head | bytes:
    """The content of a HEADERS frame; or the frame, if its priority (RFC 7540 6.2) is for h2 to reject."""
    block = frame[9:]
    if flags & HAS_PRIORITY:
        if int.from_bytes(block[:4], "big") & 0x7FFFFFFF == number:
            return frame
        block = block[5:]
    return Head(number, block, bool(flags & END_STREAM), frame) if block else frame
