"""One HTTP/1.1 connection: requests one after another, parsed by h11."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Iterable

import h11

from oxyctl.services.host import Host
from oxyctl.services.http import websocket
from oxyctl.services.http.answering import BODILESS, answer, header_fields, log_request, split_target
from oxyctl.services.http.broken import Broken
from oxyctl.services.http.closing import READ_BYTES, linger, reset
from oxyctl.services.http.messages import Part, Piece, Refused, Request, Response

MAX_HEAD_BYTES = 64 << 10


class HttpConnection:
    """Reads requests, finds their resources, writes the responses. A request's body is read as it is asked for."""

    def __init__(self, host: Host, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._host, self._reader, self._writer = host, reader, writer
        self._h11 = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD_BYTES)
        self._scheme = "https" if writer.get_extra_info("ssl_object") else "http"

    async def serve(self, received: bytes = b"") -> None:
        """Serve until either side ends the connection. `received`: bytes already read from it."""
        if received:
            self._h11.receive_data(received)
        try:
            while await self._serve_one():
                pass
        except h11.RemoteProtocolError as error:
            await self._refuse(error)
        except Broken as broken:
            self._writer.write(broken.answer)
            await self._writer.drain()
            if broken.kind == "reset":
                reset(self._writer)

    async def _serve_one(self) -> bool:
        event = await self._next_event()
        if not isinstance(event, h11.Request):
            return False
        if websocket.is_upgrade(event):
            await websocket.serve(self._h11, event, self._reader, self._writer)
            return False
        if self._h11.they_are_waiting_for_100_continue:
            self._write(h11.InformationalResponse(status_code=100, headers=[]))
        await self._answer(event)
        return await self._next_cycle()

    async def _next_event(self) -> h11.Event | type[h11.PAUSED]:
        while True:
            event = self._h11.next_event()
            if event is not h11.NEED_DATA:
                return event  # type: ignore[return-value]  # h11's sentinels are their own types
            self._h11.receive_data(await self._reader.read(READ_BYTES))

    async def _next_cycle(self) -> bool:
        """Discard the rest of the request's body. Returns whether another request may follow."""
        while self._h11.their_state is h11.SEND_BODY:
            await self._next_event()
        if self._h11.states != {h11.CLIENT: h11.DONE, h11.SERVER: h11.DONE}:
            return False
        self._h11.start_next_cycle()
        return True

    async def _answer(self, event: h11.Request) -> None:
        try:
            request = self._request(event)
        except Refused as refused:
            await self._send(refused.response(), with_body=event.method != b"HEAD")
            return
        response = await answer(request, self._host)
        try:
            await self._send(response, with_body=event.method != b"HEAD")
        finally:
            if isinstance(response.body, Part):
                response.body.file.close()
        log_request(self._host, request, response.status, self._writer)

    def _request(self, event: h11.Request) -> Request:
        target = event.target.decode("latin-1")
        path, query = split_target(target)
        return Request(
            method=event.method.decode(),
            target=target,
            path=path,
            query=query,
            version=event.http_version.decode(),
            headers=[(name.decode(), value.decode("latin-1")) for name, value in event.headers],
            body=self._body(),
            client=self._writer.get_extra_info("peername")[:2],
            server=self._writer.get_extra_info("sockname")[:2],
            scheme=self._scheme,
        )

    async def _body(self) -> AsyncIterator[bytes]:
        while isinstance(event := await self._next_event(), h11.Data):
            yield event.data

    async def _send(self, response: Response, *, with_body: bool) -> None:
        head = h11.Response(status_code=response.status, headers=header_fields(response))
        if not with_body or response.status in BODILESS:
            self._write(head, h11.EndOfMessage())
        elif isinstance(response.body, bytes):
            self._write(head, h11.Data(data=response.body), h11.EndOfMessage())
        else:
            self._write(head)
            await self._send_body(response.body)
            self._write(h11.EndOfMessage())
        await self._writer.drain()

    async def _send_body(self, body: Iterable[Piece] | AsyncIterable[Piece] | Part) -> None:
        if isinstance(body, Part):
            await self._send_part(body)
        elif isinstance(body, AsyncIterable):
            async for piece in body:
                await self._send_piece(piece)
        else:
            for piece in body:
                await self._send_piece(piece)

    async def _send_piece(self, piece: Piece) -> None:
        for data in self._h11.send_with_data_passthrough(h11.Data(data=piece)) or ():  # type: ignore[arg-type]
            self._writer.write(data)
        await self._writer.drain()

    async def _send_part(self, part: Part) -> None:
        if not part.length:
            return
        self._h11.send_with_data_passthrough(h11.Data(data=part))  # type: ignore[arg-type]  # h11 only asks its length
        loop = asyncio.get_running_loop()
        sent = await loop.sendfile(self._writer.transport, part.file, part.start, part.length)
        if sent != part.length:
            raise ConnectionAbortedError("the file has shrunk")

    def _write(self, *events: h11.Event) -> None:
        self._writer.write(b"".join(self._h11.send(event) or b"" for event in events))

    async def _refuse(self, error: h11.RemoteProtocolError) -> None:
        """Send the error if still possible, and read for a moment: closing at once would send RST."""
        if self._h11.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            await self._send(Refused(error.error_status_hint, str(error)).response(), with_body=True)
        await linger(self._reader, self._writer)
