"""Choose the level of flows between tunnels: `hooks: "examples.levels:StreamsOfGuests"` in proxy.yaml."""

from __future__ import annotations

from typing import Literal

from proxy.flow.record import FlowRecord
from proxy.hooks import Hooks

BULK = {873, 2049}  # rsync, NFS: not inspected


class StreamsOfGuests(Hooks):
    """Guests' connections to sites end in the kernel's TCP, so that closes, resets and round trips are recorded."""

    async def level(self, flow: FlowRecord) -> Literal["packet", "stream"] | None:
        if flow.dst_port in BULK:
            return "packet"
        return "stream" if flow.user is not None and flow.user.startswith("guest") else None
