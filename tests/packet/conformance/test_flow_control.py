"""Segments of a connection that lives: sizes, windows, losses, keep-alive, and what is not quite in order."""

from __future__ import annotations

import pytest

from tests.netns import needs_root
from tests.packet.conformance.ends import Connection
from tests.packets import parsed
from tests.running import until

pytestmark = [pytest.mark.netns, needs_root]

HEADERS = {4: 40, 6: 60}
DATA = bytes(range(256)) * 400


@pytest.mark.parametrize("mss", [None, 536, 700, 1160, 1220, 9000])
def test_segments_are_as_large_as_the_client_said_and_the_tunnel_allows(stage, client, version, mss):
    """The origin offers large segments; the client checks every one against the tunnel's MTU of 1280."""
    c = Connection(stage, client, version)
    c.client.sends("S", options=[("MSS", mss)] if mss else [])
    c.origin.expects("S")
    c.origin.sends("SA", options=[("MSS", 8900)])
    c.origin.expects("A", b"")
    c.client.expects("SA", ack=1)
    c.client.sends("A")
    default = {4: 536, 6: 1220}[version]  # RFC 9293 3.7.1
    limit = min(mss or default, 1280 - HEADERS[version])
    largest = 0
    for at in range(0, 11_200, 1400):
        c.origin.sends("PA", DATA[at : at + 1400])
    got = b""
    while len(got) < 11_200:
        segment = c.client.segment()
        data = bytes(segment.payload)
        largest = max(largest, client.gso_size or len(data))
        if c.client.relative(segment.seq, c.client.their_isn) == c.client.seen:
            got, c.client.seen = got + data, c.client.seen + len(data)
            c.client.sends("A")
    assert got == DATA[:11_200]
    assert largest <= limit
    assert largest > limit - 40  # and not much smaller than that


@pytest.mark.parametrize("mtu", [576, 1280, 1500, 9000])
def test_tunnels_of_every_mtu_get_segments_that_fit(stage, offload, mtu):
    client = stage.scripted(offload=offload, mtu=mtu)
    for version in (4, 6) if mtu >= 1280 else (4,):
        c = Connection(stage, client, version)
        c.established(mss=mtu - HEADERS[version])
        for at in range(0, 14_000, 1400):
            c.origin.sends("PA", DATA[at : at + 1400])
        assert c.client.reads(14_000) == DATA[:14_000]


def test_segments_to_the_origin_are_as_large_as_it_said(stage, client, version):
    c = Connection(stage, client, version)
    c.client.sends("S", options=[("MSS", 1200)])
    c.origin.expects("S")
    c.origin.sends("SA", options=[("MSS", 600)])
    c.origin.expects("A", b"")
    c.client.expects("SA", ack=1)
    c.client.sends("A")
    c.client.sends("PA", DATA[:1200])
    got = b""
    while len(got) < 1200:
        segment = c.origin.segment()
        assert len(bytes(segment.payload)) <= 600
        if c.origin.relative(segment.seq, c.origin.their_isn) == c.origin.seen:
            got += bytes(segment.payload)
            c.origin.seen += len(bytes(segment.payload))
        c.origin.sends("A")
    assert got == DATA[:1200]


def test_client_that_closes_its_window_gets_nothing_until_it_opens_it(stage, client, version):
    c = Connection(stage, client, version)
    c.established()
    c.client.window = 0
    c.client.sends("A")
    c.origin.sends("PA", b"patience")
    c.origin.awaits("A")  # the proxy has it
    probe = c.client.segment()  # the kernel asks whether the window is open
    assert (str(probe.flags), bytes(probe.payload)) == ("A", b"")
    assert c.client.relative(probe.seq, c.client.their_isn) == c.client.seen - 1
    c.client.window = 65_535
    c.client.sends("A")
    assert c.client.reads(8) == b"patience"


def test_origin_that_closes_its_window_stops_the_client_and_nothing_is_lost(stage, client, version):
    """What the client sends is held until the proxy's own window closes; then it is all delivered."""
    c = Connection(stage, client, version)
    c.established()
    c.origin.window = 0
    c.origin.sends("A")
    sent, window = 0, 65_535
    while window >= 2400:  # the window that our kernel leaves the client
        for _ in range(2):  # which are acknowledged at once, and one is not
            c.client.sends("A", DATA[sent % 1024 : sent % 1024 + 1200])
            sent += 1200
        segment = c.client.segment()
        while c.client.relative(segment.ack, c.client.isn) < c.client.next:
            segment = c.client.segment()
        window = segment.window
        assert sent < 64 << 20, "the proxy takes without end"
    c.origin.window = 65_535
    c.origin.sends("A")
    got = 0
    while got < sent:
        segment = c.origin.segment()
        data, at = bytes(segment.payload), c.origin.relative(segment.seq, c.origin.their_isn)
        if at == c.origin.seen and data:
            assert (
                data[:16] == (DATA[got % 1200 + (got // 1200 * 1200) % 1024 :])[: len(data[:16])] or got % 1200 > 1184
            )
            got, c.origin.seen = got + len(data), c.origin.seen + len(data)
            c.origin.sends("A")
    assert got == sent


def test_keep_alive_of_the_client_is_answered_and_changes_nothing(stage, client, version):
    """Empty, and with the one byte of garbage that old stacks send (RFC 9293 3.8.4)."""
    c = Connection(stage, client, version)
    c.established()
    c.client.sends("PA", b"x")
    assert c.origin.reads(1) == b"x"
    c.client.awaits("A")
    for garbage in (b"", b"\0"):
        c.client.sends("A", garbage, seq=c.client.next - 1)
        c.client.expects("A", b"")
    c.client.sends("PA", b"y")
    assert c.origin.reads(1) == b"y"


def test_keep_alive_of_the_origin_is_answered_by_the_proxy(stage, client, version):
    c = Connection(stage, client, version)
    c.established()
    c.origin.sends("A", seq=c.origin.next - 1)
    c.origin.expects("A", b"")
    assert client.canary(version) == []


def test_segments_out_of_order_are_put_in_order(stage, client, version):
    c = Connection(stage, client, version)
    c.established()
    for at in (8, 4, 12, 0):
        c.client.sends("PA", b"%4d" % at, seq=1 + at)
    assert c.origin.reads(16) == b"   0   4   8  12"


def test_repeated_and_overlapping_segments_arrive_once(stage, client, version):
    c = Connection(stage, client, version)
    c.established()
    c.client.sends("PA", b"abcdef", seq=1)
    c.client.sends("PA", b"abcdef", seq=1)
    c.client.sends("PA", b"defghi", seq=4)
    assert c.origin.reads(9) == b"abcdefghi"


@pytest.mark.slow
def test_lost_segment_of_the_origins_data_is_sent_again_by_our_kernel(stage, client, version):
    c = Connection(stage, client, version)
    c.established()
    c.origin.sends("PA", b"once more")
    first = c.client.segment()
    assert bytes(first.payload) == b"once more"  # not acknowledged
    assert c.client.reads(9) == b"once more"


BROKEN = {"chksum": {"chksum": 0x1234}, "header of 16 bytes": {"dataofs": 4}}


@pytest.mark.parametrize("broken", BROKEN)
def test_broken_segment_of_a_live_connection_is_dropped_and_counted(stage, client, version, broken):
    c = Connection(stage, client, version)
    c.established()
    before = stage.status
    c.client.sends("PA", b"broken", **BROKEN[broken])
    c.client.next -= 6
    c.client.sends("PA", b"whole!")
    assert c.origin.reads(6) == b"whole!"
    until(lambda: kernel_drops(stage.status) > kernel_drops(before))


def kernel_drops(status):
    """What the private namespace's kernel and the packet plane refused of the tenant's TCP."""
    ours = sum(status.tenants["acme"].drops.get(name, 0) for name in ("bad_l4_checksum", "truncated"))
    return ours + sum(value for name, value in status.kernel.items() if name.startswith("Tcp.In"))


def test_broken_header_of_a_live_connection_is_dropped(stage, client):
    """Rewriting a bad IPv4 header must not mend it (RFC 1624)."""
    c = Connection(stage, client, 4)
    c.established()
    before = stage.status.kernel["Ip.InHdrErrors"]
    good = client.segment(4, c.sport, c.dport, "PA", dst=c.client.there[0], payload=b"broken",
                          seq=c.client.isn + 1, ack=c.client.their_isn + 1)  # fmt: skip
    assert parsed(good)
    client.send(good[:10] + bytes([good[10] ^ 0x40]) + good[11:])
    c.client.sends("PA", b"whole!")
    assert c.origin.reads(6) == b"whole!"
    assert stage.status.kernel["Ip.InHdrErrors"] == before + 1


def test_ip_options_and_extension_headers_do_not_hide_a_segment(stage, client, version):
    from scapy.layers.inet import IP, TCP
    from scapy.layers.inet6 import IPv6, IPv6ExtHdrDestOpt, PadN
    from scapy.packet import Raw

    c = Connection(stage, client, version)
    c.established()
    segment = TCP(sport=c.sport, dport=c.dport, flags="PA", seq=c.client.isn + 1, ack=c.client.their_isn + 1)
    src, dst = c.client.here[0], c.client.there[0]
    if version == 4:
        head = IP(src=src, dst=dst, options=b"\x01" * 8)
    else:
        head = IPv6(src=src, dst=dst) / IPv6ExtHdrDestOpt(options=[PadN(optdata=bytes(4))])
    client.send(bytes(head / segment / Raw(b"hidden")))
    c.client.next += 6
    assert c.origin.reads(6) == b"hidden"
