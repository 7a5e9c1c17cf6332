"""Clients and origins of WebSockets, over either version of HTTP, that say what was planned, piece by piece."""

import contextlib
import zlib

import h2.events as events
import h2.exceptions

from proxy.inspect.http.websocket import accept_of
from tests.inspect.http.ends import BLOB, End
from tests.inspect.http.ends_h2 import next_frame
from tests.inspect.http.h2_peer import Peer

KEY = b"dGhlIHNhbXBsZSBub25jZQ=="
DEFLATE = b"permessage-deflate"
NO_CONTEXT = b"; client_no_context_takeover; server_no_context_takeover"
TEXT = "naïve — 𝄞 text. " * 40_000


class Said:
    """One message: its frames, and control frames between them."""

    def __init__(self, *, is_text, size, cuts, pings, is_deflated):
        """`cuts`: where its frames end, in parts of 1; `pings`: payloads of those between its frames."""
        self.is_text, self.cuts, self.pings, self.is_deflated = is_text, cuts, pings, is_deflated
        self.data = TEXT[:size] if is_text else BLOB[size % 1_000 :][:size]

    def __repr__(self):
        return f"{'text' if self.is_text else 'bytes'} {len(self.data)} {self.cuts} {self.pings} {self.is_deflated}"


class Speech:
    """All that one end has to say: messages, then maybe a close frame."""

    def __init__(self, messages, code, mask):
        self.messages, self.code, self.mask = messages, code, mask  # a mask of a client's frames; None of an origin's

    def encoded(self, *, deflates, keeps_context=True):
        """Its frames, one behind the other."""
        out, press = bytearray(), None
        for said in self.messages:
            data = said.data.encode() if said.is_text else said.data
            is_deflated = deflates and said.is_deflated
            if is_deflated:
                if press is None or not keeps_context:
                    press = zlib.compressobj(6, zlib.DEFLATED, -15)
                data = (press.compress(data) + press.flush(zlib.Z_SYNC_FLUSH))[:-4]
            ends = [*sorted(int(cut * len(data)) for cut in said.cuts), len(data)]
            start, first = 0, 1 if said.is_text else 2
            for number, end in enumerate(ends):
                is_last = number == len(ends) - 1
                bits = (0x80 if is_last else 0) | (0x40 if is_deflated and number == 0 else 0)
                out += self._frame(bits | (first if number == 0 else 0), data[start:end])
                start = end
                if not is_last and number < len(said.pings):
                    out += self._frame(0x89 + number % 2, said.pings[number])
        if self.code is not None:
            out += self._frame(0x88, self.code.to_bytes(2, "big") + b"bye" if self.code else b"")
        return bytes(out)

    def _frame(self, first, payload):
        size, bit = len(payload), 0 if self.mask is None else 0x80
        if size < 126:
            head = bytes((first, bit | size))
        elif size < 1 << 16:
            head = bytes((first, bit | 126)) + size.to_bytes(2, "big")
        else:
            head = bytes((first, bit | 127)) + size.to_bytes(8, "big")
        if self.mask is None:
            return head + payload
        key = (self.mask * (size // 4 + 1))[:size]
        masked = (int.from_bytes(payload, "big") ^ int.from_bytes(key, "big")).to_bytes(size, "big")
        return head + self.mask + masked

    def __repr__(self):
        return f"{self.messages} {self.code}"


class Speaker(End):
    """What both versions have in common: bytes to say, bytes that were heard, and the end of either."""

    def __init__(self, wire, chance, out):
        super().__init__(wire, chance)
        self.out, self.at = out, 0
        self.ears = bytearray()
        self.is_open = self.has_said_end = self.has_heard_end = self.was_broken_off = False

        self.was_refused = False  # there was no switch

    @property
    def rest(self):
        return len(self.out) - self.at

    def was_reset(self):
        super().was_reset()
        self.was_broken_off = True

    def next(self, most):
        part = self.out[self.at : self.at + most]
        self.at += len(part)
        return part


class Speaker1(Speaker):
    """Over HTTP/1.1."""

    begins_with = b""

    def __init__(self, wire, chance, out):
        super().__init__(wire, chance, out)
        self._head = b""

    def act(self, most):
        if self.is_over or self.wire.is_closed or self.has_said_end or not self.is_open:
            return False
        if self.rest:
            self.send(self.next(most))
        else:
            self.has_said_end = self.wire.far_has_ended = True
        return True

    def heard(self, data):
        if not self.is_open and not self.was_refused:
            self._head += data
            head, found, data = self._head.partition(b"\r\n\r\n")
            if not found:
                return
            self.opened(head)
        if self.is_open:
            self.ears += data

    def heard_end(self):
        self.has_heard_end = True


class Browser1(Speaker1):
    """A client."""

    def __init__(self, wire, chance, out, extensions):
        super().__init__(wire, chance, out)
        self._ask = (
            b"GET /chat HTTP/1.1\r\nHost: web.lab\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: " + KEY + b"\r\n"
        )
        if extensions:
            self._ask += b"Sec-WebSocket-Extensions: " + extensions + b"\r\n"
        self._ask += b"\r\n"

    def act(self, most):
        if self._ask:
            self.send(self._ask)
            self._ask = b""
            return True
        return super().act(most)

    def opened(self, head):
        self.is_open = head.startswith(b"HTTP/1.1 101 ")
        self.was_refused = self.has_said_end = not self.is_open
        self.wire.far_has_ended = self.wire.far_has_ended or self.was_refused


class Origin1(Speaker1):
    """An origin."""

    def __init__(self, wire, chance, out, extensions):
        super().__init__(wire, chance, out)
        self._extensions = extensions

    def opened(self, head):
        key = head.partition(b"Sec-WebSocket-Key: ")[2].partition(b"\r\n")[0]
        answer = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        answer += b"Sec-WebSocket-Accept: " + accept_of(key) + b"\r\n"
        if self._extensions:
            answer += b"Sec-WebSocket-Extensions: " + self._extensions + b"\r\n"
        self.send(answer + b"\r\n")
        self.is_open = True


class Speaker2(Speaker):
    """Over HTTP/2, on one stream."""

    def __init__(self, wire, chance, out, extensions, *, is_client, window):
        super().__init__(wire, chance, out)
        self.peer = Peer(is_client=is_client, connect_protocol=not is_client, window=window)
        self.extensions, self.is_narrow, self._waiting = extensions, window < 65_535, bytearray()
        self.send(self.peer.out())

    def read_all(self):
        self.peer.read()
        if self.is_narrow and self.is_open and not self.has_heard_end and not self.was_broken_off:
            self.is_narrow = False
            with contextlib.suppress(h2.exceptions.StreamClosedError):
                self.peer.h2.increment_flow_control_window(1 << 20, 1)
        self.send(self.peer.out())

    def act(self, most):
        if self.is_over or self.wire.is_closed or not self.is_open or self.has_said_end:
            return False
        made = self.peer.h2
        room = min(made.local_flow_control_window(1), made.max_outbound_frame_size, most)
        if self.rest and room <= 0:
            return False
        part = self.next(room)
        is_last = not self.rest and self.chance.random() < 0.5
        if part or is_last:
            made.send_data(1, part, end_stream=is_last)
        else:
            made.end_stream(1)
            is_last = True
        self.has_said_end = is_last
        self.send(self.peer.out())
        return True

    def heard(self, data):
        """GOAWAY is none of h2's, which would take no frame after it."""
        self._waiting += data
        while (frame := next_frame(self._waiting)) is not None:
            if frame[3:4] != b"\7":
                self._hear(frame)

    def _hear(self, frame):
        for event in self.peer.hear(frame):
            if type(event) in (events.RequestReceived, events.ResponseReceived):
                self.opened(dict(event.headers))
            elif type(event) is events.DataReceived:
                if self.is_open:
                    self.ears += event.data
            elif type(event) is events.StreamEnded:
                self.has_heard_end = True
            elif type(event) is events.StreamReset:
                self.was_broken_off, self.has_said_end = True, True
        self.send(self.peer.out())


class Browser2(Speaker2):
    """A client."""

    def __init__(self, wire, chance, out, extensions, *, window):
        super().__init__(wire, chance, out, extensions, is_client=True, window=window)
        self._has_asked = False

    def act(self, most):
        if not self._has_asked and self.peer.h2.remote_settings.enable_connect_protocol:
            self._has_asked = True
            fields = [(b":method", b"CONNECT"), (b":protocol", b"websocket"), (b":scheme", b"https"),
                      (b":authority", b"web.lab"), (b":path", b"/chat"), (b"sec-websocket-version", b"13")]  # fmt: skip
            if self.extensions:
                fields.append((b"sec-websocket-extensions", self.extensions))
            self.send(self.peer.headers(1, fields, end=False))
            return True
        return super().act(most)

    def opened(self, fields):
        self.is_open = fields[b":status"] == b"200"
        self.was_refused = not self.is_open


class Origin2(Speaker2):
    """An origin."""

    def __init__(self, wire, chance, out, extensions, *, window):
        super().__init__(wire, chance, out, extensions, is_client=False, window=window)

    def opened(self, fields):
        answer = [(b":status", b"200")]
        if self.extensions:
            answer.append((b"sec-websocket-extensions", self.extensions))
        self.send(self.peer.headers(1, answer, end=False))
        self.is_open = True
