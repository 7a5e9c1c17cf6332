"""Requests as an HTTP Archive (HAR 1.2), which browsers' developer tools and many others read."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from http import HTTPStatus
from importlib.metadata import version
from typing import IO, Any
from urllib.parse import parse_qsl

import msgspec

from proxy.control.schema import RequestRecord

_VERSIONS = {"1.0": "HTTP/1.0", "1.1": "HTTP/1.1", "2": "HTTP/2"}
_UNKNOWN = -1  # HAR's value for an unknown size or time
_PHRASES = {status.value: status.phrase for status in HTTPStatus}
_encode = msgspec.json.Encoder().encode


def write_har(requests: Iterable[RequestRecord], out: IO[bytes]) -> int:
    """Write one archive, ordered by start, and return the number of requests.

    It has only the recorded headers: Host, User-Agent, Content-Type. Our own fields begin with `_`.
    """
    creator = _encode({"name": "oxyctl", "version": version("oxyctl")})
    out.write(b'{"log":{"version":"1.2","creator":%b,"pages":[],"entries":[' % creator)
    count = 0
    for request in sorted(requests, key=lambda request: request.start):
        out.write((b",\n" if count else b"\n") + _encode(entry(request)))
        count += 1
    out.write(b"\n]}}\n")
    return count


def entry(request: RequestRecord) -> dict[str, Any]:
    """One request and its response."""
    wait = request.ttfb_ms if request.ttfb_ms is not None else request.duration_ms
    return {
        "startedDateTime": datetime.fromtimestamp(request.start / 1e9, UTC).isoformat(timespec="milliseconds"),
        "time": request.duration_ms,
        "request": _request(request),
        "response": _response(request),
        "cache": {},
        "timings": {"send": 0, "wait": wait, "receive": max(request.duration_ms - wait, 0)},
        "connection": request.flow_id,
        "_request_id": request.request_id,
        "_user": request.user,
        "_verdict": request.verdict,
        "_fault": request.fault,
    }


def _request(request: RequestRecord) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "method": request.method,
        "url": request.url,
        "httpVersion": _VERSIONS.get(request.client_version or "", ""),
        "cookies": [],
        "headers": _headers(
            ("Host", request.host), ("User-Agent", request.user_agent), ("Content-Type", request.request_type)
        ),
        "queryString": [
            {"name": name, "value": value}
            for name, value in parse_qsl(request.path.partition("?")[2], keep_blank_values=True)
        ],
        "headersSize": request.request_header_bytes or _UNKNOWN,
        "bodySize": request.request_body_bytes,
    }
    if request.request_body_bytes:
        entry["postData"] = {"mimeType": request.request_type or "", "params": [], "text": ""}
    return entry


def _response(request: RequestRecord) -> dict[str, Any]:
    status = request.status or 0  # 0: no response
    return {
        "status": status,
        "statusText": _PHRASES.get(status, ""),
        "httpVersion": _VERSIONS.get(request.origin_version or request.client_version or "", ""),
        "cookies": [],
        "headers": _headers(("Content-Type", request.response_type)),
        "content": {"size": request.response_body_bytes, "mimeType": request.response_type or ""},
        "redirectURL": "",
        "headersSize": request.response_header_bytes or _UNKNOWN,
        "bodySize": request.response_body_bytes,
    }


def _headers(*known: tuple[str, str | None]) -> list[dict[str, str]]:
    return [{"name": name, "value": value} for name, value in known if value]
