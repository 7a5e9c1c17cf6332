"""Offloads of interfaces, which leave checksums and segmentation to the far end of a virtual link."""

from __future__ import annotations

import array
import fcntl
import socket
import struct

SIOCETHTOOL, ETHTOOL_STXCSUM = 0x8946, 0x17  # linux/sockios.h, linux/ethtool.h


def disable_checksum_offload(interface: str) -> None:
    """Have the kernel compute checksums, and segment super-packets, before `interface` sends them. OSError.

    A veth pair omits both, since the receiving stack does not need them. But a program at the far end that reads
    tunnels' packets from a raw or UDP socket would see GRE checksums of 0, and inner packets that are larger than the
    tunnel's MTU, with a checksum of the pseudo-header only.
    """
    value = array.array("I", [ETHTOOL_STXCSUM, 0])
    address, _ = value.buffer_info()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        fcntl.ioctl(sock, SIOCETHTOOL, struct.pack("16sP16x", interface.encode(), address))
