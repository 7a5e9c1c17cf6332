"""One HTTP/2 connection, parsed by h2, with a task for each stream."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable

import h2.config
import h2.connection
import h2.events
import h2.exceptions
import h2.settings
from h2.errors import ErrorCodes

from oxyctl.services.host import Host
from oxyctl.services.http import websocket
from oxyctl.services.http.answering import BODILESS, answer, header_fields, log_request, split_target
from oxyctl.services.http.broken import Broken, h2_response
from oxyctl.services.http.closing import READ_BYTES, cut, linger
from oxyctl.services.http.h2_stream import Stream, StreamReset
from oxyctl.services.http.messages import Header, Part, Refused, Request, Response

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"  # RFC 9113 3.4
WINDOW_BYTES = 1 << 20  # per stream; the connection's is four times as large
MAX_STREAMS = 256
Codes = h2.settings.SettingCodes


class Http2Connection:
    """The streams of one connection. Received data is acknowledged as the body of its stream is read."""

    def __init__(self, host: Host, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._host, self._reader, self._writer = host, reader, writer
        self._scheme = "https" if writer.get_extra_info("ssl_object") else "http"
        self._h2 = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False, header_encoding="latin-1"))
        values = {
            Codes.INITIAL_WINDOW_SIZE: WINDOW_BYTES,
            Codes.MAX_CONCURRENT_STREAMS: MAX_STREAMS,
            Codes.ENABLE_CONNECT_PROTOCOL: 1,
        }
        self._h2.local_settings = h2.settings.Settings(client=False, initial_values=values)
        self._streams: dict[int, Stream] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_over = False

    async def serve(self, received: bytes = b"") -> None:
        """Serve until either side ends the connection. `received`: bytes already read from it."""
        self._h2.initiate_connection()
        self._h2.increment_flow_control_window(4 * WINDOW_BYTES - 65_535)
        try:
            data = received or await self._reader.read(READ_BYTES)
            while data and not self._is_over:
                for event in self._h2.receive_data(data):
                    self._handle(event)
                await self._flush()
                data = await self._reader.read(READ_BYTES)
        except h2.exceptions.ProtocolError:  # h2 has queued a GOAWAY with the reason
            await self._flush()
            await linger(self._reader, self._writer)
        finally:
            for stream in self._streams.values():
                stream.end(reset=True)
            for task in self._tasks:
                task.cancel()
            if self._tasks:
                await asyncio.wait(self._tasks)

    async def _flush(self) -> None:
        """Send h2's pending bytes, as fast as the peer reads them."""
        if data := self._h2.data_to_send():
            self._writer.write(data)
            await self._writer.drain()

    def _handle(self, event: h2.events.Event) -> None:
        match event:
            case h2.events.RequestReceived(stream_id=number, headers=fields) if number and fields is not None:
                self._begin(number, fields)  # type: ignore[arg-type]  # text, as the configuration says
            case h2.events.DataReceived(stream_id=number, data=data, flow_controlled_length=length):
                if stream := self._streams.get(number):
                    stream.feed(data or b"", length or 0)
                else:  # already answered; its body is still arriving
                    self._h2.acknowledge_received_data(length or 0, number)
            case h2.events.StreamEnded(stream_id=number) | h2.events.StreamReset(stream_id=number):
                if stream := self._streams.get(number):
                    stream.end(reset=isinstance(event, h2.events.StreamReset))
            case h2.events.WindowUpdated() | h2.events.RemoteSettingsChanged():
                for stream in self._streams.values():
                    stream.opened.set()
            case h2.events.ConnectionTerminated():
                self._is_over = True

    def _begin(self, number: int, fields: list[Header]) -> None:
        stream = self._streams[number] = Stream(self._h2, number, self._flush)
        task = asyncio.create_task(self._serve_stream(stream, fields))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve_stream(self, stream: Stream, fields: list[Header]) -> None:
        try:
            await self._serve_request(stream, fields)
        except Broken as broken:
            await self._break(stream, broken)
        except (StreamReset, OSError, h2.exceptions.ProtocolError):  # client gone, or stream reset
            pass
        finally:
            self._streams.pop(stream.number, None)
            stream.forget()
            await self._flush()

    async def _serve_request(self, stream: Stream, fields: list[Header]) -> None:
        pseudo = {name: value for name, value in fields if name.startswith(":")}
        request = self._request(stream, pseudo, [field for field in fields if not field[0].startswith(":")])
        if pseudo.get(":protocol") == "websocket" and request.path == websocket.PATH:
            log_request(self._host, request, 200, self._writer)
            await websocket.serve_stream(request.headers, stream)
            return
        if request.method == "CONNECT":
            response = Refused(501, "CONNECT is not supported").response()
        else:
            if (request.header("expect") or "").lower() == "100-continue":
                stream.send_fields(100, [])
                await self._flush()
            response = await answer(request, self._host)
        log_request(self._host, request, response.status, self._writer)
        try:
            await self._send(stream, response, with_body=request.method != "HEAD")
        finally:
            if isinstance(response.body, Part):
                response.body.file.close()

    def _request(self, stream: Stream, pseudo: dict[str, str], fields: list[Header]) -> Request:
        target = pseudo.get(":path", "/")
        try:
            path, query = split_target(target)
        except Refused:
            path, query = target, {}
        names = [] if "host" in dict(fields) else [("host", pseudo.get(":authority", ""))]
        return Request(
            method=pseudo[":method"],
            target=target,
            path=path,
            query=query,
            version="2",
            headers=[*names, *fields],
            body=stream.pieces(),
            client=self._writer.get_extra_info("peername")[:2],
            server=self._writer.get_extra_info("sockname")[:2],
            scheme=self._scheme,
        )

    async def _send(self, stream: Stream, response: Response, *, with_body: bool) -> None:
        has_body = with_body and response.status not in BODILESS and response.length != 0
        stream.send_fields(response.status, header_fields(response), ends=not has_body and not response.trailers)
        await self._flush()
        if has_body:
            await self._send_body(stream, response)
        if response.trailers:
            self._h2.send_headers(stream.number, response.trailers, end_stream=True)
        elif has_body:
            self._h2.end_stream(stream.number)
        await self._flush()

    async def _send_body(self, stream: Stream, response: Response) -> None:
        body = response.body
        if isinstance(body, bytes):
            await stream.send(body)
        elif isinstance(body, Part):
            body.file.seek(body.start)
            remaining = body.length
            while remaining and (piece := body.file.read(min(remaining, READ_BYTES))):
                await stream.send(piece)
                remaining -= len(piece)
        elif isinstance(body, AsyncIterable):
            async for part in body:
                await stream.send(part)
        else:
            for part in body:
                await stream.send(part)

    async def _break(self, stream: Stream, broken: Broken) -> None:
        """The closest HTTP/2 equivalent of a response that breaks HTTP/1.1."""
        fields, data, ends = h2_response(broken.kind)
        if fields:
            stream.send_fields(200, fields)
            await stream.send(data)
        if ends == "stream":
            self._h2.end_stream(stream.number)
        elif ends == "reset":
            self._h2.reset_stream(stream.number, ErrorCodes.INTERNAL_ERROR)
        else:
            await self._flush()
            self._is_over = True
            cut(self._writer, broken.answer if broken.kind == "garbage" else b"")
