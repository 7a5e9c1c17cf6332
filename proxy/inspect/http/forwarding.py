"""Fields that a proxy adds to forwarded messages, and the limits on forwarding (RFC 9110 7.6, RFC 8586)."""

from __future__ import annotations

import functools

from proxy.inspect.http.limits import Identity
from proxy.inspect.http.messages import Headers, RequestHead, ResponseHead, first, tokens, values, without

_SECRET = frozenset((b"authorization", b"cookie", b"proxy-authorization"))


def sign_request(head: RequestHead, identity: Identity) -> None:
    """Add the proxy to Via, and to CDN-Loop if present; decrement Max-Forwards."""
    _sign(head, identity)
    if first(head.headers, b"cdn-loop") is not None:
        head.headers.append((b"CDN-Loop", identity.name.encode()))
    if (left := forwards_left(head)) is not None:
        head.headers = [*without(head.headers, b"max-forwards"), (b"Max-Forwards", b"%d" % (left - 1))]


def sign_response(head: ResponseHead, identity: Identity) -> None:
    """Add the proxy to Via. Remove Alt-Svc, by which clients would bypass the proxy (RFC 7838)."""
    _sign(head, identity)
    if not identity.keeps_alt_svc and first(head.headers, b"alt-svc") is not None:
        head.headers = without(head.headers, b"alt-svc")


def is_loop(head: RequestHead, identity: Identity, passes: int) -> bool:
    """Whether the request has passed this proxy `passes` times, by Via or CDN-Loop."""
    name = identity.name.encode()
    if head.via and sum(part.split()[1:2] == [name] for each in head.via for part in each.split(b",")) >= passes:
        return True
    loops = [each.partition(b";")[0].strip() for field in values(head.headers, b"cdn-loop") for each in tokens(field)]
    return loops.count(name.lower()) >= passes


def forwards_left(head: RequestHead) -> int | None:
    """How often a TRACE or OPTIONS may still be forwarded; None: no limit (RFC 9110 7.6.2)."""
    if head.method not in (b"TRACE", b"OPTIONS"):
        return None
    value = first(head.headers, b"max-forwards")
    return int(value) if value is not None and value.isdigit() and len(value) < 10 else None


def last_answer(head: RequestHead) -> tuple[ResponseHead, bytes]:
    """The answer to a TRACE or OPTIONS whose Max-Forwards is 0; to a TRACE, the request itself (RFC 9110 9.3.8)."""
    answer, body = ResponseHead(200), b""
    if head.method == b"TRACE":
        kept: Headers = [each for each in head.headers if each[0].lower() not in _SECRET]
        lines = [b"%s %s HTTP/%s" % (head.method, head.path, head.version.encode()), b"Host: " + head.authority]
        body = b"\r\n".join([*lines, *(b"%s: %s" % each for each in kept), b"", b""])
        answer.headers = [(b"Content-Type", b"message/http")]
    answer.length = len(body)
    return answer, body


def _sign(head: RequestHead | ResponseHead, identity: Identity) -> None:
    if identity.is_in_via:
        head.via.append(_entry(head.version, identity.name))


@functools.lru_cache(maxsize=16)
def _entry(version: str, name: str) -> bytes:
    return f"{version} {name}".encode()
