"""HTTP requests by h11, over connections that are used again or not."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import ssl

import h11

from oxyctl.traffic.config import HttpTraffic
from oxyctl.traffic.drive import drive
from oxyctl.traffic.failures import Failed, Unusable
from oxyctl.traffic.tally import Tally
from oxyctl.traffic.targets import Url, parse_url

READ_BYTES = 256 << 10
KEPT_BYTES = 1 << 20  # of a body, for the detail of a report
FIRST_ERROR = 400


async def run(traffic: HttpTraffic, address: str, tally: Tally) -> None:
    """Requests until there have been enough; a status of 400 or more is a failure, `http_503`."""
    client = HttpClient(traffic, address, tally)
    try:
        await drive(traffic, client.exchange, tally)
    finally:
        tally.extra["connections"] = client.opened
        await client.close()


class HttpClient:
    """The requests of one run, and the connections that wait for their next one."""

    def __init__(self, traffic: HttpTraffic, address: str, tally: Tally) -> None:
        self._traffic, self._address, self._tally = traffic, address, tally
        self._url = parse_url(traffic.target)
        self._tls = _tls(traffic) if self._url.scheme == "https" else None
        self._request = _request(traffic, self._url)
        self._body = bytes(traffic.size)
        self._idle: list[_Connection] = []
        self._closing: set[asyncio.Task[None]] = set()
        self.opened = 0

    async def exchange(self, number: int) -> None:
        """One request and its response. A used connection may turn out to be closed: no failure (RFC 9112 9.3.1)."""
        while self._idle:
            with contextlib.suppress(_Stale):
                await self._ask(self._idle.pop())
                return
        await self._ask(await self._open())

    async def close(self) -> None:
        """Let go of every connection."""
        for connection in self._idle:
            self._close(connection)
        if self._closing:
            await asyncio.wait(self._closing)

    async def _open(self) -> _Connection:
        endpoint = self._url.endpoint
        reader, writer = await asyncio.open_connection(
            self._address,
            endpoint.port,
            limit=READ_BYTES,
            ssl=self._tls,
            server_hostname=endpoint.host if self._tls else None,
        )
        self.opened += 1
        return _Connection(reader, writer)

    async def _ask(self, connection: _Connection) -> None:
        try:
            answer = await connection.ask(self._request, self._body, keep=self._traffic.detail)
        except BaseException:
            connection.abort()
            raise
        self._note(answer)
        if connection.is_reusable and self._traffic.keep_alive:
            self._idle.append(connection)
        else:
            self._close(connection)
        if answer.status >= FIRST_ERROR:
            raise Failed(f"http_{answer.status}", f"{answer.status} {answer.reason}")

    def _note(self, answer: _Answer) -> None:
        self._tally.bytes_sent += len(self._body)
        self._tally.bytes_received += answer.length
        self._tally.statuses[str(answer.status)] += 1
        if self._traffic.detail:
            self._tally.detail = answer.detail()

    def _close(self, connection: _Connection) -> None:
        task = asyncio.create_task(connection.close())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)


class _Stale(Exception):
    """The server had closed the connection before it heard of the request."""


class _Answer:
    """A response as it is read."""

    def __init__(self, keep: bool) -> None:
        self.status, self.reason, self.length = 0, "", 0
        self._headers: dict[str, str] = {}
        self._digest = hashlib.sha256() if keep else None
        self._kept = bytearray()

    def begin(self, response: h11.Response) -> None:
        self.status, self.reason = response.status_code, response.reason.decode("latin-1")
        if self._digest is not None:
            self._headers = {name.decode(): value.decode("latin-1") for name, value in response.headers}

    def add(self, data: bytes | bytearray) -> None:
        self.length += len(data)
        if self._digest is not None:
            self._digest.update(data)
            self._kept += data[: max(0, KEPT_BYTES - len(self._kept))]

    def detail(self) -> dict[str, object]:
        assert self._digest is not None
        return {
            "status": self.status,
            "reason": self.reason,
            "headers": self._headers,
            "length": self.length,
            "sha256": self._digest.hexdigest(),
            "body": self._kept.decode(errors="replace"),
        }


class _Connection:
    """One connection to the server."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._h11 = h11.Connection(h11.CLIENT)
        self._is_used = False

    @property
    def is_reusable(self) -> bool:
        """Whether it can carry another request."""
        return self._h11.our_state is h11.IDLE

    async def ask(self, request: h11.Request, body: bytes, *, keep: bool) -> _Answer:
        """The whole response; _Stale, Failed or an OSError."""
        answer = _Answer(keep)
        try:
            self._writer.write(self._encode(request, body))
            await self._writer.drain()
            await self._read(answer)
        except h11.RemoteProtocolError as error:
            raise self._end(answer) or Failed("protocol", str(error)) from None
        except ConnectionError:
            if (end := self._end(answer)) is not None and self._is_used:
                raise end from None
            raise
        self._is_used = True
        if self._h11.states == {h11.CLIENT: h11.DONE, h11.SERVER: h11.DONE}:
            self._h11.start_next_cycle()
        return answer

    async def close(self) -> None:
        """Say goodbye."""
        self._writer.close()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()

    def abort(self) -> None:
        """Drop it."""
        self._writer.transport.abort()

    def _encode(self, request: h11.Request, body: bytes) -> bytes:
        parts = [self._h11.send(request), self._h11.send(h11.Data(data=body)) if body else b""]
        return b"".join(part for part in (*parts, self._h11.send(h11.EndOfMessage())) if part)

    async def _read(self, answer: _Answer) -> None:
        while True:
            event = self._h11.next_event()
            if event is h11.NEED_DATA:
                self._h11.receive_data(await self._reader.read(READ_BYTES))
            elif isinstance(event, h11.Response):
                answer.begin(event)
            elif isinstance(event, h11.Data):
                answer.add(event.data)
            elif isinstance(event, h11.EndOfMessage):
                return
            elif isinstance(event, h11.ConnectionClosed):
                raise self._end(answer) or Failed("closed", "the connection was closed in the middle of the response")

    def _end(self, answer: _Answer) -> Exception | None:
        """What it means when the connection ends now, before any response; None: there is one."""
        if answer.status or not (self._reader.at_eof() or self._reader.exception()):
            return None
        return _Stale() if self._is_used else Failed("closed", "the connection was closed without a response")


def _request(traffic: HttpTraffic, url: Url) -> h11.Request:
    headers = {"Host": url.host_header, "User-Agent": "oxyctl", "Accept": "*/*"}
    if traffic.size or traffic.method in ("POST", "PUT"):
        headers["Content-Length"] = str(traffic.size)
    if not traffic.keep_alive:
        headers["Connection"] = "close"
    try:
        return h11.Request(method=traffic.method, target=url.path, headers=list((headers | traffic.headers).items()))
    except h11.LocalProtocolError as error:
        raise Unusable(f"not an HTTP request: {error}") from None


def _tls(traffic: HttpTraffic) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=traffic.ca)
    except OSError as error:
        raise Unusable(f"cannot read certificates from {traffic.ca}: {error}") from None
    if traffic.ca is None:
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["http/1.1"])
    return context
