"""The packet plane as transcripts: packet in; reason, replies and opened flows out."""

from __future__ import annotations

import struct

import pytest
from scapy.layers.inet import ICMP, TCP, UDP
from scapy.layers.inet6 import ICMPv6DestUnreach, ICMPv6EchoReply, IPv6, IPv6ExtHdrDestOpt, PadN
from scapy.packet import Raw

from proxy.device.memory import MemoryTunnel
from proxy.errors import DropReason
from proxy.flow.tenant import Network, Tenant
from proxy.settings.model import TenantSettings
from proxy.settings.sites import NetworkSettings
from tests.flows import make_tunnel
from tests.packet.script import Script
from tests.packets import CLIENT, ORIGIN, decode, network, ping_packet, tcp_packet, udp_packet

FAMILIES = pytest.mark.parametrize("version", [4, 6])
MODES = pytest.mark.parametrize("offload", [False, True], ids=["plain", "offload"])


def between(version, source=CLIENT, destination=ORIGIN, ports=("40000", "80")):
    form = "{}:{}" if version == 4 else "[{}]:{}"
    return f"{form.format(source[version], ports[0])} -> {form.format(destination[version], ports[1])}"


@FAMILIES
@MODES
def test_first_packets_open_flows_and_later_ones_find_them(version, offload):
    script = Script(offload=offload)
    sequence = [
        tcp_packet(version), tcp_packet(version, flags="A"),
        udp_packet(version), udp_packet(version, b"more"),
        ping_packet(version), ping_packet(version, seq=2), ping_packet(version, ident=8),
    ]  # fmt: skip
    assert [script.give(packet) for packet in sequence] == [None] * 7
    icmp = "icmp" if version == 4 else "icmpv6"
    assert script.flows == [
        f"tcp {between(version)}",
        f"udp {between(version, ports=('40000', '53'))}",
        f"{icmp} {between(version, ports=('7', '0'))}",
        f"{icmp} {between(version, ports=('8', '0'))}",
    ]
    assert script.passed == sequence
    assert script.replies() == []
    assert script.tenant.count == 4


def test_flow_ids_sort_by_time_and_never_repeat():
    script = Script()
    for port in range(5):
        script.give(tcp_packet(sport=port))
        script.now += 0.001 * (port % 2)
    ids = [flow.id for flow in script.opener.opened]
    assert ids == sorted(ids)
    assert len(set(ids)) == 5


good = tcp_packet()
REFUSED = {
    "nothing": (b"", DropReason.EMPTY),
    "another version": (b"\x55" + good[1:], DropReason.BAD_VERSION),
    "cut in the IP header": (good[:15], DropReason.TRUNCATED),
    "cut in the TCP header": (bytes(network(4, proto=6) / Raw(bytes(12))), DropReason.TRUNCATED),
    "IP checksum": (good[:8] + b"\x01" + good[9:], DropReason.BAD_IP_CHECKSUM),
    "TCP checksum": (tcp_packet(chksum=0x1234), DropReason.BAD_L4_CHECKSUM),
    "UDP checksum": (udp_packet(chksum=0x1234), DropReason.BAD_L4_CHECKSUM),
    "UDP over IPv6 without a checksum": (udp_packet(6, chksum=0), DropReason.BAD_L4_CHECKSUM),
    "ICMP checksum": (bytes(network(4) / ICMP(id=1, chksum=1)), DropReason.BAD_L4_CHECKSUM),
    "UDP longer than its packet": (udp_packet(len=100), DropReason.TRUNCATED),
    "UDP of less than its header": (udp_packet(len=7), DropReason.BAD_HEADER),
    "source of somebody else": (bytes(network(4, "100.96.0.3") / TCP()), DropReason.SPOOFED_SOURCE),
    "source of somebody else, IPv6": (bytes(network(6, "fd00:96::3") / TCP()), DropReason.SPOOFED_SOURCE),
    "LAND": (bytes(network(4, CLIENT[4], CLIENT[4]) / TCP()), DropReason.BAD_ADDRESS),
    "multicast": (bytes(network(4, dst="239.255.255.250") / UDP()), DropReason.BAD_ADDRESS),
    "multicast, IPv6": (bytes(network(6, dst="ff02::fb") / UDP()), DropReason.BAD_ADDRESS),
    "broadcast": (bytes(network(4, dst="255.255.255.255") / UDP()), DropReason.BAD_ADDRESS),
    "loopback": (bytes(network(4, dst="127.0.0.1") / TCP()), DropReason.BAD_ADDRESS),
    "loopback, IPv6": (bytes(network(6, dst="::1") / TCP()), DropReason.BAD_ADDRESS),
    "IPv4-mapped loopback": (bytes(network(6, dst="::ffff:127.0.0.1") / TCP()), DropReason.BAD_ADDRESS),
    "echo reply": (bytes(network(4) / ICMP(type=0)), DropReason.ICMP_UNSUPPORTED),
    "echo reply, IPv6": (bytes(network(6) / ICMPv6EchoReply()), DropReason.ICMP_UNSUPPORTED),
    "redirect": (bytes(network(4) / ICMP(type=5) / Raw(good[:28])), DropReason.ICMP_UNSUPPORTED),
    "unreachable of the client's": (bytes(network(6) / ICMPv6DestUnreach() / Raw(good)), DropReason.ICMP_UNSUPPORTED),
    "longer than any packet": (good + bytes(65_600 - len(good)), DropReason.OVERSIZE),
}  # fmt: skip


@MODES
@pytest.mark.parametrize("name", REFUSED)
def test_bad_packet_has_a_reason_and_no_answer(name, offload):
    packet, reason = REFUSED[name]
    script = Script(offload=offload)
    if not packet:
        assert script.give(b"", header=b"") is reason
    else:
        assert script.give(packet) is reason
    assert (script.replies(), script.flows) == ([], [])


def test_only_virtio_header_is_truncated_and_a_lying_one_is_bad_offload():
    script = Script(offload=True)
    assert script.give(b"", header=bytes(10)) is DropReason.TRUNCATED
    assert script.give(b"", header=bytes(4)) is DropReason.TRUNCATED
    beyond = struct.pack("<BBHHHH", 1, 0, 0, 0, 60_000, 16)
    assert script.give(good, header=beyond) is DropReason.BAD_OFFLOAD
    assert script.flows == []


@FAMILIES
def test_partial_checksum_is_taken_on_trust_with_offload_only(version):
    start = 20 if version == 4 else 40
    packet = tcp_packet(version, chksum=0x1234)
    needs_checksum = struct.pack("<BBHHHH", 1, 0, 0, 0, start, 16)
    script = Script(offload=True)
    assert script.give(packet, header=needs_checksum) is None
    assert script.give(tcp_packet(version, chksum=0x1234, sport=2)) is DropReason.BAD_L4_CHECKSUM
    assert Script().give(packet) is DropReason.BAD_L4_CHECKSUM


@FAMILIES
@MODES
@pytest.mark.parametrize(
    ("flags", "payload", "reply"),
    [
        ("A", b"", "R seq 55 ack 0"),
        ("PA", b"late", "R seq 55 ack 0"),
        ("SA", b"", "R seq 55 ack 0"),
        ("FA", b"", "R seq 55 ack 0"),
        ("F", b"abc", "RA seq 0 ack 1004"),
        ("", b"abc", "RA seq 0 ack 1003"),
        ("SF", b"", "RA seq 0 ack 1002"),
    ],
)
def test_segment_without_flow_is_reset_unless_it_is_a_syn(version, offload, flags, payload, reply):
    script = Script(offload=offload)
    assert script.give(tcp_packet(version, payload, flags=flags, ack=55)) is DropReason.NOT_SYN
    assert script.replies() == [f"{ORIGIN[version]} > {CLIENT[version]} TCP {reply}"]
    assert script.flows == []


def test_reset_is_never_answered():
    script = Script()
    assert script.give(tcp_packet(flags="R")) is DropReason.STRAY
    assert script.give(tcp_packet(flags="RA")) is DropReason.STRAY
    assert script.replies() == []


@FAMILIES
@pytest.mark.parametrize("ttl", [0, 1])
def test_packet_at_the_end_of_its_life_is_answered_and_not_forwarded(version, ttl):
    script = Script()
    assert script.give(udp_packet(version, ttl=ttl)) is DropReason.TTL_EXPIRED
    hop = {4: "192.0.0.8", 6: "fd6f:7879::1"}[version]
    kind = {4: "ICMP 11/0", 6: "ICMPv6 3/0"}[version]
    assert script.replies() == [f"{hop} > {CLIENT[version]} {kind} about {ORIGIN[version]}"]
    assert script.give(udp_packet(version, ttl=2)) is None
    assert script.replies() == []


@FAMILIES
def test_errors_come_from_the_gateway_of_the_network_or_else_of_the_tenant(version):
    own = {4: "100.96.0.1", 6: "fd00:96::1"}
    settings = TenantSettings(gateway=[own[4], "fd00::9"], networks={"default": NetworkSettings(gateway=[own[6]])})
    tenant = Tenant("acme", settings)
    tenant.networks["labs"] = Network("labs", tenant)
    for name, hop in (("default", {4: "192.0.0.8", 6: own[6]}), ("labs", {4: own[4], 6: "fd00::9"})):
        tunnel = MemoryTunnel(tenant, CLIENT.values(), network=name)
        assert Script().give(udp_packet(version, ttl=1), tunnel) is DropReason.TTL_EXPIRED
        (error,) = tunnel.take()
        assert decode(error).src == hop[version]


@FAMILIES
def test_unknown_protocol_is_answered_with_icmp(version):
    script = Script()
    packet = bytes(network(version, **{"proto" if version == 4 else "nh": 132}) / Raw(bytes(12)))
    assert script.give(packet) is DropReason.PROTOCOL_UNSUPPORTED
    kind = {4: "ICMP 3/2", 6: "ICMPv6 4/1"}[version]
    assert [reply.split(" > ")[1] for reply in script.replies()] == [
        f"{CLIENT[version]} {kind} about {ORIGIN[version]}"
    ]


@pytest.mark.parametrize("kind", [3, 4, 5, 11, 12])
def test_icmp_error_is_never_answered_with_an_error(kind):
    script = Script()
    assert script.give(bytes(network(4, ttl=1) / ICMP(type=kind) / Raw(good))) is DropReason.TTL_EXPIRED
    assert script.replies() == []


def test_icmpv6_error_is_never_answered_and_a_query_is():
    script = Script()
    script.give(bytes(network(6, ttl=1) / ICMPv6DestUnreach() / Raw(tcp_packet(6))))
    assert script.replies() == []
    script.give(
        bytes(
            IPv6(src=CLIENT[6], dst=ORIGIN[6], hlim=1)
            / IPv6ExtHdrDestOpt(options=[PadN(optdata=b"1234")])
            / ICMPv6DestUnreach()
            / Raw(bytes(48))
        )
    )
    assert script.replies() == []
    script.give(bytes(network(6, ttl=1) / ICMPv6EchoReply()))
    assert len(script.replies()) == 1


def test_icmp_of_the_other_family_is_an_unknown_protocol():
    script = Script()
    assert script.give(bytes(network(4, proto=58) / Raw(bytes(8)))) is DropReason.PROTOCOL_UNSUPPORTED
    assert script.give(bytes(network(6, nh=1) / Raw(bytes(8)))) is DropReason.PROTOCOL_UNSUPPORTED


def test_errors_are_rate_limited_for_each_tenant():
    script, other = Script(), Script()
    other.plane = script.plane
    other.tenant.name = "globex"
    for _ in range(60):
        assert script.give(udp_packet(ttl=1)) is DropReason.TTL_EXPIRED
    assert len(script.replies()) == 50
    assert script.tenant.drops == {DropReason.RATE_LIMITED: 10}
    other.give(udp_packet(ttl=1))
    assert len(other.replies()) == 1
    script.now += 0.1
    for _ in range(60):
        script.give(udp_packet(ttl=1))
    assert len(script.replies()) == 10


def test_flow_of_another_tunnel_of_the_tenant_is_not_for_us():
    """Tables are the tunnels': what arrives by one never reaches a flow of another."""
    script = Script()
    twin = make_tunnel(script.tenant, tunnel_id="memory-2")
    assert script.give(tcp_packet()) is None
    assert script.give(tcp_packet(flags="A"), twin) is DropReason.NOT_SYN
    assert len(script.passed) == 1
    assert script.give(tcp_packet(), twin) is None
    assert [flow.carrier for flow in script.opener.opened] == [script.tunnel, twin]


def test_tenants_with_the_same_addresses_have_flows_of_their_own():
    script, other = Script(), Script()
    other.plane, other.opener = script.plane, script.opener
    assert script.give(tcp_packet()) is None
    assert other.give(tcp_packet()) is None
    assert [flow.tenant for flow in script.opener.opened] == [script.tenant, other.tenant]


def test_syn_after_the_end_opens_a_new_flow_and_anything_else_goes_to_the_old_one():
    script = Script()
    script.give(tcp_packet())
    first = script.opener.opened[0]
    first.close("client_closed", 1)
    assert script.give(tcp_packet(flags="A")) is None
    assert script.opener.packets[-1][0] is first
    first.handler.has_seen = True
    assert script.give(tcp_packet()) is None
    assert script.opener.packets[-1][0] is first
    first.handler.has_seen = False
    assert script.give(tcp_packet(seq=9)) is None
    assert len(script.flows) == 2
    assert script.tenant.count == 1


def test_flows_over_the_limit_tcp_is_reset_udp_is_silent():
    script = Script(flows=1)
    assert script.give(tcp_packet()) is None
    assert script.give(tcp_packet(sport=2)) is DropReason.LIMIT_FLOWS
    assert script.replies() == [f"{ORIGIN[4]} > {CLIENT[4]} TCP RA seq 0 ack 1001"]
    assert script.give(udp_packet()) is DropReason.LIMIT_FLOWS
    assert script.replies() == []
    assert script.give(tcp_packet(flags="A")) is None


def test_flows_over_the_rate_are_silent_so_that_a_retry_may_pass():
    script = Script(new_flows_per_s=2)
    assert [script.give(tcp_packet(sport=port)) for port in (1, 2, 3)] == [None, None, DropReason.LIMIT_RATE]
    assert script.replies() == []
    script.now += 1
    assert script.give(tcp_packet(sport=3)) is None


def test_refusal_of_the_opener_is_the_packets_reason():
    script = Script()
    script.opener.answer = DropReason.NO_DESCRIPTORS
    assert script.give(tcp_packet()) is DropReason.NO_DESCRIPTORS


def test_trailing_bytes_are_no_part_of_the_packet():
    script = Script()
    assert script.give(good + b"trailing bytes") is None
    assert script.passed == [good]


def test_extension_headers_lead_to_the_same_flow():
    script = Script()
    plain = tcp_packet(6)
    script.give(plain)
    options = IPv6ExtHdrDestOpt(options=[PadN(optdata=bytes(4))])
    assert script.give(bytes(network(6) / options / TCP(sport=40_000, dport=80, flags="A"))) is None
    assert len(script.flows) == 1
