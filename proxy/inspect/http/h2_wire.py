"""HTTP/2 on the wire, by h2: converts heads to and from fields, and sends data as the peer's windows open."""

from __future__ import annotations

import re
from collections import deque

import h2.config
import h2.connection
import h2.exceptions
import h2.settings
from hpack import NeverIndexedHeaderTuple

from proxy.inspect.http import h2_data, h2_heads
from proxy.inspect.http.faults import Fault, HttpError
from proxy.inspect.http.h2_guard import END_STREAM, MAX_FRAME, FrameGuard
from proxy.inspect.http.h2_hpack import FastDecoder, FastEncoder
from proxy.inspect.http.limits import Limits
from proxy.inspect.http.link import Link
from proxy.inspect.http.messages import Headers, RequestHead, ResponseHead

_PATH = re.compile(rb"[\x21-\x7e\x80-\xff]+")
_METHOD = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_HOST = re.compile(rb"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._~!$&'()*+,;=%-]*)(:[0-9]{0,5})?")
_BAD_VALUE = re.compile(rb"[\0\r\n]")
_CONNECTION = frozenset((b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade"))
_SECRET = frozenset((b"authorization", b"proxy-authorization"))
STREAM_HIGH_WATER, STREAM_LOW_WATER = 64 << 10, 32 << 10  # bytes queued for a window
# bytes of a stream passed on after which h2 is informed; it reopens windows by 128 KiB at a time anyway
ACKNOWLEDGED_AT = 16 << 10

Codes = h2.settings.SettingCodes


def connection(limits: Limits, *, is_client: bool) -> h2.connection.H2Connection:
    """An h2 connection that announces these limits. Fields are bytes, in their order."""
    config = h2.config.H2Configuration(
        client_side=is_client,
        header_encoding=None,
        validate_outbound_headers=False,
        normalize_outbound_headers=False,
    )
    made = h2.connection.H2Connection(config)
    values = {
        Codes.INITIAL_WINDOW_SIZE: limits.window_bytes,
        Codes.MAX_HEADER_LIST_SIZE: limits.header_bytes,
        Codes.MAX_CONCURRENT_STREAMS: limits.streams,
        Codes.HEADER_TABLE_SIZE: 4096,
    }
    if is_client:
        values[Codes.ENABLE_PUSH] = 0
        del values[Codes.MAX_CONCURRENT_STREAMS]
    made.local_settings = h2.settings.Settings(client=is_client, initial_values=values)
    made.encoder = FastEncoder()
    made.decoder = FastDecoder(limits.header_bytes)
    made.max_inbound_frame_size = MAX_FRAME
    made.initiate_connection()
    # never the limit: it reopens as data arrives, by halves; the windows of streams bound what is held
    made.increment_flow_control_window(limits.streams * limits.window_bytes + 2 * limits.upload_window_bytes - 65_535)
    return made


class Outgoing:
    """The queue of one stream."""

    __slots__ = ("is_full", "is_over", "number", "parts", "size", "trailers")

    def __init__(self, number: int) -> None:
        self.number = number
        self.parts: deque[bytes | memoryview] = deque()
        self.size = 0
        self.trailers: Headers | None = None  # set once the body has ended; empty: no trailers
        self.is_full = False
        self.is_over = False


class Sender:
    """Sends the data of all streams of a connection, as far as their windows and the connection's allow."""

    def __init__(self, made: h2.connection.H2Connection, link: Link, guard: FrameGuard) -> None:
        self._h2 = made
        self._link = link
        self._guard = guard
        self.waiting: dict[int, Outgoing] = {}

    def data(self, stream: Outgoing, data: bytes) -> None:
        """Queue `data` and send what the windows allow. `stream.is_full`: the caller should pause."""
        stream.parts.append(data)
        stream.size += len(data)
        self.pump(stream)

    def end(self, stream: Outgoing, trailers: Headers) -> None:
        """End the stream once its queue is sent."""
        stream.trailers = trailers
        self.pump(stream)

    def pump(self, stream: Outgoing) -> bool:
        """Send what the windows allow. Returns whether a full stream has room again."""
        if stream.is_over:
            return False
        made, parts = self._h2, stream.parts
        try:
            if parts and not self._link.is_full:
                self._send_parts(stream, made.local_flow_control_window(stream.number))
            if not parts and stream.trailers is not None:
                self._end(stream)
        except h2.exceptions.ProtocolError:  # the stream was reset; the event follows
            self.drop(stream)
            return False
        self._link.touch()
        if parts:
            self.waiting[stream.number] = stream
        else:
            self.waiting.pop(stream.number, None)
        was_full = stream.is_full
        stream.is_full = stream.size > (STREAM_LOW_WATER if was_full else STREAM_HIGH_WATER)
        return was_full and not stream.is_full

    def _send_parts(self, stream: Outgoing, window: int) -> None:
        parts, number = stream.parts, stream.number
        while parts and window > 0:
            part = parts.popleft()
            size = len(part)
            if size > window:
                parts.appendleft(part[window:])
                part, size = part[:window], window
            is_last = not parts and stream.trailers is not None and not stream.trailers
            h2_data.spend(self._h2, number, size, is_last=is_last)
            self._send_part(number, part, is_last=is_last)
            window -= size
            stream.size -= size
            stream.is_over = stream.is_over or is_last

    def _send_part(self, number: int, part: bytes | memoryview, *, is_last: bool) -> None:
        """Send a part in as many DATA frames as needed."""
        size, most = len(part), min(self._h2.max_outbound_frame_size, MAX_FRAME)
        pieces: list[bytes | memoryview] = [waiting] if (waiting := self._h2.data_to_send()) else []
        self._guard.sent += (size + most - 1) // most
        if size > most:
            view, whole, header = memoryview(part), (size - 1) // most * most, h2_data.header(number, most)
            for start in range(0, whole, most):
                pieces += (header, view[start : start + most])
            part, size = view[whole:], size - whole
        pieces += (h2_data.header(number, size, END_STREAM if is_last else 0), part)
        self._link.write_all(pieces)

    def head(self, stream: Outgoing, fields: Headers, *, is_last: bool) -> None:
        """Send a head: a request's at the client's end, else a response's. ProtocolError: the stream is closed."""
        made, number = self._h2, stream.number
        send = h2_heads.send_request if made.config.client_side else h2_heads.send_response
        frames = send(made, number, fields, is_last=is_last)
        if frames is None:
            made.send_headers(number, fields, end_stream=is_last)
            self._link.touch()
        else:
            self.write_frames(frames)
        stream.is_over = is_last

    def write_frames(self, frames: bytes) -> None:
        """Send frames of a fast path, after what h2 has to send."""
        link = self._link
        if waiting := self._h2.data_to_send():
            link.write(waiting)
        link.write(frames)

    def acknowledge(self, number: int, size: int) -> None:
        """Reopen the window of a stream, if it is still open, or of the connection (0), by `size` bytes."""
        if frames := h2_data.acknowledge(self._h2, number, size):
            self.write_frames(frames)

    def widen(self, number: int, size: int) -> bool:
        """Widen the window of a stream by `size` bytes. Returns whether it is still open."""
        frame = h2_data.widen(self._h2, number, size)
        if frame:
            self.write_frames(frame)
        return bool(frame)

    def _end(self, stream: Outgoing) -> None:
        if stream.is_over:
            return
        stream.is_over = True
        if stream.trailers:
            fields = [(name.lower(), value) for name, value in stream.trailers if not name.startswith(b":")]
            self._h2.send_headers(stream.number, fields, end_stream=True)
        else:
            h2_data.spend(self._h2, stream.number, 0, is_last=True)
            self.write_frames(h2_data.header(stream.number, 0, END_STREAM))

    def drop(self, stream: Outgoing) -> None:
        """Discard the queue of a stream."""
        stream.is_over = True
        stream.is_full = False
        stream.parts.clear()
        stream.size = 0
        self.waiting.pop(stream.number, None)


def read_request(fields: Headers, limits: Limits, scheme: bytes, *, is_complete: bool) -> RequestHead:
    """A request from the fields of a HEADERS frame. HttpError: it could not be expressed in HTTP/1.1."""
    head = RequestHead(b"", scheme, b"", b"", "2")
    kept, protocol = head.headers, None
    for name, value in fields:
        head.size += len(name) + len(value) + 2
        if name == b":method":
            head.method = value
        elif name == b":path":
            head.path = value
        elif name == b":authority":
            head.authority = value
        elif name == b":protocol":
            protocol = value
        elif name == b":scheme":
            head.scheme = value
        elif name == b"content-length":
            head.length = int(value)
        elif name == b"te":
            head.takes_trailers = True
        elif name == b"via":
            head.via.append(value)
        elif name == b"host":
            head.authority = head.authority or value
        elif name not in _CONNECTION:
            kept.append((bytes(name), bytes(value)))
            if _BAD_VALUE.search(value):
                raise HttpError(Fault.BAD_REQUEST, "a field value with a line break")
    if len(kept) > limits.header_fields:
        raise HttpError(Fault.TOO_MANY_HEADERS, f"{len(kept)} header fields, {limits.header_fields} are allowed")
    is_tunnel = head.method == b"CONNECT"
    if not (_METHOD.fullmatch(head.method) and _HOST.fullmatch(head.authority)):
        raise HttpError(Fault.BAD_REQUEST, "a method or an authority that HTTP/1.1 does not have")
    if (not is_tunnel or protocol is not None) and not _PATH.fullmatch(head.path):
        raise HttpError(Fault.BAD_REQUEST, "a path with blanks or control characters")
    if head.scheme not in (b"http", b"https"):
        raise HttpError(Fault.BAD_REQUEST, "a scheme that is neither http nor https")
    if is_tunnel and protocol is not None:  # RFC 8441: in HTTP/1.1 a GET with Upgrade
        if not _METHOD.fullmatch(protocol):
            raise HttpError(Fault.BAD_REQUEST, "a protocol that is not a token")
        head.method, head.protocol = b"GET", bytes(protocol)
    head.is_bodiless = is_complete or is_tunnel
    return head


def request_fields(head: RequestHead) -> Headers:
    """A request as the fields of a HEADERS frame."""
    if head.protocol is not None:
        fields = [(b":method", b"CONNECT"), (b":protocol", head.protocol)]
    else:
        fields = [(b":method", head.method)]
    if head.method != b"CONNECT":
        fields += [(b":scheme", head.scheme), (b":path", head.path)]
    fields.append((b":authority", head.authority))
    fields += _fields(head.headers, skip=b"sec-websocket-key" if head.protocol is not None else None)
    if head.length is not None:
        fields.append((b"content-length", b"%d" % head.length))
    if head.takes_trailers:
        fields.append((b"te", b"trailers"))
    return fields + [(b"via", value) for value in head.via]


def read_response(fields: Headers, limits: Limits) -> ResponseHead:
    """A response, final or interim, from the fields of a HEADERS frame."""
    head = ResponseHead(0, version="2")
    for name, value in fields:
        head.size += len(name) + len(value) + 2
        if name == b":status":
            if len(value) != 3 or not value.isdigit():
                raise HttpError(Fault.ORIGIN_PROTOCOL, "a status that is not a number")
            head.status = int(value)
        elif name == b"content-length":
            head.length = int(value)
        elif name == b"via":
            head.via.append(value)
        elif name not in _CONNECTION:
            if _BAD_VALUE.search(value):
                raise HttpError(Fault.ORIGIN_PROTOCOL, "a field value with a line break")
            head.headers.append((bytes(name), bytes(value)))
    if len(head.headers) > limits.header_fields:
        raise HttpError(Fault.RESPONSE_HEADERS_TOO_LARGE, f"{len(head.headers)} header fields in a response")
    return head


def response_fields(head: ResponseHead) -> Headers:
    """A response as the fields of a HEADERS frame."""
    fields = [(b":status", b"%d" % head.status)]
    fields += _fields(head.headers, skip=b"sec-websocket-accept")
    if head.length is not None:
        fields.append((b"content-length", b"%d" % head.length))
    return fields + [(b"via", value) for value in head.via]


def _fields(headers: Headers, skip: bytes | None) -> Headers:
    """Fields with names in lower case (RFC 9113 8.2.1); credentials are never indexed (RFC 7541 7.1)."""
    fields: Headers = []
    for name, value in headers:
        low = name.lower()
        if low in _SECRET:
            fields.append(NeverIndexedHeaderTuple(low, value))
        elif low != skip:
            fields.append((low, value))
    return fields


def fault_of(error: Exception) -> HttpError:
    """The fault for an error of h2."""
    if isinstance(error, h2.exceptions.DenialOfServiceError):
        return HttpError(Fault.HEADER_BOMB, str(error) or "a header list that is too large")
    return HttpError(Fault.BAD_FRAME, str(error) or type(error).__name__)
