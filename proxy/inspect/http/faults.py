"""Everything that can go wrong in a conversation: each fault has a name, a status, and an error type of RFC 9209."""

from __future__ import annotations

import enum
from typing import Literal, NamedTuple

from proxy.flow.record import CloseReason

By = Literal["client", "origin", "proxy"]


class Fault(enum.StrEnum):
    """Why a request or connection failed. A closed set, used in records."""

    # the client's: HTTP/1.1
    BAD_REQUEST = "bad_request"  # rejected by h11: a malformed line or field, no Host or two
    BAD_LINE_END = "bad_line_end"  # a bare CR or LF (RFC 9112 2.2)
    OBS_FOLD = "obs_fold"  # a field over several lines (RFC 9112 5.2)
    BOTH_FRAMINGS = "both_framings"  # Content-Length and Transfer-Encoding (RFC 9112 6.1)
    BAD_FRAMING = "bad_framing"  # contradictory lengths, or a transfer coding other than chunked
    HEADERS_TOO_LARGE = "headers_too_large"
    TOO_MANY_HEADERS = "too_many_headers"
    CHUNK_OVERHEAD = "chunk_overhead"  # endless extensions or tiny chunks
    UNKNOWN_VERSION = "unknown_version"
    SLOW_HEADERS = "slow_headers"
    SLOW_BODY = "slow_body"
    SLOW_READ = "slow_read"  # the client does not read the response
    HEADERS_CUT = "headers_cut"  # the connection ended within a head
    BODY_CUT = "body_cut"  # the connection ended before the body
    # HTTP/2
    BAD_FRAME = "bad_frame"  # rejected by h2
    RAPID_RESET = "rapid_reset"  # CVE-2023-44487
    CONTINUATION_FLOOD = "continuation_flood"
    SETTINGS_FLOOD = "settings_flood"
    PING_FLOOD = "ping_flood"
    EMPTY_FRAMES = "empty_frames"
    PRIORITY_FLOOD = "priority_flood"
    WINDOW_FLOOD = "window_flood"
    UNKNOWN_FRAMES = "unknown_frames"
    HEADER_BOMB = "header_bomb"  # a header list that decompresses to too much
    # WebSocket
    UNMASKED_FRAME = "unmasked_frame"
    MASKED_FRAME = "masked_frame"  # from an origin
    RESERVED_BITS = "reserved_bits"
    BAD_OPCODE = "bad_opcode"
    BAD_FRAGMENT = "bad_fragment"
    CONTROL_FRAME = "control_frame"  # an oversized or fragmented control frame
    BAD_CLOSE = "bad_close"  # a close frame with an invalid code
    FRAME_TOO_LARGE = "frame_too_large"
    MESSAGE_TOO_LARGE = "message_too_large"  # also when inflated
    BAD_MESSAGE = "bad_message"  # invalid UTF-8, or invalid compressed data
    # the origin's
    ORIGIN_REFUSED = "origin_refused"
    ORIGIN_UNREACHABLE = "origin_unreachable"
    ORIGIN_TIMEOUT = "origin_timeout"
    ORIGIN_TLS = "origin_tls"
    ORIGIN_PROTOCOL = "origin_protocol"
    ORIGIN_CLOSED = "origin_closed"  # before the response
    ORIGIN_RESET = "origin_reset"  # of an HTTP/2 stream, with its error code
    RESPONSE_CUT = "response_cut"
    RESPONSE_HEADERS_TOO_LARGE = "response_headers_too_large"
    RESPONSE_TIMEOUT = "response_timeout"
    UPGRADE_REFUSED = "upgrade_refused"  # WebSocket over HTTP/2, which the origin does not support
    # neither's
    CLIENT_GONE = "client_gone"
    CANCELLED = "cancelled"  # the client has reset the stream
    DENIED = "denied"
    LOOP = "loop"
    BUSY = "busy"  # too many requests are waiting for this origin
    DRAINED = "drained"
    HOOK_FAILED = "hook_failed"  # or a policy
    INTERNAL = "internal"


class FaultReport(NamedTuple):
    """How a fault is reported: the status, the error type of Proxy-Status, and who caused it."""

    status: int
    error: str
    by: By = "client"


_REQUEST = FaultReport(400, "http_request_error")
REPORTS: dict[Fault, FaultReport] = {
    Fault.HEADERS_TOO_LARGE: FaultReport(431, "http_request_error"),
    Fault.TOO_MANY_HEADERS: FaultReport(431, "http_request_error"),
    Fault.UNKNOWN_VERSION: FaultReport(505, "http_request_error"),
    Fault.SLOW_HEADERS: FaultReport(408, "http_request_error"),
    Fault.SLOW_BODY: FaultReport(408, "http_request_error"),
    Fault.MASKED_FRAME: FaultReport(502, "http_protocol_error", "origin"),
    Fault.ORIGIN_REFUSED: FaultReport(502, "connection_refused", "origin"),
    Fault.ORIGIN_UNREACHABLE: FaultReport(502, "destination_ip_unroutable", "origin"),
    Fault.ORIGIN_TIMEOUT: FaultReport(504, "connection_timeout", "origin"),
    Fault.ORIGIN_TLS: FaultReport(502, "tls_certificate_error", "origin"),
    Fault.ORIGIN_PROTOCOL: FaultReport(502, "http_protocol_error", "origin"),
    Fault.ORIGIN_CLOSED: FaultReport(502, "connection_terminated", "origin"),
    Fault.ORIGIN_RESET: FaultReport(502, "connection_terminated", "origin"),
    Fault.RESPONSE_CUT: FaultReport(502, "http_response_incomplete", "origin"),
    Fault.RESPONSE_HEADERS_TOO_LARGE: FaultReport(502, "http_response_header_section_size", "origin"),
    Fault.RESPONSE_TIMEOUT: FaultReport(504, "http_response_timeout", "origin"),
    Fault.UPGRADE_REFUSED: FaultReport(502, "http_upgrade_failed", "origin"),
    Fault.CLIENT_GONE: FaultReport(499, "connection_terminated"),
    Fault.CANCELLED: FaultReport(499, "connection_terminated"),
    Fault.DENIED: FaultReport(403, "http_request_denied", "proxy"),
    Fault.LOOP: FaultReport(508, "proxy_loop_detected", "proxy"),
    Fault.BUSY: FaultReport(503, "connection_limit_reached", "proxy"),
    Fault.DRAINED: FaultReport(503, "proxy_internal_response", "proxy"),
    Fault.HOOK_FAILED: FaultReport(502, "proxy_internal_error", "proxy"),
    Fault.INTERNAL: FaultReport(500, "proxy_internal_error", "proxy"),
}

_CLOSE: dict[Fault, CloseReason] = {
    Fault.SLOW_HEADERS: "client_idle_timeout",
    Fault.SLOW_BODY: "client_idle_timeout",
    Fault.SLOW_READ: "client_idle_timeout",
    Fault.CLIENT_GONE: "client_closed",
    Fault.ORIGIN_REFUSED: "origin_refused",
    Fault.ORIGIN_UNREACHABLE: "origin_unreachable",
    Fault.ORIGIN_TIMEOUT: "origin_timeout",
    Fault.ORIGIN_TLS: "origin_tls_error",
    Fault.ORIGIN_CLOSED: "origin_closed",
    Fault.RESPONSE_TIMEOUT: "origin_timeout",
    Fault.DENIED: "denied",
    Fault.DRAINED: "drain",
}


class HttpError(Exception):
    """A fault, raised to end the exchange or the conversation."""

    def __init__(self, fault: Fault, detail: str) -> None:
        super().__init__(detail)
        self.fault = fault
        self.detail = detail


def report_of(fault: Fault) -> FaultReport:
    """How `fault` is reported: as 400 unless declared otherwise."""
    return REPORTS.get(fault, _REQUEST)


def close_reason(fault: Fault, by: By) -> CloseReason:
    """The close reason of the flow's record when `fault`, caused by `by`, ends the whole session."""
    reasons: dict[By, CloseReason] = {
        "client": "client_protocol_error",
        "origin": "origin_protocol_error",
        "proxy": "proxy_error",
    }
    return _CLOSE.get(fault, reasons[by])
