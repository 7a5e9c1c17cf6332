"""Hooks of an application: name this class in proxy.yaml as `hooks: "examples.hooks:NoPlainHttp"`."""

from __future__ import annotations

import logging

from proxy.context import TunnelContext
from proxy.flow.record import FlowRecord
from proxy.hooks import Hooks

log = logging.getLogger(__name__)


class NoPlainHttp(Hooks):
    """Refuses port 80, and logs how much each user transferred."""

    async def tunnel_open(self, context: TunnelContext) -> str | None:
        return None if context.user else "this proxy wants to know its users"

    async def flow_start(self, flow: FlowRecord) -> str | None:
        return "plain HTTP is not allowed" if flow.dst_port == 80 else None

    async def flow_end(self, flow: FlowRecord) -> None:
        moved = flow.total.client_payload_bytes + flow.total.origin_payload_bytes
        log.info("%s moved %d bytes to %s: %s", flow.user, moved, flow.dst, flow.close_reason)
