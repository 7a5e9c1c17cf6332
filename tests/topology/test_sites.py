"""Sites in lab files: written out as networks and nodes, numbered, and the one message for each mistake."""

from __future__ import annotations

import pytest

from oxyctl.topology.file import loads
from oxyctl.topology.nodes import GreSiteNode, GueSiteNode, UpstreamNode
from oxyctl.topology.sites import automatic_mtu, id_of, inner_addresses, overhead, tenant_id
from proxy.settings import DocumentError

WAN = """
networks:
  internet: {subnets: [10.50.0.0/24, "fd00:50::/64"]}
nodes:
  edge:   {kind: proxy, networks: {internet: [10.50.0.1, "fd00:50::1"]}, tenants: {acme: {}, globex: {id: 1}}}
  laptop: {kind: warp, proxy: edge, tenant: acme}
  berlin:
    kind: gre-site
    tenant: acme
    key: 42
    hosts: {web: {services: [http, ssh]}, db: {services: {echo: 7777}, addresses: ["fd00:10:1::9"]}}
  lima:
    kind: gue-site
    tenant: acme
    lan: {ipv4: 10.9.0.0/24, ipv6: false}
    hosts: {web: {}}
"""


def lab(text=WAN):
    return loads(text, "test")


def test_a_site_is_a_router_a_lan_and_hosts():
    made = lab()
    assert list(made.nodes) == ["edge", "laptop", "berlin", "berlin-web", "berlin-db", "lima", "lima-web"]
    assert (type(made.nodes["berlin"]), type(made.nodes["lima"])) == (GreSiteNode, GueSiteNode)
    assert made.networks["berlin-lan"].subnets == ["10.1.0.0/24", "fd00:10:1::/64"]
    assert made.networks["lima-lan"].subnets == ["10.9.0.0/24"]
    assert made.networks["berlin-lan"].gateway == "berlin"
    assert made.nodes["berlin"].attached == {"internet": [], "berlin-lan": []}


def test_hosts_serve_at_the_usual_ports_or_at_their_own():
    hosts = {name: node.services for name, node in lab().nodes.items() if isinstance(node, UpstreamNode)}
    assert hosts == {
        "berlin-web": {"http": 80, "ssh": 22},
        "berlin-db": {"echo": 7777},
        "lima-web": {"http": 80, "echo": 7},
    }


def test_a_lan_that_is_left_open_avoids_what_the_file_says():
    taken = WAN.replace("internet: {subnets: [10.50.0.0/24,", "internet: {subnets: [10.1.0.0/16,").replace(
        "[10.50.0.1,", "[10.1.50.1,"
    )
    made = lab(taken.replace(', addresses: ["fd00:10:1::9"]', ""))
    assert made.networks["berlin-lan"].subnets == ["10.2.0.0/24", "fd00:10:2::/64"]


def test_impairments_of_a_lan_are_those_of_its_links():
    made = lab(WAN.replace("    key: 42\n", "    key: 42\n    lan: {delay: 5ms, mtu: 1400, name: office}\n"))
    assert (made.networks["office"].delay, made.networks["office"].mtu) == ("5ms", 1400)


def test_the_outer_link_of_a_site_can_be_impaired():
    made = lab(WAN.replace("    key: 42\n", "    key: 42\n    on: {internet: {addresses: [10.50.0.7], loss: 1%}}\n"))
    assert made.nodes["berlin"].attached["internet"] == ["10.50.0.7"]
    assert made.nodes["berlin"].attachment("internet").loss == "1%"


def test_numbers_are_of_the_order_in_the_file():
    made = lab()
    assert (id_of(made, "berlin"), id_of(made, "lima")) == (1, 2)
    own, proxy = inner_addresses(made, "berlin")
    assert [str(each) for each in own] == ["10.255.1.2/30", "fd00:255:1::2/64"]
    assert [str(each) for each in proxy] == ["10.255.1.1/30", "fd00:255:1::1/64"]
    assert [str(each) for each in inner_addresses(made, "lima")[0]] == ["10.255.2.2/30"]


def test_a_tenant_without_a_number_gets_one_that_nobody_has():
    assert (tenant_id(lab(), "edge", "acme"), tenant_id(lab(), "edge", "globex")) == (2, 1)


@pytest.mark.parametrize(
    ("said", "bytes_before"),
    [
        ("key: 42", 28),  # IPv4, GRE, key
        ("checksum: false", 24),
        ("checksum: true", 28),
        ("checksum: true, key: 0", 32),
        ("outer: 6", 44),
    ],
)
def test_what_stands_before_each_packet_of_gre(said, bytes_before):
    made = lab(WAN.replace("    key: 42\n", "".join(f"    {each}\n" for each in said.split(", "))))
    assert overhead(made, "berlin") == bytes_before
    assert automatic_mtu(made, "berlin") == 1500 - bytes_before


@pytest.mark.parametrize(
    ("said", "bytes_before"),
    [
        ("tunnel: auto", 32 + 16),  # "OX", version, two fields of six bytes, padded
        ("tunnel: userspace", 32 + 16),
        ("tunnel: kernel", 32),
        ("context: false", 32),
        ("version: 1", 28),
        ("token: secret", 32 + 24),
    ],
)
def test_what_stands_before_each_packet_of_gue(said, bytes_before):
    made = lab(WAN.replace("    kind: gue-site\n", f"    kind: gue-site\n    {said}\n"))
    assert overhead(made, "lima") == bytes_before


def test_a_tunnel_is_as_wide_as_the_narrower_of_its_links():
    narrow = "{kind: proxy, networks: {internet: {addresses: [10.50.0.1], mtu: 1400}}"
    made = lab(WAN.replace('{kind: proxy, networks: {internet: [10.50.0.1, "fd00:50::1"]}', narrow))
    assert automatic_mtu(made, "berlin") == 1400 - 28


def site(text):
    """A change of berlin's lines, and of lima's."""
    return "    key: 42\n", f"    key: 42\n    {text}\n"


def gue(text):
    return "    kind: gue-site\n", f"    kind: gue-site\n    {text}\n"


MISTAKES = [
    (
        ("tenant: acme\n    key", "tenant: acne\n    key"),
        "9:13: proxy 'edge' has no tenant 'acne'; did you mean 'acme'?",
    ),
    (site("via: edgy"), "11:10: unknown node 'edgy'; did you mean 'edge'?"),
    (site("via: laptop"), "11:10: node 'laptop' is not a proxy; expected one of: edge"),
    (site("on: intranet"), "11:9: unknown network 'intranet'; did you mean 'internet'?"),
    (site("on: lima-lan"), "11:9: proxy 'edge' is not in network 'lima-lan'; expected one of: internet"),
    (site("network: defalt"), "11:14: tenant 'acme' has no network 'defalt'; did you mean 'default'?"),
    (site("keys: 3"), "11:5: unknown key 'keys'; did you mean 'key'?"),
    (site("tunnel: kernl"), "11:13: nodes.berlin.tunnel: unknown value 'kernl'; did you mean 'kernel'?"),
    (site("mtu: 1480"), "11:10: the tunnel carries at most 1472 bytes here"),
    (site("mtu: 1000"), "11:10: IPv6 needs an MTU of at least 1280: set it, or `lan: {ipv6: false}`"),
    (site("lan: {ipv4: 10.1.0.1/24}"), "11:17: not a subnet: 10.1.0.1/24 has host bits set"),
    (site('lan: {ipv4: "fd00:77::/64"}'), "11:17: fd00:77::/64 is not an IPv4 subnet"),
    (site("lan: {ipv4: 10.255.0.0/24}"), "11:17: 10.255.0.0/24 overlaps 10.255.0.0/16, which tunnels use"),
    (site("lan: {ipv4: 10.50.0.0/24}"), "11:17: 10.50.0.0/24 overlaps 10.50.0.0/24 of network 'internet', and node"),
    (site("lan: {ipv4: false, ipv6: false}"), "11:10: a LAN needs an IPv4 or an IPv6 subnet"),
    (
        site("lan: {name: internet}"),
        "11:17: there is already a network 'internet': set another name with `lan: {name: ...}`",
    ),
    (
        site("lan: {router: [10.2.0.1]}"),
        "11:20: 10.2.0.1 is outside network 'berlin-lan' (10.1.0.0/24, fd00:10:1::/64)",
    ),
    (site("lan: {delay: soon}"), "11:18: expected a delay such as 20ms or 1.5s (found 'soon')"),
    (("key: 42", "key: 4294967296"), "10:10: nodes.berlin.key: expected an integer <= 4294967295 (found 4294967296)"),
    (('addresses: ["fd00:10:1::9"]', "addresses: [10.2.0.9]"), "11:84: 10.2.0.9 is outside network 'berlin-lan'"),
    (("[http, ssh]", "[http, shs]"), "11:29: unknown service 'shs'; did you mean 'ssh'?"),
    (("[http, ssh]", "[http, reset]"), "11:36: service 'reset' has no default port: write `{reset: PORT}`"),
    (("services: {echo", "sevices: {echo"), "11:48: unknown key 'sevices'; did you mean 'services'?"),
    (("{web: {services: [http", "{Web: {services: [http"), "11:13: 'berlin-Web' is not a valid node name"),
    (("  laptop: {", "  berlin-db: {"), "11:43: there is already a node 'berlin-db'"),
    (gue("version: 2"), "14:14: nodes.lima.version: unknown value '2'; expected one of: 0, 1"),
    (gue("version: 1\n    token: t"), "14:14: version 1 has no header for a context"),
    (gue("context: false\n    token: t"), "15:12: a token is part of a context, and this site sends none"),
    (gue("tunnel: kernel\n    token: t"), "14:13: the kernel's GUE does not send a context"),
    (gue("tunnel: kernel\n    version: 1"), "14:13: the kernel's GUE does not send version 1"),
    (gue(f"token: {'x' * 200}"), "14:12: a token has at most 104 bytes"),
]


@pytest.mark.parametrize(("change", "message"), MISTAKES, ids=[message[:50] for _, message in MISTAKES])
def test_a_mistake_is_one_message_with_its_place(change, message):
    written, instead = change
    assert written in WAN
    with pytest.raises(DocumentError) as caught:
        lab(WAN.replace(written, instead, 1))
    assert str(caught.value).startswith(f"lab.yaml:{message}"), str(caught.value)


def test_ends_without_a_common_family_are_refused():
    text = WAN.replace('{internet: [10.50.0.1, "fd00:50::1"]}', "{internet: [10.50.0.1]}")
    with pytest.raises(DocumentError, match="11:12: the two ends of the tunnel do not both have IPv6 in network"):
        lab(text.replace("    key: 42\n", "    key: 42\n    outer: 6\n"))


def test_several_proxies_leave_a_site_without_its_own():
    text = WAN + "  other: {kind: proxy, networks: [internet], tenants: {acme: {}}}\n"
    with pytest.raises(DocumentError, match="the lab has several proxies: edge, other; name one of them"):
        lab(text)


def test_a_group_of_sites_with_a_default():
    text = """
networks: {internet: {subnets: [10.50.0.0/24]}}
defaults: {gre-site: {tenant: acme, lan: {ipv6: false}}}
nodes:
  edge: {kind: proxy, networks: [internet], tenants: {acme: {}}}
  shop: {kind: gre-site, count: 3, hosts: {till: {services: [http]}}}
"""
    made = lab(text)
    assert [name for name in made.nodes if name.endswith("till")] == ["shop-1-till", "shop-2-till", "shop-3-till"]
    assert [made.networks[f"shop-{n}-lan"].subnets for n in (1, 2, 3)] == [[f"10.{n}.0.0/24"] for n in (1, 2, 3)]


ROUTES = "tenants: {acme: {networks: {default: {routes: [{prefix: %s, via: %s}]}}}, globex: {id: 1}}"


@pytest.mark.parametrize(
    ("prefix", "via", "message"),
    [
        ("10.1.0.0/24", "site:berln", "unknown next hop 'site:berln'; did you mean 'site:berlin'?"),
        ("10.1.0.0/24", "client", "unknown next hop 'client'; did you mean 'clients'?"),
        ("10.1.0.1/24", "clients", "not a prefix: 10.1.0.1/24 has host bits set"),
    ],
)
def test_routes_of_a_tenant_are_checked(prefix, via, message):
    with pytest.raises(DocumentError) as caught:
        lab(WAN.replace("tenants: {acme: {}, globex: {id: 1}}", ROUTES % (prefix, via)))
    assert message in str(caught.value)


def test_a_route_to_the_site_of_another_tenant_is_told():
    stranger = WAN.replace("tenants: {acme: {}, globex: {id: 1}}", ROUTES % ("10.1.0.0/24", "site:lima"))
    stranger = stranger.replace("kind: gue-site\n    tenant: acme", "kind: gue-site\n    tenant: globex")
    with pytest.raises(DocumentError, match="'site:lima' is a site of tenant 'globex', network 'default'"):
        lab(stranger)
