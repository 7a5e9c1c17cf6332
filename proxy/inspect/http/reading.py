"""Messages of a WebSocket for hooks: unmasked, assembled and inflated by wsproto, within a limit."""

from __future__ import annotations

from typing import Any

from wsproto.extensions import Extension, PerMessageDeflate
from wsproto.frame_protocol import CloseReason, FrameProtocol, Opcode, ParseFailed, RsvBits

from proxy.inspect.http.faults import Fault

_PIECE = 4096  # bytes fed at once, which inflate to at most a thousand times as much before the limit is checked


class MessageReader:
    """Reads one direction. `extensions`: as negotiated by the server."""

    def __init__(self, extensions: str, max_bytes: int, *, from_client: bool) -> None:
        self._frames = FrameProtocol(client=not from_client, extensions=_agreed(extensions))
        self._max_bytes = max_bytes
        self._parts: list[str | bytes] = []
        self._size = 0
        self.problem: tuple[Fault, str] | None = None

    def feed(self, data: bytes) -> list[str | bytes]:
        """The messages that `data` completes. `problem` is set if something is wrong."""
        found: list[str | bytes] = []
        try:
            for start in range(0, len(data), _PIECE):
                self._frames.receive_bytes(data[start : start + _PIECE])
                for frame in self._frames.received_frames():
                    if frame.opcode in (Opcode.TEXT, Opcode.BINARY):
                        assert not isinstance(frame.payload, tuple)  # a close frame's
                        self._add(frame.payload)
                        if frame.message_finished:
                            found.append(self._whole(frame.opcode))
                if self.problem is not None:
                    break
        except ParseFailed as error:
            is_large = error.code is CloseReason.MESSAGE_TOO_BIG
            self.problem = Fault.MESSAGE_TOO_LARGE if is_large else Fault.BAD_MESSAGE, str(error)
        return found

    def _add(self, payload: str | bytes | bytearray) -> None:
        part = payload if isinstance(payload, str) else bytes(payload)
        self._size += len(part)
        if self._size > self._max_bytes:
            self.problem = Fault.MESSAGE_TOO_LARGE, f"a message of more than {self._max_bytes} bytes"
        elif part:
            self._parts.append(part)

    def _whole(self, opcode: Opcode) -> str | bytes:
        parts, self._parts, self._size = self._parts, [], 0
        if opcode is Opcode.TEXT:
            return "".join(part for part in parts if isinstance(part, str))
        return b"".join(part for part in parts if isinstance(part, bytes))


class _Deflate(PerMessageDeflate):
    """wsproto takes the rest of a compressed message for plain when a control frame has come between its frames: a hook
    would read something else than the far end does."""

    def frame_inbound_header(self, proto: Any, opcode: Opcode, rsv: RsvBits, payload_length: int) -> Any:
        """Which reserved bits may be set."""
        if not opcode.iscontrol():
            return super().frame_inbound_header(proto, opcode, rsv, payload_length)
        self._inbound_is_compressible = False
        return CloseReason.PROTOCOL_ERROR if rsv.rsv1 else RsvBits(True, False, False)

    def frame_inbound_complete(self, proto: Any, fin: bool) -> Any:
        """What is left to be inflated."""
        return super().frame_inbound_complete(proto, fin) if self._inbound_is_compressible else None


def _agreed(extensions: str) -> list[Extension]:
    """permessage-deflate (RFC 7692) with the server's parameters, if it was negotiated."""
    for each in extensions.split(","):
        if each.strip().lower().startswith(PerMessageDeflate.name):
            deflate = _Deflate()
            deflate.finalize(each.strip())
            return [deflate]
    return []
