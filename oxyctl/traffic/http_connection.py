"""One HTTP connection of a run, and the responses read from it."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import Iterable

import h11

from oxyctl.traffic.failures import Failed

READ_BYTES = 256 << 10
KEPT_BYTES = 1 << 20  # kept of a body, for the detail of a report


class Stale(Exception):
    """The server had closed the connection before it received the request."""


class Answer:
    """A response, as far as it has been read."""

    def __init__(self, keep: bool) -> None:
        self.status, self.reason, self.length = 0, "", 0
        self._headers: dict[str, str] = {}
        self._digest = hashlib.sha256() if keep else None
        self._kept = bytearray()

    def begin(self, status: int, reason: str, headers: Iterable[tuple[str, str]]) -> None:
        self.status, self.reason = status, reason
        if self._digest is not None:
            self._headers = dict(headers)

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


class Connection:
    """One connection to the server."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._h11 = h11.Connection(h11.CLIENT)
        self._is_used = False

    @property
    def is_reusable(self) -> bool:
        """Whether the connection can carry another request."""
        return self._h11.our_state is h11.IDLE

    async def fetch(self, request: h11.Request, body: bytes, *, keep: bool) -> Answer:
        """Send a request and return the whole response. Stale, Failed or an OSError."""
        answer = Answer(keep)
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
        """Close the connection."""
        self._writer.close()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()

    def abort(self) -> None:
        """Abort the connection."""
        self._writer.transport.abort()

    def _encode(self, request: h11.Request, body: bytes) -> bytes:
        parts = [self._h11.send(request), self._h11.send(h11.Data(data=body)) if body else b""]
        return b"".join(part for part in (*parts, self._h11.send(h11.EndOfMessage())) if part)

    async def _read(self, answer: Answer) -> None:
        while True:
            event = self._h11.next_event()
            if event is h11.NEED_DATA:
                self._h11.receive_data(await self._reader.read(READ_BYTES))
            elif isinstance(event, h11.Response):
                fields = [(name.decode(), value.decode("latin-1")) for name, value in event.headers]
                answer.begin(event.status_code, event.reason.decode("latin-1"), fields)
            elif isinstance(event, h11.Data):
                answer.add(event.data)
            elif isinstance(event, h11.EndOfMessage):
                return
            elif isinstance(event, h11.ConnectionClosed):
                raise self._end(answer) or Failed("closed", "the connection was closed in the middle of the response")

    def _end(self, answer: Answer) -> Exception | None:
        """The error if the connection has ended before any response; None: a response has begun."""
        if answer.status or not (self._reader.at_eof() or self._reader.exception()):
            return None
        return Stale() if self._is_used else Failed("closed", "the connection was closed without a response")
