"""The interface of all services, and the base of most: connections over TCP."""

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
    """A service cannot start, for the reason given in one line."""


class Service(Protocol):
    """A running service. `detail` says why it is not available, if it is not."""

    port: int
    detail: str | None

    async def stop(self) -> None:
        """Close its sockets and connections, and end its programs."""


Factory = Callable[[Host, int], Awaitable[Service]]


class Unavailable:
    """A service that this machine cannot offer, for the reason in `detail`; other services work."""

    def __init__(self, port: int, detail: str) -> None:
        self.port = port
        self.detail: str | None = detail

    async def stop(self) -> None:
        """Do nothing: no socket is open."""


class TcpService:
    """Listening sockets, and the transports of accepted connections."""

    detail: str | None = None

    def __init__(self, host: Host, sockets: Sequence[socket.socket]) -> None:
        self.host = host
        self.port: int = sockets[0].getsockname()[1]
        self.open: set[asyncio.Transport] = set()
        self._sockets = sockets
        self._servers: list[asyncio.Server] = []

    async def serve(self, accept: Callable[[], asyncio.Protocol], *, tls: ssl.SSLContext | None = None) -> None:
        """Give each connection a protocol made by `accept`, which keeps the set `open` current."""
        loop = asyncio.get_running_loop()
        for sock in self._sockets:
            self._servers.append(await loop.create_server(accept, sock=sock, ssl=tls, backlog=BACKLOG))

    async def stop(self) -> None:
        """Stop listening, and abort open connections."""
        for server in self._servers:
            server.close()
        for sock in self._sockets:
            sock.close()
        for transport in list(self.open):
            transport.abort()


class Connection(asyncio.Protocol):
    """One TCP connection of a service; it stops reading while the peer does not read."""

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
    """Start a service that handles each TCP connection to `port` with a `kind`."""
    service = TcpService(host, host.listen(port))
    await service.serve(lambda: kind(service))
    return service


def peer_name(transport: asyncio.BaseTransport) -> str:
    """`address:port` of the peer, or `[address]:port`, for log lines."""
    name = transport.get_extra_info("peername")
    if not name:
        return "a disconnected client"
    return f"[{name[0]}]:{name[1]}" if ":" in name[0] else f"{name[0]}:{name[1]}"
