"""Hooks of proxies under test. Nothing else is imported: what the start of a proxy costs, many tests pay."""

from __future__ import annotations

import asyncio
from typing import Any

from proxy.hooks import Hooks

DENIED_PORT = 4444
PACKET_PORT = 7777
STREAM_PORT = 5555


class Denies(Hooks):
    """One port's flows are denied."""

    async def flow_start(self, flow: Any) -> str | None:
        return "this port is denied" if flow.dst_port == DENIED_PORT else None


class DecidesLate(Hooks):
    """Each flow waits for a moment, as for an answer from elsewhere."""

    async def flow_start(self, flow: Any) -> None:
        await asyncio.sleep(0.05)


class ForwardsAsPackets(Hooks):
    """One port is forwarded as packets, whatever the route says."""

    async def level(self, flow: Any) -> str | None:
        return "packet" if flow.dst_port == PACKET_PORT else None


class ChoosesLevels(Hooks):
    """One port's flows are lifted, another's never are."""

    async def level(self, flow: Any) -> str | None:
        return "stream" if flow.dst_port == STREAM_PORT else "packet" if flow.dst_port == STREAM_PORT + 1 else None
