"""A site and the edge: the kernel carries one end of their tunnel, as a lab has it do, and agents the other."""

from __future__ import annotations

import socket
from ipaddress import ip_interface, ip_network

from oxyctl.net import shaping
from oxyctl.net.netlink import add_address, add_route, run
from oxyctl.net.offload import disable_checksum_offload
from oxyctl.net.tunnels import TunnelLink, listen_gue, new_tunnel
from proxy.device.interface import bring_up, set_sysctl
from tests.agents.sites.world import CLIENT, EDGE, HOST, PROXY, SITE, World

GUE_PORT = 6080


class KernelWorld(World):
    """Tests start the agents of the other end. Links finish checksums, since agents read what the kernel sends."""

    def __init__(self, directory):
        super().__init__(directory)
        self.site.run(disable_checksum_offload, "lan0")
        self.edge.run(disable_checksum_offload, "port")

    def kernel_site(self, kind, name="wan0", **options):
        """The site's end is a device of the kernel's, and the way to CLIENT."""
        outer = 6 if "6" in kind else 4
        self.site.run(_replace_tun, TunnelLink(name, 0, kind, SITE[outer], EDGE[outer], **options))

    def kernel_edge(self, kind, **options):
        """The edge's end is a device of the kernel's, and what is behind it is there: CLIENT."""
        outer = 6 if "6" in kind else 4
        link = TunnelLink("wan0", 0, kind, EDGE[outer], SITE[outer], **options)
        self.edge.run(_make, link, [CLIENT[version] for version in (4, 6)], [HOST[version] for version in (4, 6)])

    def client(self, version, port=7):
        """A UDP socket behind the edge."""
        family = socket.AF_INET if version == 4 else socket.AF_INET6
        return self.socket(self.edge, family, socket.SOCK_DGRAM, bind=(CLIENT[version], port))

    def to_proxy(self, context):
        """The leg of the edge's end that leads to the socket in the proxy's place."""
        return {"local": "127.0.0.1:20001", "remote": PROXY, "context": context}


def _replace_tun(link):
    run([shaping.remove_link(socket.if_nametoindex("tun0"))])
    _make(link, [], [CLIENT[version] for version in (4, 6)])


def _make(link, own, far):
    """The device with addresses of its own, the way to those of the far side, and a port for GUE to arrive at."""
    set_sysctl("net/ipv6/conf/default/addr_gen_mode", 1)  # no link-local address, so no packets but a test's own
    if link.port:
        listen_gue(link.port, 6 if link.kind == "gue6" else 4)
    run([new_tunnel(link)])
    bring_up(link.name, mtu=1400, queue=1000)
    index = socket.if_nametoindex(link.name)
    run([add_address(index, ip_interface(address)) for address in own])
    run([add_route(ip_network(address), index) for address in far])
