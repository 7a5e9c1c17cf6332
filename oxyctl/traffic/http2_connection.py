"""One HTTP/2 connection of a run, with the interface of `http_connection.Connection`."""

from __future__ import annotations

import asyncio

import h2.events
import h11

from oxyctl.traffic.http2_wire import Http2Wire
from oxyctl.traffic.http_connection import Answer

CONNECTION_HEADERS = {b"connection", b"host", b"transfer-encoding"}  # not allowed in HTTP/2 (RFC 9113 8.2.2)


class Http2Connection:
    """One request after another, each on a stream of its own."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._wire = Http2Wire(reader, writer)
        self._scheme = "https" if writer.get_extra_info("ssl_object") else "http"

    @property
    def is_reusable(self) -> bool:
        """Whether the connection can carry another request."""
        return self._wire.is_open

    async def fetch(self, request: h11.Request, body: bytes, *, keep: bool) -> Answer:
        """Send a request and return the whole response. Stale, Failed or an OSError."""
        answer = Answer(keep)
        await self._wire.begin(self._fields(request), ends=not body)
        await self._wire.send(body, ends=True)
        while not isinstance(event := await self._wire.event(), h2.events.StreamEnded):
            if isinstance(event, h2.events.ResponseReceived):
                fields = {str(name): str(value) for name, value in event.headers or ()}
                answer.begin(int(fields.pop(":status")), "", fields.items())
            elif isinstance(event, h2.events.DataReceived):
                answer.add(event.data or b"")
        return answer

    async def close(self) -> None:
        """Send GOAWAY and close."""
        await self._wire.close()

    def abort(self) -> None:
        """Close without GOAWAY."""
        self._wire.abort()

    def _fields(self, request: h11.Request) -> list[tuple[str, str]]:
        host = dict(request.headers)[b"host"].decode("latin-1")
        method, path = request.method.decode(), request.target.decode("latin-1")
        fields = [(":method", method), (":scheme", self._scheme), (":authority", host), (":path", path)]
        return fields + [
            (name.decode(), value.decode("latin-1"))
            for name, value in request.headers
            if name not in CONNECTION_HEADERS
        ]
