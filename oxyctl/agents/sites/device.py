"""A side that is a TUN device: a site's router sends into it, or the edge's kernel with its own GRE devices."""

from __future__ import annotations

import fcntl
import os
import socket
import struct
import time
from collections import Counter

from oxyctl.agents.sites.side import Side, is_whole, slots, views
from oxyctl.net import netlink
from oxyctl.net.namespaces import inside_file
from proxy.device.interface import IFF_UP, SIOCGIFFLAGS
from proxy.device.tun import open_tun
from proxy.errors import DropReason

IFF_RUNNING = 0x40  # linux/if.h
QUEUE_S = 2.0  # the longest wait for a queue; usually milliseconds


class DeviceSide(Side):
    """The device `name` in the namespace `netns`; it stays when closed if it had existed before. Raises OSError."""

    def __init__(self, netns: str, name: str, drops: Counter[DropReason]) -> None:
        super().__init__(drops)
        with inside_file(netns):
            self.fd = open_tun(name, offload=False)
            try:
                _await_queue(name)
            except BaseException:
                os.close(self.fd)
                raise

    def receive(self) -> None:
        """Move packets into the tunnel until the device is empty or the budget is spent. OSError: it was removed."""
        fd, send, read = self.fd, self.other.send, os.readv
        try:
            for slot, view in zip(slots, views, strict=True):
                packet = view[: read(fd, [slot])]
                if is_whole(packet):
                    send(packet)
                else:
                    self.drops[DropReason.TRUNCATED] += 1
        except BlockingIOError:
            pass
        finally:
            self.other.flush()

    def send(self, packet: memoryview) -> None:
        try:
            os.write(self.fd, packet)
        except OSError as error:
            self.count_failure(error)
        else:
            self.packets += 1
            self.bytes += len(packet)

    def close(self) -> None:
        os.close(self.fd)


def _await_queue(name: str) -> None:
    """Wait until the device `name`, if it is up, has a transmit queue. Opening it gives it a carrier, which the kernel
    handles in a work queue; packets that programs send before that are silently lost."""
    deadline = time.monotonic() + QUEUE_S
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        while (flags := _flags(sock, name)) & IFF_UP and not flags & IFF_RUNNING and time.monotonic() < deadline:
            time.sleep(0.001)
    if flags & IFF_UP:
        # one more request, which waits for the lock that the work queue holds while it runs
        netlink.run([netlink.set_link(socket.if_nametoindex(name))])


def _flags(sock: socket.socket, name: str) -> int:
    answer = fcntl.ioctl(sock, SIOCGIFFLAGS, struct.pack("16sH22x", name.encode(), 0))
    (flags,) = struct.unpack_from("H", answer, 16)
    return int(flags)
