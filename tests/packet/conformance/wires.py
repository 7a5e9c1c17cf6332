"""Both wires of a conformance script: the client's tunnel, and the network of an origin that the script plays too.

client ==(tunnel)== proxy 10.50.0.1 ------ 10.50.0.10 router ==(TUN)== 10.67.0.0/24, fd00:67::/64: the script
"""

from __future__ import annotations

import itertools
import os
import select
import struct
from collections import deque
from collections.abc import Callable

from scapy.layers.inet import ICMP, UDP
from scapy.layers.inet6 import ICMPv6EchoRequest
from scapy.packet import Packet, Raw

from proxy.context import TunnelContext
from proxy.device.interface import bring_up
from proxy.device.tun import open_tun
from proxy.flow.fragments import Fragments
from proxy.packet.fragment import split
from proxy.wire.checksum import pseudo_header_sum
from tests.netns import route
from tests.packet.script import describe
from tests.packets import decode, network, parsed, rfc1071
from tests.running import PATIENCE_S, Client, Stage

PROXY = {4: "10.50.0.1", 6: "fd00:50::1"}
ROUTER = {4: "10.50.0.10", 6: "fd00:50::10"}  # its kernel answers pings
SCRIPTED = {4: "10.67.0.9", 6: "fd00:67::9"}  # everything in these networks is the script
FAR_ROUTER = {4: "10.67.0.254", 6: "fd00:67::254"}  # for ICMP errors from beyond
HOP = {4: "192.0.0.8", 6: "fd6f:7879::1"}  # the proxy, as its ICMP errors say
CANARY_PORT = 7


class ScriptedClient(Client):
    """A client that checks every packet it is sent: lengths, checksums, and that nothing is larger than its MTU."""

    def __init__(self, path: str, context: TunnelContext) -> None:
        super().__init__(path, context)
        self.mtu = context.mtu
        self.gso_size = 0  # of the last packet
        self._idents = itertools.count(50_000)
        self.kept: deque[bytes] = deque()  # read by another conversation

    def receive(self) -> bytes:
        datagram = self.sock.recv(70_000)
        assert datagram, "the proxy hung up"
        head, packet = datagram[: len(self.head)], datagram[len(self.head) :]
        flags, kind, _, self.gso_size, start, offset = struct.unpack("<BBHHHH", head) if head else (0,) * 6
        if not kind:
            self.gso_size = 0
            assert len(packet) <= self.mtu, f"{len(packet)} bytes in a tunnel of {self.mtu}: {describe(packet)}"
        else:
            headers = start + (packet[start + 12] >> 4) * 4 if kind in (1, 4) else start + 8
            assert headers + self.gso_size <= self.mtu, f"segments of {self.gso_size} in a tunnel of {self.mtu}"
        check(packet if not flags & 1 else completed(packet, start, offset))
        return packet

    def next(self, is_wanted: Callable[[bytes], bool]) -> bytes:
        """The next packet of this kind; the others are kept for whoever wants them."""
        return _next(self.kept, self.receive, is_wanted)

    def told(self) -> str:
        """The next ICMP error, in short."""
        return describe(self.next(is_icmp_error))

    def ping(self, version: int) -> int:
        """Send one to the origin's router; its identifier."""
        ident = next(self._idents)
        echo = ICMP(id=ident) if version == 4 else ICMPv6EchoRequest(id=ident)
        self.send(bytes(self.network(version) / echo / Raw(b"canary")))
        return ident

    def canary(self, version: int = 4) -> list[str]:
        """Everything that came before the answer to a ping sent now, in short."""
        ident, before = self.ping(version), []
        while not is_reply(packet := self.kept.popleft() if self.kept else self.receive(), ident):
            before.append(describe(packet))
        return before


class OriginNetwork:
    """What the proxy sends to the scripted network, and what is sent from there."""

    def __init__(self, stage: Stage) -> None:
        self.fd = stage.origin.run(open_tun, "script", offload=False)
        stage.origin.run(bring_up, "script", mtu=9000, queue=10_000, addresses=["10.67.0.1/24", "fd00:67::1/64"])
        for prefix, gateway in (("10.67.0.0/24", ROUTER[4]), ("fd00:67::/64", ROUTER[6])):
            route(stage.edge, prefix, gateway)
        self.kept: deque[bytes] = deque()

    def send(self, packet: bytes) -> None:
        for piece in split(packet, 1500, len(self.kept) + 1):
            os.write(self.fd, piece)

    def receive(self) -> bytes:
        ready, _, _ = select.select([self.fd], [], [], PATIENCE_S)
        assert ready, "nothing came to the origin"
        packet = os.read(self.fd, 70_000)
        check(packet)
        return packet

    def next(self, is_wanted: Callable[[bytes], bool]) -> bytes:
        """The next packet of this kind; the others are kept for whoever wants them."""
        return _next(self.kept, self.receive, is_wanted)

    def waiting(self) -> list[bytes]:
        """What has come so far."""
        packets = list(self.kept)
        self.kept.clear()
        while select.select([self.fd], [], [], 0)[0]:
            packets.append(os.read(self.fd, 70_000))
        return packets

    def seen_before(self, canary: bytes) -> list[bytes]:
        """Everything that came before a UDP datagram with this payload."""
        before = []
        while canary not in (packet := self.kept.popleft() if self.kept else self.receive()):
            if not _is_chatter(packet):
                before.append(packet)
        return before

    def forget(self) -> None:
        """Read away what is left of an earlier test."""
        self.waiting()

    def close(self) -> None:
        os.close(self.fd)


def _next(kept: deque[bytes], receive: Callable[[], bytes], is_wanted: Callable[[bytes], bool]) -> bytes:
    for packet in kept:
        if is_wanted(packet):
            kept.remove(packet)
            return packet
    while not is_wanted(packet := receive()):
        kept.append(packet)
    return packet


def is_udp_to(*ports: int) -> Callable[[bytes], bool]:
    """Whether a packet is a datagram to one of these ports, or a fragment of any."""

    def is_wanted(packet: bytes) -> bool:
        found = parsed(packet)
        return found.protocol == 17 and (found.is_fragment or decode(packet)[UDP].dport in ports)

    return is_wanted


def joined(end: ScriptedClient | OriginNetwork, is_wanted: Callable[[bytes], bool]) -> bytes:
    """One packet, put together from its fragments when it comes in several."""
    fragments = Fragments(timeout_s=60, max_bytes=1 << 20)
    while True:
        packet = end.next(is_wanted)
        found = parsed(packet)
        if not found.is_fragment:
            return packet
        if isinstance(whole := fragments.add(packet, found, 0), bytes):
            return whole


def check(packet: bytes) -> None:
    """Lengths and checksums, by RFC 1071 word by word."""
    found = parsed(packet)
    assert found.end == len(packet)
    if found.is_fragment:
        return
    body = packet[found.l4 :]
    places = {6: 16, 17: 6, 1: 2, 58: 2}
    if found.protocol == 17 and not any(body[6:8]):
        assert found.version == 4
    elif found.protocol in places:
        pseudo = b"" if found.protocol == 1 else pseudo_header(found.source + found.destination, found.protocol, body)
        assert rfc1071(pseudo + body) == 0, f"checksum: {describe(packet)}"


def pseudo_header(addresses: bytes, protocol: int, body: bytes) -> bytes:
    return addresses + struct.pack("!II", len(body), protocol)


def completed(packet: bytes, start: int, offset: int) -> bytes:
    """A packet with a partial checksum, as a device with offload would send it."""
    found = parsed(packet)
    at = start + offset
    expected = pseudo_header_sum(found.source + found.destination, found.protocol, found.end - start)
    assert int.from_bytes(packet[at : at + 2], "big") == expected
    whole = bytearray(packet)
    whole[at : at + 2] = rfc1071(packet[start:]).to_bytes(2, "big")
    return bytes(whole)


def is_icmp_error(packet: bytes) -> bool:
    found = parsed(packet)
    kind = packet[found.l4]
    return (found.protocol == 1 and kind in (3, 4, 5, 11, 12)) or (found.protocol == 58 and kind < 128)


def is_reply(packet: bytes, ident: int) -> bool:
    found = parsed(packet)
    is_echo = (found.protocol, packet[found.l4]) in ((1, 0), (58, 129))
    return is_echo and int.from_bytes(packet[found.l4 + 4 : found.l4 + 6], "big") == ident


def _is_chatter(packet: bytes) -> bool:
    """Whether a kernel sent it of its own accord: router solicitations and multicast listener reports."""
    return packet[0] >> 4 == 6 and packet[24] == 0xFF


FIRST_PORT = 20_000


class ScriptedStage(Stage):
    """A stage whose origin is scripted too."""

    def __init__(self, directory: str, **options: str) -> None:
        self._ports = itertools.count(FIRST_PORT)
        self._test_began_at = FIRST_PORT
        super().__init__(directory, **options)
        self.network = OriginNetwork(self)

    @property
    def port(self) -> int:
        """One that no other conversation has."""
        return next(self._ports)

    def scripted(self, tenant: str = "acme", *, offload: bool = False, **fields: object) -> ScriptedClient:
        context = self.context(tenant, offload="virtio-net" if offload else None, **fields)
        client = ScriptedClient(self.path, context)
        self._closing.callback(client.close)
        return client

    def quiet(self, client: ScriptedClient, version: int = 4) -> tuple[list[str], list[bytes]]:
        """What the client and the origin got before a canary that both of them saw."""
        payload = b"canary %d" % self.port
        client.send(datagram(client, version, 1, CANARY_PORT, payload))
        seen = self.network.seen_before(payload)
        return client.canary(version), [packet for packet in seen if not self._is_of_an_earlier_test(packet)]

    def _is_of_an_earlier_test(self, packet: bytes) -> bool:
        """Whether its conversation is over for the tests, and the proxy's kernel had a last word to say."""
        found = parsed(packet)
        is_tcp = found.protocol == 6
        return is_tcp and FIRST_PORT <= int.from_bytes(packet[found.l4 + 2 : found.l4 + 4], "big") < self._test_began_at

    def dropped(self, reason: str, tenant: str = "acme") -> int:
        """How many packets of the tenant went no further for this reason."""
        return self.status.tenants[tenant].drops.get(reason, 0)

    def after_test(self) -> None:
        super().after_test()
        self._test_began_at = self.port
        self.network.forget()

    def close(self) -> None:
        super().close()
        self.network.close()


def datagram(client: ScriptedClient, version: int, sport: int, dport: int, payload: bytes, **fields: object) -> bytes:
    """From the client to the scripted origin; `fields` are of UDP, but `ttl`, `dst`, and `flags` of IPv4."""
    names = ("ttl", "dst", "flags", "src")
    head = {name: fields.pop(name) for name in names if name in fields}
    packet = network(version, head.pop("src", client.addresses[version]), head.pop("dst", SCRIPTED[version]), **head)
    return bytes(packet / UDP(sport=sport, dport=dport, **fields) / Raw(payload))


def received(packet: bytes) -> tuple[str, int, str, int, bytes]:
    """Source, its port, destination, its port, and payload of a datagram."""
    decoded: Packet = decode(packet)
    return decoded.src, decoded[UDP].sport, decoded.dst, decoded[UDP].dport, bytes(decoded[UDP].payload)
