"""What is in the way of the kernel off-ramp: judged from facts, and found where a kernel is asked."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Iterator
from ipaddress import ip_interface

import pytest
from scapy.layers.inet6 import ICMPv6ND_RA, IPv6
from scapy.layers.l2 import Ether

from oxyctl.net.netlink import Veth, add_address, new_veth, run, set_link
from proxy.device import routing
from proxy.device.interface import set_sysctl
from proxy.device.namespaces import current_network
from proxy.device.routing import Route, Rule
from proxy.errors import ProxyError
from proxy.kernel import nft
from proxy.kernel.obstacles import probes, survey
from proxy.kernel.obstacles.firewall import Passing, dropping, is_dropped_by_iptables
from proxy.kernel.obstacles.judge import Facts, judge
from proxy.kernel.obstacles.survey import gather
from proxy.settings import KernelOffRamp
from tests.netns import Namespace, needs_root
from tests.running import until

OWN = KernelOffRamp()
MARK = OWN.mark
BASE = {"mark": MARK, "priority": 60, "first_table": OWN.first_table, "table": "oxy_proxy"}
LOCAL, MAIN = Rule(4, 0, 255), Rule(4, 32_766, 254)
OUT = Passing(MARK | 0x8001, "oxk0", "eth0")


def found(**facts) -> list[tuple[str, str | None]]:
    """Kind and mending of each obstacle."""
    return [(each.kind, each.fix) for each in judge(Facts(**BASE | facts))]


def chain(*rules, policy="drop", **inner):
    """A ruleset as `nft -j` prints it: one forward chain, and others that it may jump to."""
    base = {"family": "inet", "table": "fw"}
    hook = {"hook": "forward", "prio": 0, "type": "filter", "policy": policy}
    chains = {"forward": rules, **inner}
    return [
        {"metainfo": {"version": "1.0.6"}},
        *({"chain": {**base, "name": name, **(hook if name == "forward" else {})}} for name in chains),
        *({"rule": {**base, "chain": name, "expr": rule}} for name, own in chains.items() for rule in own),
    ]


def match(left, right, op="=="):
    return {"match": {"op": op, "left": left, "right": right}}


def meta(key, right, op="=="):
    return match({"meta": {"key": key}}, right, op)


ACCEPT, DROP, STATE = {"accept": None}, {"drop": None}, {"ct": {"key": "state"}}
OUR_MARK = meta("mark", {"prefix": {"addr": MARK, "len": 16}})


@pytest.mark.parametrize(
    ("rules", "policy", "inner"),
    [
        ([], "drop", {}),
        ([[match(STATE, ["established", "related"], "in"), ACCEPT]], "drop", {}),
        ([[meta("iifname", "docker0"), ACCEPT]], "drop", {}),
        ([[{"xt": {"type": "match", "name": "conntrack"}}, {"counter": {"packets": 0}}, ACCEPT]], "drop", {}),
        ([[{"reject": {"type": "icmpx"}}]], "accept", {}),
        ([[OUR_MARK, {"jump": {"target": "inner"}}]], "drop", {"inner": [[{"return": None}], [ACCEPT]]}),
        ([[{"goto": {"target": "inner"}}], [ACCEPT]], "drop", {"inner": []}),
        ([[{"vmap": {"key": STATE, "data": {"set": [["invalid", DROP], ["new", DROP]]}}}]], "accept", {}),
        ([[{"jump": {"target": "forward"}}]], "drop", {}),
    ],
)
def test_a_chain_that_drops_what_it_is_not_told_to_pass(rules, policy, inner):
    (dropped,) = dropping(chain(*rules, policy=policy, **inner), [OUT], but="oxy_proxy")
    assert (dropped.family, dropped.table, dropped.name) == ("inet", "fw", "forward")
    assert not list(dropping(chain(*rules, policy=policy, **inner), [OUT], but="fw"))


@pytest.mark.parametrize(
    ("rules", "policy", "inner"),
    [
        ([], "accept", {}),
        ([[OUR_MARK, ACCEPT]], "drop", {}),
        ([[match({"&": [{"meta": {"key": "mark"}}, 0xFFFF_0000]}, MARK), ACCEPT]], "drop", {}),
        ([[meta("mark", {"range": [MARK, MARK + 0xFFFF]}), ACCEPT]], "drop", {}),
        ([[meta("iifname", "oxk*"), ACCEPT]], "drop", {}),
        ([[meta("oifname", {"set": ["eth1", "eth0"]}), ACCEPT]], "drop", {}),
        ([[meta("iifname", "docker0", "!="), ACCEPT]], "drop", {}),
        ([[meta("nfproto", "ipv4"), ACCEPT]], "drop", {}),
        ([[match({"payload": {"protocol": "ip", "field": "saddr"}}, "192.0.2.1"), DROP]], "accept", {}),
        ([[{"jump": {"target": "inner"}}]], "drop", {"inner": [[OUR_MARK, ACCEPT]]}),
        ([[{"vmap": {"key": STATE, "data": {"set": [["new", ACCEPT]]}}}]], "drop", {}),
        ([[meta("mark", 1), DROP]], "accept", {}),
    ],
)
def test_a_chain_that_lets_us_pass(rules, policy, inner):
    assert not list(dropping(chain(*rules, policy=policy, **inner), [OUT], but="oxy_proxy"))


def test_chains_of_a_family_see_its_packets_only():
    ruleset = chain()
    ruleset[1]["chain"]["family"] = "ip6"
    assert not list(dropping(ruleset, [OUT], but=""))
    assert list(dropping(ruleset, [Passing(OUT.mark, "oxk0", "eth0", 6)], but=""))


def test_a_firewall_is_mended_by_a_rule_for_our_mark():
    (kind, fix), *rest = found(ruleset=chain(), interfaces=("eth0",))
    assert (kind, rest) == ("firewall", [])
    assert fix == "nft insert rule inet fw forward 'meta mark & 0xffff0000 == 0x6f780000 accept'"
    assert found(ruleset=chain([OUR_MARK, ACCEPT]), interfaces=("eth0",)) == []


def test_an_on_ramp_needs_its_devices_passed_as_well():
    world = {"interfaces": ("eth0",), "on_ramps": ("gre1",)}
    rules = [[OUR_MARK, ACCEPT], [meta("oifname", "oxi*"), ACCEPT], [meta("iifname", "oxb*"), ACCEPT]]
    ((_, fix),) = found(**world, ruleset=chain(*rules[:2]))
    assert str(fix).endswith(
        """ && nft insert rule inet fw forward 'oifname "oxi*" accept'"""
        """ && nft insert rule inet fw forward 'iifname "oxb*" accept'"""
    )
    assert found(**world, ruleset=chain(rules[0], rules[2])) != []
    assert found(**world, ruleset=chain(*rules)) == []


@pytest.mark.parametrize(("others", "place"), [({}, "FORWARD"), ({"DOCKER-USER": []}, "DOCKER-USER")])
def test_iptables_is_told_in_its_own_words(others, place):
    ruleset = chain(**others)
    for each in ruleset[1:]:
        each["chain"] |= {"family": "ip", "table": "filter"}
    ruleset[1]["chain"]["name"] = "FORWARD"
    (mended,) = (fix for _, fix in found(ruleset=ruleset))
    assert mended == f"iptables -I {place} -m mark --mark 0x6f780000/0xffff0000 -j ACCEPT"


def test_the_older_iptables_has_chains_of_its_own():
    mended = "iptables-legacy -I {} -m mark --mark 0x6f780000/0xffff0000 -j ACCEPT".format
    assert found(iptables={4: ["-P FORWARD DROP"], 6: ["-N DOCKER-USER"]}) == [("firewall", mended("FORWARD"))]
    assert found(iptables={4: ["-P FORWARD DROP", "-N DOCKER-USER"]}) == [("firewall", mended("DOCKER-USER"))]


def test_the_older_iptables_too():
    lines = ["-P INPUT ACCEPT", "-P FORWARD DROP", "-A FORWARD -o docker0 -j ACCEPT"]
    assert is_dropped_by_iptables(lines, MARK)
    assert [kind for kind, _ in found(iptables={4: lines})] == ["firewall"]
    mended = [*lines, "-A FORWARD -m mark --mark 0x6f780000/0xffff0000 -j ACCEPT"]
    assert found(iptables={4: mended}) == found(iptables={4: ["-P FORWARD ACCEPT"]}) == []


@pytest.mark.parametrize(
    "rule",
    [
        Rule(4, 100, 100, MARK, 0xFF00_0000),  # the same upper byte
        Rule(4, 5000, 100, 0x1, 0xFF),  # bits of our lower half
        Rule(4, 100, 100, MARK | 0x8001, 0xFFFF_FFFE),
    ],
)
def test_marks_of_others_that_are_ours_as_well(rule):
    ((kind, fix),) = found(rules=[LOCAL, rule, MAIN])
    assert kind == "routing rules"
    if rule.mask & 0xFFFF_0000:
        mark = int((fix or "").split()[2].rstrip("}"), 16)
        assert found(mark=mark, rules=[LOCAL, rule, MAIN]) == []
    else:
        assert fix == "let it be for fwmark 0x1/0xffff00ff only"


@pytest.mark.parametrize(
    "rule",
    [
        Rule(4, 5210, 52, 0x80000, 0xFF0000),  # Tailscale's
        Rule(4, 32_764, 51820, 0xCA6C, 0xFFFF_FFFF, is_inverted=True),  # WireGuard's, behind ours
        Rule(4, 220, 220),  # strongSwan's, behind ours
        Rule(4, 10, 100, interface="eth9"),  # of packets that are none of ours
        Rule(4, 60, OWN.first_table + 1, MARK | 1, 0xFFFF_FFFF),  # left over by a proxy that was killed
        Rule(4, 63, OWN.first_table + 0x1_4001, interface="gre1"),
    ],
)
def test_rules_of_others_that_are_in_nobodys_way(rule):
    assert found(rules=[LOCAL, rule, MAIN], interfaces=("gre1",)) == []


@pytest.mark.parametrize(
    ("rule", "fix"),
    [
        (Rule(4, 50, 100), "kernel: {priority: 45} in proxy.yaml"),
        (Rule(6, 60, 100, is_narrow=True), "kernel: {priority: 55} in proxy.yaml"),
        (Rule(4, 50, 100, 0xCA6C, 0xFFFF_FFFF, is_inverted=True), "kernel: {priority: 45} in proxy.yaml"),
        (Rule(4, 63, 100, interface="gre1"), "kernel: {priority: 58} in proxy.yaml"),
        (Rule(4, 2, 100), "give that rule a priority behind them"),
    ],
)
def test_rules_that_stand_before_ours(rule, fix):
    assert found(rules=[LOCAL, rule, MAIN], interfaces=("gre1",)) == [("routing rules", fix)]


def test_strict_rp_filter_where_answers_come_by_another_way_than_the_main_table_says():
    routes = [Route(4, "0.0.0.0/0", 254, 2), Route(4, "10.0.0.0/24", 254, 3), Route(4, "0.0.0.0/0", 254, 3, None, 100)]
    world = {"routes": routes, "indexes": {"eth0": 2, "eth1": 3}, "bound": ("eth1",), "interfaces": ("eth1",)}
    strict, loose, everywhere = ({f"net/ipv4/conf/{name}/rp_filter": value} for name, value in
                                 (("eth1", 1), ("eth1", 2), ("all", 1)))  # fmt: skip
    mended = [("rp_filter", "sysctl -w net.ipv4.conf.eth1.rp_filter=2")]
    assert found(**world, sysctls=strict) == found(**world, sysctls=everywhere) == mended
    assert found(**world, sysctls=loose) == found(**world, sysctls=everywhere | loose) == []
    assert found(**world | {"bound": ("eth0",)}, sysctls=everywhere) == []
    assert found(**world | {"bound": ()}, sysctls=everywhere) == []


@pytest.mark.parametrize(("usage", "is_full"), [(None, False), ((80, 100), False), ((81, 100), True), ((0, 0), False)])
def test_a_table_that_is_nearly_full(usage, is_full):
    mended = [("conntrack", "sysctl -w net.netfilter.nf_conntrack_max=200")]
    assert found(conntrack=usage) == (mended if is_full else [])


def test_a_rule_with_conditions_of_its_own_is_only_told():
    (note,) = judge(Facts(**BASE, rules=[LOCAL, Rule(4, 1, 0, is_narrow=True), MAIN]))
    assert (note.kind, note.is_note) == ("routing rules", True)
    assert str(note).startswith("the routing rule '1: from ... ...' stands before those of the off-ramp, 60 to 64")


def test_forwarding_is_the_proxys_own_business():
    off = {"net/ipv4/conf/eth0/forwarding": 0, "net/ipv4/conf/eth1/forwarding": 1}
    (note,) = judge(Facts(**BASE, interfaces=("eth0", "eth1"), sysctls=off))
    assert (note.is_note, note.fix) == (True, None)
    assert "forwarding is off on eth0:" in str(note)


def test_router_advertisements_end_where_only_all_interfaces_can_forward():
    before = {"net/ipv6/conf/all/forwarding": 0}
    assert found(advertised=("eth0",), sysctls=before) == [("IPv6", "sysctl -w net.ipv6.conf.eth0.accept_ra=2")]
    assert found(advertised=("eth0",), sysctls=before | {"net/ipv6/conf/all/force_forwarding": 0}) == []
    assert found(advertised=("eth0",), sysctls={"net/ipv6/conf/all/forwarding": 1}) == []


def test_without_tools_or_rights():
    assert [kind for kind, _ in found(has_nft=False, may_change=False)] == ["nft", "rights"]


# Where a kernel is asked.


@pytest.fixture
def host() -> Iterator[Namespace]:
    namespace = Namespace()
    yield namespace
    namespace.close()


@needs_root
@pytest.mark.netns
def test_nothing_is_in_the_way_of_an_empty_namespace_and_nothing_is_changed(host):
    def look():
        before = subprocess.check_output(["nft", "list", "ruleset"]), list(routing.rules())
        return judge(gather(OWN)), (
            subprocess.check_output(["nft", "list", "ruleset"]),
            list(routing.rules()),
        ) == before

    assert host.run(look) == ([], True)


@needs_root
@pytest.mark.netns
def test_what_is_found_goes_away_by_the_command_that_mends_it(host):
    def meet() -> list[tuple[str, str]]:
        nft.run("table inet fw { chain forward { type filter hook forward priority 0; policy drop;\n}\n}\n")
        routing.add_rules([Rule(4, 40, 100), Rule(6, 1000, 100, 0x6F00_0000, 0xFF00_0000)])
        return [(each.kind, each.fix or "") for each in judge(gather(OWN))]

    obstacles = host.run(meet)
    assert [kind for kind, _ in obstacles] == ["firewall", "routing rules", "routing rules"]
    host.run(subprocess.run, obstacles[0][1], shell=True, check=True)
    own = KernelOffRamp(priority=35, mark=0x7000_0000)
    assert [each.kind for each in host.run(lambda: judge(gather(own)))] == ["firewall"]  # for the mark that it was
    own = KernelOffRamp(priority=35)
    assert [each.kind for each in host.run(lambda: judge(gather(own)))] == ["routing rules"]


@needs_root
@pytest.mark.netns
def test_strict_rp_filter_is_found_where_two_networks_have_one_prefix(host):
    far = Namespace()
    try:
        fd = far.run(current_network)

        def join():
            for number, name in ((20, "eth0"), (30, "eth1")):
                pair = Veth(name, number, 0, f"far{number}", number + 1, bytes((2, 0, 0, 0, 0, number)))
                run([new_veth(pair, fd), set_link(number), add_address(number, ip_interface("10.9.0.1/24"))])
            os.close(fd)
            set_sysctl("net/ipv4/conf/all/rp_filter", 0)
            set_sysctl("net/ipv4/conf/eth1/rp_filter", 1)
            names = ["eth0", "eth1"]
            return [each.text for each in judge(gather(OWN, interfaces=names, bound=names)) if not each.is_note]

        (text,) = host.run(join)
        assert text.startswith("rp_filter is strict on eth1, and the main table leads to 10.9.0.0/24 by another")
    finally:
        far.close()


@needs_root
@pytest.mark.netns
def test_a_default_route_that_a_router_advertises_is_known(host):
    far = Namespace()
    try:
        fd = far.run(current_network)
        pair = Veth("eth0", 20, 0, "far0", 21, bytes.fromhex("020000000009"))
        host.run(run, [new_veth(pair, fd), set_link(20)])
        far.run(run, [set_link(21)])
        os.close(fd)
        frame = Ether(src="02:00:00:00:00:09", dst="33:33:00:00:00:01") / IPv6(src="fe80::9", dst="ff02::1", hlim=255)
        frame /= ICMPv6ND_RA(routerlifetime=1800)
        with far.run(socket.socket, socket.AF_PACKET, socket.SOCK_RAW) as sock:
            sock.bind(("far0", 0))

            def is_heard() -> bool:
                sock.send(bytes(frame))
                return "eth0" in host.run(lambda: gather(OWN, interfaces=["eth0"])).advertised

            until(is_heard)
        host.run(set_sysctl, "net/ipv6/conf/eth0/accept_ra", 2)
        assert host.run(lambda: gather(OWN, interfaces=["eth0"])).advertised == ()
    finally:
        far.close()


@needs_root
@pytest.mark.netns
@pytest.mark.parametrize("name", probes.PROBES)
def test_what_the_kernel_must_have_is_tried_and_nothing_stays(host, name, monkeypatch):
    if name == "flowtable" and host.run(probes.problem, name) is not None:
        pytest.skip("this kernel has no flowtable")  # tests/kernel has one
    assert host.run(probes.problem, name) is None
    assert host.run(subprocess.check_output, ["nft", "list", "ruleset"]) == b""
    monkeypatch.setitem(probes.PROBES, name, ("x", lambda: nft.check("table inet x { chain y { no words }"), ""))
    assert "syntax error" in (host.run(probes.problem, name) or "")


@needs_root
@pytest.mark.netns
def test_without_nft(host, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr(survey, "SBIN", "/nowhere")
    facts = host.run(gather, OWN)
    assert (facts.has_nft, facts.ruleset) == (False, None)
    monkeypatch.setattr("shutil.which", lambda *_, **__: None)
    with pytest.raises(ProxyError, match="apt install nftables"):
        nft.check("")
