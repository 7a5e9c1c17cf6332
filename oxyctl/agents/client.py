"""One client: the TUN device that its programs send into, and its tunnel to the proxy while it is connected."""

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
QUEUE_PACKETS = 2000  # the device's queue in the kernel, for while the tunnel is full or disconnected
DIAL_TIMEOUT_S = 10.0


class Client:
    """The device lives as long as the process; tunnels come and go. Counters are in packets."""

    def __init__(self, config: ClientConfig) -> None:
        self.config = config
        self.offload = config.context.offload is not None
        self.mtu = config.context.mtu
        self.tun = _open_device(config, self.offload)
        self.tunnel: socket.socket | None = None
        self.waiting: bytes | None = None  # a packet that did not fit into the tunnel; no reads until it is sent
        self.single_uploads = self.single_downloads = 0  # visits of the pump that read once
        self.sent = self.received = 0
        self.refused = 0  # from the tunnel, rejected by the kernel: not a packet, or an inconsistent header
        self.lost = 0  # from the device: larger than the tunnel accepts

    @property
    def name(self) -> str:
        """The name of its node."""
        return self.config.node

    def dial(self) -> tuple[socket.socket, TunnelAnswer]:
        """Connect to the proxy, which may take seconds. OSError: there is no answer; ProxyError: the proxy refused."""
        with shortened(self.config.socket) as path:
            tunnel, answer = dial(path, self.config.context, timeout_s=DIAL_TIMEOUT_S)
        if self.offload and answer.offload is None:
            tunnel.close()
            raise ProxyError("the proxy declined the offload that this device was created with")
        return tunnel, answer

    def adopt(self, tunnel: socket.socket, answer: TunnelAnswer) -> None:
        """Use this tunnel from now on, and set the device's MTU."""
        self.tunnel = tunnel
        if answer.mtu is not None and answer.mtu != self.mtu:
            self.mtu = answer.mtu
            with inside_file(self.config.netns):
                netlink.run([netlink.set_link(socket.if_nametoindex(self.config.interface), mtu=self.mtu)])

    def disconnect(self) -> None:
        """Close the tunnel, and drop the packet that waited for it."""
        if self.tunnel is not None:
            self.tunnel.close()
        self.tunnel = self.waiting = None


def _open_device(config: ClientConfig, offload: bool) -> int:
    """A TUN device with the client's addresses in its namespace, which is the default route there."""
    with inside_file(config.netns):
        tun = open_tun(config.interface, offload=offload)
        # removed with its namespace, all at once: closing the descriptors one by one takes 16 ms each
        fcntl.ioctl(tun, TUNSETPERSIST, 1)
        try:
            netlink.run(_configuration(config))
        except OSError as error:  # the device and its addresses may be left from a previous client of this node
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
