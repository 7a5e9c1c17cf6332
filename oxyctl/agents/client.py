"""One client: the TUN device that its programs send into, and its tunnel to the proxy while there is one."""

from __future__ import annotations

import errno
import fcntl
import ipaddress
import os
import socket

from oxyctl.agents.config import ClientConfig
from oxyctl.net import netlink
from oxyctl.net.namespaces import inside_file
from oxyctl.net.sockets import shortened
from proxy.context import TunnelAnswer
from proxy.device.seqpacket import dial
from proxy.device.tun import open_tun
from proxy.errors import ProxyError

TUNSETPERSIST = 0x4004_54CB  # linux/if_tun.h
QUEUE_PACKETS = 2000  # what the kernel holds while the tunnel is full or gone
DIAL_TIMEOUT_S = 10.0


class Client:
    """The device stays for the life of the process; tunnels come and go. Counters are of packets."""

    def __init__(self, config: ClientConfig) -> None:
        self.config = config
        self.offload = config.context.offload is not None
        self.mtu = config.context.mtu
        self.tun = _open_device(config, self.offload)
        self.tunnel: socket.socket | None = None
        self.waiting: bytes | None = None  # one packet that the tunnel had no room for; until it goes, none is read
        self.sent = self.received = 0
        self.refused = 0  # by the kernel, from the tunnel: not a packet, or a header that lies
        self.lost = 0  # from the device: longer than the tunnel takes

    @property
    def name(self) -> str:
        """Of its node."""
        return self.config.node

    def dial(self) -> tuple[socket.socket, TunnelAnswer]:
        """A tunnel that the proxy accepted. OSError: nobody answers; ProxyError: refused. May take seconds."""
        with shortened(self.config.socket) as path:
            tunnel, answer = dial(path, self.config.context, timeout_s=DIAL_TIMEOUT_S)
        if self.offload and answer.offload is None:
            tunnel.close()
            raise ProxyError("the proxy did not take the offer of offload, which this device was made for")
        return tunnel, answer

    def adopt(self, tunnel: socket.socket, answer: TunnelAnswer) -> None:
        """From now on this is the tunnel, and its MTU the device's."""
        self.tunnel = tunnel
        if answer.mtu is not None and answer.mtu != self.mtu:
            self.mtu = answer.mtu
            with inside_file(self.config.netns):
                netlink.run([netlink.set_link(socket.if_nametoindex(self.config.interface), mtu=self.mtu)])

    def hang_up(self) -> None:
        """Forget the tunnel, and the packet that waited for it."""
        if self.tunnel is not None:
            self.tunnel.close()
        self.tunnel = self.waiting = None


def _open_device(config: ClientConfig, offload: bool) -> int:
    """A TUN device in the client's namespace with its addresses, taking all traffic that has no better route."""
    with inside_file(config.netns):
        tun = open_tun(config.interface, offload=offload)
        # the namespace's end removes it, all at once: closing one descriptor after the other takes 16 ms each
        fcntl.ioctl(tun, TUNSETPERSIST, 1)
        try:
            netlink.run(_configuration(config))
        except OSError as error:  # the device, with its addresses, may be of the client that was here before
            if error.errno != errno.EEXIST:
                os.close(tun)
                raise
        return tun


def _configuration(config: ClientConfig) -> list[netlink.Request]:
    index = socket.if_nametoindex(config.interface)
    requests = [netlink.set_link(index, mtu=config.context.mtu, queue=QUEUE_PACKETS)]
    addresses = [ipaddress.ip_interface(text) for text in config.context.addresses]  # a single address: /32 or /128
    requests += [netlink.add_address(index, address) for address in addresses]
    for version, everything in ((4, "0.0.0.0/0"), (6, "::/0")):
        if any(address.version == version for address in addresses):
            requests.append(netlink.add_route(ipaddress.ip_network(everything), index))
    return requests
