"""What the streams of both sides of HTTP/2 have in common: what is to be sent on them, and their window."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

import h2.errors

from proxy.inspect.http.h2_wire import ACKNOWLEDGED_AT, Outgoing
from proxy.inspect.http.messages import Headers


class Stream(ABC):
    """One stream. Its window follows what the far side of its exchange takes."""

    __slots__ = ("_acknowledge", "is_paused", "number", "out", "trailers", "unacknowledged")

    def __init__(self, number: int, acknowledge: Callable[[int, int], None]) -> None:
        """`acknowledge(number, size)` opens the windows again."""
        self.number = number
        self.out = Outgoing(number)
        self.trailers: Headers = []
        self.is_paused = False
        self.unacknowledged = 0  # bytes by which the windows stay shut
        self._acknowledge = acknowledge

    @abstractmethod
    def received(self, data: bytes) -> None:
        """A part of the body has come."""

    def took(self, size: int) -> None:
        """So much has come: the peer may send as much again, unless the far side does not take it."""
        self.unacknowledged += size
        if self.unacknowledged >= ACKNOWLEDGED_AT and not self.is_paused:
            self.resume()

    def pause(self) -> None:
        """Leave the window shut."""
        self.is_paused = True

    def resume(self) -> None:
        """Open it again."""
        self.is_paused = False
        size, self.unacknowledged = self.unacknowledged, 0
        self._acknowledge(self.number, size)


def error_name(code: int | None) -> str:
    """What RFC 9113 7 calls an error code; the number where it has no name."""
    try:
        return h2.errors.ErrorCodes(code or 0).name
    except ValueError:
        return str(code)
