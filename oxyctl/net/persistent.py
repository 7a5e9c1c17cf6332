"""Persistent TUN devices, to which a program attaches by name (linux/if_tun.h)."""

from __future__ import annotations

import fcntl
import os
import struct

from proxy.device.tun import IFF_NO_PI, IFF_TUN, TUNSETIFF

TUNSETIFINDEX, TUNSETPERSIST = 0x4004_54DA, 0x4004_54CB


def new_tun(name: str, index: int) -> None:
    """Create the TUN device `name`, down, in the calling thread's network namespace, with which it ends. OSError."""
    fd = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.ioctl(fd, TUNSETIFINDEX, struct.pack("=I", index))
        fcntl.ioctl(fd, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TUN | IFF_NO_PI))
        fcntl.ioctl(fd, TUNSETPERSIST, 1)
    finally:
        os.close(fd)
