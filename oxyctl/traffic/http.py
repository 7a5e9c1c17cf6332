"""HTTP requests by h11, over persistent connections or one connection each."""

from __future__ import annotations

import asyncio
import contextlib

import h11

from oxyctl.traffic.config import HttpTraffic
from oxyctl.traffic.drive import drive
from oxyctl.traffic.failures import Failed, Unusable
from oxyctl.traffic.http2_connection import Http2Connection
from oxyctl.traffic.http_connection import READ_BYTES, Answer, Connection, Stale
from oxyctl.traffic.tally import Tally
from oxyctl.traffic.targets import Url, parse_url
from oxyctl.traffic.tls import client_context

FIRST_ERROR = 400
AnyConnection = Connection | Http2Connection


async def run(traffic: HttpTraffic, address: str, tally: Tally) -> None:
    """Send requests until there have been enough. A status of 400 or more is a failure such as `http_503`."""
    client = HttpClient(traffic, address, tally)
    try:
        await drive(traffic, client.exchange, tally)
    finally:
        tally.extra["connections"] = client.opened
        await client.close()


class HttpClient:
    """The requests of one run, and its idle connections."""

    def __init__(self, traffic: HttpTraffic, address: str, tally: Tally) -> None:
        self._traffic, self._address, self._tally = traffic, address, tally
        self._url = parse_url(traffic.target)
        versions = ["h2"] if traffic.http2 else ["http/1.1"]
        self._tls = client_context(traffic.ca, versions) if self._url.scheme == "https" else None
        self._request = _request(traffic, self._url)
        self._body = bytes(traffic.size)
        self._idle: list[AnyConnection] = []
        self._closing: set[asyncio.Task[None]] = set()
        self.opened = 0

    async def exchange(self, number: int) -> None:
        """Send one request and read its response. If an idle connection was closed, try again (RFC 9112 9.3.1)."""
        while self._idle:
            with contextlib.suppress(Stale):
                await self._fetch(self._idle.pop())
                return
        await self._fetch(await self._open())

    async def close(self) -> None:
        """Close all connections."""
        for connection in self._idle:
            self._close(connection)
        if self._closing:
            await asyncio.wait(self._closing)

    async def _open(self) -> AnyConnection:
        endpoint = self._url.endpoint
        reader, writer = await asyncio.open_connection(
            self._address,
            endpoint.port,
            limit=READ_BYTES,
            ssl=self._tls,
            server_hostname=endpoint.host if self._tls else None,
        )
        self.opened += 1
        return Http2Connection(reader, writer) if self._traffic.http2 else Connection(reader, writer)

    async def _fetch(self, connection: AnyConnection) -> None:
        try:
            answer = await connection.fetch(self._request, self._body, keep=self._traffic.detail)
        except BaseException:
            connection.abort()
            raise
        self._record(answer)
        if connection.is_reusable and self._traffic.keep_alive:
            self._idle.append(connection)
        else:
            self._close(connection)
        if answer.status >= FIRST_ERROR:
            raise Failed(f"http_{answer.status}", f"{answer.status} {answer.reason}")

    def _record(self, answer: Answer) -> None:
        self._tally.bytes_sent += len(self._body)
        self._tally.bytes_received += answer.length
        self._tally.statuses[str(answer.status)] += 1
        if self._traffic.detail:
            self._tally.detail = answer.detail()

    def _close(self, connection: AnyConnection) -> None:
        task = asyncio.create_task(connection.close())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)


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
