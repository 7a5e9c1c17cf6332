"""One HTTP/2 connection of a run, whose streams follow one another, one exchange each."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Sequence

import h2.config
import h2.connection
import h2.events
import h2.exceptions
import h2.settings

from oxyctl.traffic.failures import Failed
from oxyctl.traffic.http_connection import READ_BYTES, Stale

WINDOW_BYTES = 1 << 24
SETTINGS_S = 2.0
Fields = Sequence[tuple[str, str]]


class Http2Wire:
    """The part of HTTP/2 that both requests and WebSockets need."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._h2 = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="latin-1"))
        values = {h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: WINDOW_BYTES, h2.settings.SettingCodes.ENABLE_PUSH: 0}
        self._h2.local_settings = h2.settings.Settings(client=True, initial_values=values)
        self._h2.initiate_connection()
        self._h2.increment_flow_control_window(WINDOW_BYTES)
        self._events: deque[h2.events.Event] = deque()
        self._stream = 0
        self._is_used = self._is_over = False

    @property
    def is_open(self) -> bool:
        """Whether the connection can carry another stream, as far as is known."""
        return not self._is_over and not self._reader.at_eof()

    async def wait_for_websocket_support(self) -> None:
        """Return when the server has announced extended CONNECT (RFC 8441 3). Failed: it does not.

        A relay may announce it later than in its first settings, once its own origin has announced it.
        """
        try:
            async with asyncio.timeout(SETTINGS_S):
                while not self._h2.remote_settings.enable_connect_protocol:
                    await self._next()
        except TimeoutError:
            raise Failed("protocol", "the server does not support WebSockets over HTTP/2") from None

    async def begin(self, fields: Fields, *, ends: bool = False) -> None:
        """Open a new stream, whose events come next. Stale, Failed, OSError."""
        self._stream = self._h2.get_next_available_stream_id()
        self._h2.send_headers(self._stream, fields, end_stream=ends)
        await self.flush()

    async def send(self, data: bytes, *, ends: bool = False) -> None:
        """Send a part of the stream's body, as flow control allows."""
        view = memoryview(data)
        while view:
            room = min(self._h2.local_flow_control_window(self._stream), self._h2.max_outbound_frame_size)
            if room > 0:
                self._h2.send_data(self._stream, bytes(view[:room]), end_stream=ends and len(view) <= room)
                view = view[room:]
                await self.flush()
            else:
                await self._receive()

    async def event(self) -> h2.events.Event:
        """The next event of this stream. Stale, Failed, OSError."""
        while True:
            event = await self._next()
            if isinstance(event, h2.events.StreamReset) and event.stream_id == self._stream:
                raise Failed("stream_reset", f"the server reset the stream with code {event.error_code}")
            if getattr(event, "stream_id", None) == self._stream:
                self._is_used = True
                return event

    async def flush(self) -> None:
        """Send pending bytes."""
        self._writer.write(self._h2.data_to_send())
        await self._writer.drain()

    async def close(self) -> None:
        """Send GOAWAY and close."""
        self._h2.close_connection()
        self._writer.write(self._h2.data_to_send())
        self._writer.close()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()

    def abort(self) -> None:
        """Close without GOAWAY."""
        self._writer.transport.abort()

    async def _next(self) -> h2.events.Event:
        while not self._events:
            await self._receive()
        return self._events.popleft()

    async def _receive(self) -> None:
        data = await self._reader.read(READ_BYTES)
        if not data:
            raise Stale if self._is_used else Failed("closed", "the connection was closed without a response")
        try:
            events = self._h2.receive_data(data)
        except h2.exceptions.ProtocolError as error:
            raise Failed("protocol", str(error)) from None
        for event in events:
            if isinstance(event, h2.events.DataReceived):
                self._h2.acknowledge_received_data(event.flow_controlled_length or 0, event.stream_id or 0)
            self._is_over = self._is_over or isinstance(event, h2.events.ConnectionTerminated)
        self._events += events
        await self.flush()
