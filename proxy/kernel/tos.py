"""TOS and traffic class of a socket's packets, set and received, and other ancillary data."""

from __future__ import annotations

import socket
import struct

UDP_GRO = 104
IP_RECVTOS = 13
ONE_CONTROL = 24  # bytes: the TOS alone, of either family (linux/socket.h CMSG_SPACE)
TOS_KINDS = ((socket.IPPROTO_IP, socket.IP_TOS), (socket.IPPROTO_IPV6, socket.IPV6_TCLASS))

_get_control = struct.Struct("@Nii").unpack_from  # struct cmsghdr
_get_int = struct.Struct("@i").unpack_from


def set_tos(sock: socket.socket, tos: int) -> None:
    """Set the TOS of packets sent from now on. TCP sets the two ECN bits itself."""
    if sock.family == socket.AF_INET:
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, tos)
    else:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_TCLASS, tos)


def receive_tos(sock: socket.socket) -> None:
    """Receive the TOS as ancillary data."""
    if sock.family == socket.AF_INET:
        sock.setsockopt(socket.IPPROTO_IP, IP_RECVTOS, 1)
    else:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVTCLASS, 1)


def ancillary(controls: bytearray, at: int, length: int) -> tuple[int, int]:
    """TOS or traffic class, and the segment size of datagrams coalesced by the kernel, 0 if there is only one."""
    if length == ONE_CONTROL:
        return controls[at + 16], 0
    tos = size = 0
    end = at + length
    while at + 16 < end:
        bytes_, level, kind = _get_control(controls, at)
        if (level, kind) == (socket.IPPROTO_UDP, UDP_GRO):
            size = _get_int(controls, at + 16)[0]
        elif (level, kind) in TOS_KINDS:
            tos = controls[at + 16]
        at += (bytes_ + 7) & ~7
        if bytes_ < 16:
            break
    return tos, size
