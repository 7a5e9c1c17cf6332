"""A real proxy with sites: each is a UDP socket that speaks GUE, behind which scapy makes the packets."""

from __future__ import annotations

import contextlib
import itertools
import socket
from collections.abc import Iterator
from typing import Any

from scapy.packet import Packet

from proxy.errors import DropReason
from proxy.wire import gue
from tests.packets import decode, udp_packet
from tests.running import PATIENCE_S, Client, Stage, staged, until

TENANT = {"acme": 7, "globex": 8}
LAN = {
    "berlin": ("10.1.0", "fd00:1"),
    "paris": ("10.2.0", "fd00:2"),
    "rome": ("10.1.0", "fd00:1"),
    "lab": ("10.1.0", "fd00:1"),
}
MTU = {"berlin": 1400, "paris": 1300}
CONFIGURATION = """
node: edge
tenants:
  acme:
    id: 7
    prefixes: [100.96.0.0/12, "fd00:96::/32"]
    networks:
      default:
        routes:
          - {prefix: 10.1.0.0/24, via: site:berlin}
          - {prefix: "fd00:1::/64", via: site:berlin}
          - {prefix: 10.2.0.0/24, via: site:paris}
          - {prefix: "fd00:2::/64", via: site:paris}
          - {prefix: 10.9.0.0/24, via: site:berlin}
          - {prefix: 10.9.0.0/24, via: site:paris, priority: 200}
          - {prefix: 100.96.0.0/12, via: clients}
          - {prefix: "fd00:96::/32", via: clients}
          - {prefix: 10.50.0.0/24, via: stream}
          - {prefix: "fd00:50::/64", via: stream}
      lab:
        routes:
          - {prefix: 10.1.0.0/24, via: site:lab}
          - {prefix: 100.96.0.0/12, via: clients}
  globex:
    id: 8
    token: secret
    networks:
      default:
        routes:
          - {prefix: 10.1.0.0/24, via: site:rome}
          - {prefix: 100.96.0.0/12, via: clients}
onramps:
  - {kind: connected, path: ramp.sock}
  - kind: gue
    listen: 127.0.0.1:6080
    sites:
      - {name: berlin, tenant: acme, id: 1, token: t0k, peers: ["127.0.0.2:7001"],
         prefixes: [10.1.0.0/24, "fd00:1::/64", 10.9.0.0/24],
         probe: {address: 10.255.1.2, source: 10.255.1.1, every_s: 0.05, timeout_s: 1}}
      - {name: rome, tenant: globex, id: 1, peers: ["127.0.0.4:7004"], prefixes: [10.1.0.0/24, "fd00:1::/64"]}
      - {name: lab, tenant: acme, network: lab, id: 2, peers: ["127.0.0.5:7005"],
         prefixes: [10.1.0.0/24, "fd00:1::/64"]}
  - kind: gue
    listen: "[fd00:50::1]:6080"
    sites:
      - {name: paris, tenant: acme, peers: ["[fd00:50::10]:7003"], context: none, mtu: 1300,
         prefixes: [10.2.0.0/24, "fd00:2::/64", 10.9.0.0/24],
         probe: {address: "fd00:ff::2", source: "fd00:ff::1", every_s: 0.05, timeout_s: 1}}
timeouts: {connect_s: 4, context_s: 2}
"""
PEERS = {
    "berlin": (("127.0.0.2", 7001), ("127.0.0.1", 6080), gue.Context(7, 1, b"t0k")),
    "rome": (("127.0.0.4", 7004), ("127.0.0.1", 6080), gue.Context(8, 1)),
    "lab": (("127.0.0.5", 7005), ("127.0.0.1", 6080), gue.Context(7, 2)),
    "paris": (("fd00:50::10", 7003), ("fd00:50::1", 6080), None),
}


class Site:
    """One site's end: where answers arrive, and other ports that it sends from."""

    def __init__(self, stage: Stage, name: str) -> None:
        self.name = name
        (address, port), self.proxy, self.context = PEERS[name]
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        namespace = stage.origin if ":" in address else stage.edge
        self.sock, self.out = (namespace.run(socket.socket, family, socket.SOCK_DGRAM) for _ in range(2))
        self.sock.bind((address, port))
        self.out.bind((address, 0))
        self.sock.settimeout(PATIENCE_S)
        for level, option in ((socket.IPPROTO_IP, 13), (socket.IPPROTO_IPV6, 66)):
            if (level == socket.IPPROTO_IP) == (family == socket.AF_INET):
                self.sock.setsockopt(level, option, 1)
        self.ports: set[int] = set()
        self.outer_tos = 0
        self.headers: set[bytes] = set()

    def address(self, version: int, host: int = 5) -> str:
        v4, v6 = LAN[self.name]
        return f"{v4}.{host}" if version == 4 else f"{v6}::{host:x}"

    def send(self, *packets: bytes, header: bytes | None = None, tos: int = 0) -> None:
        for packet in packets:
            head = gue.header(packet[0] >> 4, self.context) if header is None else header
            if tos:
                self.out.sendmsg(
                    [head, packet], [(socket.IPPROTO_IP, socket.IP_TOS, bytes([tos, 0, 0, 0]))], 0, self.proxy
                )
            else:
                self.out.sendto(head + packet, self.proxy)

    def receive(self) -> bytes:
        """The next packet for the LAN; probes are answered on the way."""
        while True:
            data, ancillary, _, peer = self.sock.recvmsg(70_000, 128)
            header = gue.parse(data, 0, len(data))
            assert isinstance(header, gue.Gue), header
            assert header.context == self.context
            packet = data[header.length :]
            if not self.answer_probe(packet):
                self.ports.add(peer[1])
                self.outer_tos = next((d[0] for _, kind, d in ancillary if kind in (1, 67)), 0)
                return packet

    def answer_probe(self, packet: bytes) -> bool:
        """Whether it was a probe."""
        decoded = decode(packet)
        is_request = getattr(decoded.payload, "type", None) == {4: 8, 6: 128}[decoded.version]
        if decoded.src not in ("10.255.1.1", "fd00:ff::1") or not is_request:
            return False
        reply = decoded.copy()
        reply.src, reply.dst = decoded.dst, decoded.src
        if reply.version == 4:
            reply.payload.type = 0
        else:
            from scapy.layers.inet6 import ICMPv6EchoReply

            echo = decoded.payload
            reply.payload = ICMPv6EchoReply(id=echo.id, seq=echo.seq, data=echo.data)
        for field in ("chksum", "len", "plen"):
            if field in reply.fields:
                delattr(reply, field)
        if "chksum" in reply.payload.fields:
            del reply.payload.chksum
        self.send(bytes(reply))
        return True

    def packet(self) -> Packet:
        return decode(self.receive())

    def close(self) -> None:
        self.sock.close()
        self.out.close()


class Wan(Stage):
    """A stage with sites."""

    numbers = itertools.count(1)

    def __init__(self, directory: str, **options: Any) -> None:
        super().__init__(directory, configuration=CONFIGURATION, **options)

    def site(self, name: str) -> Site:
        site = Site(self, name)
        self._closing.callback(site.close)
        return site

    def drops(self, tenant: str | None = None) -> dict[str, int]:
        status = self.status
        return status.drops if tenant is None else status.tenants[tenant].drops

    def counted(self, reason: DropReason, act: Any, tenant: str | None = None, count: int = 1) -> None:
        """`act` adds `count` drops for this reason."""
        before = self.drops(tenant).get(reason, 0)
        act()
        until(lambda: self.drops(tenant).get(reason, 0) == before + count)

    def canary(self, client: Client, site: Site, version: int = 4) -> None:
        """A datagram from a client that arrives at a site, behind whatever was sent before."""
        mark = b"canary %d" % next(self.numbers)
        packet = udp_packet(version, mark, sport=5000)
        head = client.network(version, site.address(version))
        decoded = decode(packet)
        client.send(bytes(head / decoded.payload.__class__(sport=5000, dport=53) / mark))
        assert bytes(site.packet().lastlayer()) == mark


@contextlib.contextmanager
def wide() -> Iterator[Wan]:
    with staged(Wan) as stage:
        yield stage
