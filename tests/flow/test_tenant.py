"""One tenant's tables: what it may hold, and a count that stays true."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.errors import DropReason
from proxy.flow.tenant import Tenant
from proxy.settings.model import Limits, TenantSettings
from tests.flows import make_flow, make_tenant


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
    old, new = make_flow(tenant), make_flow(tenant)
    tenant.add(6, old)
    tenant.add(6, new)
    assert tenant.count == 1
    tenant.remove(6, old)
    assert (tenant.count, tenant.find(6, new.key)) == (1, new)
    tenant.remove(6, new)
    tenant.remove(6, new)
    assert (tenant.count, tenant.find(6, new.key)) == (0, None)


def test_protocols_have_tables_of_their_own():
    tenant = make_tenant()
    tcp, udp = make_flow(tenant), make_flow(tenant, protocol="udp")
    tenant.add(6, tcp)
    tenant.add(17, udp)
    assert (tenant.find(6, tcp.key), tenant.find(17, tcp.key), tenant.find(1, tcp.key)) == (tcp, udp, None)
    assert dict(tenant.opened) == {"tcp": 1, "udp": 1}
    assert list(tenant.live()) == [tcp, udp]


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 3), st.sampled_from([6, 17])), max_size=60))
def test_count_is_the_number_of_live_flows(steps):
    tenant = make_tenant()
    ever = []
    for is_add, port, protocol in steps:
        if is_add or not ever:
            flow = make_flow(tenant, source_port=port)
            ever.append((protocol, flow))
            tenant.add(protocol, flow)
        else:
            tenant.remove(*ever[port % len(ever)])
        assert tenant.count == len(list(tenant.live()))


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
