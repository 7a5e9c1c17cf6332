"""Ends of connections: FIN and RST of either side in every order, half-closes, and five-tuples that are used again."""

from __future__ import annotations

import itertools

import pytest

from tests.netns import needs_root
from tests.packet.conformance.ends import Connection
from tests.running import until

pytestmark = [pytest.mark.netns, needs_root]

SIDES = ("client", "origin")
STEPS = [f"{side} {what}" for side in SIDES for what in ("FIN", "RST")]
ORDERS = [(step,) for step in STEPS if step.endswith("RST")]
ORDERS += [
    (first, second) for first, second in itertools.permutations(STEPS, 2)
    if first.endswith("FIN") and not (second.endswith("FIN") and second.split()[0] == first.split()[0])
]  # fmt: skip


def ends(c):
    return {"client": c.client, "origin": c.origin}


def step(c, side, what):
    """One end says FIN or RST; the other sees it."""
    ends(c)[side].sends("FA" if what == "FIN" else "RA")
    other = ends(c)["origin" if side == "client" else "client"]
    other.awaits("F" if what == "FIN" else "R")
    if what == "FIN":
        other.sends("A")


def reason(order):
    last_side, last = order[-1].split()
    if last == "RST":
        return f"{last_side}_reset"
    return f"{order[0].split()[0]}_closed"


@pytest.mark.parametrize("order", ORDERS, ids=", ".join)
def test_fin_and_rst_cross_in_every_order(stage, client, version, order):
    c = Connection(stage, client, version)
    c.established()
    c.client.sends("PA", b"question")
    assert c.origin.reads(8) == b"question"
    for said in order:
        step(c, *said.split())
    (record,) = until(lambda: c.records)
    assert (record.close_reason, record.total.client_payload_bytes) == (reason(order), 8)
    client.canary(version)


def test_both_fins_at_once(stage, client, version):
    """They cross on the way: each end acknowledges the other's (RFC 9293 figure 13)."""
    c = Connection(stage, client, version)
    c.established()
    c.origin.sends("FA")
    c.client.sends("FA")
    c.client.awaits("F")
    c.origin.awaits("F")
    for end in (c.client, c.origin):
        end.sends("A")
    (record,) = until(lambda: c.records)
    assert (record.conn_state, record.close_reason) in (("SF", "client_closed"), ("SF", "origin_closed"))


def test_fin_with_the_last_data(stage, client, version):
    c = Connection(stage, client, version)
    c.established()
    c.client.sends("FPA", b"all of it")
    assert c.origin.reads(9) == b"all of it"
    c.origin.sends("FPA", b"and all of mine")
    assert c.client.reads(15) == b"and all of mine"
    (record,) = until(lambda: c.records)
    assert (record.conn_state, record.total.origin_payload_bytes) == ("SF", 15)


def test_fin_that_completes_the_handshake(stage, client, version):
    """A client with nothing to say, whose bare ACK was lost."""
    c = Connection(stage, client, version)
    c.client.sends("S")
    c.origin.accepts()
    c.client.expects("SA", ack=1)
    c.client.sends("FA")
    c.origin.awaits("F")
    c.origin.sends("FA")
    c.client.awaits("F")
    (record,) = until(lambda: c.records)
    assert record.close_reason == "client_closed"


def test_half_closed_client_gets_everything_that_follows(stage, client, version):
    c = Connection(stage, client, version)
    c.established()
    c.client.sends("FA")
    c.origin.awaits("F")
    for number in range(5):
        c.origin.sends("PA", b"part %d" % number)
        assert c.client.reads(6) == b"part %d" % number
    c.origin.sends("FA")
    c.client.awaits("F")


def test_half_closed_origin_gets_everything_that_follows(stage, client, version):
    c = Connection(stage, client, version)
    c.established()
    c.origin.sends("FA")
    c.client.awaits("F")
    c.client.sends("A")
    for number in range(5):
        c.client.sends("PA", b"part %d" % number)
        assert c.origin.reads(6) == b"part %d" % number
    c.client.sends("FA")
    c.origin.awaits("F")


def test_reset_outside_the_window_ends_nothing(stage, client, version):
    """Blind resets are challenged, not believed (RFC 5961 3.2)."""
    c = Connection(stage, client, version)
    c.established()
    c.client.sends("R", seq=-1_000_000)
    c.client.sends("R", seq=500_000_000)
    c.client.sends("PA", b"alive")
    assert c.origin.reads(5) == b"alive"


def test_segments_after_the_end_are_answered_by_our_kernel(stage, client, version):
    """The last FIN again, because its acknowledgement was lost: acknowledged again, not reset."""
    c = Connection(stage, client, version)
    c.established()
    step(c, "origin", "FIN")
    step(c, "client", "FIN")
    c.client.awaits("A")
    c.client.sends("FA", seq=c.client.next - 1)
    assert str(c.client.segment().flags) == "A"


def test_five_tuple_is_used_again_at_once(stage, client, version):
    """The client closes, and dials again from the same port while the first connection is in TIME_WAIT."""
    c = Connection(stage, client, version)
    c.established()
    step(c, "client", "FIN")
    step(c, "origin", "FIN")
    again = Connection(stage, client, version, sport=c.sport, dport=c.dport, isn=3_000_000)
    again.established()
    again.client.sends("PA", b"second")
    assert again.origin.reads(6) == b"second"
    until(lambda: len(c.records) == 1)
    again.client.sends("RA")
    until(lambda: len(c.records) == 2)


def test_five_tuple_is_used_again_while_the_last_fin_is_unacknowledged(stage, client, version):
    """Our kernel still repeats the first connection's FIN: the second one must not be disturbed by it."""
    c = Connection(stage, client, version)
    c.established()
    c.origin.sends("FA")
    c.client.awaits("F")
    c.client.seen -= 1  # as if it had not come
    c.client.sends("FA")
    c.client.awaits("A")
    c.origin.awaits("F")
    again = Connection(stage, client, version, sport=c.sport, dport=c.dport, isn=3_000_000)
    again.client.sends("S", options=[("MSS", 1200)])
    again.origin.expects("S")
    again.origin.sends("SA")
    again.origin.expects("A", b"")
    while "S" not in str((answer := again.client.segment()).flags):
        assert "R" not in str(answer.flags)  # the first connection's FIN and its acknowledgements may still come
    assert (str(answer.flags), again.client.relative(answer.ack, again.client.isn)) == ("SA", 1)
    again.client.their_isn, again.client.seen = answer.seq, 1
    again.client.sends("A")
    again.client.sends("PA", b"second")
    assert again.origin.reads(6) == b"second"
    until(lambda: len(c.records) == 1)


def test_client_that_restarted_gets_a_new_connection(stage, client, version):
    """Half-open: it dials from the port of a connection that it has forgotten (RFC 9293 3.5.1)."""
    c = Connection(stage, client, version)
    c.established()
    again = Connection(stage, client, version, sport=c.sport, dport=c.dport, isn=2_000_000_000)
    again.client.sends("S")
    challenge = again.client.segment()
    assert (str(challenge.flags), challenge.ack) == ("A", c.client.isn + 1)
    again.client.sends("R", seq=c.client.isn + 1 - again.client.isn)  # what the restarted client knows of: nothing
    c.origin.awaits("R")
    again.client.next = 0
    again.established()
    again.client.sends("PA", b"anew")
    assert again.origin.reads(4) == b"anew"


def test_client_whose_tunnel_was_replaced_is_reset_at_once(stage, offload, version):
    """Its flows ended with the old tunnel; the segments that come by the new one are of no flow."""
    context = stage.context(offload="virtio-net" if offload else None)
    fields = {"addresses": context.addresses}
    first = stage.scripted(offload=offload, **fields)
    c = Connection(stage, first, version)
    c.established()
    first.close()
    c.origin.awaits("R")
    second = stage.scripted(offload=offload, **fields)
    spoofed = stage.dropped("spoofed_source")
    c.client.wire = second
    c.client.sends("PA", b"still there?")
    assert str(c.client.segment().flags) == "R"
    again = Connection(stage, second, version, sport=c.sport, dport=c.dport, isn=5_000)
    again.established()
    assert stage.dropped("spoofed_source") == spoofed
