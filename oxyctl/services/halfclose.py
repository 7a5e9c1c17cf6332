"""The `halfclose` service: greets, closes its writing side at once, and goes on reading until the peer has finished."""

from __future__ import annotations

import asyncio

from oxyctl.services.host import Host
from oxyctl.services.service import TcpService, tcp
from oxyctl.services.sink import SinkConnection

GREETING = b"this side is finished, yours is not\n"


class HalfCloseConnection(SinkConnection):
    """FIN goes out after the greeting; what comes in after it is counted and logged."""

    label = "halfclose"

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.transport.write(GREETING)
        self.transport.write_eof()


async def start(host: Host, port: int) -> TcpService:
    """A half-closing service on `port`."""
    return await tcp(host, port, HalfCloseConnection)
