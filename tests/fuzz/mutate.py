"""Packets that are almost right: good ones, changed where it hurts, their checksums mended now and then."""

from __future__ import annotations

import random

from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import ICMPv6EchoRequest, IPv6, IPv6ExtHdrDestOpt, IPv6ExtHdrHopByHop, PadN
from scapy.packet import Raw

from proxy.packet.fragment import split
from proxy.wire import ip
from proxy.wire.checksum import checksum, pseudo_header_sum
from tests.packets import CLIENT, ORIGIN, network, ping_packet, tcp_packet, udp_packet

INTERESTING = [0, 1, 2, 4, 5, 6, 7, 8, 15, 16, 17, 19, 20, 21, 40, 44, 58, 59, 60, 63, 64, 127, 128, 254, 255]


def corpus(seed: int) -> list[bytes]:
    """Good packets of every kind that the plane knows, and some that it does not."""
    rng = random.Random(seed)
    packets = []
    for version in (4, 6):
        packets += [
            tcp_packet(version, rng.randbytes(n), flags=flags)
            for n, flags in ((0, "S"), (0, "A"), (99, "PA"), (3, "FA"), (0, "R"))
        ]
        packets += [
            tcp_packet(version, sport=port, options=[("MSS", 1460), ("NOP", None), ("WScale", 7)]) for port in range(4)
        ]
        packets += [udp_packet(version, rng.randbytes(n), sport=n) for n in (0, 1, 512, 1200)]
        packets += [ping_packet(version, rng.randbytes(56), ident=n) for n in range(3)]
        packets += split(udp_packet(version, rng.randbytes(5000)), 1280, 1)
        packets += split(ping_packet(version, rng.randbytes(3000)), 576, 2)
    packets.append(bytes(IP(src=CLIENT[4], dst=ORIGIN[4], options=b"\x01" * 8) / TCP(flags="S")))
    packets.append(bytes(IP(src=CLIENT[4], dst=ORIGIN[4], ttl=1) / UDP() / Raw(b"trace")))
    packets.append(bytes(IP(src=CLIENT[4], dst=ORIGIN[4]) / ICMP(type=3, code=4) / Raw(tcp_packet())))
    options = [PadN(optdata=bytes(4))]
    chain = network(6) / IPv6ExtHdrHopByHop(options=options) / IPv6ExtHdrDestOpt(options=options)
    packets += [bytes(chain / TCP(flags="S")), bytes(chain / ICMPv6EchoRequest(data=b"x")), bytes(chain / Raw(b"?"))]
    packets.append(bytes(IPv6(src=CLIENT[6], dst=ORIGIN[6], nh=132) / Raw(bytes(20))))
    return packets


def mutate(rng: random.Random, packets: list[bytes]) -> bytes:
    """One of `packets`, or two of them in one, with up to four changes."""
    packet = bytearray(rng.choice(packets))
    for _ in range(rng.randrange(5)):
        if not packet:
            break
        at = rng.randrange(min(len(packet), 80)) if rng.random() < 0.8 else rng.randrange(len(packet))
        match rng.randrange(8):
            case 0:
                packet[at] ^= 1 << rng.randrange(8)
            case 1:
                packet[at] = rng.choice(INTERESTING)
            case 2:
                packet[at : at + 2] = rng.choice(INTERESTING).to_bytes(2, "big")
            case 3:
                del packet[at:]
            case 4:
                packet += rng.randbytes(rng.randrange(64))
            case 5:
                packet[at:at] = rng.randbytes(8)
            case 6:
                packet[at:] = rng.choice(packets)[at:]
            case 7:
                del packet[at : at + rng.choice((1, 4, 8))]
    if rng.random() < 0.6:
        mend(packet)
    return bytes(packet)


def mend(packet: bytearray) -> None:
    """Make lengths and checksums right again where there are any, so that the next check is reached."""
    if len(packet) >= 20 and packet[0] >> 4 == 4:
        header = max(20, (packet[0] & 15) * 4)
        packet[2:4] = (len(packet) & 0xFFFF).to_bytes(2, "big")
        packet[10:12] = bytes(2)
        packet[10:12] = checksum(packet[:header]).to_bytes(2, "big")
        _mend_transport(packet, header, packet[9], bytes(packet[12:20]))
    elif len(packet) >= 40 and packet[0] >> 4 == 6:
        packet[4:6] = (len(packet) - 40 & 0xFFFF).to_bytes(2, "big")
        _mend_transport(packet, 40, packet[6], bytes(packet[8:40]))


def _mend_transport(packet: bytearray, at: int, protocol: int, addresses: bytes) -> None:
    place = {ip.TCP: 16, ip.UDP: 6, ip.ICMP: 2, ip.ICMPV6: 2}.get(protocol)
    if place is None or len(packet) < at + 20:
        return
    if protocol == ip.UDP:
        packet[at + 4 : at + 6] = (len(packet) - at & 0xFFFF).to_bytes(2, "big")
    packet[at + place : at + place + 2] = bytes(2)
    pseudo = 0 if protocol == ip.ICMP else pseudo_header_sum(addresses, protocol, len(packet) - at)
    packet[at + place : at + place + 2] = checksum(packet[at:], pseudo).to_bytes(2, "big")
