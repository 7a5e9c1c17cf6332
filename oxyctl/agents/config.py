"""What CONFIG.json says: each client's namespace, device, tunnel socket, the context that it sends, its impairment."""

from __future__ import annotations

import msgspec

from oxyctl.net.impairment import Impairment
from proxy.context import TunnelContext


class ClientConfig(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """One client."""

    node: str
    netns: str
    interface: str
    socket: str
    context: TunnelContext
    impairment: Impairment = Impairment()  # of its tunnel


class Config(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """All clients of a lab; `generation` is repeated in the report that answers a change."""

    clients: list[ClientConfig]
    generation: int = 0
