"""A sink with a thread of its own. Callers never wait, and items that cannot be written are counted."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import queue
import threading
from abc import ABC, abstractmethod
from typing import Generic, TypeVar

log = logging.getLogger(__name__)

QUEUE_ITEMS = 20_000

Item = TypeVar("Item")


class ThreadedSink(ABC, Generic[Item]):
    """`submit` belongs to the event loop's thread. The sink's thread runs `_write`, and at last `_close`."""

    def __init__(self, name: str, *, queue_items: int, batch_items: int, linger_s: float = 0.0) -> None:
        """`name`: of the sink in the log, and of its thread. `linger_s`: the time in which a batch collects."""
        self._name, self._capacity, self._batch, self._linger_s = name, queue_items, batch_items, linger_s
        self._queue: queue.SimpleQueue[Item | None] = queue.SimpleQueue()  # None: no more items
        self._overflowed = self._failed = 0  # each counted by one thread only
        self._is_closed = self._is_failing = False
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    @property
    def lost(self) -> int:
        """Items that could not be written since the proxy started."""
        return self._overflowed + self._failed

    def submit(self, item: Item) -> None:
        """Take an item, which must not change afterwards. Never blocks."""
        if self._is_closed or self._queue.qsize() >= self._capacity:
            self._overflowed += 1
        else:
            self._queue.put(item)

    async def close(self) -> None:
        """Write everything that was submitted, as far as possible, and end the thread."""
        if not self._is_closed:
            self._is_closed = True
            self._closing.set()
            self._queue.put(None)
        await asyncio.to_thread(self._thread.join)

    @abstractmethod
    def _write(self, items: list[Item]) -> str | None:
        """Write or send a batch, in the sink's thread. Returns the reason if that fails."""

    @abstractmethod
    def _close(self) -> None:
        """Close what the thread has open, as no more items follow."""

    def _run(self) -> None:
        is_running = True
        while is_running:
            batch = [self._queue.get()]
            self._closing.wait(self._linger_s)
            with contextlib.suppress(queue.Empty):
                while len(batch) < self._batch:
                    batch.append(self._queue.get_nowait())
            is_running = None not in batch
            if items := [item for item in batch if item is not None]:
                self._report(self._write(items), len(items))
        self._close()

    def _report(self, why: str | None, count: int) -> None:
        """Count items that were not written, and log the first failure."""
        if why is not None:
            self._failed += count
            if not self._is_failing:
                log.error("%s cannot be written: %s", self._name, why)
        elif self._is_failing:
            log.warning("%s are written again; lost so far: %d", self._name, self.lost)
        self._is_failing = why is not None
