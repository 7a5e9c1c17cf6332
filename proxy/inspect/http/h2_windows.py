"""The windows of a connection's streams: small to begin with, and wider as more data passes.

What streams hold when nobody takes their data is bounded by their windows, so a window widens only where data is taken
as it comes. Uploads get the widest: where a window holds less than the kernel's queues between here and the client,
curl spins while it waits for the window, and takes half of the processor time of 100 MB.
"""

from __future__ import annotations

from collections.abc import Callable

from proxy.inspect.http.h2_stream import Stream
from proxy.inspect.http.limits import Limits

LEAST = 16 << 10  # bytes by which it is worth while to widen a window


class Spare:
    """The bytes by which windows may still be widened, shared by all connections of this process."""

    __slots__ = ("left",)

    def __init__(self, size: int) -> None:
        self.left = size


SHARED = Spare(128 << 20)


class Windows:
    """Widens them. `widen(number, size)` returns whether the stream is still open.

    Each connection has something to spare for its streams. Beyond that it takes from what all connections share, until
    it is released: `at_end(function)` must call `function` when the session ends.
    """

    __slots__ = ("_at_end", "_first", "_most", "_shared", "_widen", "_will_release", "lent", "spare")

    def __init__(
        self,
        limits: Limits,
        most: int,
        widen: Callable[[int, int], bool],
        at_end: Callable[[Callable[[], None]], None] | None = None,
        shared: Spare = SHARED,
    ) -> None:
        """`most`: bytes of a window at most. Without `at_end` nothing is taken from the others."""
        self._first, self._most, self._widen = limits.window_bytes, most, widen
        self._at_end, self._shared = at_end, shared
        self.spare = limits.spare_window_bytes
        self.lent = 0  # bytes taken from what is shared
        self._will_release = False

    def passed(self, stream: Stream, size: int) -> None:
        """Count `size` bytes that were taken at once. When more has passed than the window holds, double it."""
        stream.passed += size
        window = self._first + stream.wider
        if stream.passed <= window or window >= self._most:
            return
        wanted = min(window, self._most - window)
        own, others = self.spare // 2, self._shared.left // 2 if self._at_end is not None else 0
        more = min(wanted, max(own, others))
        if more < LEAST or not self._widen(stream.number, more):
            return
        stream.wider += more
        if more <= own:
            self.spare -= more
            return
        if not self._will_release and self._at_end is not None:
            self._will_release = True
            self._at_end(self.release)
        self._shared.left -= more
        self.lent += more
        stream.lent += more

    def ended(self, stream: Stream) -> None:
        """Take back what this stream had."""
        self.spare += stream.wider - stream.lent
        self._give_back(stream.lent)
        stream.wider = stream.lent = 0

    def release(self) -> None:
        """Give back what is shared: the session has ended."""
        self._give_back(self.lent)

    def _give_back(self, size: int) -> None:
        size = min(size, self.lent)  # nothing is left after `release`
        self.lent -= size
        self._shared.left += size
