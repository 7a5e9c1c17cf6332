"""The `reset` service: reads one line, then ends the connection with RST."""

from __future__ import annotations

import socket
import struct

from oxyctl.services.host import Host
from oxyctl.services.service import Connection, TcpService, tcp

LINGER_0 = struct.pack("ii", 1, 0)  # close(2) then sends RST and discards unsent data (socket(7))


class ResetConnection(Connection):
    """Closes with SO_LINGER 0 as soon as it has read a line feed."""

    def data_received(self, data: bytes) -> None:
        if b"\n" in data:
            self.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_0)
            self.transport.abort()


async def start(host: Host, port: int) -> TcpService:
    """Start a resetting service on `port`."""
    return await tcp(host, port, ResetConnection)
