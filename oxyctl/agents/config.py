"""The schema of CONFIG.json: each client's namespace, device, tunnel socket, tunnel context and impairment."""

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
    """All clients of a lab; the report that follows a change repeats its `generation`."""

    clients: list[ClientConfig]
    generation: int = 0
