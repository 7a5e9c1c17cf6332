"""Encodes the argument of a hook as plain data, since the hook is called in the proxy.

The application's object lives there, with its state; an inspector may open neither files nor sockets.
"""

from __future__ import annotations

from typing import Any

import msgspec

from proxy.inspect.http.body import BodyEnd, BodyPart
from proxy.inspect.http.exchange import Exchange
from proxy.inspect.http.messages import Headers, RequestHead
from proxy.inspect.http.websocket import WebSocketMessage
from proxy.inspect.ssh.hook_arguments import ChannelRequest, ExecRequest, Login
from proxy.wire.client_hello import Hello


def encode_argument(argument: Any) -> dict[str, Any]:
    """The fields of the hook's argument (`proxy.hooks.messages`) except the flow."""
    if isinstance(argument, Hello):
        return {"sni": argument.sni, "alpn": list(argument.alpn), "version": argument.version, "ja4": argument.ja4}
    if isinstance(argument, WebSocketMessage):
        data = argument.data
        return {
            "request": _request(argument.exchange.request),
            "sender": "client" if argument.from_client else "origin",
            "kind": "text" if isinstance(data, str) else "binary",
            "data": data.encode() if isinstance(data, str) else bytes(data),
        }
    if isinstance(argument, BodyPart):
        return _part(argument)
    if isinstance(argument, BodyEnd):
        return {"body": _body(argument.number, from_client=argument.from_client)}
    if isinstance(argument, Exchange):
        request = _request(argument.request)
        if argument.response is None:
            return request
        return {
            "request": request,
            "status": argument.response.status,
            "headers": _headers(argument.response.headers),
        }
    if isinstance(argument, Login | ChannelRequest | ExecRequest):
        encoded: dict[str, Any] = msgspec.to_builtins(argument)
        return encoded
    raise TypeError(f"no hook takes a {type(argument).__name__}")


def _part(part: BodyPart) -> dict[str, Any]:
    """A part of a body; only the first carries its request or response."""
    exchange = part.exchange
    encoded = {
        "body": _body(exchange.number, from_client=part.from_client),
        "data": part.data,
        "is_last": part.is_last,
    }
    if part.is_first:
        encoded["request"] = _request(exchange.request)
        if not part.from_client:
            encoded["status"], encoded["headers"] = exchange.response.status, _headers(exchange.response.headers)
    return encoded


def _body(number: int, *, from_client: bool) -> str:
    """The identifier of a body within its session."""
    return f"{number}.{'client' if from_client else 'origin'}"


def _request(head: RequestHead) -> dict[str, Any]:
    return {
        "version": head.version,
        "method": _text(head.method),
        "scheme": _text(head.scheme),
        "host": _text(head.authority),
        "path": _text(head.path),
        "headers": _headers(head.headers),
    }


def _headers(headers: Headers) -> list[tuple[str, str]]:
    return [(_text(name).lower(), _text(value)) for name, value in headers]


def _text(data: bytes) -> str:
    """Decodes each byte to one character, as HTTP fields beyond ASCII are opaque data (RFC 9110 5.5)."""
    return data.decode("latin-1")
