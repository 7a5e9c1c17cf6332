"""How far a TCP flow has come.

DIALING -> HANDSHAKE -> RELAYING -> (CLOSING ->) DRAINING -> LINGERING
   |          |
refused, unreachable, timeout: RST, ICMP or silence, as the origin's network answered
"""

from __future__ import annotations

import enum


class Stage(enum.Enum):
    """The stage of a TCP flow."""

    DIALING = enum.auto()  # waiting for the origin
    HANDSHAKE = enum.auto()  # between the client and our kernel
    RELAYING = enum.auto()
    CLOSING = enum.auto()  # one side has broken; the rest of its data is being written to the other
    DRAINING = enum.auto()  # the kernel still has to deliver bytes
    LINGERING = enum.auto()


# Member access through the class raises and catches AttributeError in Python 3.11: 4 % of a short connection.
DIALING, HANDSHAKE, RELAYING, CLOSING, DRAINING, LINGERING = Stage
