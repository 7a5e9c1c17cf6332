"""How far a TCP flow has come.

DIALING -> HANDSHAKE -> RELAYING -> (CLOSING ->) DRAINING -> LINGERING
   |          |
refused, unreachable, timeout: RST, ICMP or silence, as the origin's network said it
"""

from __future__ import annotations

import enum


class Stage(enum.Enum):
    """How far a flow has come."""

    DIALING = enum.auto()  # the origin
    HANDSHAKE = enum.auto()  # of the client with our kernel
    RELAYING = enum.auto()
    CLOSING = enum.auto()  # one side is gone; what it had delivered is still written to the other
    DRAINING = enum.auto()  # the kernel still owes a side bytes
    LINGERING = enum.auto()


# Looking a member up by its class raises and catches an AttributeError in Python 3.11: 4 % of a short connection.
DIALING, HANDSHAKE, RELAYING, CLOSING, DRAINING, LINGERING = Stage
