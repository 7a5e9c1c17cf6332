"""Congestion marks across tunnels: the table of RFC 6040, packet by packet."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.errors import DropReason
from proxy.wire import ecn
from tests.packets import decode, network, recomputed, udp_packet, versions

NOT_ECT, ECT_1, ECT_0, CE, DROP = 0, 1, 2, 3, None
# Figure 4 of RFC 6040, in its order: outer Not-ECT, ECT(0), ECT(1), CE
FIGURE_4 = {
    NOT_ECT: {NOT_ECT: NOT_ECT, ECT_0: NOT_ECT, ECT_1: NOT_ECT, CE: DROP},
    ECT_0: {NOT_ECT: ECT_0, ECT_0: ECT_0, ECT_1: ECT_1, CE: CE},
    ECT_1: {NOT_ECT: ECT_1, ECT_0: ECT_1, ECT_1: ECT_1, CE: CE},
    CE: {NOT_ECT: CE, ECT_0: CE, ECT_1: CE, CE: CE},
}
classes = st.integers(0, 255)


def packet(version, traffic_class):
    raw = bytearray(udp_packet(version))
    head = network(version, tos=traffic_class) if version == 4 else network(version, tc=traffic_class)
    raw[:2] = bytes(head)[:2]
    return bytearray(recomputed(bytes(raw)))


@pytest.mark.parametrize("inner", [NOT_ECT, ECT_0, ECT_1, CE])
@pytest.mark.parametrize("outer", [NOT_ECT, ECT_0, ECT_1, CE])
def test_every_entry_of_the_table(inner, outer):
    assert ecn.decapsulate(inner, outer) == FIGURE_4[inner][outer]
    assert ecn.decapsulate(inner | 0xB8, outer | 0x28) == FIGURE_4[inner][outer]


@given(versions, classes, classes)
def test_a_packet_leaves_the_tunnel_with_the_mark_of_the_table_and_nothing_else_changed(version, inner, outer):
    raw = packet(version, inner)
    assert ecn.traffic_class(raw, 0) == inner
    expected = FIGURE_4[inner & 3][outer & 3]
    buffer = bytearray(7) + raw
    reason = ecn.arrive(buffer, 7, outer)
    if expected is DROP:
        assert reason is DropReason.ECN_NOT_CAPABLE
        assert buffer[7:] == raw
    else:
        assert reason is None
        assert buffer[7:] == packet(version, inner & 0xFC | expected)
        assert recomputed(bytes(buffer[7:])) == buffer[7:]
    assert buffer[:7] == bytes(7)


@given(st.integers(0, 0xFFFFF), classes)
def test_the_flow_label_stays(label, outer):
    raw = bytearray(bytes(network(6, fl=label, tc=ECT_0)) + bytes(8))
    assert ecn.arrive(raw, 0, outer) is None
    assert decode(bytes(raw)).fl == label
