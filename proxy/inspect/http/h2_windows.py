"""The windows of a connection's streams: small to begin with, and wider as more data passes.

What streams hold when nobody takes their data is bounded by their windows, so a window widens only where data is taken
as it comes. Uploads get the widest: where a window holds less than the kernel's queues between here and the client,
curl spins while it waits for the window, and takes half of the processor time of 100 MB.
"""

from __future__ import annotations

from collections.abc import Callable

from proxy.inspect.http.h2_stream import Stream
from proxy.inspect.http.limits import Limits

MIN_STEP = 16 << 10  # the least number of bytes by which a window is widened


class SharedBudget:
    """The bytes by which windows may still be widened, shared by all connections of this process."""

    __slots__ = ("available",)

    def __init__(self, size: int) -> None:
        self.available = size


SHARED = SharedBudget(128 << 20)


class Windows:
    """Widens them. `widen(number, size)` returns whether the stream is still open.

    Each connection has a budget of its own for its streams. Beyond that it borrows from the shared one, until it is
    released: `at_end(function)` must call `function` when the session ends.
    """

    __slots__ = ("_at_end", "_first", "_is_release_registered", "_most", "_shared", "_widen", "borrowed", "spare")

    def __init__(
        self,
        limits: Limits,
        most: int,
        widen: Callable[[int, int], bool],
        at_end: Callable[[Callable[[], None]], None] | None = None,
        shared: SharedBudget = SHARED,
    ) -> None:
        """`most`: bytes of a window at most. Without `at_end` nothing is borrowed."""
        self._first, self._most, self._widen = limits.window_bytes, most, widen
        self._at_end, self._shared = at_end, shared
        self.spare = limits.spare_window_bytes
        self.borrowed = 0  # bytes borrowed from the shared budget
        self._is_release_registered = False

    def count(self, stream: Stream, size: int) -> None:
        """Count `size` bytes that were taken at once. When more has passed than the window holds, double it."""
        stream.reopened += size
        window = self._first + stream.extra
        if stream.reopened <= window or window >= self._most:
            return
        wanted = min(window, self._most - window)
        own, others = self.spare // 2, self._shared.available // 2 if self._at_end is not None else 0
        more = min(wanted, max(own, others))
        if more < MIN_STEP or not self._widen(stream.number, more):
            return
        stream.extra += more
        if more <= own:
            self.spare -= more
            return
        if not self._is_release_registered and self._at_end is not None:
            self._is_release_registered = True
            self._at_end(self.release)
        self._shared.available -= more
        self.borrowed += more
        stream.borrowed += more

    def ended(self, stream: Stream) -> None:
        """Take back what this stream had been given."""
        self.spare += stream.extra - stream.borrowed
        self._return_shared(stream.borrowed)
        stream.extra = stream.borrowed = 0

    def release(self) -> None:
        """Return everything borrowed: the session has ended."""
        self._return_shared(self.borrowed)

    def _return_shared(self, size: int) -> None:
        size = min(size, self.borrowed)  # nothing is left after `release`
        self.borrowed -= size
        self._shared.available += size
