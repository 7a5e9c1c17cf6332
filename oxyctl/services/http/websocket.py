"""A WebSocket that echoes messages, compressed if the client offers permessage-deflate."""

from __future__ import annotations

import base64
import hashlib
from asyncio import StreamReader, StreamWriter
from collections.abc import Sequence

import h11
from wsproto.connection import Connection, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Event, Ping, TextMessage
from wsproto.utilities import ProtocolError

from oxyctl.services.http.h2_stream import Stream
from oxyctl.services.http.messages import Header
from proxy.wire.deflate import Deflate

PATH = "/ws"
_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455 1.3
_READ_BYTES = 256 << 10


def is_upgrade(request: h11.Request) -> bool:
    """Whether the request asks for a WebSocket."""
    fields = {name: value.lower() for name, value in request.headers}
    path = request.target.partition(b"?")[0]
    return path == PATH.encode() and fields.get(b"upgrade") == b"websocket" and b"sec-websocket-key" in fields


async def serve(http: h11.Connection, request: h11.Request, reader: StreamReader, writer: StreamWriter) -> None:
    """Accept, and echo until either side closes."""
    fields = dict(request.headers)
    accept = base64.b64encode(hashlib.sha1(fields[b"sec-websocket-key"] + _GUID, usedforsecurity=False).digest())
    headers = [("Upgrade", "websocket"), ("Connection", "Upgrade"), ("Sec-WebSocket-Accept", accept.decode())]
    agreed, extensions = _negotiate_compression(fields.get(b"sec-websocket-extensions", b"").decode("latin-1"))
    headers += agreed
    while http.next_event() is not h11.PAUSED:
        pass  # the end of the request's empty body
    writer.write(http.send(h11.InformationalResponse(status_code=101, headers=headers)))
    await _echo(Connection(ConnectionType.SERVER, [*extensions], http.trailing_data[0]), reader, writer)


async def serve_stream(fields: Sequence[Header], stream: Stream) -> None:
    """As `serve`, on a stream of HTTP/2, by extended CONNECT (RFC 8441)."""
    agreed, extensions = _negotiate_compression(dict(fields).get("sec-websocket-extensions", ""))
    stream.send_fields(200, agreed)
    await _echo(Connection(ConnectionType.SERVER, [*extensions]), stream, stream)
    await stream.close()


def _negotiate_compression(offered: str) -> tuple[list[Header], list[Deflate]]:
    """The header and extension for the first acceptable offer of permessage-deflate; empty if there is none."""
    for offer in offered.split(","):
        deflate = Deflate()
        if offer.strip().startswith(deflate.name) and isinstance(agreed := deflate.accept(offer.strip()), str):
            value = f"{deflate.name}; {agreed}" if agreed else deflate.name
            return [("Sec-WebSocket-Extensions", value)], [deflate]
    return [], []


async def _echo(frames: Connection, reader: StreamReader | Stream, writer: StreamWriter | Stream) -> None:
    try:
        while True:
            for event in frames.events():
                answer = _answer(event)
                if answer is not None:
                    writer.write(frames.send(answer))
                if isinstance(event, CloseConnection):
                    return
            await writer.drain()
            frames.receive_data(await reader.read(_READ_BYTES) or None)
    except ProtocolError as error:
        writer.write(frames.send(CloseConnection(code=1002, reason=str(error)[:100])))


def _answer(event: Event) -> Event | None:
    if isinstance(event, TextMessage):
        return TextMessage(
            data=event.data, frame_finished=event.frame_finished, message_finished=event.message_finished
        )
    if isinstance(event, BytesMessage):
        return BytesMessage(
            data=event.data, frame_finished=event.frame_finished, message_finished=event.message_finished
        )
    return event.response() if isinstance(event, Ping | CloseConnection) else None
