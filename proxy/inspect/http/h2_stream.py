"""Common to the streams of both sides of HTTP/2: what is queued on them, and their window."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

import h2.errors

from proxy.inspect.http.h2_wire import ACKNOWLEDGED_AT, Outgoing
from proxy.inspect.http.messages import Headers


class Stream(ABC):
    """One stream. Its window is reopened as the other side of its exchange takes the data."""

    __slots__ = (
        "_acknowledge",
        "borrowed",
        "extra",
        "is_paused",
        "number",
        "out",
        "reopened",
        "trailers",
        "unacknowledged",
    )

    def __init__(self, number: int, acknowledge: Callable[[int, int], None]) -> None:
        """`acknowledge(number, size)` reopens its window."""
        self.number = number
        self.out = Outgoing(number)
        self.trailers: Headers = []
        self.is_paused = False
        self.unacknowledged = 0  # bytes received for which the window was not reopened
        self.reopened = 0  # bytes by which it was reopened at once; after each pause half of them count
        self.extra = 0  # bytes by which it is wider than to begin with
        self.borrowed = 0  # bytes of these from the shared budget
        self._acknowledge = acknowledge

    @abstractmethod
    def received(self, data: bytes) -> None:
        """Take a part of the body."""

    def consumed(self, size: int) -> int:
        """Reopen the window by what was received, unless the other side is full. Returns by how many bytes."""
        self.unacknowledged += size
        size = self.unacknowledged
        if size < ACKNOWLEDGED_AT or self.is_paused:
            return 0
        self.resume()
        return size

    def pause(self) -> None:
        """Keep the window shut."""
        if not self.is_paused:
            self.is_paused = True
            self.reopened //= 2  # so that it stays small where the other side is slower

    def resume(self) -> None:
        """Reopen the window."""
        self.is_paused = False
        size, self.unacknowledged = self.unacknowledged, 0
        self._acknowledge(self.number, size)


def error_name(code: int | None) -> str:
    """The name of an error code (RFC 9113 7), or its number."""
    try:
        return h2.errors.ErrorCodes(code or 0).name
    except ValueError:
        return str(code)
