"""Headers of packets that the kernel carried by itself: the flow they belong to, and what they begin or end."""

from __future__ import annotations

import struct
from typing import NamedTuple

import msgspec

from proxy.wire.ip import ICMP, ICMPV6, TCP, IPPacket

TIMESTAMPS = b"\x08\x0a"  # kind and length of the option

_new = tuple.__new__
_get_tcp4 = struct.Struct("!BxH5xBxx12s12s").unpack_from  # the same, addresses and ports, and what follows
_get4 = struct.Struct("!BxH5xB2x").unpack_from  # first byte, length, protocol


class Observed(NamedTuple):
    """A TCP segment. `last`: its bytes from sequence number to window."""

    key: bytes
    last: bytes
    payload: int  # bytes, also of those not copied
    has_timestamps: bool = False


class SentSYN(msgspec.Struct, gc=False):
    """A SYN that was sent on before its flow was entered. `last`: as in `Observed`."""

    key: bytes
    last: bytes
    octets: int
    tos: int
    now: float
    now_ns: int
    egress_ip: str | None


def observe(data: bytes) -> Observed | IPPacket | None:
    """Parse the copy in `data`. Returns a segment, an ICMP error (as a packet in `data`), or None for anything else."""
    if len(data) < 40:
        return _observe_other(data)
    first, length, protocol, key, last = _get_tcp4(data)
    if first != 0x45 or protocol != TCP:
        return _observe_other(data)
    end = 20 + (last[8] >> 4) * 4
    return _new(Observed, (key, last, length - end if length > end else 0, TIMESTAMPS in data[40:end]))


def _observe_other(data: bytes) -> Observed | IPPacket | None:
    if len(data) < 28:
        return None
    first, length, protocol = _get4(data)
    if first >> 4 == 4:
        l4 = (first & 15) * 4
        addresses = data[12:20]
    elif first >> 4 == 6 and len(data) >= 48:
        l4, protocol, length = 40, data[6], 40 + int.from_bytes(data[4:6], "big")
        addresses = data[8:40]
    else:
        return None
    if protocol == TCP and len(data) >= l4 + 20:
        end = l4 + (data[l4 + 12] >> 4) * 4
        has_timestamps = TIMESTAMPS in data[l4 + 20 : end]
        return Observed(addresses + data[l4 : l4 + 4], data[l4 + 4 : l4 + 16], max(0, length - end), has_timestamps)
    if protocol in (ICMP, ICMPV6) and len(data) >= l4 + 8:
        half = len(addresses) // 2
        version = first >> 4
        return IPPacket(version, 0, l4, len(data), protocol, 0, addresses[:half], addresses[half:], 0, True)
    return None
