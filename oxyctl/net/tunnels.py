"""The kernel's tunnels by netlink: gre, ip6gre, and GUE over IPv4 (sit) and IPv6 (ip6tnl), each with one far end.

linux/if_tunnel.h defines the devices, linux/fou.h the port that receives GUE. One sit device carries both IPv4 and IPv6
if its protocol is 0 (net/ipv6/sit.c), and so does ip6tnl.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterable
from typing import Any, NamedTuple

from oxyctl.net import generic, messages, netlink
from oxyctl.net.netlink import NLM_F_CREATE, NLM_F_EXCL, RTM_NEWLINK, Request

# linux/if_tunnel.h
GRE_CSUM, GRE_KEY = 0x8000, 0x2000
ENCAP_GUE, ENCAP_FLAG_CSUM6 = 2, 0x2
# linux/ip6_tunnel.h
IGNORE_ENCAP_LIMIT, USE_ORIGINAL_TCLASS = 0x1, 0x2  # no destination option (RFC 2473 section 5.1) saves 8 bytes
# linux/fou.h
FOU_CMD_ADD, FOU_CMD_DEL, FOU_ATTR_PORT, FOU_ATTR_AF, FOU_ATTR_TYPE, FOU_ENCAP_GUE = 1, 2, 1, 2, 4, 2

TTL, INHERIT = 64, 1  # TOS 1: copied from the inner packet
KINDS = {"gre": "gre", "ip6gre": "ip6gre", "gue": "sit", "gue6": "ip6tnl"}
TRIAL_ENDS, TRIAL_PORT = (("192.0.2.1", "192.0.2.2"), ("2001:db8::1", "2001:db8::2")), 6080  # RFC 5737, RFC 3849


class TunnelLink(NamedTuple):
    """One tunnel device. `kind`: gre, ip6gre, gue or gue6; `port`: on which the far end receives GUE."""

    name: str
    number: int  # its index; 0: any
    kind: str
    local: str
    remote: str
    key: int | None = None
    checksum: bool = False
    port: int = 0


def new_tunnel(link: TunnelLink) -> Request:
    """Create the tunnel device, down."""
    data = _gre(link) if link.kind in ("gre", "ip6gre") else _gue(link)
    body = messages.link(link.number, [("IFLA_IFNAME", link.name), messages.link_kind(KINDS[link.kind], data)])
    return Request(f"{link.kind} tunnel {link.name}", RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, body)


def try_tunnel(kind: str) -> None:
    """Create a tunnel of `kind` in the calling thread's namespace. OSError: this kernel does not support the kind."""
    if kind in ("gue", "gue6"):
        listen_gue(TRIAL_PORT, 6 if kind == "gue6" else 4)
    local, remote = TRIAL_ENDS["6" in kind]
    netlink.run([new_tunnel(TunnelLink("trial0", 0, kind, local, remote, port=TRIAL_PORT))])


def _gre(link: TunnelLink) -> messages.Attributes:
    flags = (GRE_CSUM if link.checksum else 0) | (0 if link.key is None else GRE_KEY)
    keys = [] if link.key is None else [("IKEY", link.key), ("OKEY", link.key)]
    endpoints = [("LOCAL", link.local), ("REMOTE", link.remote), ("TTL", TTL)]
    if link.kind == "ip6gre":
        flags = socket.htons(flags)  # pyroute2 swaps the bytes for gre, but not for ip6gre
        options = [("FLAGS", IGNORE_ENCAP_LIMIT | USE_ORIGINAL_TCLASS)]
        return _named("IFLA_IP6GRE", [("IFLAGS", flags), ("OFLAGS", flags), *keys, *endpoints, *options])
    options = [("TOS", INHERIT), ("PMTUDISC", 1)]
    return _named("IFLA_GRE", [("IFLAGS", flags), ("OFLAGS", flags), *keys, *endpoints, *options])


def _gue(link: TunnelLink) -> messages.Attributes:
    endpoints = [("LOCAL", link.local), ("REMOTE", link.remote), ("TTL", TTL), ("PROTO", 0)]
    # source port 0: derived from the inner flow; over IPv6 a UDP checksum is mandatory (RFC 8200 section 8.1)
    encapsulation = [
        ("ENCAP_TYPE", ENCAP_GUE),
        ("ENCAP_FLAGS", ENCAP_FLAG_CSUM6),
        ("ENCAP_SPORT", 0),
        ("ENCAP_DPORT", link.port),
    ]
    if link.kind == "gue6":
        options = [("FLAGS", IGNORE_ENCAP_LIMIT | USE_ORIGINAL_TCLASS)]
        return _named("IFLA_IP6TNL", [*endpoints, *options, *encapsulation])
    return _named("IFLA_SIT", [*endpoints, ("TOS", INHERIT), ("PMTUDISC", 1), *encapsulation])


def _named(prefix: str, values: Iterable[tuple[str, Any]]) -> messages.Attributes:
    return [(f"{prefix}_{name}", value) for name, value in values]


def listen_gue(port: int, family: int) -> None:
    """Have the kernel receive GUE on a UDP port of the calling thread's namespace. `family`: 4 or 6. OSError."""
    generic.request("fou", FOU_CMD_ADD, _gue_port(port, family), f"GUE port {port}")


def stop_gue(port: int, family: int) -> None:
    """Undo `listen_gue` with the same arguments. OSError."""
    generic.request("fou", FOU_CMD_DEL, _gue_port(port, family), f"GUE port {port}")


def _gue_port(port: int, family: int) -> bytes:
    body = _attribute(FOU_ATTR_PORT, struct.pack("!H", port))
    body += _byte(FOU_ATTR_AF, socket.AF_INET if family == 4 else socket.AF_INET6)
    return body + _byte(FOU_ATTR_TYPE, FOU_ENCAP_GUE)


def _attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)


def _byte(kind: int, value: int) -> bytes:
    return _attribute(kind, bytes([value]))
