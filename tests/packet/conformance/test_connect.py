"""Every way in which a connection can come about or fail, told to the client as the origin's network told it."""

from __future__ import annotations

import pytest
from scapy.layers.inet import ICMP
from scapy.layers.inet6 import ICMPv6DestUnreach, ICMPv6TimeExceeded
from scapy.packet import Raw

from tests.netns import needs_root
from tests.packet.conformance.ends import Connection
from tests.packet.conformance.wires import FAR_ROUTER, HOP, PROXY, SCRIPTED
from tests.packets import decode, network
from tests.running import UNROUTED, until

pytestmark = [pytest.mark.netns, needs_root]


def reports(connection, packet, message):
    """A router beyond says `message` about the proxy's packet."""
    network_, version = connection.stage.network, connection.version
    network_.send(bytes(network(version, FAR_ROUTER[version], PROXY[version]) / message / Raw(packet[:64])))


def proxys_syn(connection):
    """The proxy's SYN as it stands on the origin's network."""
    return connection.stage.network.next(connection.origin._is_mine)


def test_handshake_waits_for_the_origin_and_options_are_honoured(stage, client, version):
    c = Connection(stage, client, version)
    c.client.sends("S", options=[("MSS", 1000), ("SAckOK", b""), ("Timestamp", (5, 0)), ("NOP", None), ("WScale", 7)])
    c.origin.expects("S")
    assert client.canary(version) == []  # no SYN-ACK before the origin's
    c.origin.sends("SA", options=[("MSS", 1400)])
    c.origin.expects("A", b"")
    options = dict(c.client.expects("SA", ack=1).options)
    assert {"MSS", "SAckOK", "Timestamp", "WScale"} <= set(options)
    assert options["Timestamp"][1] == 5


def test_refused_is_reset(stage, client, version):
    c = Connection(stage, client, version)
    c.client.sends("S")
    c.origin.expects("S")
    c.origin.sends("RA")
    c.client.expects("RA", ack=1)
    (record,) = until(lambda: c.records)
    assert (record.close_reason, record.closed_by) == ("origin_refused", "origin")


UNREACHABLE = {
    4: {"net": (0, "3/0"), "host": (1, "3/1"), "protocol": (2, "3/2"), "port": (3, "3/3"), "source route": (5, "3/5"),
        "net prohibited": (9, "3/9"), "host prohibited": (10, "3/10"), "prohibited": (13, "3/13")},
    6: {"route": (0, "1/0"), "prohibited": (1, "1/1"), "scope": (2, "1/2"), "address": (3, "1/3"), "port": (4, "1/4"),
        "policy": (5, "1/5"), "reject": (6, "1/6")},
}  # fmt: skip


@pytest.mark.parametrize(("of", "name"), [(of, name) for of, names in UNREACHABLE.items() for name in names])
def test_unreachable_is_told_by_who_said_it_with_its_code(stage, of, name):
    client = stage.scripted()
    c = Connection(stage, client, of)
    code, said = UNREACHABLE[of][name]
    c.client.sends("S")
    reports(c, proxys_syn(c), ICMP(type=3, code=code) if of == 4 else ICMPv6DestUnreach(code=code))
    kind = "ICMP" if of == 4 else "ICMPv6"
    assert client.told() == f"{FAR_ROUTER[of]} > {client.addresses[of]} {kind} {said} about {SCRIPTED[of]}"
    (record,) = until(lambda: c.records)
    assert record.close_reason in ("origin_unreachable", "origin_refused")  # as connect(2) names it


def test_error_quotes_the_clients_own_segment(stage, client, version):
    c = Connection(stage, client, version)
    c.client.sends("S")
    reports(c, proxys_syn(c), ICMP(type=3, code=1) if version == 4 else ICMPv6DestUnreach(code=3))
    error = decode(client.next(lambda packet: True))
    quoted = decode(bytes(error[ICMP].payload if version == 4 else error[ICMPv6DestUnreach].payload))
    assert (quoted.src, quoted.dst) == (client.addresses[version], SCRIPTED[version])
    ports = quoted.payload
    assert (ports.sport, ports.dport, ports.seq) == (c.sport, c.dport, 1_000_000)


def test_no_route_at_the_proxy_is_told_by_the_proxy(stage, client, version):
    client.send(client.segment(version, 40_000, 80, "S", dst=UNROUTED[version]))
    said = {4: "ICMP 3/0", 6: "ICMPv6 1/0"}[version]
    assert client.told() == f"{HOP[version]} > {client.addresses[version]} {said} about {UNROUTED[version]}"


def test_time_exceeded_on_the_way_is_passed_on(stage, client, version):
    c = Connection(stage, client, version)
    c.client.sends("S")
    reports(c, proxys_syn(c), ICMP(type=11) if version == 4 else ICMPv6TimeExceeded())
    said = {4: "ICMP 11/0", 6: "ICMPv6 3/0"}[version]
    assert client.told() == f"{FAR_ROUTER[version]} > {client.addresses[version]} {said} about {SCRIPTED[version]}"


@pytest.mark.slow
def test_silence_is_silence_until_its_time_and_the_syn_may_come_again(stage, client, version):
    """Repetitions are counted as held, and the origin sees the proxy's own."""
    c = Connection(stage, client, version)
    held = stage.dropped("held")
    for _ in range(3):
        c.client.sends("S", seq=0)
    c.origin.expects("S")
    assert client.canary(version) == []
    assert stage.dropped("held") == held + 2
    (record,) = until(lambda: c.records)  # after connect_s
    assert (record.close_reason, record.conn_state) == ("origin_timeout", "S0")
    assert client.canary(version) == []


def test_reset_while_the_syn_is_held_ends_the_dial(stage, client, version):
    c = Connection(stage, client, version)
    c.client.sends("S")
    c.origin.expects("S")
    c.client.sends("R")
    (record,) = until(lambda: c.records)
    assert record.close_reason == "client_reset"
    c.origin.sends("SA")
    c.origin.awaits("R")  # nobody is there any more
    assert client.canary(version) == []


def test_reset_of_something_else_does_not_end_a_held_syn(stage, client, version):
    """A client that dials again from the same port may still reset what came before (RFC 9293 3.5.2)."""
    c = Connection(stage, client, version)
    c.client.sends("S")
    c.origin.expects("S")
    c.client.sends("R", seq=-500_000)
    c.origin.sends("SA")
    c.origin.expects("A", b"")
    c.client.expects("SA", ack=1)
    c.client.sends("R", seq=-500_000)
    c.client.sends("A")
    c.client.sends("PA", b"alive")
    assert c.origin.reads(5) == b"alive"


def test_reset_between_the_origins_answer_and_the_clients(stage, client, version):
    """The client gives up when it sees the SYN-ACK, as a port scanner does: the origin learns of it."""
    c = Connection(stage, client, version)
    c.client.sends("S")
    c.origin.accepts()
    c.client.expects("SA", ack=1)
    c.client.sends("R")
    c.origin.awaits("R")
    (record,) = until(lambda: c.records)
    assert record.close_reason == "client_reset"


def test_origin_that_resets_before_the_client_has_answered(stage, client, version):
    c = Connection(stage, client, version)
    c.client.sends("S")
    c.origin.accepts()
    c.client.expects("SA", ack=1)
    c.origin.sends("RA")
    client.canary(version)  # the proxy has seen it
    c.client.sends("A")
    c.client.awaits("R")
    (record,) = until(lambda: c.records)
    assert record.close_reason == "origin_reset"


@pytest.mark.slow
def test_lost_syn_ack_is_repeated_and_a_late_ack_connects(stage, client, version):
    c = Connection(stage, client, version)
    c.client.sends("S")
    c.origin.accepts()
    c.client.expects("SA", ack=1)
    c.client.expects("SA", ack=1)  # our kernel's clock: a second later
    c.client.sends("A")
    c.client.sends("PA", b"late")
    assert c.origin.reads(4) == b"late"


def test_repeated_syn_is_answered_again_and_its_mss_is_clamped_too(stage, client, version):
    c = Connection(stage, client, version)
    c.client.sends("S", options=[("MSS", 9000)])
    c.origin.accepts()
    c.client.expects("SA", ack=1)
    c.client.sends("S", seq=0, options=[("MSS", 9000)])
    c.client.expects("SA", ack=1)
    c.client.sends("A")
    c.origin.sends("PA", bytes(1400))
    assert c.client.reads(1400) == bytes(1400)


def test_lost_ack_of_the_handshake_is_made_good_by_data(stage, client, version):
    c = Connection(stage, client, version)
    c.client.sends("S")
    c.origin.accepts()
    c.client.expects("SA", ack=1)
    c.client.sends("PA", b"data")  # the bare ACK before it was lost
    assert c.origin.reads(4) == b"data"


def test_simultaneous_open_by_the_client(stage, client, version):
    """It has sent a SYN and got one of its own kind elsewhere: it answers with SYN-ACK (RFC 9293 figure 7)."""
    c = Connection(stage, client, version)
    c.client.sends("S")
    c.origin.accepts()
    c.client.expects("SA", ack=1)
    c.client.sends("SA", seq=0)
    c.client.sends("PA", b"open")
    assert c.origin.reads(4) == b"open"


def test_simultaneous_open_by_the_origin(stage, client, version):
    """The origin dials the port that the proxy dials from: its SYN crosses ours."""
    c = Connection(stage, client, version)
    c.client.sends("S")
    c.origin.expects("S")
    c.origin.sends("S")
    c.origin.expects("SA", ack=1)
    c.origin.sends("SA", seq=0)
    c.client.expects("SA", ack=1)
    c.client.sends("A")
    c.client.sends("PA", b"open")
    assert c.origin.reads(4) == b"open"


FAST_OPEN = ("TFO", (0x0102_0304, 0x0506_0708))


def test_syn_with_data_connects_and_the_data_is_sent_again(stage, client, version):
    """TCP Fast Open with a cookie that nobody knows: the data is not acknowledged, nothing is lost (RFC 7413 4.2)."""
    c = Connection(stage, client, version)
    c.client.sends("S", b"early", options=[("MSS", 1000), FAST_OPEN])
    c.origin.accepts()
    c.client.expects("SA", ack=1)
    c.client.next = 1
    c.client.sends("PA", b"early")
    assert c.origin.reads(5) == b"early"


def test_refusal_of_a_syn_with_data_acknowledges_all_of_it(stage, client, version):
    c = Connection(stage, client, version)
    c.client.sends("S", b"early")
    c.origin.expects("S")
    c.origin.sends("RA")
    c.client.expects("RA", ack=6)


ODD_OPTIONS = {
    "none": [],
    "end of list": [("EOL", None)],
    "unknown": [(250, b"1234"), ("NOP", None), ("MSS", 1000)],
    "forty bytes": [(253, bytes(34)), ("MSS", 1000)],
    "experiment": [(254, b"\xf9\x89")],
    "two of a kind": [("MSS", 1000), ("MSS", 500)],
}


@pytest.mark.parametrize("name", ODD_OPTIONS)
def test_odd_options_pass_through_the_kernel(stage, client, version, name):
    c = Connection(stage, client, version)
    c.client.sends("S", options=ODD_OPTIONS[name])
    c.origin.accepts()
    c.client.expects("SA", ack=1)
    c.client.sends("PA", b"x")
    assert c.origin.reads(1) == b"x"


def test_ecn_of_the_client_is_negotiated_with_our_kernel_or_not_at_all(stage, client, version):
    c = Connection(stage, client, version)
    c.client.sends("SEC", options=[("MSS", 1000)])
    c.origin.accepts()
    answer = c.client.segment()
    assert str(answer.flags) in ("SA", "SAE")
    c.client.their_isn, c.client.seen = answer.seq, 1
    c.client.sends("A")
    c.client.sends("PA", b"ecn")
    assert c.origin.reads(3) == b"ecn"


@pytest.mark.parametrize(
    ("flags", "reply"),
    [("A", "R"), ("PA", "R"), ("SA", "R"), ("FA", "R"), ("F", "RA"), ("", "RA"), ("SF", "RA"), ("FPU", "RA")],
)
def test_first_segment_that_is_no_syn_is_reset(stage, client, version, flags, reply):
    c = Connection(stage, client, version)
    c.client.sends(flags, ack=77)
    assert str(c.client.segment().flags) == reply
    assert stage.quiet(client, version) == ([], [])


@pytest.mark.parametrize("flags", ["R", "RA", "RS"])
def test_stray_reset_is_not_answered(stage, client, version, flags):
    c = Connection(stage, client, version)
    c.client.sends(flags)
    assert stage.quiet(client, version) == ([], [])
