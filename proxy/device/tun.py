"""TUN devices, plain or with segmentation offload (linux/if_tun.h)."""

from __future__ import annotations

import errno
import fcntl
import os
import struct

IFF_TUN = 0x0001
IFF_NO_PI = 0x1000
IFF_VNET_HDR = 0x4000
MAX_NAME = 15  # IFNAMSIZ without the terminating zero
OFF_RAMP_NAMES = (
    "oxk",
    "oxi",
    "oxu",
    "oxb",
)  # name prefixes of the kernel off-ramp's own devices
TUNSETIFF = 0x4004_54CA
TUNSETOFFLOAD = 0x4004_54D0
TUNGETIFF = 0x8004_54D2
TUN_F_CSUM, TUN_F_TSO4, TUN_F_TSO6 = 0x01, 0x02, 0x04
TUN_F_USO4, TUN_F_USO6 = 0x20, 0x40

TCP_OFFLOADS = TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6
UDP_OFFLOADS = TUN_F_USO4 | TUN_F_USO6  # Linux 6.2 and later


def open_tun(name: str, *, offload: bool, udp_offload: bool = True) -> int:
    """A non-blocking descriptor of the new TUN device `name` in the calling thread's network namespace.

    With `offload` each packet is preceded by a 10-byte virtio-net header, and the kernel leaves segmentation (TCP, and
    UDP if supported) and checksums to the reader. OSError: /dev/net/tun is missing, or may not be used.
    """
    if not 0 < len(name.encode()) <= MAX_NAME:
        raise OSError(errno.EINVAL, f"a device's name has 1 to {MAX_NAME} bytes: {name!r}")
    fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        flags = IFF_TUN | IFF_NO_PI | (IFF_VNET_HDR if offload else 0)
        fcntl.ioctl(fd, TUNSETIFF, struct.pack("16sH22x", name.encode(), flags))
        if offload:
            _set_offloads(fd, udp_offload)
    except BaseException:
        os.close(fd)
        raise
    return fd


def device_name(fd: int) -> str:
    """The name of the device of `fd`, in which the kernel has replaced a `%d` of the requested name."""
    answer = fcntl.ioctl(fd, TUNGETIFF, bytes(40))
    return answer[:16].partition(b"\0")[0].decode()


def has_udp_offload(fd: int) -> bool:
    """Whether this kernel's TUN devices support UDP super-datagrams (USO, Linux 6.2). `fd`: a device with offload."""
    try:
        fcntl.ioctl(fd, TUNSETOFFLOAD, TCP_OFFLOADS | UDP_OFFLOADS)
    except OSError:
        return False
    fcntl.ioctl(fd, TUNSETOFFLOAD, TCP_OFFLOADS)
    return True


def _set_offloads(fd: int, udp: bool) -> None:
    if udp:
        try:
            fcntl.ioctl(fd, TUNSETOFFLOAD, TCP_OFFLOADS | UDP_OFFLOADS)
            return
        except OSError as error:
            if error.errno != errno.EINVAL:  # EINVAL: a kernel before 6.2
                raise
    fcntl.ioctl(fd, TUNSETOFFLOAD, TCP_OFFLOADS)
