"""Tunnels of the kernel by netlink: gre, ip6gre, and GUE over IPv4 (sit) and IPv6 (ip6tnl), each with one far end.

What these devices are is in linux/if_tunnel.h; the port that takes GUE in is in linux/fou.h. One sit device carries
IPv4 and IPv6 alike when its protocol is 0 (net/ipv6/sit.c), and so does ip6tnl.
"""

from __future__ import annotations

import ipaddress
import socket
import struct
from typing import NamedTuple

from oxyctl.net import generic, netlink
from oxyctl.net.netlink import NLM_F_CREATE, NLM_F_EXCL, RTM_NEWLINK, Request

# linux/if_link.h
IFLA_IFNAME, IFLA_MTU, IFLA_LINKINFO, IFLA_INFO_KIND, IFLA_INFO_DATA = 3, 4, 18, 1, 2
# linux/if_tunnel.h
GRE_IFLAGS, GRE_OFLAGS, GRE_IKEY, GRE_OKEY, GRE_LOCAL, GRE_REMOTE = 2, 3, 4, 5, 6, 7
GRE_TTL, GRE_TOS, GRE_PMTUDISC, GRE_FLAGS = 8, 9, 10, 13
GRE_CSUM, GRE_KEY = 0x8000, 0x2000
IPTUN_LOCAL, IPTUN_REMOTE, IPTUN_TTL, IPTUN_TOS, IPTUN_FLAGS, IPTUN_PROTO, IPTUN_PMTUDISC = 2, 3, 4, 5, 8, 9, 10
IPTUN_ENCAP_TYPE, IPTUN_ENCAP_FLAGS, IPTUN_ENCAP_SPORT, IPTUN_ENCAP_DPORT = 15, 16, 17, 18
ENCAP_GUE, ENCAP_FLAG_CSUM6 = 2, 0x2
# linux/ip6_tunnel.h
IGNORE_ENCAP_LIMIT, USE_ORIGINAL_TCLASS = 0x1, 0x2  # no destination option (RFC 2473 5.1): 8 bytes less
# linux/fou.h
FOU_CMD_ADD, FOU_CMD_DEL, FOU_ATTR_PORT, FOU_ATTR_AF, FOU_ATTR_TYPE, FOU_ENCAP_GUE = 1, 2, 1, 2, 4, 2

TTL, INHERIT = 64, 1  # TOS 1: the inner packet's
KINDS = {"gre": "gre", "ip6gre": "ip6gre", "gue": "sit", "gue6": "ip6tnl"}
TRIAL_ENDS, TRIAL_PORT = (("192.0.2.1", "192.0.2.2"), ("2001:db8::1", "2001:db8::2")), 6080  # RFC 5737, RFC 3849


class TunnelLink(NamedTuple):
    """One tunnel device. `kind`: gre, ip6gre, gue or gue6; `port`: where the far end takes GUE in."""

    name: str
    number: int  # its index; 0: any
    kind: str
    local: str
    remote: str
    key: int | None = None
    checksum: bool = False
    port: int = 0


def new_tunnel(link: TunnelLink) -> Request:
    """The device, down."""
    data = _gre(link) if link.kind in ("gre", "ip6gre") else _gue(link)
    info = _text(IFLA_INFO_KIND, KINDS[link.kind]) + _attribute(IFLA_INFO_DATA, data)
    body = struct.pack("=BxHiII", socket.AF_UNSPEC, 0, link.number, 0, 0)
    body += _text(IFLA_IFNAME, link.name) + _attribute(IFLA_LINKINFO, info)
    return Request(f"{link.kind} tunnel {link.name}", RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, body)


def attempt(kind: str) -> None:
    """Make a tunnel of `kind` in the calling thread's namespace. OSError: this kernel carries none."""
    if kind in ("gue", "gue6"):
        listen_gue(TRIAL_PORT, 6 if kind == "gue6" else 4)
    local, remote = TRIAL_ENDS["6" in kind]
    netlink.run([new_tunnel(TunnelLink("trial0", 0, kind, local, remote, port=TRIAL_PORT))])


def _gre(link: TunnelLink) -> bytes:
    flags = (GRE_CSUM if link.checksum else 0) | (0 if link.key is None else GRE_KEY)
    data = _attribute(GRE_IFLAGS, struct.pack("!H", flags)) + _attribute(GRE_OFLAGS, struct.pack("!H", flags))
    if link.key is not None:
        key = struct.pack("!I", link.key)
        data += _attribute(GRE_IKEY, key) + _attribute(GRE_OKEY, key)
    data += _attribute(GRE_LOCAL, _packed(link.local)) + _attribute(GRE_REMOTE, _packed(link.remote))
    data += _byte(GRE_TTL, TTL)
    if link.kind == "ip6gre":
        return data + _attribute(GRE_FLAGS, struct.pack("=I", IGNORE_ENCAP_LIMIT | USE_ORIGINAL_TCLASS))
    return data + _byte(GRE_TOS, INHERIT) + _byte(GRE_PMTUDISC, 1)


def _gue(link: TunnelLink) -> bytes:
    data = _attribute(IPTUN_LOCAL, _packed(link.local)) + _attribute(IPTUN_REMOTE, _packed(link.remote))
    data += _byte(IPTUN_TTL, TTL) + _byte(IPTUN_PROTO, 0)
    if link.kind == "gue6":
        data += _attribute(IPTUN_FLAGS, struct.pack("=I", IGNORE_ENCAP_LIMIT | USE_ORIGINAL_TCLASS))
    else:
        data += _byte(IPTUN_TOS, INHERIT) + _byte(IPTUN_PMTUDISC, 1)
    # source port 0: one that stands for the inner flow; over IPv6 a UDP checksum must be there (RFC 8200 8.1)
    data += _attribute(IPTUN_ENCAP_TYPE, struct.pack("=H", ENCAP_GUE))
    data += _attribute(IPTUN_ENCAP_FLAGS, struct.pack("=H", ENCAP_FLAG_CSUM6))
    data += _attribute(IPTUN_ENCAP_SPORT, struct.pack("!H", 0))
    return data + _attribute(IPTUN_ENCAP_DPORT, struct.pack("!H", link.port))


def listen_gue(port: int, family: int) -> None:
    """Have the kernel take GUE in at a UDP port of the calling thread's namespace. `family`: 4 or 6. OSError."""
    generic.ask("fou", FOU_CMD_ADD, _gue_port(port, family), f"GUE port {port}")


def stop_gue(port: int, family: int) -> None:
    """Have it no longer do so."""
    generic.ask("fou", FOU_CMD_DEL, _gue_port(port, family), f"GUE port {port}")


def _gue_port(port: int, family: int) -> bytes:
    body = _attribute(FOU_ATTR_PORT, struct.pack("!H", port))
    body += _byte(FOU_ATTR_AF, socket.AF_INET if family == 4 else socket.AF_INET6)
    return body + _byte(FOU_ATTR_TYPE, FOU_ENCAP_GUE)


def _packed(address: str) -> bytes:
    return ipaddress.ip_address(address).packed


def _attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)


def _byte(kind: int, value: int) -> bytes:
    return _attribute(kind, bytes([value]))


def _text(kind: int, value: str) -> bytes:
    return _attribute(kind, value.encode() + b"\0")
