"""Generic netlink: looks up families by name, and sends them requests (linux/genetlink.h)."""

from __future__ import annotations

import os
import socket
import struct

from oxyctl.net.netlink import NLM_F_ACK, NLM_F_REQUEST, NLMSG_ERROR, NetlinkError

NETLINK_GENERIC, GENL_ID_CTRL, CTRL_CMD_GETFAMILY = 16, 16, 3
CTRL_ATTR_FAMILY_ID, CTRL_ATTR_FAMILY_NAME = 1, 2
TIMEOUT_S = 5

_header = struct.Struct("=IHHII")  # length, type, flags, sequence, port
_generic = struct.Struct("=BBH")  # command, version


def request(family: str, command: int, attributes: bytes, what: str) -> None:
    """Send `command` to `family` in the calling thread's network namespace. NetlinkError: refused; it names `what`."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_GENERIC) as sock:
        sock.settimeout(TIMEOUT_S)
        kind = _find(sock, family)
        _exchange(sock, kind, NLM_F_REQUEST | NLM_F_ACK, command, attributes, what)


def _find(sock: socket.socket, family: str) -> int:
    """The message type of a family. NetlinkError: the kernel does not have this family."""
    name = family.encode() + b"\0"
    attribute = struct.pack("=HH", 4 + len(name), CTRL_ATTR_FAMILY_NAME) + name + bytes(-len(name) % 4)
    answer = _exchange(sock, GENL_ID_CTRL, NLM_F_REQUEST, CTRL_CMD_GETFAMILY, attribute, f"family {family}")
    offset = _header.size + _generic.size
    while offset + 4 <= len(answer):
        length, kind = struct.unpack_from("=HH", answer, offset)
        if kind == CTRL_ATTR_FAMILY_ID:
            return int(struct.unpack_from("=H", answer, offset + 4)[0])
        offset += max(4, (length + 3) & ~3)
    raise NetlinkError(f"family {family} has no message type")


def _exchange(sock: socket.socket, kind: int, flags: int, command: int, attributes: bytes, what: str) -> bytes:
    body = _generic.pack(command, 1, 0) + attributes
    sock.send(_header.pack(_header.size + len(body), kind, flags, 1, 0) + body)
    answer = sock.recv(65_536)
    if _header.unpack_from(answer)[1] == NLMSG_ERROR:
        code = -struct.unpack_from("=i", answer, _header.size)[0]
        if code:
            raise NetlinkError(code, f"{what}: {os.strerror(code)}")
    return answer
