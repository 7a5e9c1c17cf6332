"""Offloads of interfaces, which leave checksums and segmentation to the far end of a virtual link."""

from __future__ import annotations

import array
import fcntl
import socket
import struct

SIOCETHTOOL, ETHTOOL_STXCSUM = 0x8946, 0x17  # linux/sockios.h, linux/ethtool.h


def finish_checksums(interface: str) -> None:
    """Have the kernel finish checksums, and cut super-packets, before `interface` sends them. OSError.

    A veth pair passes both on undone, since another kernel's stack would not look. A program at the far end does that
    takes tunnels' packets from a raw or UDP socket: it would find GRE checksums of 0, and packets inside that are
    larger than the tunnel's MTU, with nothing but a pseudo-header's sum.
    """
    value = array.array("I", [ETHTOOL_STXCSUM, 0])
    address, _ = value.buffer_info()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        fcntl.ioctl(sock, SIOCETHTOOL, struct.pack("16sP16x", interface.encode(), address))
