"""WebSocket messages that are echoed, over HTTP/1.1 (RFC 6455) or on streams of HTTP/2 (RFC 8441)."""

from __future__ import annotations

import asyncio
import contextlib

import h2.events
from wsproto import ConnectionType, WSConnection
from wsproto.connection import Connection
from wsproto.events import AcceptConnection, BytesMessage, CloseConnection, Event, Ping, RejectConnection, Request
from wsproto.frame_protocol import CloseReason
from wsproto.utilities import ProtocolError

from oxyctl.traffic.config import WebSocketTraffic
from oxyctl.traffic.drive import drive
from oxyctl.traffic.failures import Failed
from oxyctl.traffic.http2_wire import Http2Wire
from oxyctl.traffic.http_connection import READ_BYTES
from oxyctl.traffic.tally import Tally
from oxyctl.traffic.targets import Url, parse_websocket_url
from oxyctl.traffic.tls import client_context


async def run(traffic: WebSocketTraffic, address: str, tally: Tally) -> None:
    """Send messages until there have been enough; one that comes back unchanged is a successful exchange."""
    client = _Client(traffic, address, tally)
    try:
        await drive(traffic, client.exchange, tally)
    finally:
        tally.extra["connections"] = client.opened
        await client.close()


class _Client:
    """The messages of one run, and its idle WebSockets."""

    def __init__(self, traffic: WebSocketTraffic, address: str, tally: Tally) -> None:
        self._traffic, self._address, self._tally = traffic, address, tally
        self._url = parse_websocket_url(traffic.target)
        versions = ["h2"] if traffic.http2 else ["http/1.1"]
        self._tls = client_context(traffic.ca, versions) if self._url.scheme == "https" else None
        self._idle: list[_Socket] = []
        self.opened = 0

    async def exchange(self, _number: int) -> None:
        """Send one message and wait for its echo."""
        socket = self._idle.pop() if self._idle else await self._open()
        message = bytes(self._traffic.size)
        try:
            echoed = await socket.echo(message)
        except BaseException:
            socket.abort()
            raise
        self._tally.bytes_sent += len(message)
        self._tally.bytes_received += len(echoed)
        self._idle.append(socket)
        if echoed != message:
            raise Failed("altered", "the echo differs from the message sent")

    async def close(self) -> None:
        """Close all WebSockets."""
        await asyncio.gather(*(socket.close() for socket in self._idle))

    async def _open(self) -> _Socket:
        endpoint = self._url.endpoint
        name = endpoint.host if self._tls else None
        reader, writer = await asyncio.open_connection(
            self._address, endpoint.port, limit=READ_BYTES, ssl=self._tls, server_hostname=name
        )
        self.opened += 1
        socket: _Socket = _Stream(reader, writer) if self._traffic.http2 else _Upgraded(reader, writer)
        try:
            await socket.handshake(self._url)
        except BaseException:
            socket.abort()
            raise
        return socket


class _Socket:
    """One WebSocket."""

    _frames: WSConnection | Connection

    async def handshake(self, url: Url) -> None:
        """Open the WebSocket. Failed: the server refuses."""
        raise NotImplementedError

    async def echo(self, message: bytes) -> bytes:
        """Send `message` and return the message that comes back. Failed, OSError."""
        await self._send(self._frames.send(BytesMessage(data=message)))
        received = bytearray()
        while True:
            event = await self._event()
            if isinstance(event, BytesMessage):
                received += event.data
                if event.message_finished:
                    return bytes(received)
            elif isinstance(event, CloseConnection):
                raise Failed(f"closed_{event.code}", f"closed with code {event.code}: {event.reason or 'no reason'}")

    async def close(self) -> None:
        """Send a close frame, and wait for the answer."""
        with contextlib.suppress(OSError, Failed, ProtocolError):
            async with asyncio.timeout(1):
                await self._send(self._frames.send(CloseConnection(code=CloseReason.NORMAL_CLOSURE)))
                while not isinstance(await self._event(), CloseConnection):
                    pass
        self.abort()

    async def _event(self) -> Event:
        """The next event; pings are answered. Failed."""
        while True:
            try:
                for event in self._frames.events():
                    if not isinstance(event, Ping):
                        return event
                    await self._send(self._frames.send(event.response()))
            except ProtocolError as error:
                raise Failed("protocol", str(error)) from None
            self._frames.receive_data(await self._receive())

    async def _send(self, data: bytes) -> None:
        raise NotImplementedError

    async def _receive(self) -> bytes:
        raise NotImplementedError

    def abort(self) -> None:
        """Abort the connection."""
        raise NotImplementedError


class _Upgraded(_Socket):
    """An HTTP/1.1 connection that was upgraded to a WebSocket."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._frames = WSConnection(ConnectionType.CLIENT)

    async def handshake(self, url: Url) -> None:
        await self._send(self._frames.send(Request(host=url.host_header, target=url.path)))
        event = await self._event()
        if isinstance(event, RejectConnection):
            raise Failed(f"http_{event.status_code}", f"status {event.status_code} instead of a WebSocket")
        assert isinstance(event, AcceptConnection)

    async def _send(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    async def _receive(self) -> bytes:
        if not (data := await self._reader.read(READ_BYTES)):
            raise Failed("closed", "the connection was closed without a close frame")
        return data

    def abort(self) -> None:
        self._writer.transport.abort()


class _Stream(_Socket):
    """An HTTP/2 stream that carries a WebSocket."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._wire = Http2Wire(reader, writer)
        self._frames = Connection(ConnectionType.CLIENT)

    async def handshake(self, url: Url) -> None:
        await self._wire.flush()
        await self._wire.wait_for_websocket_support()
        fields = [(":method", "CONNECT"), (":protocol", "websocket"), (":scheme", url.scheme)]
        fields += [(":authority", url.host_header), (":path", url.path), ("sec-websocket-version", "13")]
        await self._wire.begin(fields)
        event = await self._wire.event()
        if not isinstance(event, h2.events.ResponseReceived):
            raise Failed("protocol", "no response to the opening of a WebSocket")
        status = {str(name): str(value) for name, value in event.headers or ()}.get(":status", "none")
        if status != "200":
            raise Failed(f"http_{status}", f"status {status} instead of a WebSocket")

    async def _send(self, data: bytes) -> None:
        await self._wire.send(data)

    async def _receive(self) -> bytes:
        while True:
            event = await self._wire.event()
            if isinstance(event, h2.events.DataReceived) and event.data:
                return event.data
            if isinstance(event, h2.events.StreamEnded):
                raise Failed("closed", "the stream ended without a close frame")

    def abort(self) -> None:
        self._wire.abort()
