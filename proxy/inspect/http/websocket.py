"""WebSocket connections: forwards frames unchanged, checks their headers, and counts messages."""

from __future__ import annotations

import base64
import hashlib
from typing import Any, Protocol

from proxy.inspect.http.faults import By, Fault
from proxy.inspect.http.frames import CLOSE, FrameReader, close_frame
from proxy.inspect.http.limits import Limits
from proxy.inspect.http.messages import RequestHead, ResponseHead, values
from proxy.inspect.http.reading import MessageReader
from proxy.inspect.stream import SessionView
from proxy.verdict import Verdict, deny

GOING_AWAY, PROTOCOL_ERROR, BAD_DATA, POLICY, TOO_BIG, INTERNAL_ERROR = 1001, 1002, 1007, 1008, 1009, 1011
HOOK = "websocket_message"
_CODES = {
    Fault.BAD_MESSAGE: BAD_DATA,
    Fault.MESSAGE_TOO_LARGE: TOO_BIG,
    Fault.FRAME_TOO_LARGE: TOO_BIG,
}  # for faults other than protocol errors (RFC 6455 7.4.1)
_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


class Carrier(Protocol):
    """An upgraded exchange, as its WebSocket sees it."""

    def to_client(self, data: bytes) -> None:
        """Send bytes to the client."""
        ...

    def to_origin(self, data: bytes) -> None:
        """Send bytes to the origin."""
        ...

    def upgrade_failed(self, fault: Fault, detail: str, by: By) -> None:
        """End the connection because of a fault."""
        ...

    def hold_body(self, *, from_client: bool) -> None:
        """Pause that side."""
        ...

    def release_body(self, *, from_client: bool) -> None:
        """Resume that side, if the other side can take more."""
        ...

    def websocket_ended(self, *, from_client: bool) -> None:
        """That side has ended, and everything that it sent before was forwarded."""
        ...

    def settle(self) -> None:
        """Flush what was written."""
        ...


def accept_of(key: bytes) -> bytes:
    """Sec-WebSocket-Accept for a Sec-WebSocket-Key (RFC 6455 4.2.2)."""
    return base64.b64encode(hashlib.sha1(key + _GUID, usedforsecurity=False).digest())


def is_websocket(request: RequestHead) -> bool:
    """Whether the request opens a WebSocket."""
    return request.protocol is not None and request.protocol.lower() == b"websocket"


class WebSocketMessage:
    """The argument of the hook `websocket_message`: one whole message, and its sender."""

    __slots__ = ("data", "exchange", "from_client")

    def __init__(self, exchange: Any, from_client: bool, data: str | bytes) -> None:
        self.exchange = exchange  # the request that became this WebSocket
        self.from_client = from_client
        self.data = data


class WebSocket:
    """Both directions of a WebSocket. Without a hook, frames are forwarded at once, neither unmasked nor inflated."""

    def __init__(
        self, carrier: Carrier, request: RequestHead, response: ResponseHead, session: SessionView, limits: Limits
    ) -> None:
        extensions = b",".join(values(response.headers, b"sec-websocket-extensions"))
        is_deflated = b"permessage-deflate" in extensions.lower()
        self._carrier = carrier
        self._session = session
        self.client = _Direction(FrameReader(limits.frame_bytes, is_masked=True, allows_rsv1=is_deflated))
        self.origin = _Direction(FrameReader(limits.frame_bytes, is_masked=False, allows_rsv1=is_deflated))
        if session.has(HOOK):
            text = extensions.decode("latin-1")
            self.client.messages = MessageReader(text, limits.message_bytes, from_client=True)
            self.origin.messages = MessageReader(text, limits.message_bytes, from_client=False)

    @property
    def close_code(self) -> int | None:
        """The first close code that either side has sent."""
        codes = (each.frames.close_code for each in (self.client, self.origin))
        return next((code for code in codes if code is not None), None)

    @property
    def is_closed(self) -> bool:
        """Whether both sides have sent a close frame, after which nothing follows."""
        return self.client.frames.last_opcode == self.origin.frames.last_opcode == CLOSE

    def received(self, data: bytes, *, from_client: bool) -> None:
        """Handle frames, or parts of them, of one side."""
        direction = self.client if from_client else self.origin
        if direction.is_broken:
            return
        if direction.is_asking:
            self._carrier.hold_body(from_client=from_client)  # again, as a side that takes more data resumes the other
        problem = direction.frames.feed(data)
        if problem is not None:
            self._fail(problem, from_client)
        elif direction.messages is None:
            self._send(data, from_client)
        else:
            direction.add(data)
            self._read(direction, from_client)

    def ended(self, *, from_client: bool) -> bool:
        """That side has ended. Returns whether everything was forwarded; if not, the carrier is informed later."""
        direction = self.client if from_client else self.origin
        direction.has_ended = direction.is_asking and not direction.is_broken
        return not direction.has_ended

    @property
    def is_read(self) -> bool:
        """Whether hooks have seen everything of a side that has ended."""
        return not (self.client.has_ended or self.origin.has_ended)

    def stop(self) -> None:
        """Discard everything, whatever a hook still answers."""
        for direction in (self.client, self.origin):
            direction.is_broken, direction.has_ended = True, False
            direction.waiting.clear()
            direction.held.clear()

    def _read(self, direction: _Direction, from_client: bool) -> None:
        """Show whole messages to the hook, one at a time, and hold their frames until its answer."""
        reader = direction.messages
        while reader is not None and direction.waiting and not direction.is_asking and not direction.is_broken:
            data, is_complete = direction.waiting.pop(0)
            direction.held += data
            found = reader.feed(data)
            if reader.problem is not None:
                self._fail(reader.problem, from_client)
            elif found:
                self._ask(direction, from_client, found[0])
            elif is_complete:
                self._release(direction, from_client)

    def _ask(self, direction: _Direction, from_client: bool, data: str | bytes) -> None:
        direction.is_asking = True
        self._carrier.hold_body(from_client=from_client)
        message = WebSocketMessage(self._carrier, from_client, data)
        self._session.ask(HOOK, message, lambda answer: self._answered(direction, from_client, answer))

    def _answered(self, direction: _Direction, from_client: bool, answer: str | Verdict | None) -> None:
        if direction.is_broken:
            return
        verdict = deny(answer) if isinstance(answer, str) else answer
        if verdict is not None and verdict.is_denial:
            is_failure, reason = verdict.ending == "proxy_error", verdict.reason or "denied"
            self._end(INTERNAL_ERROR if is_failure else POLICY, reason)
            self._carrier.upgrade_failed(Fault.HOOK_FAILED if is_failure else Fault.DENIED, reason, "proxy")
        else:
            direction.is_asking = False
            self._release(direction, from_client)
            self._carrier.release_body(from_client=from_client)
            self._read(direction, from_client)
            if direction.has_ended and not direction.is_asking:
                direction.has_ended = False
                self._carrier.websocket_ended(from_client=from_client)
        self._carrier.settle()

    def _release(self, direction: _Direction, from_client: bool) -> None:
        """Forward the frames of an allowed message unchanged."""
        self._send(bytes(direction.held), from_client)
        direction.held.clear()

    def _send(self, data: bytes, from_client: bool) -> None:
        if from_client:
            self._carrier.to_origin(data)
        else:
            self._carrier.to_client(data)

    def _fail(self, problem: tuple[Fault, str], from_client: bool) -> None:
        self._end(_CODES.get(problem[0], PROTOCOL_ERROR), problem[1])
        self._carrier.upgrade_failed(problem[0], problem[1], "client" if from_client else "origin")

    def _end(self, code: int, reason: str) -> None:
        was_asking = [direction.is_asking for direction in (self.client, self.origin)]
        self.stop()
        for is_asking, from_client in zip(was_asking, (True, False), strict=True):
            if is_asking:
                self._carrier.release_body(from_client=from_client)  # so that its end can be read
        if self.origin.frames.is_at_boundary:
            self._carrier.to_client(close_frame(code, reason, is_masked=False))
        if self.client.frames.is_at_boundary:
            self._carrier.to_origin(close_frame(code, reason, is_masked=True))

    def drain(self) -> None:
        """Send close code 1001 to both sides, as far as they are between two frames."""
        is_over = self.client.is_broken or self.origin.is_broken
        if not is_over and CLOSE not in (self.client.frames.last_opcode, self.origin.frames.last_opcode):
            has_ended = self.client.has_ended, self.origin.has_ended
            self._end(GOING_AWAY, "the proxy ends")
            for was_ended, from_client in zip(has_ended, (True, False), strict=True):
                if was_ended:
                    self._carrier.websocket_ended(from_client=from_client)


class _Direction:
    """The frames that one side has sent."""

    __slots__ = ("frames", "has_ended", "held", "is_asking", "is_broken", "messages", "waiting")

    def __init__(self, frames: FrameReader) -> None:
        self.frames = frames
        self.messages: MessageReader | None = None
        self.is_broken = self.is_asking = False
        self.has_ended = False  # while the hook is asked
        # unread while the hook is asked, each with whether it completes a message
        self.waiting: list[tuple[bytes, bool]] = []
        self.held = bytearray()  # read, but not yet allowed

    def add(self, data: bytes) -> None:
        """Split `data` at the ends of messages, as each message is released by itself."""
        start = 0
        for end in self.frames.ends:
            self.waiting.append((data[start:end], True))
            start = end
        if start < len(data):
            self.waiting.append((data[start:], False))
