"""Routes: which next hop a flow gets, and that both of its directions get the same number."""

from __future__ import annotations

from collections import Counter
from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.errors import DropReason
from proxy.flow.keys import reverse_key
from proxy.flow.route_table import RouteTable
from proxy.packet.health import PENALTY, Health
from proxy.packet.routes import SOCKETS, choose, flow_hash
from proxy.settings.sites import Route
from tests.flows import make_tenant, make_tunnel
from tests.packets import pack


def world(*routes, sites=("berlin", "paris", "rome")):
    tenant = make_tenant()
    carriers = {site: make_tunnel(tenant, tunnel_id=f"site:{site}", site=site, addresses=()) for site in sites}
    network = tenant.networks["default"]
    network.routes = RouteTable(routes)
    return network, carriers


def route(prefix, via, **fields):
    return Route(prefix=prefix, via=via, **fields)


def test_without_routes_everything_leaves_by_sockets():
    network = make_tenant().networks["default"]
    assert choose(network, pack("10.1.0.5"), 7) is SOCKETS
    assert SOCKETS.is_stream


def test_longest_prefix_counts_before_priority():
    network, carriers = world(
        route("0.0.0.0/0", "stream", priority=1),
        route("10.0.0.0/8", "site:paris", priority=2),
        route("10.1.0.0/16", "site:berlin", priority=9),
        route("10.1.7.7/32", "site:rome", priority=99),
        route("fd00::/16", "site:rome"),
    )
    ways = {"10.1.0.5": "berlin", "10.1.7.7": "rome", "10.2.0.5": "paris", "fd00:1::1": "rome"}
    for address, site in ways.items():
        assert choose(network, pack(address), 0).carrier is carriers[site]
    assert choose(network, pack("192.0.2.1"), 0).carrier is None
    assert choose(network, pack("2001:db8::1"), 0) is DropReason.NO_ROUTE


def test_level_of_a_route():
    network, _ = world(route("10.1.0.0/16", "site:berlin"), route("10.2.0.0/16", "site:berlin", level="stream"))
    assert [choose(network, pack(f"10.{n}.0.1"), 0).is_stream for n in (1, 2)] == [False, True]
    assert str(choose(network, pack("10.1.0.1"), 0)) == "10.1.0.0/16 via site:berlin"


def test_priority_and_penalties_decide_and_no_route_is_removed():
    network, carriers = world(route("10.1.0.0/16", "site:berlin"), route("10.1.0.0/16", "site:paris", priority=200))
    here = pack("10.1.0.1")
    assert {choose(network, here, n).carrier for n in range(50)} == {carriers["berlin"]}
    carriers["berlin"].penalty = PENALTY[Health.DEGRADED]
    assert choose(network, here, 0).carrier is carriers["paris"]
    carriers["paris"].penalty = PENALTY[Health.DOWN]
    assert choose(network, here, 0).carrier is carriers["berlin"]
    carriers["berlin"].penalty = PENALTY[Health.DOWN]
    assert choose(network, here, 0).carrier is carriers["berlin"]


def test_site_without_open_tunnel_is_no_next_hop_and_a_worse_route_is_taken():
    network, carriers = world(route("10.1.0.0/16", "site:berlin"))
    network.tenant.detach(carriers["berlin"])
    assert choose(network, pack("10.1.0.1"), 0) is DropReason.NO_NEXT_HOP
    network.routes = RouteTable([route("10.1.0.0/16", "site:berlin"), route("10.1.0.0/16", "stream", priority=900)])
    assert choose(network, pack("10.1.0.1"), 0).carrier is None


def test_clients_are_found_by_their_own_address():
    network, _ = world(route("100.96.0.0/12", "clients"), route("fd00:96::/32", "clients"))
    client = make_tunnel(network.tenant, tunnel_id="c")
    assert choose(network, pack("100.96.0.2"), 0).carrier is client
    assert choose(network, pack("fd00:96::2"), 0).carrier is client
    assert choose(network, pack("100.96.0.3"), 0) is DropReason.NO_NEXT_HOP
    network.tenant.detach(client)
    assert choose(network, pack("100.96.0.2"), 0) is DropReason.NO_NEXT_HOP


def test_equal_routes_share_by_weight_and_a_route_shares_among_its_tunnels():
    network, _ = world(route("10.1.0.0/16", "site:berlin", weight=3), route("10.1.0.0/16", "site:paris", weight=1))
    second = make_tunnel(network.tenant, tunnel_id="site:berlin@b", site="berlin", addresses=())
    keys = [pack("100.96.0.2") + pack("10.1.0.1") + n.to_bytes(2, "big") + b"\0\x50" for n in range(4000)]
    shares = Counter(choose(network, pack("10.1.0.1"), flow_hash(6, key)).carrier.id for key in keys)
    assert shares.keys() == {"site:berlin", "site:paris", "site:berlin@b"}
    assert 800 < shares["site:paris"] < 1200
    assert 1300 < shares["site:berlin"] < 1700
    assert second.id in shares


def test_networks_of_one_tenant_share_nothing():
    tenant = make_tenant(networks=("lab",))
    main, lab = tenant.networks["default"], tenant.networks["lab"]
    ours = make_tunnel(tenant, tunnel_id="site:a", site="a", addresses=())
    theirs = make_tunnel(tenant, tunnel_id="site:b", site="b", addresses=(), network="lab")
    main.routes = RouteTable([route("10.1.0.0/16", "site:a"), route("10.2.0.0/16", "site:b")])
    lab.routes = RouteTable([route("10.1.0.0/16", "site:b")])
    assert choose(main, pack("10.1.0.1"), 0).carrier is ours
    assert choose(lab, pack("10.1.0.1"), 0).carrier is theirs
    assert choose(main, pack("10.2.0.1"), 0) is DropReason.NO_NEXT_HOP


addresses = st.ip_addresses(v=4) | st.ip_addresses(v=6)


@given(st.lists(st.tuples(st.ip_addresses(v=4), st.integers(0, 32)), max_size=20), st.ip_addresses(v=4))
def test_match_is_the_longest_prefix(pairs, destination):
    prefixes = {ip_network((address, length), strict=False) for address, length in pairs}
    table = RouteTable([route(str(prefix), "stream") for prefix in prefixes])
    wanted = max((prefix for prefix in prefixes if destination in prefix), key=lambda p: p.prefixlen, default=None)
    found = [ip_network(each.prefix) for each in table.match(destination.packed)]
    assert found == ([] if wanted is None else [wanted])


@pytest.mark.parametrize("size", [4, 16])
@given(data=st.data())
def test_hash_is_the_same_in_both_directions(size, data):
    tail = data.draw(st.sampled_from([2, 4]))
    key = data.draw(st.binary(min_size=2 * size + tail, max_size=2 * size + tail))
    assert flow_hash(6, key) == flow_hash(6, reverse_key(key))
    assert 0 <= flow_hash(17, key) < 1 << 32


def test_hash_tells_flows_apart():
    source, destination = ip_address("10.0.0.1").packed, ip_address("10.0.0.2").packed
    keys = [source + destination + n.to_bytes(4, "big") for n in range(1000)]
    assert len({flow_hash(6, key) for key in keys}) == 1000
    assert flow_hash(6, keys[0]) != flow_hash(17, keys[0])
