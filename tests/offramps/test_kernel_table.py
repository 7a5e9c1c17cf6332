"""The table of the kernel off-ramp as text, and what the kernel says to it."""

from __future__ import annotations

import re
import subprocess

import msgspec
import pytest

from proxy.kernel import facts
from proxy.kernel.decided import ENDED_S
from proxy.kernel.ruleset import MAX_WAYS, ON_RAMP, OUTWARD, Ruleset, Way
from proxy.kernel.sites import Sites
from proxy.settings.egress import Egress
from proxy.settings.model import KernelOffRamp as KernelSettings
from proxy.settings.model import Timeouts
from tests.netns import Namespace, needs_root

WAYS = [
    Way(1, "oxk0", 28_536, Egress()),
    Way(2, "oxk1", 28_536, Egress(ipv4="192.0.2.1", ports="2048-4095")),
    Way(3, "oxk2", 28_537, Egress("eth1", "192.0.2.2", "2001:db8::2", "100-200")),
    Way(4, "oxk3", 28_538, Egress(ports="5000-5001")),
    Way(ON_RAMP | 1, "oxi0", 28_539, Egress(ipv6="2001:db8::3"), ("p0", "p1"), "oxb0"),
    Way(ON_RAMP | 2, "oxi1", 28_540, Egress(), ("p2",), "oxb1"),
]


def ruleset(**settings):
    return Ruleset(KernelSettings(**settings), Timeouts(), ends_group=11, asked_group=12)


@pytest.mark.parametrize("count", range(len(WAYS) + 1))
@pytest.mark.parametrize("has_timeouts", [False, True])
def test_text_of_the_table_is_whole(count, has_timeouts):
    text = ruleset().text(WAYS[:count], helpers=("ftp", "tftp"), has_timeouts=has_timeouts)
    assert text.count("{") == text.count("}")
    chains = set(re.findall(r"^chain (\w+) \{", text, re.M))
    assert set(re.findall(r"(?:jump|goto) (\w+)", text)) <= chains
    sets = set(re.findall(r"^(?:set|map) (\w+)", text, re.M))
    assert set(re.findall(r"@(\w+)", text)) <= sets
    assert set(re.findall(r'ct timeout set "(\w+)"', text)) <= set(re.findall(r"^ct timeout (\w+)", text, re.M))


@pytest.mark.parametrize("count", range(len(WAYS) + 1))
def test_a_flowtable_is_of_the_interfaces_that_are_named_and_of_on_ramps_flows_alone(count):
    text = ruleset().text(WAYS[:count], fast={"p0", "eth1"})
    assert 'flowtable fast { hook ingress priority filter; devices = { "eth1", "p0" }; counter; }' in text
    assert text.count("flow add @fast") == any(way.is_on_ramp for way in WAYS[:count])
    assert "flow" not in ruleset().text(WAYS[:count]).replace("flows", "")


def test_no_flow_stays_decided_for_longer_than_conntrack_keeps_an_idle_one():
    text = ruleset().text(WAYS)
    assert set(re.findall(r"meta l4proto udp update @decided4_1 .* timeout (\d+)s", text)) == {"30"}
    assert set(re.findall(r"udp [ds]port 53 update @decided4_1 .* timeout (\d+)s", text)) == {"10"}  # dns_idle_s
    brief = Ruleset(KernelSettings(), Timeouts(tcp_idle_s=7, udp_unreplied_s=0.5), ends_group=1, asked_group=2)
    assert set(re.findall(r"@decided4_1 .* timeout (\d+)s", brief.text(WAYS))) == {"7", "1", str(ENDED_S)}


def test_flows_whose_dscp_is_set_by_rules_stay_out_of_the_flowtable():
    marked = msgspec.structs.replace(WAYS[-1], dscp=0)
    rules = ruleset()
    (adding,) = re.findall(r"^(.*)flow add", rules.text([*WAYS[:-1], marked], fast={"p0"}), re.M)
    assert f"meta mark != {{ {rules.outward_mark(marked):#x} }} " in adding


def test_marks_of_ways_differ_and_are_ours():
    rules = ruleset(mark=0x7777_0000)
    ways = [*WAYS, Way(MAX_WAYS, "oxk9", 9), Way(ON_RAMP | MAX_WAYS, "oxi9", 9)]
    marks = [mark(way) for way in ways for mark in (rules.mark, rules.outward_mark)]
    assert len(set(marks)) == 2 * len(ways)
    assert {mark & 0xFFFF_0000 for mark in marks} == {0x7777_0000}
    assert all(bool(rules.outward_mark(way) & OUTWARD) and not rules.mark(way) & OUTWARD for way in ways)


def check(text):
    """What nft(8) says to a transaction that is not made."""
    done = subprocess.run(["nft", "--check", "-f", "-"], input=text, capture_output=True, text=True, check=False)
    return done.stderr


@pytest.mark.netns
@needs_root
@pytest.mark.parametrize("orphans", ["continue", "stop"])
def test_the_kernel_takes_the_table(orphans):
    namespace = Namespace()
    try:
        helpers, has_timeouts = namespace.run(facts.helpers), namespace.run(facts.has_timeouts)
        for count in range(len(WAYS) + 1):
            text = ruleset(orphans=orphans).text(WAYS[:count], helpers=helpers, has_timeouts=has_timeouts)
            assert namespace.run(check, text) == ""
        assert namespace.run(check, ruleset().removal()) == ""
        assert "syntax error" in namespace.run(check, "table inet x {{")
    finally:
        namespace.close()


@pytest.mark.netns
@needs_root
def test_the_kernel_takes_the_table_with_sites():
    namespace = Namespace()
    try:
        ways = [Sites().complete(way) for way in WAYS]
        assert namespace.run(check, ruleset().text(ways, closed=["tun0"])) == ""
    finally:
        namespace.close()
