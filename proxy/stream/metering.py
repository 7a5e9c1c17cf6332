"""Datagrams of flows whose rules limit their bytes in a second: what is over the limit is dropped.

TCP is slowed down by its window (`pacing`); UDP has none, and whoever speaks over it takes loss for a sign to send less
(RFC 8085 3.1). All flows of a limit share its buckets, so that new flows gain nothing.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

BURST_S = 0.25  # of unused rate that may be made up for at once


class Bucket:
    """The bytes that one direction of a limit may move now. A datagram passes while any are left, whatever its size."""

    __slots__ = ("_at", "_left", "rate")

    def __init__(self, rate: float, now: float) -> None:
        self.rate = rate  # bytes in a second
        self._left, self._at = rate * BURST_S, now

    def has_room(self, now: float) -> bool:
        """Whether a datagram may pass."""
        self._left = min(self.rate * BURST_S, self._left + (now - self._at) * self.rate)
        self._at = now
        return self._left > 0

    def take(self, size: int) -> None:
        """A datagram of `size` bytes has passed; a large one is made up for by those after it."""
        self._left -= size


class Buckets:
    """Both directions of one limit."""

    __slots__ = ("inward", "outward")

    def __init__(self, rate: float) -> None:
        now = time.monotonic()
        self.outward, self.inward = Bucket(rate, now), Bucket(rate, now)

    def set(self, rate: float) -> None:
        """Let so many bytes pass in a second from now on, in each direction."""
        self.outward.rate = self.inward.rate = rate


class Meter:
    """Every limit of one flow."""

    __slots__ = ("_inward", "_outward")

    def __init__(self, limits: Sequence[Buckets]) -> None:
        self._outward = tuple(each.outward for each in limits)
        self._inward = tuple(each.inward for each in limits)

    def lets_out(self, size: int) -> bool:
        """Whether the client's datagram of `size` bytes may pass; then it is counted."""
        return _passes(self._outward, size)

    def lets_in(self, size: int) -> bool:
        """The same of one for the client."""
        return _passes(self._inward, size)


def _passes(buckets: tuple[Bucket, ...], size: int) -> bool:
    now = time.monotonic()
    for bucket in buckets:
        if not bucket.has_room(now):
            return False
    for bucket in buckets:
        bucket.take(size)
    return True
