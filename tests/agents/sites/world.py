"""A site and the edge, two namespaces with a link; the agents as a process; a socket in the proxy's place."""

from __future__ import annotations

import fcntl
import json
import os
import queue
import select
import socket
import subprocess
import sys
import threading
import time
from ipaddress import ip_address, ip_interface, ip_network
from pathlib import Path

from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.packet import Raw

from oxyctl.agents.client import TUNSETPERSIST
from oxyctl.agents.sites.sockets import UDP_GRO
from oxyctl.net.netlink import LOOPBACK_INDEX, add_address, add_route, run
from proxy.device.interface import bring_up, set_sysctl
from proxy.device.tun import open_tun
from proxy.wire import gue
from proxy.wire.gue import Context
from tests.netns import Namespace, connect

ROOT = Path(__file__).parents[3]
DEADLINE_S = 60
EDGE = {4: "10.50.0.1", 6: "fd00:50::1"}  # outer addresses
SITE = {4: "10.50.0.11", 6: "fd00:50::11"}
HOST = {4: "10.1.0.1", 6: "fd00:1::1"}  # inner: in the site, and somewhere behind the proxy
CLIENT = {4: "100.96.0.2", 6: "fd00:96::2"}
MASK = {4: 24, 6: 64}
PROXY, BACK = "127.0.0.1:6080", "127.0.0.1:20001"
CONTEXT = {"tenant": 7, "site": 1, "token": "secret"}
GUE_BACK = {4: gue.header(4, Context(7, 1, b"secret")), 6: gue.header(6, Context(7, 1, b"secret"))}


def file_of(namespace):
    """What stands for it as long as it lives."""
    return namespace.run(lambda: f"/proc/{os.getpid()}/task/{threading.get_native_id()}/ns/net")


class Agents:
    """The process; its reports are read as they come."""

    def __init__(self, directory, tunnels, **options):
        self.path, self.status_path = directory / "sites.json", directory / "sites.sock"
        self.generation = 0
        self.reports, self.seen = queue.Queue(), []
        self.write(tunnels)
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options
        command = [sys.executable, "-P", "-m", "oxyctl.agents.sites", str(self.path)]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
        self.process = subprocess.Popen(command, cwd=ROOT, env=environment, text=True, **pipes)
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def write(self, tunnels):
        config = {"generation": self.generation, "status": str(self.status_path), "tunnels": tunnels}
        self.path.write_text(json.dumps(config))

    def change(self, tunnels):
        """Its report on the new configuration."""
        self.generation += 1
        self.write(tunnels)
        self.process.send_signal(1)
        return self.report(lambda report: report.get("generation") == self.generation)

    def _read(self):
        for line in self.process.stdout:
            self.reports.put(json.loads(line))

    def report(self, wanted):
        """The next report that `wanted` says yes to."""
        deadline = time.monotonic() + DEADLINE_S
        while True:
            report = self.reports.get(timeout=max(0, deadline - time.monotonic()))
            self.seen.append(report)
            if wanted(report):
                return report

    def ready(self):
        report = self.report(lambda report: report.get("generation") == self.generation)
        assert report["problems"] == {}
        return self

    def status(self):
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        with sock:
            sock.settimeout(DEADLINE_S)
            sock.connect(str(self.status_path))
            with sock.makefile("rb") as file:
                return json.loads(file.read())

    def tunnel(self, end="site", node="berlin"):
        """The status of one end."""
        return next(each for each in self.status()["tunnels"] if (each["node"], each["end"]) == (node, end))

    def drops(self, end="site"):
        return self.tunnel(end)["drops"]

    def stray(self):
        """Drops of packets that belong to no tunnel."""
        return list(self.status()["drops"].values())

    def close(self):
        """Its exit code and what it said on standard error."""
        if self.process.poll() is None:
            self.process.terminate()
        code = self.process.wait(DEADLINE_S)
        self.reader.join()
        said = self.process.stderr.read()
        for pipe in (self.process.stdout, self.process.stderr):
            pipe.close()
        return code, said


class World:
    """Two namespaces. `tun0` of the site leads to wherever `CLIENT` is."""

    def __init__(self, directory, mtu=1476):
        self.directory, self.mtu = directory, mtu
        self.edge, self.site = Namespace(), Namespace()
        connect(
            self.edge, self.site, [f"{EDGE[v]}/{MASK[v]}" for v in (4, 6)], [f"{SITE[v]}/{MASK[v]}" for v in (4, 6)]
        )
        for namespace, address in ((self.edge, EDGE[6]), (self.site, SITE[6])):
            eventually(lambda n=namespace, a=address: n.run(_is_in_use, a), f"the address {address}")
        self.sockets = []
        self.agents = None
        self.site.run(_make_tun, mtu)
        for version in (4, 6):
            self.site.run(_route_to_tun, f"{CLIENT[version]}/{32 if version == 4 else 128}")

    def entry(self, end="site", *, node="berlin", **sides):
        """One end of a tunnel in the configuration."""
        namespace = self.edge if end == "edge" else self.site
        sides = {kind: side for kind, side in sides.items() if side is not None}
        return {"node": node, "end": end, "netns": file_of(namespace), "mtu": self.mtu} | sides

    def start(self, *tunnels, **options):
        self.agents = Agents(self.directory, list(tunnels), **options).ready()
        return self.agents

    def socket(self, namespace, family, kind, protocol=0, bind=None):
        sock = namespace.run(socket.socket, family, kind, protocol)
        sock.settimeout(DEADLINE_S)
        if bind is not None:
            sock.bind(bind)
        self.sockets.append(sock)
        return sock

    def host(self, version, port=5000):
        """A UDP socket of a host in the site."""
        return self.socket(self.site, _family(version), socket.SOCK_DGRAM, bind=(HOST[version], port))

    def raw(self, version):
        """A raw socket for GRE at the edge: what a peer that is not ours sends and gets."""
        sock = self.socket(self.edge, _family(version), socket.SOCK_RAW, 47, bind=(EDGE[version], 0))
        return Raw47(sock, version)

    def proxy(self, bind=PROXY, namespace=None):
        return Proxy(self, bind, namespace or self.edge)

    def close(self):
        code = said = None
        if self.agents is not None:
            if self.agents.process.poll() is None and self.agents.status_path.exists():
                print(self.agents.status())  # in the report of a failure
            code, said = self.agents.close()
        for sock in self.sockets:
            sock.close()
        self.site.close()
        self.edge.close()
        if self.agents is not None:
            assert "Traceback" not in said, said
            assert code == 0, said


class Raw47:
    """Outer packets without their IP header, sent to the site and received from it."""

    def __init__(self, sock, version):
        self.sock, self.version = sock, version

    def send(self, payload, traffic_class=0):
        if self.version == 4:
            self.sock.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, traffic_class)
        else:
            self.sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_TCLASS, traffic_class)
        self.sock.sendto(bytes(payload), (SITE[self.version], 0))

    def receive(self):
        """The outer IPv4 header, b"" for IPv6, and the rest."""
        packet = self.sock.recv(70_000)
        return (packet[:20], packet[20:]) if self.version == 4 else (b"", packet)


class Proxy:
    """A UDP socket in the proxy's place, and what arrives there, datagram by datagram."""

    def __init__(self, world, bind, namespace):
        host, _, port = bind.rpartition(":")
        address = host.strip("[]")
        self.sock = world.socket(
            namespace, _family(ip_address(address).version), socket.SOCK_DGRAM, bind=(address, int(port))
        )
        self.sock.setsockopt(socket.IPPROTO_UDP, UDP_GRO, 1)
        self.sizes = []  # datagrams of each call
        self.senders = []
        self._waiting = []

    def receive(self):
        """Header and inner packet of the next datagram."""
        if not self._waiting:
            data, ancillary, _, sender = self.sock.recvmsg(70_000, 100)
            size = next(
                (int.from_bytes(value[:4], "little") for _, kind, value in ancillary if kind == UDP_GRO), len(data)
            )
            self._waiting = [data[at : at + size] for at in range(0, len(data), size)]
            self.sizes.append(len(self._waiting))
            self.senders.append(sender)
        data = self._waiting.pop(0)
        header = gue.parse(data, 0, len(data))
        assert isinstance(header, gue.Gue), header
        return header, data[header.length :]

    def send(self, packet, header=None, to=BACK):
        host, _, port = to.rpartition(":")
        packet = bytes(packet)
        before = GUE_BACK[packet[0] >> 4] if header is None else header
        self.sock.sendto(before + packet, (host.strip("[]"), int(port)))

    def is_silent(self):
        return not self._waiting and not select.select([self.sock], [], [], 0)[0]


def inner(version, payload, *, back=False, tos=0, sport=40_000, dport=5000, **fields):
    """A UDP packet from the client to the site's host, as scapy builds it; `back`: the other way."""
    src, dst = CLIENT[version], HOST[version]
    if back:
        src, dst = dst, src
    head = IP(src=src, dst=dst, tos=tos, **fields) if version == 4 else IPv6(src=src, dst=dst, tc=tos, **fields)
    payload = payload.encode() if isinstance(payload, str) else payload
    return bytes(head / UDP(sport=sport, dport=dport) / Raw(payload))


def text_of(packet):
    """The payload of a UDP packet."""
    return packet[28 if packet[0] >> 4 == 4 else 48 :].decode()


def eventually(is_so, what):
    """The first true value of `is_so()`; fails after a deadline."""
    deadline, pause = time.monotonic() + DEADLINE_S, threading.Event()
    while not (value := is_so()):
        assert time.monotonic() < deadline, f"never came true: {what}"
        pause.wait(0.01)
    return value


def _is_in_use(address):
    """Whether packets to an IPv6 address are taken: the kernel finishes adding it after it was asked."""
    return f"{ip_address(address).packed.hex()} 80 " in Path("/proc/thread-self/net/ipv6_route").read_text()


def _family(version):
    return socket.AF_INET if version == 4 else socket.AF_INET6


def _make_tun(mtu):
    """A persistent device, as a plan makes it, that nobody is attached to."""
    fd = open_tun("tun0", offload=False)
    fcntl.ioctl(fd, TUNSETPERSIST, 1)
    set_sysctl("net/ipv6/conf/tun0/addr_gen_mode", 1)  # no link-local address, so no packets but a test's own
    bring_up("tun0", mtu=mtu, queue=2000)
    run([add_address(LOOPBACK_INDEX, ip_interface(HOST[version])) for version in (4, 6)])
    os.close(fd)


def _route_to_tun(prefix):
    run([add_route(ip_network(prefix), socket.if_nametoindex("tun0"))])
