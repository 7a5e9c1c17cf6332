"""Live flows are found as their records would be, a slice at a time, and only those that are shown become records."""

from __future__ import annotations

import asyncio
import random
import time

from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.flow.query import SORT_KEYS, FlowQuery, predicate
from proxy.flow.record import TLSRecord
from proxy.telemetry import livescan
from proxy.telemetry.livescan import scan
from tests.flows import make_flow, make_tenant, make_tunnel
from tests.packets import pack
from tests.queries import queries

SOURCES = ["10.0.0.1", "10.0.0.2", "fd00::1", "fd00::2"]
DESTINATIONS = ["10.50.0.10", "192.0.2.1", "fd00:50::10", "2001:db8::1"]


def populate(count, seed=0):
    """A tenant with two tunnels, and flows that differ in what queries look at."""
    chance = random.Random(seed)
    tenant = make_tenant()
    tunnels = [make_tunnel(tenant, tunnel_id=f"t{number}", addresses=SOURCES) for number in range(2)]
    tunnels[0].user, tunnels[0].device = "ann", "laptop"
    for number in range(count):
        version = chance.choice([0, 2])
        flow = make_flow(tenant, protocol="udp", carrier=chance.choice(tunnels), now_ns=time.time_ns() - number * 10**9)
        flow.id = f"f{number:08d}"
        flow.source = pack(SOURCES[version + chance.randrange(2)])
        flow.destination = pack(DESTINATIONS[version + chance.randrange(2)])
        flow.source_port, flow.destination_port = number, chance.choice([22, 53, 80, 443])
        flow.key = b"%d" % number
        flow.state = chance.choice(["new", "established"])
        flow.tls = chance.choice([None, TLSRecord(sni="wiki.example"), TLSRecord(action="terminate")])
        flow.dscp = chance.choice([None, 0, 46])
        flow.client_payload, flow.origin_payload = chance.randrange(5), chance.choice([0, 1, 1 << 40])
        tenant.add(17, flow)
    return tenant


def found_by_scan(tenant, query):
    looked = []

    def look(flow):
        looked.append(flow)
        return flow.snapshot("edge", time.time_ns())

    return asyncio.run(scan([tenant], query, lambda flows: None, look)), looked


TENANT = populate(60)


@settings(deadline=None)
@given(query=queries(), seed=st.just(0))
def test_flows_and_their_records_agree_on_every_query(query, seed):
    records = [flow.snapshot("edge", time.time_ns()) for flow in TENANT.live()]
    key = SORT_KEYS[query.sort]
    wanted = sorted(filter(predicate(query), records), key=lambda r: (key(r), r.flow_id), reverse=query.descending)
    found, _ = found_by_scan(TENANT, query)
    if query.min_duration_ms or query.excluded.min_duration_ms or query.sort == "duration":
        return  # time passed in between
    assert [record.flow_id for record in found] == [record.flow_id for record in wanted[: query.limit + 1]]


def test_only_what_is_shown_becomes_a_record():
    found, looked = found_by_scan(TENANT, FlowQuery(tenant="acme", limit=3))
    assert [record.flow_id for record in found] == [f"f{number:08d}" for number in range(4)]
    assert len(looked) == 4


def test_a_look_at_many_flows_lets_others_run_in_between(monkeypatch):
    tenant, turns = populate(1000), 0
    monkeypatch.setattr(livescan, "SLICE_S", 0)

    async def main():
        nonlocal turns
        query = FlowQuery(tenant="acme", limit=1)
        scanning = asyncio.ensure_future(scan([tenant], query, lambda flows: None, lambda flow: flow.snapshot("e", 0)))
        while not scanning.done():
            turns += 1
            await asyncio.sleep(0)
        return await scanning

    assert len(asyncio.run(main())) == 2
    assert turns > 1000 // livescan.BATCH_FLOWS


def test_a_flow_that_leaves_by_another_tunnel_comes_once():
    tenant = make_tenant()
    here, there = (make_tunnel(tenant, tunnel_id=name) for name in ("here", "there"))
    flow = make_flow(tenant, protocol="udp", carrier=here)
    flow.egress = there
    tenant.add(17, flow)
    found, _ = found_by_scan(tenant, FlowQuery(tenant="acme"))
    assert [record.flow_id for record in found] == ["f0"]
