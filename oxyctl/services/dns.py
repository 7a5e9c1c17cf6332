"""The `dns` service: A, AAAA and PTR records of the lab's names, over UDP and TCP; other names do not exist."""

from __future__ import annotations

import socket
from collections.abc import Sequence

from oxyctl.services.host import Host, bind_udp, listen_tcp
from oxyctl.services.service import Connection, TcpService
from oxyctl.services.udp import UdpSocket
from oxyctl.services.zone import Zone


class DnsConnection(Connection):
    """Queries one after another, each prefixed by its length (RFC 1035 section 4.2.2)."""

    def __init__(self, service: DnsService) -> None:
        super().__init__(service)
        self._zone, self._buffer = service.zone, b""

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while len(self._buffer) >= 2 and len(self._buffer) >= (end := 2 + int.from_bytes(self._buffer[:2], "big")):
            message, self._buffer = self._buffer[2:end], self._buffer[end:]
            answer = self._zone.answer_stream(message)
            if answer is None:
                self.transport.abort()  # not a DNS message
                return
            self.transport.write(len(answer).to_bytes(2, "big") + answer)


class DnsService(TcpService):
    """The TCP server and the UDP sockets."""

    def __init__(self, host: Host, zone: Zone, listening: Sequence[socket.socket], bound: Sequence[socket.socket]):
        super().__init__(host, listening)
        self.zone = zone
        self.datagrams = [UdpSocket(sock, zone.answer) for sock in bound]

    async def start(self) -> None:
        """Start to answer."""
        await self.serve(lambda: DnsConnection(self))

    async def stop(self) -> None:
        """Close all sockets."""
        await super().stop()
        for sock in self.datagrams:
            sock.close()


async def start(host: Host, port: int) -> DnsService:
    """Start a server on `port` of each address of the node."""
    sockets = host.listen(port, listen_tcp, bind_udp)
    service = DnsService(host, Zone(host.hosts), sockets[0::2], sockets[1::2])
    await service.start()
    return service
