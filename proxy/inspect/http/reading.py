"""Messages of a WebSocket for hooks: unmasked, assembled and inflated by wsproto, within a limit."""

from __future__ import annotations

from wsproto.extensions import Extension
from wsproto.frame_protocol import CloseReason, FrameProtocol, Opcode, ParseFailed

from proxy.inspect.http.faults import Fault
from proxy.wire.deflate import Deflate

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


def _agreed(extensions: str) -> list[Extension]:
    """permessage-deflate (RFC 7692) with the server's parameters, if it was negotiated."""
    for each in extensions.split(","):
        if each.strip().lower().startswith(Deflate.name):
            deflate = Deflate()
            deflate.finalize(each.strip())
            return [deflate]
    return []
