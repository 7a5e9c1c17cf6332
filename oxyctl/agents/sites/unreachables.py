"""Keeps the kernel from answering GRE packets that a raw socket receives with 'port unreachable'.

Where the kernel's own GRE is loaded, it answers every packet for which it has no device with 'port unreachable'
(net/ipv4/gre_demux.c, net/ipv6/ip6_gre.c), even if a raw socket received it; a kernel at the far end then reports its
hosts as unreachable. A routing rule blackholes exactly that answer: it matches the ICMP type and code, which routing
keeps in the field of the destination port (struct flowi4, struct flowi6).
"""

from __future__ import annotations

import contextlib
import socket
import struct

from oxyctl.agents.sites.sockets import Address, family_of
from oxyctl.net import netlink
from oxyctl.net.namespaces import inside_file
from proxy.wire import icmp, ip

PREFERENCE = 1

# linux/rtnetlink.h, linux/fib_rules.h
RTM_NEWRULE, RTM_DELRULE = 32, 33
FRA_DST, FRA_SRC, FRA_PRIORITY, FRA_IP_PROTO, FRA_DPORT_RANGE = 1, 2, 6, 22, 24
FR_ACT_BLACKHOLE = 6

_rule = struct.Struct("=BBBBBxxBI")  # family, two prefix lengths, TOS, table, action, flags


def suppress_unreachables(netns: str, local: Address, remote: Address) -> None:
    """Blackhole 'port unreachable' from `local` to `remote`. Has no effect on a kernel without policy routing."""
    _run(netns, netlink.Request(f"rule for {remote}", RTM_NEWRULE, netlink.NLM_F_CREATE, _match(local, remote)))


def allow_unreachables(netns: str, local: Address, remote: Address) -> None:
    """Remove that rule. It is no error if the namespace no longer exists."""
    _run(netns, netlink.Request(f"rule for {remote}", RTM_DELRULE, 0, _match(local, remote)))


def _run(netns: str, request: netlink.Request) -> None:
    with contextlib.suppress(OSError), inside_file(netns):
        netlink.run([request])


def _match(local: Address, remote: Address) -> bytes:
    family, bits = family_of(local), local.max_prefixlen
    protocol = ip.ICMP if family == socket.AF_INET else ip.ICMPV6
    kind, code = icmp.PORT_UNREACHABLE.v4 if family == socket.AF_INET else icmp.PORT_UNREACHABLE.v6
    port = kind << 8 | code
    return (
        _rule.pack(family, bits, bits, 0, 0, FR_ACT_BLACKHOLE, 0)
        + _attribute(FRA_SRC, local.packed)
        + _attribute(FRA_DST, remote.packed)
        + _attribute(FRA_PRIORITY, struct.pack("=I", PREFERENCE))
        + _attribute(FRA_IP_PROTO, bytes([protocol]))
        + _attribute(FRA_DPORT_RANGE, struct.pack("=HH", port, port))
    )


def _attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)
