"""HTTP/1.1 on one connection, with h11: reads requests and writes responses. Knows nothing about flows."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from http import HTTPStatus
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, urlsplit

import h11
import msgspec

log = logging.getLogger(__name__)

MAX_HEAD_BYTES = 16 << 10
MAX_BODY_BYTES = 64 << 10
MAX_PARAMETERS = 1000
_READ_BYTES = 4 << 10  # h11 limits incomplete heads only, so a head may exceed the limit by this much


Chunks = AsyncGenerator[bytes, None]


class HttpError(Exception):
    """An error response: its status, one sentence, and its headers."""

    def __init__(self, status: int, message: str, headers: tuple[tuple[str, str], ...] = ()) -> None:
        super().__init__(message)
        self.status, self.message, self.headers = status, message, headers


class Request(NamedTuple):
    method: str
    path: str
    parameters: list[tuple[str, str]]
    body: bytes = b""


class Response(msgspec.Struct, kw_only=True):
    """A response. A body in chunks is sent as they arrive. `is_watch`: it ends when the client hangs up."""

    body: bytes | Chunks
    status: int = 200
    content_type: str = "application/json"
    headers: tuple[tuple[str, str], ...] = ()
    is_watch: bool = False
    done: Callable[[], None] = lambda: None  # called once, however the response ends


Handler = Callable[[Request], Awaitable[Response]]


def error_response(error: HttpError) -> Response:
    body = msgspec.json.encode({"error": error.message}) + b"\n"
    return Response(status=error.status, body=body, headers=error.headers)


class HttpConnection:
    """Serves one client until it hangs up, violates the protocol, or is idle for too long."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, handler: Handler, timeout_s: float
    ) -> None:
        self._reader, self._writer, self._handler, self._timeout_s = reader, writer, handler, timeout_s
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD_BYTES)
        self._method = b""
        self.is_busy = False  # a request is being answered
        self.is_finishing = False  # whether the current response is the last

    async def serve(self) -> None:
        """Answer requests one after another, then close."""
        try:
            while await self._exchange() and not self.is_finishing:
                self._http.start_next_cycle()
        except (OSError, TimeoutError):
            pass  # the client hung up, or neither sends nor reads
        except asyncio.CancelledError:
            self._writer.transport.abort()  # the caller that cancels has waited long enough
            raise
        finally:
            await self._close()

    async def _close(self) -> None:
        self._writer.close()
        try:
            async with asyncio.timeout(1):
                await self._writer.wait_closed()
        except (OSError, TimeoutError):
            self._writer.transport.abort()

    async def _exchange(self) -> bool:
        """Answer one request. Returns whether another can follow."""
        self.is_busy, self._method = False, b""
        try:
            async with asyncio.timeout(self._timeout_s):
                request = await self._read_request()
            if request is None:
                return False
            self.is_busy = True
            response = await self._handler(request)
        except HttpError as error:
            response = error_response(error)
        except h11.RemoteProtocolError as error:
            response = error_response(HttpError(error.error_status_hint, f"bad HTTP: {error}"))
        if self._http.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            return False
        await self._send(response)
        return self._http.states == {h11.CLIENT: h11.DONE, h11.SERVER: h11.DONE}

    async def _read_request(self) -> Request | None:
        """The next request and its body, or None if the client has hung up."""
        event = await self._next_event()
        if not isinstance(event, h11.Request):
            return None
        self._method = event.method
        body = bytearray()
        while not isinstance(part := await self._next_event(), h11.EndOfMessage):
            if not isinstance(part, h11.Data):
                return None
            body += part.data
            if len(body) > MAX_BODY_BYTES:
                raise HttpError(413, f"a request body may have {MAX_BODY_BYTES} bytes")
        return _parse_request(event, bytes(body))

    async def _next_event(self) -> Any:
        while (event := self._http.next_event()) is h11.NEED_DATA:
            if self._http.they_are_waiting_for_100_continue:
                await self._write(self._http.send(h11.InformationalResponse(status_code=100, headers=[])))
            self._http.receive_data(await self._reader.read(_READ_BYTES))
        return event

    async def _send(self, response: Response) -> None:
        try:
            body = response.body
            headers = [("content-type", response.content_type), *response.headers]
            if isinstance(body, bytes):
                headers.append(("content-length", str(len(body))))
            if response.is_watch or self.is_finishing or self._http.their_state is not h11.DONE:
                headers.append(("connection", "close"))
            reason = HTTPStatus(response.status).phrase
            head = h11.Response(status_code=response.status, headers=headers, reason=reason)
            await self._write(self._http.send(head))
            if self._method != b"HEAD":
                await self._send_body(body, response.is_watch)
            await self._write(self._http.send(h11.EndOfMessage()))
        finally:
            response.done()

    async def _send_body(self, body: bytes | Chunks, is_watch: bool) -> None:
        if isinstance(body, bytes):
            await self._write(self._http.send(h11.Data(data=body)))
        elif not is_watch:
            async with contextlib.aclosing(body):
                async for chunk in body:
                    await self._write(self._http.send(h11.Data(data=chunk)))
        else:
            await self._send_until_hangup(body)

    async def _send_until_hangup(self, body: Chunks) -> None:
        async def pump() -> None:
            async with contextlib.aclosing(body):
                async for chunk in body:
                    self._writer.write(self._http.send(h11.Data(data=chunk)) or b"")
                    await self._writer.drain()  # no timeout: a watcher behind a pager may stop reading for hours

        async def hangup() -> None:
            while await self._reader.read(_READ_BYTES):
                pass

        tasks = {asyncio.create_task(pump()), asyncio.create_task(hangup())}
        try:
            finished, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        for task in finished:
            task.result()

    async def _write(self, data: bytes | None) -> None:
        self._writer.write(data or b"")
        async with asyncio.timeout(self._timeout_s):
            await self._writer.drain()


def _parse_request(event: h11.Request, body: bytes) -> Request:
    if event.http_version not in (b"1.0", b"1.1"):
        raise HttpError(505, "only HTTP/1.0 and HTTP/1.1 are supported", (("connection", "close"),))
    try:
        target = urlsplit(event.target.decode("ascii"))
        parameters = parse_qsl(target.query, keep_blank_values=True, errors="strict", max_num_fields=MAX_PARAMETERS)
    except ValueError as error:
        raise HttpError(400, f"bad request target: {error}") from None
    return Request(event.method.decode("ascii"), target.path, parameters, body)
