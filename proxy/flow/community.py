"""Community ID version 1: the same short identifier of a flow in Zeek, Suricata, Wireshark and here."""

from __future__ import annotations

import binascii
import hashlib
import struct

_ICMP, _ICMPV6 = 1, 58
# In place of ports: a message type, and the type that answers it. Types without an answer are not ordered by direction
# (the specification takes both tables from Zeek).
_ICMP_ANSWERS = {8: 0, 0: 8, 13: 14, 14: 13, 15: 16, 16: 15, 10: 9, 9: 10, 17: 18, 18: 17}
_ICMPV6_ANSWERS = {128: 129, 129: 128, 130: 131, 131: 130, 133: 134, 134: 133, 135: 136, 136: 135}
_ICMPV6_ANSWERS |= {139: 140, 140: 139, 144: 145, 145: 144}
_ANSWERS = {_ICMP: _ICMP_ANSWERS, _ICMPV6: _ICMPV6_ANSWERS}

_seed = struct.Struct("!H").pack
_tail = struct.Struct("!BxHH").pack


def community_id(src: bytes, dst: bytes, protocol: int, src_port: int, dst_port: int, *, seed: int = 0) -> str:
    """`1:<base64>` of packed addresses and ports, equal for both directions. For ICMP, ports are type and code."""
    ordered = False
    if protocol in _ANSWERS:
        answer = _ANSWERS[protocol].get(src_port)
        ordered, dst_port = answer is None, dst_port if answer is None else answer
    if not ordered and (dst, dst_port) < (src, src_port):
        src, dst, src_port, dst_port = dst, src, dst_port, src_port
    digest = hashlib.sha1(_seed(seed) + src + dst + _tail(protocol, src_port, dst_port), usedforsecurity=False).digest()
    return "1:" + binascii.b2a_base64(digest, newline=False).decode()
