"""What a service is: the contract of all kinds, and the one that most build on, connections over TCP."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol, TypeVar

from oxyctl.services.host import BACKLOG, Host

log = logging.getLogger("oxyctl.services")


class ServiceError(Exception):
    """A service that cannot start: the reason in one line."""


class Service(Protocol):
    """A running service. `detail` says why, when it is not available."""

    port: int
    detail: str | None

    async def stop(self) -> None:
        """Close every socket, connection and program of it."""


Factory = Callable[[Host, int], Awaitable[Service]]


class Unavailable:
    """A service that this machine cannot offer, for the reason in `detail`; the others go on."""

    def __init__(self, port: int, detail: str) -> None:
        self.port = port
        self.detail: str | None = detail

    async def stop(self) -> None:
        """Nothing runs."""


class TcpService:
    """Listening sockets, and the transports of the connections that came in by them."""

    detail: str | None = None

    def __init__(self, host: Host, sockets: Sequence[socket.socket]) -> None:
        self.host = host
        self.port: int = sockets[0].getsockname()[1]
        self.open: set[asyncio.Transport] = set()
        self._sockets = sockets
        self._servers: list[asyncio.Server] = []

    async def serve(self, accept: Callable[[], asyncio.Protocol], *, tls: ssl.SSLContext | None = None) -> None:
        """Give every connection the protocol that `accept` makes; it keeps `open` true."""
        loop = asyncio.get_running_loop()
        for sock in self._sockets:
            self._servers.append(await loop.create_server(accept, sock=sock, ssl=tls, backlog=BACKLOG))

    async def stop(self) -> None:
        """Stop listening, and cut whatever is still open."""
        for server in self._servers:
            server.close()
        for sock in self._sockets:
            sock.close()
        for transport in list(self.open):
            transport.abort()


class Connection(asyncio.Protocol):
    """One TCP connection of a service; it does not read while the peer does not."""

    transport: asyncio.Transport

    def __init__(self, service: TcpService) -> None:
        self.service = service

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.service.open.add(transport)

    def connection_lost(self, error: Exception | None) -> None:
        self.service.open.discard(self.transport)

    def pause_writing(self) -> None:
        self.transport.pause_reading()

    def resume_writing(self) -> None:
        self.transport.resume_reading()


C = TypeVar("C", bound=Connection)


async def tcp(host: Host, port: int, kind: Callable[[TcpService], C]) -> TcpService:
    """A service that makes a `kind` of every TCP connection to `port`."""
    service = TcpService(host, host.listen(port))
    await service.serve(lambda: kind(service))
    return service


def peer_name(transport: asyncio.BaseTransport) -> str:
    """`address:port` of the other side, or `[address]:port`, for log lines."""
    name = transport.get_extra_info("peername")
    if not name:
        return "a client that has gone"
    return f"[{name[0]}]:{name[1]}" if ":" in name[0] else f"{name[0]}:{name[1]}"
