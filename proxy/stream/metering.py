"""Byte rate limits of UDP flows: datagrams above the limit are dropped.

TCP is slowed down by its window (`pacing`); UDP has none, and applications over UDP take loss as a signal to send less
(RFC 8085 3.1). All flows of a limit share its buckets, so that new flows gain nothing.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

BURST_S = 0.25  # of unused rate that may be used up in a burst


class Bucket:
    """A token bucket for one direction of a limit. While it is positive, a datagram of any size passes."""

    __slots__ = ("_at", "_left", "rate")

    def __init__(self, rate: float, now: float) -> None:
        self.rate = rate  # bytes per second
        self._left, self._at = rate * BURST_S, now

    def has_room(self, now: float) -> bool:
        """Whether a datagram may pass."""
        self._left = min(self.rate * BURST_S, self._left + (now - self._at) * self.rate)
        self._at = now
        return self._left > 0

    def take(self, size: int) -> None:
        """Account for a datagram of `size` bytes. The balance may go negative, which delays those after it."""
        self._left -= size


class Buckets:
    """Both directions of one limit."""

    __slots__ = ("inward", "outward")

    def __init__(self, rate: float) -> None:
        now = time.monotonic()
        self.outward, self.inward = Bucket(rate, now), Bucket(rate, now)

    def set(self, rate: float) -> None:
        """Set the rate of each direction, in bytes per second."""
        self.outward.rate = self.inward.rate = rate


class Meter:
    """All limits of one flow."""

    __slots__ = ("_inward", "_outward")

    def __init__(self, limits: Sequence[Buckets]) -> None:
        self._outward = tuple(each.outward for each in limits)
        self._inward = tuple(each.inward for each in limits)

    def lets_out(self, size: int) -> bool:
        """Whether the client's datagram of `size` bytes may pass. If so, it is counted."""
        return _passes(self._outward, size)

    def lets_in(self, size: int) -> bool:
        """Whether a datagram of `size` bytes to the client may pass. If so, it is counted."""
        return _passes(self._inward, size)


def _passes(buckets: tuple[Bucket, ...], size: int) -> bool:
    now = time.monotonic()
    for bucket in buckets:
        if not bucket.has_room(now):
            return False
    for bucket in buckets:
        bucket.take(size)
    return True
