"""A watcher of flow events: a bounded queue between the proxy, which never waits, and a client, which may be slow."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable

import msgspec

from proxy.control.schema import Lost
from proxy.flow.record import FlowRecord

QUEUE_EVENTS = 4096
_CHUNK_EVENTS = 256
_encode = msgspec.json.Encoder().encode


class Watcher:
    """Takes events by `put`, and returns them as NDJSON. A gap is a line `{"lost": n}` at its place."""

    def __init__(self, matches: Callable[[FlowRecord], bool], *, queue_events: int = QUEUE_EVENTS) -> None:
        self._matches, self._capacity = matches, queue_events
        self._queue: deque[FlowRecord | int] = deque()  # a number stands for so many missing events
        self._ready = asyncio.Event()
        self._closed = False

    def put(self, record: FlowRecord) -> None:
        """Queue an event, or count it as lost. Does not block."""
        if not self._matches(record):
            return
        queue = self._queue
        if len(queue) < self._capacity:
            queue.append(record)
        elif isinstance(queue[-1], int):
            queue[-1] += 1
        else:
            queue.append(1)
        self._ready.set()

    def close(self) -> None:
        """End the watch, after the events already queued."""
        self._closed = True
        self._ready.set()

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """Lines, several at once if several are queued, until `close`."""
        while self._queue or not self._closed:
            await self._ready.wait()
            if not self._closed:
                self._ready.clear()
            while self._queue:
                count = min(len(self._queue), _CHUNK_EVENTS)
                lines = [_line(self._queue.popleft()) for _ in range(count)]
                yield b"".join(lines)


def _line(item: FlowRecord | int) -> bytes:
    return _encode(Lost(item) if isinstance(item, int) else item) + b"\n"
