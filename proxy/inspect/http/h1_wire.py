"""HTTP/1.1 on the wire: reads heads by h11, with checks that it lacks; writes heads and chunks.

Writing does not use h11: names keep their case, and it takes a third of the time.
"""

from __future__ import annotations

import re
from http import HTTPStatus

import h11

from proxy.inspect.http import h1_plain
from proxy.inspect.http.faults import Fault, HttpError
from proxy.inspect.http.limits import Limits
from proxy.inspect.http.messages import OWN_FIELDS, Headers, RequestHead, ResponseHead, Version, tokens

LAST_CHUNK = b"0\r\n\r\n"
_LONE = re.compile(rb"\r[^\n]|(?<!\r)\n")
_FOLD = re.compile(rb"\r\n[ \t]")
_BYTEARRAY = re.compile(r"bytearray\(b(['\"].*['\"])\)", re.S)
_ABSOLUTE = re.compile(rb"([A-Za-z][A-Za-z0-9+.-]*)://([^/?#]*)(.*)", re.S)
_HOST = re.compile(rb"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._~!$&'()*+,;=%-]*)(:[0-9]{0,5})?")
_REASONS = {status.value: status.phrase.encode() for status in HTTPStatus}
_VERSIONS: dict[bytes, Version] = {b"1.0": "1.0", b"1.1": "1.1"}


def check_line_ends(head: bytes | bytearray, searched: int = 0) -> None:
    """Raise HttpError if two parsers could split `head` into different lines (RFC 9112 2.2, 5.2 and 11).

    `searched`: bytes at its beginning that were checked before.
    """
    if _LONE.search(head, max(searched - 1, 0)):
        raise HttpError(Fault.BAD_LINE_END, "CR or LF by itself in a request's head")
    if _FOLD.search(head, max(searched - 2, 0)):
        raise HttpError(Fault.OBS_FOLD, "a header field that is folded over several lines")


def read_request(
    head: bytes, limits: Limits, scheme: bytes, default_host: bytes
) -> tuple[h11.Connection | None, RequestHead]:
    """The h11 connection that reads the request's body, and the request in `head`, which ends with its empty line.

    The connection is None if the fast path has read the head: then the body, if any, has a known length.
    """
    if (plain := h1_plain.read_request(head)) is not None:
        method, target, fields = plain
        request = _request(RequestHead(method, scheme, default_host, target, "1.1"), fields, limits)
        request.size = len(head)
        return None, request
    check_line_ends(head)
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=limits.header_bytes)
    connection.receive_data(head)
    try:
        event = connection.next_event()
    except h11.RemoteProtocolError as error:
        raise HttpError(_fault(error), error_text(error)) from None
    if type(event) is not h11.Request:
        raise HttpError(Fault.BAD_REQUEST, "no request")
    version = _VERSIONS.get(event.http_version)
    if version is None:
        raise HttpError(Fault.UNKNOWN_VERSION, f"HTTP/{event.http_version.decode('latin-1')}")
    begun = RequestHead(event.method, scheme, default_host, event.target, version)
    request = _request(begun, event.headers.raw_items(), limits)
    request.size = len(head)
    return connection, request


def _request(head: RequestHead, fields: Headers, limits: Limits) -> RequestHead:
    """Complete `head` from its fields."""
    version = head.version
    if len(fields) > limits.header_fields:
        raise HttpError(Fault.TOO_MANY_HEADERS, f"{len(fields)} header fields, {limits.header_fields} are allowed")
    kept, connection, upgrade, is_chunked = head.headers, None, None, False
    for field in fields:
        name = field[0].lower()
        if name not in OWN_FIELDS:
            kept.append(field)
        elif name == b"host":
            head.authority = field[1]
        elif name == b"connection":
            connection = field[1] if connection is None else connection + b"," + field[1]
        elif name == b"content-length":
            head.length = int(field[1])
        elif name == b"transfer-encoding":
            is_chunked = True
        elif name == b"upgrade":
            upgrade = field[1] if version == "1.1" else None
        elif name == b"via":
            head.via.append(field[1])
    if is_chunked:
        _check_framing(version, head.length)
    head.is_bodiless = not (is_chunked or head.length)
    if connection is not None and connection.lower() != b"keep-alive":
        _nominated(head, tokens(connection), upgrade)
    _target(head)
    return head


def _check_framing(version: Version, length: int | None) -> None:
    if length is not None:
        raise HttpError(Fault.BOTH_FRAMINGS, "both Content-Length and Transfer-Encoding")
    if version == "1.0":
        raise HttpError(Fault.BAD_FRAMING, "Transfer-Encoding in HTTP/1.0")


def _nominated(head: RequestHead, options: list[bytes], upgrade: bytes | None) -> None:
    """Drop the fields that Connection names; Upgrade counts only if it is named there."""
    if b"upgrade" in options and upgrade is not None and upgrade.strip().lower() != b"h2c":
        head.protocol = upgrade.strip()
    head.closes = head.closes or b"close" in options
    named = {each for each in options if each not in (b"close", b"keep-alive", b"upgrade")}
    if b"te" in named:
        head.takes_trailers = True
    if named:
        head.headers = [each for each in head.headers if each[0].lower() not in named]


def _target(head: RequestHead) -> None:
    """Set authority and path from the target (RFC 9112 3.2); that of an absolute URL overrides Host."""
    target = head.path
    if head.method == b"CONNECT":
        head.authority, head.path = target, b""
    elif not target.startswith(b"/") and target != b"*":
        parts = _ABSOLUTE.fullmatch(target)
        if parts is None:
            raise HttpError(Fault.BAD_REQUEST, "the request's target is neither a path nor a URL")
        head.scheme, head.authority, head.path = parts[1].lower(), parts[2], parts[3] or b"/"
        head.is_absolute = True
    if not _HOST.fullmatch(head.authority):
        raise HttpError(Fault.BAD_REQUEST, "invalid characters in the host")


def error_text(error: h11.RemoteProtocolError) -> str:
    """What h11 says, without types of Python."""
    text = str(error)
    if text == "Receive buffer too long":
        return "a line, or a head, that is too long"
    return _BYTEARRAY.sub(r"\1", text)


def _fault(error: h11.RemoteProtocolError) -> Fault:
    text = str(error)
    if error.error_status_hint == 431:
        return Fault.HEADERS_TOO_LARGE
    if error.error_status_hint == 501 or "Content-Length" in text or "Transfer-Encoding" in text:
        return Fault.BAD_FRAMING
    return Fault.BAD_REQUEST


def read_response(event: h11.Response | h11.InformationalResponse, limits: Limits) -> ResponseHead:
    """The head of a response, also an interim one, from h11's event. HttpError: its framing is ambiguous."""
    head = ResponseHead(event.status_code, event.reason, "1.0" if event.http_version == b"1.0" else "1.1")
    return response_of(head, event.headers.raw_items(), limits)


def response_of(head: ResponseHead, fields: Headers, limits: Limits) -> ResponseHead:
    """Complete `head` from its fields. HttpError: its framing is ambiguous."""
    kept, is_chunked, named, size = head.headers, False, None, 17 + len(head.reason)
    for field in fields:
        name, value = field[0].lower(), field[1]
        size += len(name) + len(value) + 4
        if name not in OWN_FIELDS:
            kept.append(field)
        elif name == b"content-length":
            head.length = int(value)
        elif name == b"transfer-encoding":
            is_chunked = True
        elif name == b"connection":
            named = value if named is None else named + b"," + value
        elif name == b"upgrade":
            head.protocol = value
        elif name == b"via":
            head.via.append(value)
    head.closes = head.version == "1.0" or (named is not None and b"close" in named.lower())
    if is_chunked and head.length is not None:
        raise HttpError(Fault.ORIGIN_PROTOCOL, "both Content-Length and Transfer-Encoding in a response")
    if len(kept) > limits.header_fields:
        raise HttpError(Fault.RESPONSE_HEADERS_TOO_LARGE, f"{len(kept)} header fields in a response")
    if named is not None and named.lower() not in (b"keep-alive", b"close"):
        options = {each for each in tokens(named) if each not in (b"close", b"keep-alive", b"upgrade")}
        head.headers = [each for each in kept if each[0].lower() not in options] if options else kept
    head.size = size
    return head


def write_request(head: RequestHead, key: bytes | None = None) -> bytes:
    """`head` as sent to an origin. `key`: Sec-WebSocket-Key, if the client speaks HTTP/2, which has none."""
    target = head.path
    if head.method == b"CONNECT":
        target = head.authority
    elif head.is_absolute:
        target = b"%b://%b%b" % (head.scheme, head.authority, head.path)
    parts = [b"%b %b HTTP/1.1\r\nHost: %b\r\n" % (head.method, target, head.authority)]
    parts += [b"%b: %b\r\n" % field for field in head.headers]
    if head.length is not None:
        parts.append(b"Content-Length: %d\r\n" % head.length)
    elif not head.is_bodiless:
        parts.append(b"Transfer-Encoding: chunked\r\n")
    if head.protocol is not None:
        parts.append(b"Connection: Upgrade\r\nUpgrade: %b\r\n" % head.protocol)
        if key is not None:
            parts.append(b"Sec-WebSocket-Key: %b\r\n" % key)
    elif head.takes_trailers:
        parts.append(b"Connection: TE\r\nTE: trailers\r\n")
    parts += [b"Via: %b\r\n" % value for value in head.via]
    parts.append(b"\r\n")
    return b"".join(parts)


def write_response(head: ResponseHead, *, is_chunked: bool, closes: bool) -> bytes:
    """`head` as sent to a client of HTTP/1.1."""
    reason = head.reason or _REASONS.get(head.status, b"")
    parts = [b"HTTP/1.1 %d %b\r\n" % (head.status, reason)]
    parts += [b"%b: %b\r\n" % field for field in head.headers]
    if is_chunked:
        parts.append(b"Transfer-Encoding: chunked\r\n")
    elif head.length is not None:
        parts.append(b"Content-Length: %d\r\n" % head.length)
    if head.protocol is not None:
        options = b"Upgrade" if head.status == 101 else b"Upgrade, close" if closes else b"Upgrade"
        parts.append(b"Connection: %b\r\nUpgrade: %b\r\n" % (options, head.protocol))
    elif closes:
        parts.append(b"Connection: close\r\n")
    parts += [b"Via: %b\r\n" % value for value in head.via]
    parts.append(b"\r\n")
    return b"".join(parts)


def chunk(data: bytes) -> bytes:
    """`data`, not empty, as one chunk."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def last_chunk(trailers: Headers) -> bytes:
    """The end of a chunked body."""
    if not trailers:
        return LAST_CHUNK
    return b"0\r\n" + b"".join([b"%b: %b\r\n" % field for field in trailers]) + b"\r\n"
