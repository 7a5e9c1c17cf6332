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

INSPECTED = (
    "tls_client_hello",
    "http_request",
    "http_response",
    "http_body",
    "websocket_message",
    "ssh_auth",
    "ssh_channel",
    "ssh_exec",
)


def argument(hook: str, told: dict[str, Any], flow: FlowContext[Any]) -> Any:
    """The hook's argument. msgspec.ValidationError: the inspector's message is invalid."""
    if hook == "tls_client_hello":
        return _made(TlsClientHello, told, flow=flow)
    if hook == "http_request":
        return _made(HttpRequest, told, flow=flow)
    if hook == "ssh_auth":
        return _made(SshAuth, told, flow=flow)
    if hook == "ssh_channel":
        return _made(SshChannel, told, flow=flow)
    if hook == "ssh_exec":
        return _made(SshExec, told, channel=_made(SshChannel, told.pop("channel"), flow=flow))
    request = _made(HttpRequest, told.pop("request"), flow=flow)
    return _made(HttpResponse if hook == "http_response" else WebSocketMessage, told, request=request)


class Bodies:
    """The unfinished bodies of one session that the hook `http_body` receives, by the inspector's names for them."""

    def __init__(self) -> None:
        self._open: dict[str, HttpBodyPart[Any]] = {}

    def part(self, told: dict[str, Any], flow: FlowContext[Any]) -> HttpBodyPart[Any]:
        """The hook's argument; the same object for all parts of a body. msgspec.ValidationError: an invalid message."""
        name, request = msgspec.convert(told.pop("body"), str), told.pop("request", None)
        head: dict[str, Any] = {field: told.pop(field) for field in ("status", "headers") if field in told}
        part = self._open.get(name)
        if request is not None:
            made = _made(HttpRequest, request, flow=flow)
            response = _made(HttpResponse, head, request=made) if head else None
            part = _made(HttpBodyPart, told, request=made)
            part.response = response
            self._open[name] = part
        elif part is None:
            raise msgspec.ValidationError("a part of a body that has not begun")
        else:
            part.data, part.is_last = msgspec.convert(told["data"], bytes), msgspec.convert(told["is_last"], bool)
        if part.is_last:
            del self._open[name]
        return part

    def forget(self, told: dict[str, Any]) -> None:
        """Forget a body of which no more parts will come."""
        self._open.pop(told.get("body", ""), None)


def _made(kind: type[Any], told: dict[str, Any], **context: Any) -> Any:
    """The structure `kind` with these fields, checked against its types. `context` is ours, and is not checked."""
    (name,) = context
    fields = {field.name: field for field in msgspec.structs.fields(kind) if field.name != name}
    if strange := set(told) - set(fields):
        raise msgspec.ValidationError(f"unknown fields {', '.join(sorted(strange))}")
    values = {key: msgspec.convert(value, fields[key].type) for key, value in told.items()}
    return kind(**values, **context)
