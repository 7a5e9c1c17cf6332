"""WebSocket frames (RFC 6455 5.2): checks their headers and counts messages, without decoding payloads."""

from __future__ import annotations

from proxy.inspect.http.faults import Fault

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA
_DATA = (TEXT, BINARY)
_CONTROL = (CLOSE, PING, PONG)
_MAX_CONTROL = 125
_NO_STATUS = 1005  # how a close frame without a code is recorded
_PROTOCOL_CODES = {1000, 1001, 1002, 1003, *range(1007, 1015)}  # allowed in a frame (RFC 6455 7.4 and IANA's registry)

Problem = tuple[Fault, str]


class FrameReader:
    """Follows one direction. `allows_rsv1`: permessage-deflate was negotiated, so RSV1 may mark compressed messages."""

    __slots__ = (
        "_close",
        "_has_failed",
        "_header",
        "_is_fragmented",
        "_is_masked",
        "_key",
        "_max_bytes",
        "_remaining",
        "_rsv1",
        "_was_at_boundary",
        "close_code",
        "ends",
        "last_opcode",
        "messages",
    )

    def __init__(self, max_bytes: int, *, is_masked: bool, allows_rsv1: bool) -> None:
        self._max_bytes = max_bytes
        self._is_masked = is_masked
        self._rsv1 = allows_rsv1
        self._header = bytearray()  # of the current frame
        self._remaining = 0  # bytes of its payload still to come
        self._is_fragmented = False
        self._close: bytearray | None = None  # the payload of a close frame
        self._key = b"\0\0\0\0"
        self._was_at_boundary = True  # `is_at_boundary` before the last `feed`
        self._has_failed = False
        self.last_opcode: int | None = None
        self.messages = 0
        self.close_code: int | None = None
        self.ends: list[int] = []  # offsets in the last `feed` at which a message or control frame was complete

    @property
    def is_at_boundary(self) -> bool:
        """Whether the data so far ends with a frame; data with a problem is not counted, as it is not forwarded."""
        return self._was_at_boundary if self._has_failed else not self._remaining and not self._header

    def feed(self, data: bytes) -> Problem | None:
        """Follow `data`. Returns what is wrong with its frames, or None."""
        self.ends = []
        self._was_at_boundary = self.is_at_boundary
        problem = self._read(data)
        self._has_failed = problem is not None
        return problem

    def _read(self, data: bytes) -> Problem | None:
        position, size = 0, len(data)
        while position < size:
            if self._remaining:
                step = min(self._remaining, size - position)
                if self._close is not None:
                    self._close += data[position : position + step]
                self._remaining -= step
                position += step
            else:
                step = self._header_size() - len(self._header)
                self._header += data[position : position + step]
                position += step
                if len(self._header) < self._header_size():
                    continue  # the extended length is incomplete, or there is no more data
                if (problem := self._frame_began()) is not None:
                    return problem
            if not self._remaining and (problem := self._frame_ended(position)) is not None:
                return problem
        return None

    def _header_size(self) -> int:
        if len(self._header) < 2:
            return 2
        length = self._header[1] & 0x7F
        return 2 + {126: 2, 127: 8}.get(length, 0) + (4 if self._header[1] & 0x80 else 0)

    def _frame_began(self) -> Problem | None:
        header = self._header
        is_final, rsv, opcode = header[0] & 0x80, header[0] & 0x70, header[0] & 0x0F
        is_masked, length = bool(header[1] & 0x80), header[1] & 0x7F
        if length == 126:
            length = int.from_bytes(header[2:4], "big")
        elif length == 127:
            length = int.from_bytes(header[2:10], "big")
        if is_masked:
            self._key = bytes(header[-4:])
        problem = self._check(bool(is_final), rsv, opcode, is_masked, length)
        self._header.clear()
        self._remaining = length
        self.last_opcode = opcode
        if opcode == CLOSE:
            self._close = bytearray()
        elif opcode not in _CONTROL:
            self._is_fragmented = not is_final
        return problem

    def _check(self, is_final: bool, rsv: int, opcode: int, is_masked: bool, length: int) -> Problem | None:
        if is_masked != self._is_masked:
            if self._is_masked:
                return Fault.UNMASKED_FRAME, "a frame of a client without a mask"
            return Fault.MASKED_FRAME, "a frame of a server with a mask"
        if rsv & ~(0x40 if self._rsv1 and opcode in _DATA else 0):
            return Fault.RESERVED_BITS, f"reserved bits {rsv >> 4:03b} without a negotiated extension"
        if opcode in _CONTROL:
            if not is_final or length > _MAX_CONTROL:
                return Fault.CONTROL_FRAME, "a control frame that is fragmented or longer than 125 bytes"
        elif opcode == CONTINUATION:
            if not self._is_fragmented:
                return Fault.BAD_FRAGMENT, "a continuation without a message"
        elif opcode not in _DATA:
            return Fault.BAD_OPCODE, f"opcode {opcode:#x}"
        elif self._is_fragmented:
            return Fault.BAD_FRAGMENT, "a new message inside another"
        if length > self._max_bytes:
            return Fault.FRAME_TOO_LARGE, f"a frame of {length} bytes, {self._max_bytes} are allowed"
        return None

    def _frame_ended(self, position: int) -> Problem | None:
        problem = None
        if self._close is not None:
            problem = self._check_close(bytes(self._close))
            self._close = None
        elif self.last_opcode not in _CONTROL and not self._is_fragmented:
            self.messages += 1
        if not self._is_fragmented:
            self.ends.append(position)
        return problem

    def _check_close(self, payload: bytes) -> Problem | None:
        """Note the code of a close frame. Returns what is wrong with it (RFC 6455 5.5.1 and 7.4), or None."""
        if self._is_masked:
            payload = bytes(byte ^ self._key[index % 4] for index, byte in enumerate(payload))
        if len(payload) == 1:
            return Fault.BAD_CLOSE, "a close frame with half a code"
        code = int.from_bytes(payload[:2], "big") if payload else _NO_STATUS
        if payload and code not in _PROTOCOL_CODES and not 3000 <= code <= 4999:
            return Fault.BAD_CLOSE, f"a close frame with the code {code}"
        if self.close_code is None:
            self.close_code = code
        try:
            payload[2:].decode()
        except UnicodeDecodeError:
            return Fault.BAD_MESSAGE, "a close frame whose reason is not UTF-8"
        return None


def close_frame(code: int, reason: str, *, is_masked: bool) -> bytes:
    """A close frame. The mask is zero, which is valid: unpredictable masks protect against scripts (RFC 6455 5.3)."""
    payload = code.to_bytes(2, "big") + reason.encode()[:123]
    if is_masked:
        return bytes((0x80 | CLOSE, 0x80 | len(payload))) + b"\0\0\0\0" + payload
    return bytes((0x80 | CLOSE, len(payload))) + payload
