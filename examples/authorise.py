"""Ask an HTTP service about each flow before it leaves: `hooks: "examples.authorise:AskService"` in proxy.yaml.

The service gets `POST /authorise` with the flow as JSON. It answers 200 to allow the flow, for as long as its
`Cache-Control: max-age` says, or 403 with the reason as its body. Everything else (no answer, a late one,
another status) denies.
"""

from __future__ import annotations

import asyncio
import json
import os
from urllib.parse import urlsplit

from proxy.hooks import FlowContext, Hooks, Verdict, deny, hook

SERVICE = os.environ.get("AUTHORISE_URL", "http://127.0.0.1:8181/authorise")
MAX_ANSWER = 64 << 10


class AskService(Hooks):
    """Fails closed: no answer is a denial."""

    def __init__(self, service: str = SERVICE) -> None:
        self.service = urlsplit(service)

    @hook(timeout_s=1.0, fail_open=False)
    async def flow_start(self, flow: FlowContext) -> Verdict | None:
        asked = {key: getattr(flow, key) for key in ("tenant", "user", "device", "protocol", "src", "dst", "dst_port")}
        status, headers, body = await self._post(json.dumps(asked).encode())
        if status == 200:
            seconds = headers.get("cache-control", "").partition("max-age=")[2]
            return Verdict(ttl_s=float(seconds)) if seconds.isdigit() and int(seconds) else None
        if status == 403:
            return deny(body.decode(errors="replace").strip() or "the service says no", refusal="reset")
        raise RuntimeError(f"{self.service.geturl()} answered {status}")

    async def _post(self, body: bytes) -> tuple[int, dict[str, str], bytes]:
        """Send one request on a new connection. OSError: there is no answer."""
        host, port = self.service.hostname or "127.0.0.1", self.service.port or 80
        reader, writer = await asyncio.open_connection(host, port, limit=MAX_ANSWER)
        try:
            head = (
                f"POST {self.service.path or '/'} HTTP/1.1\r\nHost: {host}:{port}\r\nConnection: close\r\n"
                f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
            )
            writer.write(head.encode() + body)
            await writer.drain()
            status, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            headers = {
                name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)
            }
            answer = await reader.read(MAX_ANSWER)
        finally:
            writer.close()
        return int(status.split()[1]), headers, answer
