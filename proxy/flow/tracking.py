"""A TCP connection that nobody reads, tracked by its headers: how many bytes were delivered, and how to reset it.

Sequence numbers count a SYN and a FIN as one byte each (RFC 9293 3.4), and wrap after 4 GiB.
"""

from __future__ import annotations

_WRAP = 1 << 32


class Direction:
    """The sequence numbers of one direction: the first, and the last once it has ended."""

    __slots__ = ("final", "first_options", "initial", "options")

    def __init__(self) -> None:
        self.first_options = 0  # bytes of the SYN's options
        self.options = 0  # bytes of options in each segment: of timestamps, when both have them (RFC 7323)
        self.initial: int | None = None  # of its SYN
        self.final: int | None = None  # behind its last byte: the number of its FIN or RST

    def delivered(self, reached: int | None, most: int) -> int:
        """Bytes of payload that arrived. `reached`: what the other side has acknowledged; `most`: what the packets of
        this direction can have carried, which also tells how often the numbers have wrapped."""
        if self.initial is None:
            return max(0, most)
        if reached is None and self.final is None:
            return 0
        first = self.initial + 1
        count = most if self.final is None else _near(self.final - first, most)
        if reached is not None and self.final is None:
            count = _near(reached - first, most)
        return max(0, min(count, most))

    def ended(self, most: int) -> int:
        """The same where nobody sees acknowledgements: what the packets can have carried, until the end is known."""
        return self.delivered(None, most) if self.final is not None else max(0, most)


def _near(difference: int, estimate: int) -> int:
    """The number next to `estimate` that has the remainder of `difference`."""
    return estimate + (difference - estimate + _WRAP // 2) % _WRAP - _WRAP // 2


def acknowledged(last: bytes) -> int | None:
    """What the sender of a packet expects next: `last` begins with its sequence and acknowledgement numbers."""
    if len(last) < 10 or not last[9] & 0x10:
        return None
    return int.from_bytes(last[4:8], "big")


def sequence(last: bytes) -> int | None:
    """The number of the first byte of that packet."""
    return int.from_bytes(last[:4], "big") if len(last) >= 10 else None
