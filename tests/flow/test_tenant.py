"""One tenant's tables: what it may hold, and a count that stays true."""

from __future__ import annotations

from collections import Counter, deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.errors import DropReason
from proxy.flow.keys import reverse_key
from proxy.flow.tenant import Tenant
from proxy.settings.model import Limits, TenantSettings
from tests.flows import make_flow, make_tenant, make_tunnel


def test_flows_over_the_limit_are_refused_until_one_leaves():
    tenant = make_tenant(flows=2)
    flows = [make_flow(tenant, source_port=port) for port in (1, 2)]
    for flow in flows:
        assert tenant.refusal(0) is None
        tenant.add(6, flow)
    assert tenant.refusal(0) is DropReason.LIMIT_FLOWS
    tenant.remove(6, flows[0])
    assert tenant.refusal(0) is None


def test_rate_is_a_bucket_that_refills():
    tenant = make_tenant(new_flows_per_s=10)
    assert [tenant.refusal(100.0) for _ in range(11)] == [None] * 10 + [DropReason.LIMIT_RATE]
    assert tenant.refusal(100.05) is DropReason.LIMIT_RATE
    assert tenant.refusal(100.2) is None
    assert [tenant.refusal(200) for _ in range(11)] == [None] * 10 + [DropReason.LIMIT_RATE]


def test_question_at_the_limit_costs_no_token():
    tenant = make_tenant(flows=1, new_flows_per_s=2)
    flow = make_flow(tenant)
    assert tenant.refusal(0) is None
    tenant.add(6, flow)
    assert [tenant.refusal(0) for _ in range(5)] == [DropReason.LIMIT_FLOWS] * 5
    tenant.remove(6, flow)
    assert tenant.refusal(0) is None


def test_new_flow_leaves_what_the_tunnels_hold_and_moved():
    tenant = make_tenant()
    tenant.held_bytes, tenant.closed_traffic = 4096, (1, 2, 3, 4)
    assert tenant.refusal(1) is None
    assert (tenant.held_bytes, tenant.closed_traffic) == (4096, (1, 2, 3, 4))


def test_later_flow_with_the_same_key_takes_the_place():
    tenant = make_tenant()
    tunnel = make_tunnel(tenant)
    old, new = make_flow(tenant, carrier=tunnel), make_flow(tenant, carrier=tunnel)
    tenant.add(6, old)
    tenant.add(6, new)
    assert tenant.count == 1
    tenant.remove(6, old)
    assert (tenant.count, tenant.find(tunnel, 6, new.key)) == (1, new)
    tenant.remove(6, new)
    tenant.remove(6, new)
    assert (tenant.count, tenant.find(tunnel, 6, new.key)) == (0, None)


def test_protocols_have_tables_of_their_own():
    tenant = make_tenant()
    tunnel = make_tunnel(tenant)
    tcp, udp = make_flow(tenant, carrier=tunnel), make_flow(tenant, protocol="udp", carrier=tunnel)
    tenant.add(6, tcp)
    tenant.add(17, udp)
    found = [tenant.find(tunnel, protocol, tcp.key) for protocol in (6, 17, 1)]
    assert found == [tcp, udp, None]
    assert dict(tenant.opened) == {"tcp": 1, "udp": 1}
    assert list(tenant.live()) == [tcp, udp]


def between(tenant, arrival, egress, *, version=4, protocol="tcp", source_port=40_000, is_answer=False):
    """A flow that leaves by a tunnel; the opposite one has the tunnels, addresses and ports exchanged."""
    flow = make_flow(tenant, version=version, protocol=protocol, source_port=source_port, carrier=arrival)
    flow.key = reverse_key(flow.key) if is_answer else flow.key
    flow.egress = egress
    return flow


@pytest.mark.parametrize("version", [4, 6])
def test_flow_between_tunnels_stands_in_both_and_is_one(version):
    tenant = make_tenant()
    near, far = make_tunnel(tenant), make_tunnel(tenant, tunnel_id="memory-2")
    flow = between(tenant, near, far, version=version)
    tenant.add(6, flow)
    answer = reverse_key(flow.key)
    assert reverse_key(answer) == flow.key != answer
    assert (tenant.find(near, 6, flow.key), tenant.find(far, 6, answer)) == (flow, flow)
    assert (tenant.find(near, 6, answer), tenant.find(far, 6, flow.key)) == (None, None)
    assert (tenant.count, list(tenant.live())) == (1, [flow])
    other = make_tunnel(tenant, tunnel_id="memory-3")
    tenant.move(6, flow, other)
    assert (far.flows, tenant.find(other, 6, answer), tenant.count) == ({}, flow, 1)
    tenant.remove(6, flow)
    assert (near.flows, other.flows, tenant.count, list(tenant.live())) == ({}, {}, 0, [])


def test_place_of_a_live_flow_in_the_other_tunnel_is_not_taken():
    tenant = make_tenant()
    first, second, far = (make_tunnel(tenant, tunnel_id=f"memory-{number}") for number in range(3))
    flow, late = between(tenant, first, far), between(tenant, second, far)
    assert not tenant.collides(6, flow, far)
    tenant.add(6, flow)
    assert tenant.collides(6, late, far)
    assert not tenant.collides(17, late, far)
    flow.close("client_closed", 1)
    assert not tenant.collides(6, late, far)
    assert tenant.occupants(6, late) == [flow]
    tenant.add(6, late)
    assert set(tenant.live()) == {flow, late}
    tenant.remove(6, flow)
    assert (list(tenant.live()), tenant.count) == ([late], 1)


def test_echo_identifiers_are_the_same_in_both_directions():
    assert reverse_key(b"SSSSDDDDid") == b"DDDDSSSSid"
    assert reverse_key(b"S" * 16 + b"D" * 16 + b"id") == b"D" * 16 + b"S" * 16 + b"id"


def counted(tenant):
    """What the tenant counts of its flows, and what a look at each of them says."""
    there = list(tenant.live())
    alive = [flow for flow in there if not flow.is_ended]
    ends = [end for flow in alive for end in {flow.carrier, flow.egress or flow.carrier}]
    counts = tenant.count, tenant.lingering, +tenant.live_by_protocol, dict(tenant.live_by_carrier)
    return counts, (
        len(there), len(there) - len(alive), Counter(flow.protocol for flow in alive), dict(Counter(ends)),
    )  # fmt: skip


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3), st.sampled_from([6, 17]), st.integers(0, 5)), max_size=60)
)
def test_counts_are_those_of_the_flows_that_are_there(steps):
    """Tunnels 0 and 1 with flows between them, in either direction, and flows that leave by sockets."""
    tenant = make_tenant()
    tunnels = [make_tunnel(tenant, tunnel_id=f"memory-{number}") for number in range(2)]
    ever = []
    for what, port, protocol, shape in steps:
        protocol_, flow = ever[port % len(ever)] if ever else (0, None)
        if what <= 1 or flow is None:
            ends = [(0, 1), (1, 0), (0, None), (1, None), (0, 0), (1, 1)][shape]
            arrival, egress = tunnels[ends[0]], None if ends[1] is None else tunnels[ends[1]]
            flow = between(
                tenant,
                arrival,
                egress,
                source_port=port,
                is_answer=shape == 1,
                protocol={6: "tcp", 17: "udp"}[protocol],
            )
            ever.append((protocol, flow))
            tenant.add(protocol, flow)
        elif what == 2:
            tenant.remove(protocol_, flow)
        elif flow.chunk is not None:
            flow.close("client_closed", 1)
        counts, seen = counted(tenant)
        assert counts == seen
        assert sorted(map(id, tenant.live())) == sorted(id(flow) for flows in tenant.slices() for flow in flows)
    for protocol, flow in ever:
        tenant.remove(protocol, flow)
    assert (tenant.count, [tunnel.flows for tunnel in tunnels]) == (0, [{}, {}])
    assert counted(tenant)[0] == (0, 0, {}, {})


def test_fragments_that_were_lost_are_counted():
    tenant = Tenant("acme", TenantSettings(limits=Limits()), fragments_s=1)
    from tests.flow.test_fragments import feed, piece

    feed(tenant.fragments, [piece(0, b"a" * 8, True), piece(8, b"b" * 8, True)], now=10)
    tenant.expire_fragments(10.5)
    assert not tenant.drops
    tenant.expire_fragments(11)
    assert tenant.drops == {DropReason.FRAGMENT_TIMEOUT: 2}


@pytest.mark.parametrize("limit", [64, 1 << 20])
def test_reassembly_is_bounded_by_the_tenants_bytes(limit):
    assert make_tenant(bytes_held=limit).fragments.max_bytes == limit


def test_default_limits_admit_what_a_fast_core_makes():
    """50,000 flows a second of one tenant, each remembered for 2.5 s after its end: ten times what we can here."""
    tenant, tunnel = make_tenant(), make_tunnel()
    rate, remembered = 50_000, deque()
    for number in range(3 * rate):
        now = 100 + number / rate
        assert tenant.refusal(now) is None, number
        flow = make_flow(tenant, source_port=number % 65_536, destination_port=number // 65_536, carrier=tunnel)
        tenant.add(6, flow)
        flow.close("client_closed", 1)
        remembered.append((now + 2.5, flow))
        while remembered[0][0] < now:
            tenant.remove(6, remembered.popleft()[1])
    assert tenant.count == tenant.lingering == len(remembered) > 2 * rate


def test_a_flow_that_has_ended_leaves_room_for_another():
    tenant, tunnel = make_tenant(flows=1), make_tunnel()
    first = make_flow(tenant, source_port=1, carrier=tunnel)
    tenant.add(6, first)
    assert tenant.refusal(1) is DropReason.LIMIT_FLOWS
    first.close("client_closed", 1)
    assert tenant.refusal(2) is None
    again = make_flow(tenant, source_port=1, carrier=tunnel)
    tenant.add(6, again)
    assert (tenant.count, tenant.lingering, tenant.refusal(3)) == (1, 0, DropReason.LIMIT_FLOWS)
    tenant.remove(6, first)
    tenant.remove(6, again)
    assert (tenant.count, tenant.lingering) == (0, 0)
