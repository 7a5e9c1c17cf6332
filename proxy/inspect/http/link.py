"""A stream of the session, with writes batched during each event."""

from __future__ import annotations

from collections.abc import Callable

from proxy.inspect.http.limits import HIGH_WATER
from proxy.inspect.stream import Stream


class Links(list["Link"]):
    """The links with unflushed writes."""

    def settle(self) -> None:
        """Flush all; called at the end of each event of the session."""
        while self:
            self.pop().flush()


class Link:
    """Batches the writes of one event into one write to the stream: one TLS record, one system call."""

    __slots__ = ("_is_dirty", "_links", "_out", "filled", "is_full", "is_open", "is_paused", "source", "stream")

    def __init__(self, stream: Stream, links: Links) -> None:
        self.stream = stream
        self.is_open = True
        self.is_paused = False
        self.is_full = False  # the queue is above its high-water mark
        self.filled: Callable[[], None] | None = None  # called when it becomes full
        self.source: Callable[[], bytes] | None = None  # called at `flush` for more to write
        self._out: list[bytes | memoryview] = []
        self._links = links
        self._is_dirty = False

    @property
    def has_unsent(self) -> bool:
        """Whether the kernel has not taken everything."""
        return bool(self._out) or self.stream.queued > 0

    def write(self, data: bytes | memoryview) -> None:
        """Send `data` at the end of this event."""
        self._out.append(data)
        if not self._is_dirty:
            self.touch()

    def write_all(self, pieces: list[bytes | memoryview]) -> None:
        """Send `pieces` in order."""
        self._out += pieces
        if not self._is_dirty:
            self.touch()

    def touch(self) -> None:
        """Request a flush at the end of this event."""
        if not self._is_dirty:
            self._is_dirty = True
            self._links.append(self)

    def flush(self) -> None:
        """Write the batch to the stream."""
        self._is_dirty = False
        out = self._out
        if self.source is not None and (data := self.source()):
            out.append(data)
        if out:
            if self.is_open:
                self.stream.write(out[0] if len(out) == 1 else b"".join(out))
            out.clear()
        if not self.is_full and self.stream.queued > HIGH_WATER:
            self.is_full = True
            if self.filled is not None:
                self.filled()

    def pause(self) -> None:
        """Stop reading."""
        if not self.is_paused:
            self.is_paused = True
            self.stream.pause()

    def resume(self) -> None:
        """Continue reading."""
        if self.is_paused:
            self.is_paused = False
            self.stream.resume()

    def end(self) -> None:
        """Close the sending half after what was written."""
        self.flush()
        if self.is_open:
            self.is_open = False
            self.stream.end()

    def abort(self) -> None:
        """Close at once, with a reset."""
        self._out.clear()
        self.is_open = False
        self.stream.abort()
