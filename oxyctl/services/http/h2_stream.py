"""One HTTP/2 stream: its received body, and sending within the flow control windows."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable

import h2.connection

from oxyctl.services.http.messages import Header, Piece


class StreamReset(Exception):
    """The peer has reset the stream."""


class Stream:
    """One exchange. `read`, `write` and `drain` are those of a connection, so that a stream can be used as one."""

    def __init__(
        self, connection: h2.connection.H2Connection, number: int, flush: Callable[[], Awaitable[None]]
    ) -> None:
        """`flush` sends the pending bytes of `connection`."""
        self.number = number
        self.opened = asyncio.Event()  # pulsed when more may be sent
        self._h2, self._flush = connection, flush
        self._received: deque[tuple[bytes, int]] = deque()  # with the number of bytes to acknowledge
        self._arrived = asyncio.Event()
        self._written = bytearray()
        self._is_ended = self._is_reset = False

    def feed(self, data: bytes, length: int) -> None:
        """Add a part of the body."""
        self._received.append((data, length))
        self._arrived.set()

    def end(self, *, reset: bool) -> None:
        """Mark the end of the body."""
        self._is_ended, self._is_reset = True, reset
        self._arrived.set()
        self.opened.set()

    def forget(self) -> None:
        """Stop reading. Received data is acknowledged, so that the connection's window stays open."""
        for _, length in self._received:
            self._h2.acknowledge_received_data(length, self.number)
        self._received.clear()

    async def pieces(self) -> AsyncIterator[bytes]:
        """The body as it arrives. StreamReset."""
        while data := await self.read():
            yield data

    async def read(self, _size: int = 0) -> bytes:
        """The next part of the body; empty at its end. StreamReset."""
        while True:
            while self._received:
                data, length = self._received.popleft()
                if length:
                    self._h2.acknowledge_received_data(length, self.number)
                    await self._flush()
                if data:
                    return data
            if self._is_reset:
                raise StreamReset
            if self._is_ended:
                return b""
            self._arrived.clear()
            await self._arrived.wait()

    def send_fields(self, status: int, fields: list[Header], *, ends: bool = False) -> None:
        """Send headers, final or not. The caller flushes."""
        lower = [(name.lower(), value) for name, value in fields]
        self._h2.send_headers(self.number, [(":status", str(status)), *lower], end_stream=ends)

    async def send(self, piece: Piece) -> None:
        """Send a part of the body, as flow control allows. StreamReset."""
        connection, view = self._h2, memoryview(piece)
        while view:
            self.opened.clear()
            if self._is_reset:
                raise StreamReset
            room = min(connection.local_flow_control_window(self.number), connection.max_outbound_frame_size)
            if room <= 0:
                await self.opened.wait()
                continue
            connection.send_data(self.number, bytes(view[:room]))
            view = view[room:]
            await self._flush()

    def write(self, data: bytes) -> None:
        """Buffer data for `drain`."""
        self._written += data

    async def drain(self) -> None:
        """Send buffered data, and h2's other pending bytes. StreamReset."""
        data, self._written = bytes(self._written), bytearray()
        await self.send(data)
        await self._flush()

    async def close(self) -> None:
        """Send buffered data, and end the stream."""
        await self.drain()
        self._h2.end_stream(self.number)
