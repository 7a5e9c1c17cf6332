"""One stream of the session, with what is written to it gathered until the moment's end."""

from __future__ import annotations

from collections.abc import Callable

from proxy.inspect.http.limits import HIGH_WATER
from proxy.inspect.stream import Stream


class Links(list["Link"]):
    """The links that were written to and not flushed."""

    def settle(self) -> None:
        """Flush all of them: each callback of the session ends with this."""
        while self:
            self.pop().flush()


class Link:
    """Writes of one callback become one write of the stream: one record of TLS, one system call."""

    __slots__ = ("_is_dirty", "_links", "_out", "filled", "is_full", "is_open", "is_paused", "source", "stream")

    def __init__(self, stream: Stream, links: Links) -> None:
        self.stream = stream
        self.is_open = True
        self.is_paused = False
        self.is_full = False  # more is queued than the far end takes
        self.filled: Callable[[], None] | None = None  # called when it has become so
        self.source: Callable[[], bytes] | None = None  # asked for more to write when the moment ends
        self._out: list[bytes | memoryview] = []
        self._links = links
        self._is_dirty = False

    def write(self, data: bytes | memoryview) -> None:
        """Send `data` when the moment ends."""
        self._out.append(data)
        if not self._is_dirty:
            self.touch()

    def write_all(self, pieces: list[bytes | memoryview]) -> None:
        """Send all of `pieces`, one behind the other."""
        self._out += pieces
        if not self._is_dirty:
            self.touch()

    def touch(self) -> None:
        """There is something to flush."""
        if not self._is_dirty:
            self._is_dirty = True
            self._links.append(self)

    def flush(self) -> None:
        """Write what was gathered."""
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
        """Read no further."""
        if not self.is_paused:
            self.is_paused = True
            self.stream.pause()

    def resume(self) -> None:
        """Read on."""
        if self.is_paused:
            self.is_paused = False
            self.stream.resume()

    def end(self) -> None:
        """Send no more after this."""
        self.flush()
        if self.is_open:
            self.is_open = False
            self.stream.end()

    def abort(self) -> None:
        """Close at once."""
        self._out.clear()
        self.is_open = False
        self.stream.abort()
