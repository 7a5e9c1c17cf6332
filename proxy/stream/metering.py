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

    __slots__ = ("_filled_at", "_tokens", "rate")

    def __init__(self, rate: float, now: float) -> None:
        self.rate = rate  # bytes per second
        self._tokens, self._filled_at = rate * BURST_S, now

    def has_tokens(self, now: float) -> bool:
        """Whether a datagram may pass."""
        self._tokens = min(self.rate * BURST_S, self._tokens + (now - self._filled_at) * self.rate)
        self._filled_at = now
        return self._tokens > 0

    def take(self, size: int) -> None:
        """Account for a datagram of `size` bytes. The balance may go negative, which delays those after it."""
        self._tokens -= size


class Buckets:
    """Both directions of one limit."""

    __slots__ = ("inbound", "outbound")

    def __init__(self, rate: float) -> None:
        now = time.monotonic()
        self.outbound, self.inbound = Bucket(rate, now), Bucket(rate, now)

    def set(self, rate: float) -> None:
        """Set the rate of each direction, in bytes per second."""
        self.outbound.rate = self.inbound.rate = rate


class Meter:
    """All limits of one flow."""

    __slots__ = ("_inbound", "_outbound")

    def __init__(self, limits: Sequence[Buckets]) -> None:
        self._outbound = tuple(each.outbound for each in limits)
        self._inbound = tuple(each.inbound for each in limits)

    def allows_outbound(self, size: int) -> bool:
        """Whether the client's datagram of `size` bytes may pass. If so, it is counted."""
        return _passes(self._outbound, size)

    def allows_inbound(self, size: int) -> bool:
        """Whether a datagram of `size` bytes to the client may pass. If so, it is counted."""
        return _passes(self._inbound, size)


def _passes(buckets: tuple[Bucket, ...], size: int) -> bool:
    now = time.monotonic()
    for bucket in buckets:
        if not bucket.has_tokens(now):
            return False
    for bucket in buckets:
        bucket.take(size)
    return True
