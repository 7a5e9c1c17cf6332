"""The arguments of hooks that an inspector calls, built from its message and from the flow."""

from __future__ import annotations

from typing import Any

import msgspec

from proxy.flow.context import FlowContext
from proxy.hooks.messages import (
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
    "websocket_message",
    "ssh_auth",
    "ssh_channel",
    "ssh_exec",
)


def argument(hook: str, told: dict[str, Any], flow: FlowContext[Any]) -> Any:
    """What the hook is shown. msgspec.ValidationError: an inspector has told what cannot be."""
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


def _made(kind: type[Any], told: dict[str, Any], **context: Any) -> Any:
    """The structure with these fields, each of its kind. The context is ours, and not looked at."""
    (name,) = context
    fields = {field.name: field for field in msgspec.structs.fields(kind) if field.name != name}
    if strange := set(told) - set(fields):
        raise msgspec.ValidationError(f"unknown fields {', '.join(sorted(strange))}")
    values = {key: msgspec.convert(value, fields[key].type) for key, value in told.items()}
    return kind(**values, **context)
