"""What a peer of HTTP/2 may send before it is an attack: frames counted by their headers, before h2 works on them.

A frame of nine bytes takes h2 some 20 us: a flood of them would cost a second of work for each megabyte. Here one costs
0.4 us, and what ends a connection has a name. GOAWAY is taken out: h2 would end the connection with it, but streams
that are under way may be completed (RFC 9113 6.8).
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from typing import NamedTuple

from proxy.inspect.http.faults import Fault, HttpError
from proxy.inspect.http.limits import Limits

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
END_STREAM, ACK, END_HEADERS, PADDED, HAS_PRIORITY = 0x1, 0x1, 0x4, 0x8, 0x20
MAX_FRAME = 16_384  # what both sides announce
PREFACE_BYTES = 24
LEAST_PART = 4_096  # bytes of a DATA frame that go on before it is whole
_HEADER = struct.Struct(">HBBBL")
_MAX_CONTINUATIONS = 32
_UPDATES_FOR_A_FRAME = 10  # WINDOW_UPDATE frames for each DATA frame sent, as Envoy has it

# frame type: (at once, a second, what more is called); nghttp2's figures for RST_STREAM
_BOUNDS: dict[int, tuple[int, float, Fault]] = {
    PRIORITY: (1_000, 100, Fault.PRIORITY_FLOOD),
    RST_STREAM: (1_000, 33, Fault.RAPID_RESET),
    SETTINGS: (100, 10, Fault.SETTINGS_FLOOD),
    PING: (200, 20, Fault.PING_FLOOD),
}
_EMPTY = (100, 10.0, Fault.EMPTY_FRAMES)
_UNKNOWN = (1_000, 100.0, Fault.UNKNOWN_FRAMES)


class _Bucket:
    """So many at once, and so many a second."""

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
    """What DATA frames without padding hold, of one or of several that came behind each other, or a part of one."""

    number: int  # of its stream
    data: bytes
    is_last: bool  # nothing follows on this stream


class Head(NamedTuple):
    """A HEADERS frame that holds the whole of a head, without padding."""

    number: int  # of its stream
    block: bytes
    is_last: bool  # nothing follows on this stream
    frame: bytes  # all of it, as it came


def frame_header(size: int, kind: int, flags: int, number: int) -> bytes:
    """What a frame begins with (RFC 9113 4.1)."""
    return _HEADER.pack(size >> 8, size & 0xFF, kind, flags, number)


class FrameGuard:
    """Follows one direction of a connection. `goaway` is called with the last stream's number and the error code."""

    def __init__(
        self, limits: Limits, now: float, goaway: Callable[[int, int], None], *, has_preface: bool = False
    ) -> None:
        self._limits = limits
        self._goaway = goaway
        self.is_receiving: Callable[[int], bool] = lambda number: False  # whether data may come on this stream
        self._data: tuple[int, bool] | None = None  # the present frame is DATA: its stream, and whether it is the last
        self._held = b""  # of its payload
        self._is_in_block = False  # CONTINUATION must follow
        self._left = PREFACE_BYTES if has_preface else 0  # bytes of the present frame that are still to come
        self._partial = b""  # of a frame's header, or of a GOAWAY
        self._buckets = {kind: _Bucket(*bound, now) for kind, bound in _BOUNDS.items()}
        self._empty, self._unknown = _Bucket(*_EMPTY, now), _Bucket(*_UNKNOWN, now)
        self._block = 0  # bytes of a header block
        self._continuations = 0
        self._updates = 1_000
        self.sent = 0  # DATA frames that went the other way

    def feed(self, data: bytes, now: float) -> Iterator[bytes | Data | Head]:
        """What of `data` h2 is to read, and data and heads beside it, in their order; HttpError names the attack.

        Each part has to be dealt with before the next one is asked for.
        """
        if self._partial:
            data = self._partial + data
            self._partial = b""
        position, start, size = self._left, 0, len(data)
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
                raise HttpError(Fault.BAD_FRAME, f"a frame of {length} bytes")
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
                self._went_away(data[position + 9 : end])
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
        self._left = max(position - size, 0)
        if start < min(position, size):
            yield data[start : min(position, size)]

    def _run(self, data: bytes, position: int, number: int) -> tuple[Data | None, int]:
        """What is in the DATA frames of one stream that come behind each other from `position` on, the rest of one from
        the last time first, and where they end; None: too little to be passed on.

        Of what comes in bulk this takes a third of the time that a turn of `feed` for each frame does.
        """
        parts, view, size, is_last = list[bytes | memoryview](), memoryview(data), len(data), False
        if self._data is not None:
            position = self._left
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
                self._data, self._left = (number, bool(flags & END_STREAM)), length
                if (rest := self._rest(data[begin:])) is not None:
                    parts.append(rest.data)
                break
            parts.append(view[begin:position])
            is_last = bool(flags & END_STREAM)
        if not parts:
            return None, position
        return Data(number, b"".join(parts), is_last), position

    def _rest(self, data: bytes) -> Data | None:
        """More of the present DATA frame, maybe all that is left of it; None: too little to be passed on by itself."""
        assert self._data is not None
        number, is_last = self._data
        self._left -= len(data)
        if self._held:
            data = self._held + data
            self._held = b""
        if not self._left:
            self._data = None
            return Data(number, data, is_last)
        if len(data) < LEAST_PART:
            self._held = data
            return None
        return Data(number, data, False)

    def was_reset(self, now: float) -> None:
        """The peer has made this side reset a stream: the same attack from the other end (CVE-2025-8671)."""
        self._buckets[RST_STREAM].take(now)

    def _went_away(self, payload: bytes) -> None:
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
    """What is in a HEADERS frame; the frame itself, where its priority (RFC 7540 6.2) is for h2 to refuse."""
    block = frame[9:]
    if flags & HAS_PRIORITY:
        if int.from_bytes(block[:4], "big") & 0x7FFFFFFF == number:
            return frame
        block = block[5:]
    return Head(number, block, bool(flags & END_STREAM), frame) if block else frame
