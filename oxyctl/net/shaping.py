"""Changes of existing links: their bridge, up or down, MTU, queueing disciplines.

Queueing disciplines are packed here: pyroute2 0.9 lacks 64-bit rates, tbf's burst and netem's nanoseconds.
"""

from __future__ import annotations

import errno
import struct

from oxyctl.net import messages, netlink
from oxyctl.net.impairment import Impairment
from oxyctl.net.netlink import IFF_UP, NLM_F_CREATE, Request

# linux/rtnetlink.h, linux/netlink.h
RTM_NEWLINK, RTM_DELLINK, RTM_DELROUTE, RTM_NEWQDISC, RTM_DELQDISC, NLM_F_REPLACE = 16, 17, 25, 36, 37, 0x100
# linux/pkt_sched.h
TC_H_ROOT, TCA_KIND, TCA_OPTIONS, TC_LINKLAYER_ETHERNET = 0xFFFF_FFFF, 1, 2, 1
TCA_TBF_PARMS, TCA_TBF_RATE64, TCA_TBF_BURST = 1, 4, 6
TCA_NETEM_RATE, TCA_NETEM_RATE64, TCA_NETEM_LATENCY64, TCA_NETEM_JITTER64 = 6, 8, 10, 11
TICKS_PER_S = 1e9 / 64  # of struct tc_tbf_qopt (PSCHED_SHIFT 6)
U32_MAX = 0xFFFF_FFFF

# the same values as in agents/line.py
BURST_S, MIN_BURST_BYTES = 0.005, 10_000
QUEUE_S, MIN_QUEUE_BYTES = 0.1, 150_000
NETEM_PACKETS = 20_000  # limit of delayed packets

_tc = struct.Struct("=BxxxiIII")  # family, index, handle, parent, info
_ratespec = struct.Struct("=BBHhHI")  # cell_log, linklayer, overhead, cell_align, mpu, rate


def set_bridge(index: int, bridge_index: int) -> Request:
    """Make the link `index` a port of a bridge; 0: of no bridge."""
    body = messages.link(index, [("IFLA_MASTER", bridge_index)])
    return Request(f"interface {index} into bridge {bridge_index}", RTM_NEWLINK, 0, body)


def set_up(index: int, *, up: bool) -> Request:
    """Bring the link `index` up or down. When one end of a pair is down, the other has no carrier."""
    body = messages.link(index, flags=IFF_UP if up else 0, changed=IFF_UP)
    return Request(f"interface {index} {'up' if up else 'down'}", RTM_NEWLINK, 0, body)


def set_mtu(index: int, mtu: int) -> Request:
    """Set the MTU of the link `index`, in bytes."""
    body = messages.link(index, [("IFLA_MTU", mtu)])
    return Request(f"MTU {mtu} of interface {index}", RTM_NEWLINK, 0, body)


def remove_link(index: int) -> Request:
    """Delete the link `index`, and the far end of a pair with it."""
    return Request(f"removal of interface {index}", RTM_DELLINK, 0, messages.link(index))


def delete_route(route: Request) -> Request:
    """Delete the route that the request `route` added."""
    return Request(f"removal of {route.what}", RTM_DELROUTE, 0, route.body)


def set_tbf(index: int, rate_bits: int) -> Request:
    """Limit the rate of packets that leave through the link `index`, in bits per second."""
    rate = rate_bits // 8
    burst = int(max(MIN_BURST_BYTES, rate * BURST_S))
    limit = int(max(MIN_QUEUE_BYTES, rate * QUEUE_S)) + burst
    buffer = min(U32_MAX, int(burst / rate * TICKS_PER_S))
    spec = _ratespec.pack(0, TC_LINKLAYER_ETHERNET, 0, -1, 0, min(rate, U32_MAX))
    parameters = spec + _ratespec.pack(0, 0, 0, 0, 0, 0) + struct.pack("=III", limit, buffer, 0)
    options = _attribute(TCA_TBF_PARMS, parameters) + _attribute(TCA_TBF_BURST, struct.pack("=I", burst))
    if rate > U32_MAX:
        options += _attribute(TCA_TBF_RATE64, struct.pack("=Q", rate))
    return _set_qdisc("tbf", index, options)


def set_netem(index: int, impairment: Impairment) -> Request:
    """Delay, drop and rate-limit packets that leave through the link `index`."""
    loss = int(impairment.loss * U32_MAX)
    options = struct.pack("=IIIIII", 0, NETEM_PACKETS, loss, 0, 0, 0)
    options += _attribute(TCA_NETEM_LATENCY64, struct.pack("=q", round(impairment.delay_s * 1e9)))
    options += _attribute(TCA_NETEM_JITTER64, struct.pack("=q", round(impairment.jitter_s * 1e9)))
    if impairment.rate_bits is not None:
        rate = impairment.rate_bits // 8
        options += _attribute(TCA_NETEM_RATE, struct.pack("=IiIi", min(rate, U32_MAX), 0, 0, 0))
        if rate > U32_MAX:
            options += _attribute(TCA_NETEM_RATE64, struct.pack("=Q", rate))
    return _set_qdisc("netem", index, options)


def clear_qdisc(index: int) -> Request:
    """Remove the queueing discipline of the link `index`."""
    return Request(f"qdisc of interface {index}", RTM_DELQDISC, 0, _tc.pack(0, index, 0, TC_H_ROOT, 0))


def disciplines() -> frozenset[str]:
    """Which of tbf and netem this kernel supports, tried on the loopback of the calling thread's namespace."""
    trials = {"tbf": set_tbf(netlink.LOOPBACK_INDEX, 10**9), "netem": set_netem(netlink.LOOPBACK_INDEX, Impairment())}
    supported = set()
    for name, request in trials.items():
        try:
            netlink.run([request, clear_qdisc(netlink.LOOPBACK_INDEX)])
            supported.add(name)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.EOPNOTSUPP, errno.EINVAL, errno.EPERM):
                raise
    return frozenset(supported)


def _set_qdisc(kind: str, index: int, options: bytes) -> Request:
    body = _tc.pack(0, index, 0, TC_H_ROOT, 0) + _attribute(TCA_KIND, kind.encode() + b"\0")
    body += _attribute(TCA_OPTIONS, options)
    return Request(f"{kind} on interface {index}", RTM_NEWQDISC, NLM_F_CREATE | NLM_F_REPLACE, body)


def _attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)
