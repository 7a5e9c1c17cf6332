"""The `halfclose` service: sends a greeting, closes its sending side at once, and reads until the peer closes."""

from __future__ import annotations

import asyncio

from oxyctl.services.host import Host
from oxyctl.services.service import TcpService, tcp
from oxyctl.services.sink import SinkConnection

GREETING = b"this side is finished, yours is not\n"


class HalfCloseConnection(SinkConnection):
    """Sends FIN after the greeting; counts and logs what it receives."""

    label = "halfclose"

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.transport.write(GREETING)
        self.transport.write_eof()


async def start(host: Host, port: int) -> TcpService:
    """Start a half-closing service on `port`."""
    return await tcp(host, port, HalfCloseConnection)
