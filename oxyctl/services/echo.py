"""The `echo` service (RFC 862): sends back what it receives, over TCP and UDP on the same port."""

from __future__ import annotations

from oxyctl.services.host import Host, bind_udp, listen_tcp
from oxyctl.services.service import Connection, TcpService
from oxyctl.services.udp import UdpSocket


class EchoConnection(Connection):
    """Sends back what it receives; after the peer's end of file it sends the rest and closes."""

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)


class EchoService(TcpService):
    """The TCP server, and one UDP socket per address."""

    def __init__(self, host: Host, port: int) -> None:
        sockets = host.listen(port, listen_tcp, bind_udp)
        super().__init__(host, sockets[0::2])
        self.datagrams = [UdpSocket(sock, lambda data: data) for sock in sockets[1::2]]

    async def stop(self) -> None:
        """Close all sockets."""
        await super().stop()
        for socket in self.datagrams:
            socket.close()


async def start(host: Host, port: int) -> EchoService:
    """Start an echo service on `port`."""
    service = EchoService(host, port)
    await service.serve(lambda: EchoConnection(service))
    return service
