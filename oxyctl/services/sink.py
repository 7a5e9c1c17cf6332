"""The `sink` service (RFC 863, also called `discard`): reads everything, answers nothing, and logs how much it read."""

from __future__ import annotations

from oxyctl.services.host import Host
from oxyctl.services.service import Connection, TcpService, log, peer_name, tcp


class SinkConnection(Connection):
    """Counts bytes until the peer's end of file, then closes."""

    label = "sink"
    received = 0

    def data_received(self, data: bytes) -> None:
        self.received += len(data)

    def connection_lost(self, error: Exception | None) -> None:
        super().connection_lost(error)
        how = "reset" if error else "end of file"
        log.info(
            "%s %s %s: %d bytes, %s", self.service.host.name, self.label, peer_name(self.transport), self.received, how
        )


async def start(host: Host, port: int) -> TcpService:
    """Start a sink on `port`."""
    return await tcp(host, port, SinkConnection)
