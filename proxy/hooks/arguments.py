"""The arguments of hooks that an inspector calls, built from its message and from the flow."""

from __future__ import annotations

from typing import Any

import msgspec

from proxy.flow.context import FlowContext
from proxy.hooks.messages import (
    HttpBodyPart,
    HttpRequest,
    HttpResponse,
    SshAuth,
    SshChannel,
    SshExec,
    TlsClientHello,
    WebSocketMessage,
)

INSPECTION_HOOKS = (
    "tls_client_hello",
    "http_request",
    "http_response",
    "http_body",
    "websocket_message",
    "ssh_auth",
    "ssh_channel",
    "ssh_exec",
)


def argument(hook: str, encoded: dict[str, Any], flow: FlowContext[Any]) -> Any:
    """The hook's argument, from its encoding by an inspector. msgspec.ValidationError: that is invalid."""
    if hook == "tls_client_hello":
        return _build(TlsClientHello, encoded, flow=flow)
    if hook == "http_request":
        return _build(HttpRequest, encoded, flow=flow)
    if hook == "ssh_auth":
        return _build(SshAuth, encoded, flow=flow)
    if hook == "ssh_channel":
        return _build(SshChannel, encoded, flow=flow)
    if hook == "ssh_exec":
        return _build(SshExec, encoded, channel=_build(SshChannel, encoded.pop("channel"), flow=flow))
    request = _build(HttpRequest, encoded.pop("request"), flow=flow)
    return _build(HttpResponse if hook == "http_response" else WebSocketMessage, encoded, request=request)


class Bodies:
    """The unfinished bodies of one session that the hook `http_body` receives, by the inspector's names for them."""

    def __init__(self) -> None:
        self._open: dict[str, HttpBodyPart[Any]] = {}

    def part(self, encoded: dict[str, Any], flow: FlowContext[Any]) -> HttpBodyPart[Any]:
        """The hook's argument; the same object for all parts of a body. msgspec.ValidationError: an invalid message."""
        name, sent_request = msgspec.convert(encoded.pop("body"), str), encoded.pop("request", None)
        head: dict[str, Any] = {field: encoded.pop(field) for field in ("status", "headers") if field in encoded}
        part = self._open.get(name)
        if sent_request is not None:
            request = _build(HttpRequest, sent_request, flow=flow)
            response = _build(HttpResponse, head, request=request) if head else None
            part = _build(HttpBodyPart, encoded, request=request)
            part.response = response
            self._open[name] = part
        elif part is None:
            raise msgspec.ValidationError("a part of a body that has not begun")
        else:
            part.data, part.is_last = msgspec.convert(encoded["data"], bytes), msgspec.convert(encoded["is_last"], bool)
        if part.is_last:
            del self._open[name]
        return part

    def forget(self, encoded: dict[str, Any]) -> None:
        """Forget a body of which no more parts will come."""
        self._open.pop(encoded.get("body", ""), None)


def _build(kind: type[Any], encoded: dict[str, Any], **context: Any) -> Any:
    """The structure `kind` with these fields, checked against its types. `context` is ours, and is not checked."""
    (name,) = context
    fields = {field.name: field for field in msgspec.structs.fields(kind) if field.name != name}
    if unknown := set(encoded) - set(fields):
        raise msgspec.ValidationError(f"unknown fields {', '.join(sorted(unknown))}")
    values = {key: msgspec.convert(value, fields[key].type) for key, value in encoded.items()}
    return kind(**values, **context)
