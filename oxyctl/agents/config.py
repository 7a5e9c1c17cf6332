"""What CONFIG.json says: each client's namespace, device, tunnel socket, and the context that it sends."""

from __future__ import annotations

import msgspec

from proxy.context import TunnelContext


class ClientConfig(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """One client."""

    node: str
    netns: str
    interface: str
    socket: str
    context: TunnelContext


class Config(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """All clients of a lab."""

    clients: list[ClientConfig]
