"""Tracks an uninspected TCP connection by its headers: the bytes delivered, and the numbers needed to reset it.

Sequence numbers count a SYN and a FIN as one byte each (RFC 9293 3.4), and wrap after 4 GiB.
"""

from __future__ import annotations

_WRAP = 1 << 32


class Direction:
    """The sequence numbers of one direction: the first, and the last once it has ended."""

    __slots__ = ("final", "first_options", "initial", "options")

    def __init__(self) -> None:
        self.first_options = 0  # bytes of the SYN's options
        self.options = 0  # bytes of options in each segment: timestamps, if both sides use them (RFC 7323)
        self.initial: int | None = None  # number of its SYN
        self.final: int | None = None  # number after its last byte: that of its FIN or RST

    def delivered(self, acked: int | None, upper_bound: int) -> int:
        """Bytes of payload delivered. `acked`: what the other side has acknowledged. `upper_bound`: from the sizes of
        this direction's packets, which also tells how often the numbers have wrapped."""
        if self.initial is None:
            return max(0, upper_bound)
        if acked is None and self.final is None:
            return 0
        first = self.initial + 1
        count = upper_bound if self.final is None else _near(self.final - first, upper_bound)
        if acked is not None and self.final is None:
            count = _near(acked - first, upper_bound)
        return max(0, min(count, upper_bound))

    def delivered_without_acks(self, upper_bound: int) -> int:
        """As `delivered`, if no acknowledgements are seen: the upper bound, until the end is known."""
        return self.delivered(None, upper_bound) if self.final is not None else max(0, upper_bound)


def _near(difference: int, estimate: int) -> int:
    """The number closest to `estimate` that is congruent to `difference` modulo 2^32."""
    return estimate + (difference - estimate + _WRAP // 2) % _WRAP - _WRAP // 2


def acknowledged(last: bytes) -> int | None:
    """The next sequence number that a packet's sender expects. `last` begins with the packet's two numbers."""
    if len(last) < 10 or not last[9] & 0x10:
        return None
    return int.from_bytes(last[4:8], "big")


def sequence(last: bytes) -> int | None:
    """The sequence number of the packet's first byte."""
    return int.from_bytes(last[:4], "big") if len(last) >= 10 else None
