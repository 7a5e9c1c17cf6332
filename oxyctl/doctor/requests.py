"""Netlink requests that only trials need: kinds of links, queueing disciplines, generic families, nftables."""

from __future__ import annotations

import socket
import struct

from oxyctl.net.netlink import NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REQUEST, RTM_NEWLINK, Request

# linux/if_link.h, linux/rtnetlink.h, linux/pkt_sched.h
IFLA_IFNAME, IFLA_LINKINFO, IFLA_INFO_KIND, IFLA_INFO_DATA = 3, 18, 1, 2
IFLA_VRF_TABLE = 1
RTM_NEWQDISC, TC_H_ROOT, TCA_KIND = 36, 0xFFFF_FFFF, 1
# linux/genetlink.h
NETLINK_GENERIC, GENL_ID_CTRL, CTRL_CMD_GETFAMILY, CTRL_ATTR_FAMILY_NAME = 16, 16, 3, 2
# linux/netfilter/nfnetlink.h, nf_tables.h
NETLINK_NETFILTER, NFNL_SUBSYS_NFTABLES, NFT_MSG_NEWTABLE, NFTA_TABLE_NAME = 12, 10, 0, 1
NFNL_MSG_BATCH_BEGIN, NFNL_MSG_BATCH_END = 16, 17
NLMSG_ERROR = 2

_header = struct.Struct("=IHHII")
_link = struct.Struct("=BxHiII")
_queue = struct.Struct("=BxxxiIII")
_generic = struct.Struct("=BBH")
_netfilter = struct.Struct("=BBH")


def new_link(name: str, kind: str) -> Request:
    """A request for a link of `kind` with the minimum of attributes."""
    data = {
        "vrf": attribute(IFLA_VRF_TABLE, struct.pack("=I", 10)),
    }
    info = attribute(IFLA_INFO_KIND, kind.encode() + b"\0")
    info += attribute(IFLA_INFO_DATA, data[kind]) if kind in data else b""
    body = _link.pack(socket.AF_UNSPEC, 0, 0, 0, 0)
    body += attribute(IFLA_IFNAME, name.encode() + b"\0") + attribute(IFLA_LINKINFO, info)
    return Request(f"{kind} link", RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, body)


def new_queue(kind: str, index: int) -> Request:
    """A request for a queueing discipline without parameters: EINVAL if the kernel has it, otherwise ENOENT."""
    body = _queue.pack(socket.AF_UNSPEC, index, 0, TC_H_ROOT, 0) + attribute(TCA_KIND, kind.encode() + b"\0")
    return Request(f"{kind} queue", RTM_NEWQDISC, NLM_F_CREATE | NLM_F_EXCL, body)


def find_family(name: str) -> int:
    """Look up the generic netlink family `name`. Returns the kernel's errno; 0: it has the family."""
    body = _generic.pack(CTRL_CMD_GETFAMILY, 1, 0) + attribute(CTRL_ATTR_FAMILY_NAME, name.encode() + b"\0")
    message = _message(GENL_ID_CTRL, NLM_F_REQUEST, body, 1)
    return _ask(NETLINK_GENERIC, message)


def make_table(name: str) -> int:
    """Create an nftables table. Returns the errno of a refusal; 0: it was created."""
    batch = _netfilter.pack(socket.AF_UNSPEC, 0, socket.htons(NFNL_SUBSYS_NFTABLES))
    table = _netfilter.pack(socket.AF_INET, 0, 0) + attribute(NFTA_TABLE_NAME, name.encode() + b"\0")
    kind, flags = NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_NEWTABLE, NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE
    messages = _message(NFNL_MSG_BATCH_BEGIN, NLM_F_REQUEST, batch, 1) + _message(kind, flags, table, 2)
    return _ask(NETLINK_NETFILTER, messages + _message(NFNL_MSG_BATCH_END, NLM_F_REQUEST, batch, 3))


def attribute(kind: int, value: bytes) -> bytes:
    """One netlink attribute, padded."""
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)


def _message(kind: int, flags: int, body: bytes, sequence: int) -> bytes:
    return _header.pack(_header.size + len(body), kind, flags, sequence, 0) + body


def _ask(protocol: int, messages: bytes) -> int:
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol) as sock:
        sock.settimeout(5)
        sock.send(messages)
        answer = sock.recv(65_536)
    if _header.unpack_from(answer)[1] != NLMSG_ERROR:
        return 0
    return -int(struct.unpack_from("=i", answer, _header.size)[0])
