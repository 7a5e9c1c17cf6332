"""A packet in one line: source, destination and protocol."""

from __future__ import annotations

import ipaddress
import struct

from proxy.errors import DropReason
from proxy.wire import icmp, ip, tcp

ETHERNET_BYTES = 14
ETH_P_IP, ETH_P_ARP, ETH_P_IPV6, ETH_P_8021Q = 0x0800, 0x0806, 0x86DD, 0x8100
TCP_FLAGS = {tcp.SYN: "SYN", tcp.FIN: "FIN", tcp.RST: "RST", tcp.PSH: "PSH", tcp.ACK: "ACK"}
ECHO = {
    icmp.ECHO_REQUEST: "echo request",
    icmp.ECHO_REPLY: "echo reply",
    icmp.ECHO_REQUEST_V6: "echo request",
    icmp.ECHO_REPLY_V6: "echo reply",
}
UNREACHABLE = {0: "network", 1: "host", 2: "protocol", 3: "port", 13: "administratively"}
UNREACHABLE_V6 = {0: "network", 1: "administratively", 3: "host", 4: "port"}
DISCOVERY = {
    133: "router solicitation",
    134: "router advertisement",
    135: "neighbour solicitation",
    136: "neighbour advertisement",
    143: "multicast listener report",
}

_ports = struct.Struct("!HH")
_arp = struct.Struct("!HHBBH6s4s6s4s")


def describe(data: bytes, length: int, *, is_ethernet: bool) -> str:
    """A description of a packet of `length` bytes whose beginning is `data`. Never fails, whatever the bytes are."""
    try:
        return _ethernet(data, length) if is_ethernet else _ip(data, 0, length)
    except (struct.error, IndexError):
        return f"{length} bytes, too short to decode"


def _ethernet(data: bytes, length: int) -> str:
    at = ETHERNET_BYTES
    (kind,) = struct.unpack_from("!H", data, 12)
    tag = ""
    if kind == ETH_P_8021Q:
        number, kind = _ports.unpack_from(data, at)
        at, tag = at + 4, f"VLAN {number & 0xFFF} "
    if kind in (ETH_P_IP, ETH_P_IPV6):
        return tag + _ip(data, at, length)
    if kind == ETH_P_ARP:
        return tag + _describe_arp(data, at)
    return f"{tag}Ethernet type 0x{kind:04x}, {length} bytes"


def _describe_arp(data: bytes, at: int) -> str:
    _, _, _, _, operation, _, sender, _, target = _arp.unpack_from(data, at)
    if operation == 1:
        return f"ARP who has {_address(target)}? tell {_address(sender)}"
    return f"ARP {_address(sender)} is here" if operation == 2 else f"ARP operation {operation}"


def _ip(data: bytes, start: int, end: int) -> str:
    packet = ip.parse(data, start, end)
    if isinstance(packet, DropReason):
        return f"no valid IP packet ({packet.value}), {end - start} bytes"
    source, destination = _address(packet.source), _address(packet.destination)
    if packet.fragment_offset:
        return f"{source} > {destination} fragment at {packet.fragment_offset}, protocol {packet.protocol}"
    match packet.protocol:
        case ip.TCP:
            return f"{_ends(data, packet)} TCP {_tcp(data, packet)}"
        case ip.UDP:
            return f"{_ends(data, packet)} UDP {packet.end - packet.l4 - 8} bytes"
        case ip.ICMP | ip.ICMPV6:
            return f"{source} > {destination} {_icmp(data, packet)}"
    return f"{source} > {destination} protocol {packet.protocol}, {packet.end - packet.l4} bytes"


def _ends(data: bytes, packet: ip.IPPacket) -> str:
    ports = _ports.unpack_from(data, packet.l4)
    ends = zip((packet.source, packet.destination), ports, strict=True)
    return " > ".join(f"{_address(a)}:{port}" if len(a) == 4 else f"[{_address(a)}]:{port}" for a, port in ends)


def _tcp(data: bytes, packet: ip.IPPacket) -> str:
    bits = tcp.flags(data, packet)
    flags = "+".join(name for bit, name in TCP_FLAGS.items() if bits & bit)
    payload = packet.end - packet.l4 - (data[packet.l4 + 12] >> 4) * 4
    return f"{flags or 'no flags'} seq {tcp.sequence(data, packet)}, {payload} bytes"


def _icmp(data: bytes, packet: ip.IPPacket) -> str:
    name = "ICMP" if packet.version == 4 else "ICMPv6"
    kind, code = data[packet.l4], data[packet.l4 + 1]
    if kind in ECHO and kind in (icmp.ECHO_REQUESTS[packet.version], icmp.ECHO_REPLIES[packet.version]):
        ident, number = icmp.echo_identity(data, packet.l4)
        return f"{name} {ECHO[kind]} id {ident} seq {number}, {packet.end - packet.l4 - 8} bytes"
    return f"{name} {_icmp_kind(packet.version, kind, code)}"


def _icmp_kind(version: int, kind: int, code: int) -> str:
    if (version, kind, code) == (4, 3, 4) or (version, kind) == (6, 2):
        return "packet too big"
    if kind == {4: 3, 6: 1}[version]:
        return f"{(UNREACHABLE if version == 4 else UNREACHABLE_V6).get(code, f'code {code}')} unreachable"
    if kind == {4: 11, 6: 3}[version]:
        return "time exceeded"
    if version == 6 and kind in DISCOVERY:
        return DISCOVERY[kind]
    return f"type {kind} code {code}"


def _address(packed: bytes) -> str:
    return str(ipaddress.ip_address(packed))
