"""Lab files: what is accepted, and the one message with its place for what is not."""

from __future__ import annotations

import pytest

from oxyctl.topology.file import load, loads
from oxyctl.topology.library import find_file
from oxyctl.topology.nodes import ProcessNode, ProxyNode, UpstreamNode, WarpNode
from proxy.settings import DocumentError


def test_each_kind_becomes_its_own_type(quick):
    lab = loads(quick, "test")
    assert [type(node) for node in lab.nodes.values()] == [ProxyNode, WarpNode, UpstreamNode, ProcessNode]
    assert [node.kind for node in lab.nodes.values()] == ["proxy", "warp", "upstream", "process"]
    assert lab.nodes["web"].attached == {"internet": []}
    assert lab.nodes["edge"].attached == {"internet": ["10.50.0.1", "fd00:50::1"]}


def test_the_name_is_said_or_written_or_the_files_own(quick, tmp_path):
    file = tmp_path / "shop.yaml"
    file.write_text(quick)
    assert load(file).name == "shop"
    file.write_text(f"name: market\n{quick}")
    assert load(file).name == "market"
    assert load(file, "bazaar").name == "bazaar"


def test_the_quickstart_is_valid():
    lab = load(find_file("quickstart"))
    assert list(lab.nodes) == ["edge", "laptop", "web"]


MISTAKES = [
    # what stands there, what is written instead, and the message: line:column: text
    ("kind: warp", "kind: wrap", "6:18: nodes.laptop.kind: unknown value 'wrap'; did you mean 'warp'?"),
    ("user: alice", "usr: alice", "6:51: unknown key 'usr'; did you mean 'user'?"),
    ("proxy: edge", "proxy: edg", "6:31: unknown node 'edg'; did you mean 'edge'?"),
    ("proxy: edge", "proxy: web", "6:31: node 'web' is not a proxy; expected one of: edge"),
    ("tenant: acme", "tenant: acne", "6:45: proxy 'edge' has no tenant 'acne'; did you mean 'acme'?"),
    ("tenants: {acme: {}}", "tenants: {}", "5:83: at least one tenant is required"),
    ("[internet], services", "[intranet], services", "7:39: unknown network 'intranet'; did you mean 'internet'?"),
    ("{internet: [10.50", "{internett: [10.50", "5:36: unknown network 'internett'; did you mean 'internet'?"),
    ("[10.50.0.1,", "[10.51.0.1,", "5:47: 10.51.0.1 is outside network 'internet' (10.50.0.0/24, fd00:50::/64)"),
    ("[10.50.0.1,", "[10.50.0.255,", "5:47: 10.50.0.255 is the network address or the broadcast address"),
    (
        "[10.50.0.1,",
        "[10.50.0.300,",
        "5:47: not an address: '10.50.0.300' does not appear to be an IPv4 or IPv6 address",
    ),
    (
        "[internet], services",
        "{internet: [10.50.0.1]}, services",
        "7:50: 10.50.0.1 is already an address of node 'edge'",
    ),
    ("10.50.0.0/24", "10.50.0.1/24", "3:24: not a subnet: 10.50.0.1/24 has host bits set"),
    ("{http: 80,", "{htp: 80,", "7:61: unknown service 'htp'; did you mean 'http'?"),
    ("echo: 7", "echo: 80", "7:77: port 80 is already used by 'http'"),
    ("echo: 7", "echo: seven", "7:77: nodes.web.services.echo: expected an integer (found 'seven')"),
    ("echo: 7", "echo: 70000", "7:77: nodes.web.services.echo: expected an integer <= 65535 (found 70000)"),
    (
        "  web: ",
        "  Web: ",
        "7:3: 'Web' is not a valid node name (allowed: a DNS label: lower-case letters, digits and '-', at most 63)",
    ),
    ("  web: ", "  agents: ", "7:3: 'agents' cannot be the name of a node: the lab's own logs use this name"),
    ('[sleep, "60"]', "[]", "8:58: nodes.tool.command: expected a list of length >= 1 (found a list)"),
    ("user: alice", "addresses: [100.96.0.300], user: alice", "6:63: not an address: '100.96.0.300' does"),
    ("user: alice", 'mtu: 600, addresses: ["fd00:96::2"], user: alice', "6:56: IPv6 needs an MTU of at least 1280"),
    ("tenants: {acme: {}}", "tenants: {acme: {snat: [10.9.0.300]}}", "not an address: '10.9.0.300'"),
    ("tenants: {acme: {}}", "tenants: {acme: {snat: [10.9.0.3, 10.9.0.4]}}", "a second IPv4 address"),
    ("tenants: {acme: {}}", "tenants: {acme: {ports: 4-1}}", "expected a range of ports such as 2048-4095"),
    ("tenants: {acme: {}}", "tenants: {acme: {egress: eht0}}", "has no interface 'eht0'; did you mean 'eth0'?"),
    ("tenants: {acme: {}}", "tenants: {acme: {prefixes: [10.0.0.0/8]}}, settings: {hook: x}", "unknown key 'hook'"),
]


@pytest.mark.parametrize(
    ("written", "instead", "message"), MISTAKES, ids=[m[2].partition(": ")[2][:40] for m in MISTAKES]
)
def test_a_mistake_is_one_message_with_its_place(quick, written, instead, message):
    assert written in quick
    with pytest.raises(DocumentError) as caught:
        loads(quick.replace(written, instead, 1), "test")
    assert message in str(caught.value)
    assert str(caught.value).startswith("lab.yaml:")


def test_a_tenant_is_checked_before_the_clients_that_rely_on_it(quick):
    edge = next(line for line in quick.splitlines() if line.startswith("  edge:"))
    moved = quick.replace(edge + "\n", "") + edge.replace("{acme: {}}", "{acme: {prefixes: [10.8.0.0/33]}}") + "\n"
    with pytest.raises(DocumentError, match="not a prefix: "):
        loads(moved, "test")


def test_an_address_outside_the_tenants_prefixes_is_refused(quick):
    text = quick.replace("{acme: {}}", "{acme: {prefixes: [100.96.0.0/12]}}").replace(
        "user: alice", "addresses: [100.96.0.9, 10.9.9.9], user: alice"
    )
    with pytest.raises(DocumentError, match=r"6:75: 10\.9\.9\.9 is in no prefix of tenant 'acme'"):
        loads(text, "test")


def test_two_clients_of_a_tenant_cannot_share_an_address(quick):
    twin = "  phone: {kind: warp, proxy: edge, tenant: acme, addresses: [100.96.0.7]}\n"
    text = quick.replace("user: alice", "addresses: [100.96.0.7], user: alice") + twin
    with pytest.raises(DocumentError, match=r"100\.96\.0\.7 is already an address of node 'laptop'"):
        loads(text, "test")
    other = text.replace("{acme: {}}", "{acme: {}, zeta: {}}").replace(twin, twin.replace("acme", "zeta"))
    assert set(loads(other, "test").nodes) > {"laptop", "phone"}


def test_overlapping_subnets_are_refused(quick):
    text = quick.replace("networks:\n", "networks:\n  office: {subnets: [10.0.0.0/8]}\n", 1)
    text += "  spy: {kind: process, networks: [internet, office], command: [x]}\n"
    with pytest.raises(
        DocumentError, match=r"4:24: 10\.50\.0\.0/24 overlaps 10\.0\.0\.0/8 of network 'office', and node 'spy' is"
    ):
        loads(text, "test")


def test_a_full_network_is_told_where_it_is_asked(quick):
    text = quick.replace("10.50.0.0/24", "10.50.0.0/30").replace("services: {http", "root: ., services: {http")
    more = "  late: {kind: process, networks: [internet], command: [x]}\n"
    with pytest.raises(DocumentError, match=r"no address is left in network 'internet'"):
        loads(text + more, "test")


@pytest.mark.parametrize("name", ["../up", "", ".hidden", "a/b", "a" * 64, "with space"])
def test_a_lab_name_stays_in_its_directory(quick, name):
    with pytest.raises(DocumentError, match="is not a valid lab name"):
        loads(f"name: {name!r}\n{quick}", None)


def test_what_is_no_lab_at_all(tmp_path):
    for path, message in ((tmp_path, "is a directory"), (tmp_path / "none.yaml", "no such file")):
        with pytest.raises(DocumentError, match=message):
            load(path)
    with pytest.raises(DocumentError, match="key 'nodes' is required"):
        loads("name: empty")


def test_a_file_of_an_older_version_is_one_message_with_its_place(quick):
    """Keys that are gone are unknown keys: the first is named, with its line, and what may be meant."""
    with pytest.raises(DocumentError, match=r"^lab\.yaml:1:1: unknown key 'version'") as caught:
        loads("version: 1" + quick)
    assert "\n" not in str(caught.value)
