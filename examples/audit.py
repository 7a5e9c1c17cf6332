"""An audit log, one line of JSON for each tunnel and flow: `hooks: "examples.audit:AuditLog"` in proxy.yaml."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import msgspec

from proxy.hooks import FlowContext, Hooks, TunnelContext

PATH = Path(os.environ.get("AUDIT_LOG", "audit.jsonl"))


class AuditLog(Hooks):
    """Logs who was admitted, what they accessed, what was denied, and by which rule. Short lines, written at once."""

    def __init__(self, path: Path = PATH) -> None:
        self._path = path

    async def startup(self) -> None:
        self._file = self._path.open("a", buffering=1)

    async def tunnel_open(self, context: TunnelContext) -> None:
        self._write("tunnel_open", tenant=context.tenant, user=context.user, addresses=context.addresses)

    async def tunnel_close(self, context: TunnelContext) -> None:
        self._write("tunnel_close", tenant=context.tenant, user=context.user)

    async def flow_end(self, flow: FlowContext) -> None:
        self._write(
            "flow", flow_id=flow.flow_id, tenant=flow.tenant, user=flow.user, dst=f"{flow.dst}:{flow.dst_port}",
            verdict=flow.verdict, decisions=msgspec.to_builtins(flow.decisions), ended=flow.close_reason,
        )  # fmt: skip

    async def shutdown(self) -> None:
        self._file.close()

    def _write(self, event: str, **fields: Any) -> None:
        self._file.write(json.dumps({"event": event, **fields}) + "\n")
