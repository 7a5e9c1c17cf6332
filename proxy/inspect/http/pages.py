"""Responses of the proxy's own: error pages for people, with Proxy-Status (RFC 9209) for programs."""

from __future__ import annotations

import html
from http import HTTPStatus

from proxy.inspect.http.faults import Fault, report_of
from proxy.inspect.http.limits import Identity
from proxy.inspect.http.messages import ResponseHead
from proxy.inspect.http.rules import apply_changes
from proxy.verdict import HttpAnswer, HttpEffects

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title></head>
<body><h1>{title}</h1><p>{text}</p></body></html>
"""


def refusal(fault: Fault, detail: str, effects: HttpEffects | None, identity: Identity) -> tuple[ResponseHead, bytes]:
    """The response for `fault`. A denial may define status and page; a status other than 4xx or 5xx becomes 403."""
    why = report_of(fault)
    status, text = why.status, detail
    if fault is Fault.DENIED and effects is not None:
        if effects.status is not None and 400 <= effects.status <= 599:
            status = effects.status
        text = detail if effects.page is None else effects.page
    head = ResponseHead(status)
    body = _page(status, text) if text else b""  # an empty text means the bare status
    head.headers = [
        (b"Cache-Control", b"no-store"),
        (b"Proxy-Status", _proxy_status(identity.name, why.error, detail)),
    ]
    if body:
        head.headers.insert(0, (b"Content-Type", b"text/html; charset=utf-8"))
    if status == 429:
        head.headers.append((b"Retry-After", b"1"))
    head.length = len(body)
    return head, body


def redirect(effects: HttpEffects) -> tuple[ResponseHead, bytes]:
    """A redirect by policy: 302, or the 3xx that the policy names."""
    status = effects.status if effects.status is not None and 300 <= effects.status <= 399 else 302
    head = ResponseHead(status)
    location = "".join(c for c in effects.location or "/" if c.isprintable()).encode("utf-8")
    head.headers = [(b"Location", location), (b"Cache-Control", b"no-store")]
    head.length = 0
    return head, b""


def answer(given: HttpAnswer) -> tuple[ResponseHead, bytes]:
    """A response that a hook returned."""
    head = ResponseHead(given.status)
    head.headers = apply_changes([], given.headers)
    head.length = len(given.body)
    return head, given.body


def _page(status: int, text: str) -> bytes:
    phrase = HTTPStatus(status).phrase if status in HTTPStatus._value2member_map_ else ""
    return _PAGE.format(title=f"{status} {phrase}".strip(), text=html.escape(text)).encode()


def _proxy_status(name: str, error: str, detail: str) -> bytes:
    """`oxy; error=connection_refused; details="..."` (RFC 9209 2; strings by RFC 8941 3.3.3)."""
    text = "".join(c if " " <= c <= "~" else "?" for c in detail[:200]).replace("\\", "\\\\").replace('"', '\\"')
    return f'{name}; error={error}; details="{text}"'.encode("ascii")
