"""The tunnels of sites in a plan, by what the kernel can carry: devices, rules, agents, and what the proxy is told."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import pytest

from oxyctl.errors import OxyctlError
from oxyctl.operate import kernel_tunnels
from oxyctl.plan.diff import compare
from oxyctl.plan.make import make_plan
from oxyctl.plan.steps import Rule, Services, SiteOpen
from oxyctl.topology.file import loads
from proxy.settings import load as load_settings
from tests.topology.test_sites import WAN

EVERYTHING = ("gre", "ip6gre", "gue", "gue6")


def made(text=WAN, able=(), run=Path("/run/labs/test")):
    return make_plan(loads(text, "test"), run, able)


def ends(plan):
    """What the agents are told, by node and end."""
    [text] = [file.text for file in plan.files if file.path.endswith("/sites.json")]
    return {(entry["node"], entry["end"]): entry for entry in json.loads(text)["tunnels"]}


def settings(plan):
    """The proxy's own, read as the proxy reads them."""
    [text] = [file.text for file in plan.files if file.path.endswith("/edge/proxy.yaml")]
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "proxy.yaml")
        path.write_text(text)
        return load_settings(path)


def sites(plan):
    return {site.name: site for ramp in settings(plan).onramps[1:] for site in ramp.sites}


def test_in_user_space_agents_have_both_ends():
    plan = made()
    assert {tunnel.site: (tunnel.by, tunnel.edge) for tunnel in plan.tunnels} == {
        "berlin": ("user space", "user space"),
        "lima": ("user space", None),
    }
    assert [(device.node, device.name, device.kind) for device in plan.devices] == [
        ("berlin", "wan0", "tun"),
        ("lima", "wan0", "tun"),
    ]
    told = ends(plan)
    assert told.keys() == {("berlin", "site"), ("berlin", "edge"), ("lima", "site")}
    near, far = told["berlin", "site"], told["berlin", "edge"]
    assert near["gre"] == {"local": "10.50.0.2", "remote": "10.50.0.1", "key": 42, "checksum": False}
    assert far["gre"] == {"local": "10.50.0.1", "remote": "10.50.0.2", "key": 42, "checksum": False}
    assert (near["netns"], far["netns"]) == ("/run/labs/test/ns/net/berlin", "/run/labs/test/ns/net/edge")
    assert told["lima", "site"]["gue"] == {
        "local": "10.50.0.3:6080",
        "remote": "10.50.0.1:6080",
        "context": {"tenant": 2, "site": 2, "token": None},
        "version": 0,
    }


def test_in_the_kernel_there_are_devices_and_the_agents_only_probe_and_wrap():
    plan = made(able=EVERYTHING)
    assert {tunnel.site: (tunnel.by, tunnel.edge) for tunnel in plan.tunnels} == {
        "berlin": ("kernel", "kernel"),
        "lima": ("kernel", None),
    }
    by_name = {(device.node, device.name): device for device in plan.devices}
    assert by_name.keys() == {("berlin", "wan0"), ("edge", "gre1"), ("edge", "tun1"), ("lima", "wan0")}
    near, far = by_name["berlin", "wan0"], by_name["edge", "gre1"]
    assert (near.kind, near.local, near.remote, near.key) == ("gre", "10.50.0.2", "10.50.0.1", 42)
    assert (far.kind, far.local, far.remote, far.key) == ("gre", "10.50.0.1", "10.50.0.2", 42)
    assert (near.carrier, far.carrier) == ("eth0", "eth0")
    assert (by_name["lima", "wan0"].kind, by_name["lima", "wan0"].port) == ("gue", 6080)
    told = ends(plan)
    assert told.keys() == {("berlin", "probe"), ("berlin", "edge"), ("lima", "probe")}
    assert told["berlin", "edge"]["device"] == "tun1"
    assert not {"gre", "gue", "device"} & told["berlin", "probe"].keys()


def test_at_the_edge_each_direction_has_a_table_before_the_machines_own_addresses():
    plan = made(able=EVERYTHING)
    tables = {(device.node, device.name): device.tables for device in plan.devices}
    assert [rule for rule in plan.rules if rule.node == "edge"] == [
        Rule(node="edge", interface="gre1", table=tables["edge", "tun1"][0], is_first=True),
        Rule(node="edge", interface="tun1", table=tables["edge", "gre1"][0], is_first=True),
    ]
    assert all(254 not in tables["edge", name] for name in ("gre1", "tun1"))
    [sysctls] = [namespace.sysctls for namespace in plan.namespaces if namespace.node == "edge"]
    assert sysctls["net/ipv4/ip_forward"] == ["1"]


def test_without_a_kernel_edge_the_proxy_forwards_nothing():
    [sysctls] = [namespace.sysctls for namespace in made().namespaces if namespace.node == "edge"]
    assert "net/ipv4/ip_forward" not in sysctls


@pytest.mark.parametrize("able", [(), EVERYTHING])
def test_what_comes_from_the_lan_goes_into_the_tunnel(able):
    plan = made(able=able)
    assert Rule(node="berlin", interface="eth1", table=100) in plan.rules
    [device] = [device for device in plan.devices if device.node == "berlin"]
    assert device.tables == [254, 100]
    assert (device.mtu, device.addresses) == (1472, ["10.255.1.2/30", "fd00:255:1::2/64"])
    gateways = {(route.node, route.to): route.via for route in plan.routes}
    assert gateways["berlin-web", "0.0.0.0/0"] == "10.1.0.1"
    assert ("berlin", "0.0.0.0/0") not in gateways


@pytest.mark.parametrize(
    ("said", "able", "carried"),
    [
        ("tunnel: userspace", EVERYTHING, ("user space", "user space")),
        ("tunnel: kernel", (), ("kernel", "kernel")),
        ("tunnel: kernel\n    edge: userspace", EVERYTHING, ("kernel", "user space")),
        ("tunnel: userspace\n    edge: auto", EVERYTHING, ("user space", "kernel")),
        ("outer: 6", ("gre",), ("user space", "user space")),
        ("outer: 6", ("ip6gre",), ("kernel", "kernel")),
    ],
)
def test_who_carries_gre(said, able, carried):
    plan = made(WAN.replace("    key: 42\n", f"    key: 42\n    {said}\n"), able)
    assert (plan.tunnels[0].by, plan.tunnels[0].edge) == carried


@pytest.mark.parametrize(
    ("said", "by", "context"),
    [
        ("tunnel: auto", "kernel", "none"),
        ("tunnel: userspace", "user space", "required"),
        ("context: true", "user space", "required"),
        ("token: secret", "user space", "required"),
        ("version: 1", "user space", "none"),
        ("tunnel: userspace\n    context: false", "user space", "none"),
    ],
)
def test_who_carries_gue_and_what_the_proxy_expects_of_it(said, by, context):
    plan = made(WAN.replace("    kind: gue-site\n", f"    kind: gue-site\n    {said}\n"), EVERYTHING)
    assert plan.tunnels[1].by == by
    assert sites(plan)["lima"].context == context


@pytest.mark.parametrize("able", [(), EVERYTHING])
def test_the_proxy_accepts_what_it_is_told_of_sites(able):
    plan = made(able=able)
    listening = [ramp.listen for ramp in settings(plan).onramps[1:]]
    assert listening == ["127.0.0.1:6080", "10.50.0.1:6080"]
    known = sites(plan)
    assert known["berlin"].peers == [ends(plan)["berlin", "edge"]["gue"]["local"]]
    assert known["lima"].peers == ["10.50.0.3:6080"]
    assert known["berlin"].prefixes == ["10.1.0.0/24", "fd00:10:1::/64", "10.255.1.2/32", "fd00:255:1::2/128"]
    assert (known["berlin"].probe.address, known["berlin"].probe.source) == ("10.255.1.2", "10.255.1.1")
    assert known["berlin"].token == ends(plan)["berlin", "edge"]["gue"]["context"]["token"]


def test_each_edge_tunnel_has_a_secret_of_its_own():
    two = WAN.replace("kind: gue-site", "kind: gre-site")
    tokens = [site.token for site in sites(made(two)).values()]
    assert len(set(tokens)) == 2
    assert tokens != [site.token for site in sites(made(two, run=Path("/run/labs/other"))).values()]


def test_routes_follow_from_sites_and_clients():
    routes = [(route.prefix, route.via) for route in settings(made()).tenants["acme"].networks["default"].routes]
    assert routes == [
        ("10.1.0.0/24", "site:berlin"),
        ("fd00:10:1::/64", "site:berlin"),
        ("10.255.1.2/32", "site:berlin"),
        ("fd00:255:1::2/128", "site:berlin"),
        ("10.9.0.0/24", "site:lima"),
        ("10.255.2.2/32", "site:lima"),
        ("100.96.0.0/12", "clients"),
        ("fd00:96::/64", "clients"),
        ("0.0.0.0/0", "kernel"),
        ("::/0", "kernel"),
    ]


def test_a_tenant_without_sites_has_no_routes_and_one_that_says_its_own_keeps_them():
    assert settings(made()).tenants["globex"].networks == {}
    own = "tenants: {acme: {networks: {default: {routes: [{prefix: 0.0.0.0/0, via: site:lima}]}}}, globex: {}}"
    tenants = settings(made(WAN.replace("tenants: {acme: {}, globex: {id: 1}}", own))).tenants
    assert [route.via for route in tenants["acme"].networks["default"].routes] == ["site:lima"]


def test_a_client_with_an_address_of_its_own_is_found_there():
    text = WAN.replace("tenant: acme}", "tenant: acme, addresses: [192.168.7.7]}", 1)
    routes = {route.prefix: route.via for route in settings(made(text)).tenants["acme"].networks["default"].routes}
    assert routes["192.168.7.7/32"] == "clients"


def test_virtual_networks_have_routes_of_their_own():
    text = WAN.replace("{acme: {}, globex: {id: 1}}", "{acme: {networks: {research: {}}}, globex: {id: 1}}")
    text = text.replace("    kind: gue-site\n", "    kind: gue-site\n    network: research\n")
    text = text.replace("proxy: edge, tenant: acme}", "proxy: edge, tenant: acme, network: research}")
    networks = settings(made(text)).tenants["acme"].networks
    vias = {name: {route.via for route in network.routes} for name, network in networks.items()}
    assert vias == {
        "research": {"site:lima", "clients", "kernel"},
        "default": {"site:berlin", "clients", "kernel"},
    }
    [agents] = [file.text for file in made(text).files if file.path.endswith("/agents.json")]
    assert json.loads(agents)["clients"][0]["context"]["network"] == "research"


def test_priorities_and_weights_are_those_of_the_site():
    text = WAN.replace("    key: 42\n", "    key: 42\n    priority: 7\n    weight: 3\n")
    routes = settings(made(text)).tenants["acme"].networks["default"].routes
    assert {(route.priority, route.weight) for route in routes if route.via == "site:berlin"} == {(7, 3)}


def readiness(plan, name):
    return next((node.process, node.probe) for node in plan.nodes if node.name == name)


def test_a_site_is_ready_when_its_ends_are_open_and_probes_are_answered():
    assert readiness(made(), "berlin") == ("sites", SiteOpen(ends=["site", "edge"], is_probed=True))
    cut = WAN.replace("    key: 42\n", "    key: 42\n    on: {internet: {down: true}}\n")
    assert readiness(made(cut), "berlin") == ("sites", SiteOpen(ends=["site", "edge"], is_probed=False))
    silent = WAN.replace("    key: 42\n", "    key: 42\n    probe: false\n")
    assert readiness(made(silent), "berlin") == ("sites", SiteOpen(ends=["site", "edge"], is_probed=False))
    assert sites(made(silent))["berlin"].probe is None


def test_a_tunnel_of_the_kernel_that_nobody_probes_needs_no_program():
    silent = WAN.replace("    kind: gue-site\n", "    kind: gue-site\n    probe: false\n")
    plan = made(silent, EVERYTHING)
    assert ("lima", "probe") not in ends(plan)
    assert readiness(plan, "lima") == ("names", Services(addresses=[], services={}))


def test_another_key_replaces_the_site_and_where_the_kernel_has_the_edge_the_proxy():
    other = WAN.replace("key: 42", "key: 43")
    assert compare(made(), made(other)).added == {"berlin"}
    assert compare(made(able=EVERYTHING), made(other, EVERYTHING)).added == {"berlin", "edge"}
    assert compare(made(), made()).is_empty


def test_a_host_comes_alone_and_a_site_with_the_proxy():
    host = WAN.replace("hosts: {web: {}}", "hosts: {web: {}, new: {}}")
    assert compare(made(), made(host)).added == {"lima-new"}
    site = WAN + "  oslo: {kind: gre-site, tenant: acme}\n"
    assert compare(made(), made(site)).added == {"oslo", "edge"}


def test_the_kernel_is_tried_only_where_it_matters(monkeypatch):
    asked = []
    monkeypatch.setattr(kernel_tunnels, "unsupported_reason", lambda kind: asked.append(kind) or "no such thing")
    assert (
        kernel_tunnels.supported_kinds_for(loads(WAN.replace("    key: 42\n", "    tunnel: userspace\n"), "test"))
        == frozenset()
    )
    assert asked == ["gue"]


def test_what_must_be_the_kernels_and_cannot_is_one_message(monkeypatch):
    monkeypatch.setattr(kernel_tunnels, "unsupported_reason", lambda kind: "Unknown device type")
    text = WAN.replace("    key: 42\n", "    key: 42\n    tunnel: kernel\n")
    with pytest.raises(
        OxyctlError, match="node 'berlin': this kernel does not support GRE \\(Unknown device type\\); "
    ):
        kernel_tunnels.supported_kinds_for(loads(text, "test"))
