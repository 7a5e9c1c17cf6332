"""A fast path around h2 for HEADERS frames: updates h2's stream states without frame objects and events.

As in `h2_data`, only the usual passes here: complete heads of requests that open a stream, and of final responses.
Anything else, such as trailers and interim responses, is passed to h2 as it came, which may reject it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache

import h2.connection
from h2.connection import AllowedStreamIDs, ConnectionState
from h2.exceptions import ProtocolError
from h2.stream import H2Stream, StreamClosedBy, StreamState

from proxy.inspect.http.h2_guard import CONTINUATION, END_HEADERS, END_STREAM, HEADERS, MAX_FRAME, Head, frame_header
from proxy.inspect.http.h2_hpack import FastDecoder
from proxy.inspect.http.messages import Headers

# bound once: looking up an enum member by attribute is slow in Python 3.11
_SERVER_OPEN, _CLIENT_OPEN = ConnectionState.SERVER_OPEN, ConnectionState.CLIENT_OPEN
_OPEN, _CLOSED = StreamState.OPEN, StreamState.CLOSED
_HALF_CLOSED_LOCAL, _HALF_CLOSED_REMOTE = StreamState.HALF_CLOSED_LOCAL, StreamState.HALF_CLOSED_REMOTE
_SENT_END, _RECEIVED_END = StreamClosedBy.SEND_END_STREAM, StreamClosedBy.RECV_END_STREAM
_SENT_RESET = StreamClosedBy.SEND_RST_STREAM
_ODD = AllowedStreamIDs.ODD
_LONGEST_NAME = 64
_NAME = re.compile(rb"[!#$%&'*+.^_`|~0-9a-z-]+")
_VALUE = re.compile(rb"(?:[\x21-\x7e\x80-\xff](?:[\t\x20-\x7e\x80-\xff]*[\x21-\x7e\x80-\xff])?)?")
# fields with special rules in h2
_SPECIAL = frozenset((b"connection", b"host", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade"))
_ONCE = frozenset((b"content-length", b"cookie"))  # h2 compares lengths, and joins cookies (RFC 9113 8.2.3)
_MAX_DIGITS = 18
_OF_REQUEST = frozenset((b":method", b":scheme", b":path", b":authority"))

Receive = Callable[[h2.connection.H2Connection, Head], "Headers | None"]


def receive_request(made: h2.connection.H2Connection, part: Head) -> Headers | None:
    """The fields of a request, whose stream is now open; None: leave the frame to h2."""
    number = part.number
    if made.state_machine.state is not _SERVER_OPEN or not number & 1 or number <= made.highest_inbound_stream_id:
        return None
    most = made.local_settings.max_concurrent_streams
    if len(made.streams) >= most and made.open_inbound_streams >= most:
        return None
    fields = _read(made, part, _is_usual_request)
    if fields is None:
        return None
    stream = made._begin_new_stream(number, _ODD)
    stream._expected_content_length = _length(fields)
    machine = stream.state_machine
    machine.client, machine.headers_received = False, True
    machine.state = _HALF_CLOSED_REMOTE if part.is_last else _OPEN
    return fields


def receive_response(made: h2.connection.H2Connection, part: Head) -> Headers | None:
    """The fields of a final response; None: leave the frame to h2."""
    stream = made.streams.get(part.number)
    if stream is None or made.state_machine.state is not _CLIENT_OPEN:
        return None
    machine = stream.state_machine
    if machine.headers_received or not machine.client or machine.state not in (_OPEN, _HALF_CLOSED_LOCAL):
        return None
    fields = _read(made, part, _is_usual_response)
    if fields is None:
        return None
    stream._expected_content_length = 0 if stream.request_method == b"HEAD" else _length(fields)
    machine.headers_received = True
    if part.is_last:
        receive_end(made, stream)
    return fields


def is_too_late(made: h2.connection.H2Connection, part: Head) -> bool:
    """Whether this head belongs to a stream that was just reset by this side. It is decoded for the header table only;
    h2 would treat an interim response as a connection error."""
    decoder = made.decoder
    assert isinstance(decoder, FastDecoder)
    return made._stream_closed_by(part.number) is _SENT_RESET and decoder.decode_early(part.block) is not None


def send_response(made: h2.connection.H2Connection, number: int, fields: Headers, *, is_last: bool) -> bytes | None:
    """The frames of a final response; None: leave them to h2."""
    stream = made.streams.get(number)
    if stream is None or made.state_machine.state is not _SERVER_OPEN or fields[0][1].startswith(b"1"):
        return None
    machine = stream.state_machine
    if machine.headers_sent or machine.client or machine.state not in (_OPEN, _HALF_CLOSED_REMOTE):
        return None
    machine.headers_sent = True
    return _frames(made, stream, fields, is_last=is_last)


def send_request(made: h2.connection.H2Connection, number: int, fields: Headers, *, is_last: bool) -> bytes | None:
    """The frames of a request, whose stream is now open; None: leave them to h2."""
    if made.state_machine.state is not _CLIENT_OPEN:
        return None
    most = made.remote_settings.max_concurrent_streams
    if len(made.streams) >= most and made.open_outbound_streams >= most:
        return None
    stream = made._begin_new_stream(number, _ODD)
    machine = stream.state_machine
    machine.client, machine.headers_sent, machine.state = True, True, _OPEN
    stream.request_method = fields[0][1]
    return _frames(made, stream, fields, is_last=is_last)


def send_end(made: h2.connection.H2Connection, stream: H2Stream) -> None:
    """Note that this side has ended the stream. ProtocolError: it may not send."""
    machine = stream.state_machine
    if machine.state is _HALF_CLOSED_REMOTE:
        machine.state, machine.stream_closed_by = _CLOSED, _SENT_END
        _forget(made, stream)
    elif machine.state is _OPEN:
        machine.state = _HALF_CLOSED_LOCAL
    else:
        raise ProtocolError(f"stream {stream.stream_id} does not send any more")


def receive_end(made: h2.connection.H2Connection, stream: H2Stream) -> None:
    """Note that the peer has ended a stream on which it was sending."""
    machine = stream.state_machine
    if machine.state is _HALF_CLOSED_LOCAL:
        machine.state, machine.stream_closed_by = _CLOSED, _RECEIVED_END
        _forget(made, stream)
    else:
        machine.state = _HALF_CLOSED_REMOTE


def _forget(made: h2.connection.H2Connection, stream: H2Stream) -> None:
    """Drop a closed stream, as h2 does when it counts the open ones."""
    del made.streams[stream.stream_id]
    made._closed_streams[stream.stream_id] = stream.closed_by


def _read(made: h2.connection.H2Connection, part: Head, is_usual: Callable[[Headers], bool]) -> Headers | None:
    decoder = made.decoder
    assert isinstance(decoder, FastDecoder)
    fields = decoder.decode_early(part.block)
    if fields is None or (is_usual(fields) and not (part.is_last and _length(fields))):
        return fields
    decoder.store(part.block, fields)
    return None


def _is_usual_request(fields: Headers) -> bool:
    """Whether the four pseudo-fields come first, each once, and all others are usual."""
    pseudo = fields[:4]
    if {name for name, _ in pseudo} != _OF_REQUEST:
        return False
    if not all(value and value != b"CONNECT" and _VALUE.fullmatch(value) for _, value in pseudo):
        return False
    return _are_usual(fields[4:])


def _is_usual_response(fields: Headers) -> bool:
    if not fields or fields[0][0] != b":status" or fields[0][1].startswith(b"1"):
        return False
    return _are_usual(fields[1:])


def _are_usual(fields: Headers) -> bool:
    """Whether these fields are unambiguous, and none is a pseudo-field."""
    seen = list[bytes]()
    for name, value in fields:
        if len(name) > _LONGEST_NAME or not _is_usual_name(name) or not _VALUE.fullmatch(value):
            return False
        if name in _ONCE:
            if name in seen or (name == b"content-length" and not (value.isdigit() and len(value) <= _MAX_DIGITS)):
                return False
            seen.append(name)
        elif name == b"te" and value != b"trailers":
            return False
    return True


@lru_cache(maxsize=1024)
def _is_usual_name(name: bytes) -> bool:
    return _NAME.fullmatch(name) is not None and name not in _SPECIAL


def _length(fields: Headers) -> int | None:
    """The Content-Length of a usual head."""
    for name, value in fields:
        if name == b"content-length":
            return int(value)
    return None


def _frames(made: h2.connection.H2Connection, stream: H2Stream, fields: Headers, *, is_last: bool) -> bytes:
    """A HEADERS frame, followed by CONTINUATION frames if needed."""
    number, block = stream.stream_id, made.encoder.encode(fields)
    if is_last:
        send_end(made, stream)
    flags = END_STREAM if is_last else 0
    most = min(made.max_outbound_frame_size, MAX_FRAME)
    if len(block) <= most:
        return frame_header(len(block), HEADERS, flags | END_HEADERS, number) + block
    parts = [frame_header(most, HEADERS, flags, number), block[:most]]
    for start in range(most, len(block), most):
        part = block[start : start + most]
        end = END_HEADERS if start + most >= len(block) else 0
        parts += (frame_header(len(part), CONTINUATION, end, number), part)
    return b"".join(parts)
