"""What a lab file says of its links: long and short forms, defaults of a network, and mistakes with their places."""

from __future__ import annotations

import pytest

from oxyctl.topology.file import loads
from proxy.settings import DocumentError


def links(plan):
    return {(link.node, link.network): (link.mtu, link.impairment.describe()) for link in plan.links}


def test_links_are_not_impaired_unless_it_is_said(quick, plan):
    assert set(links(plan(quick)).values()) == {(None, "")}


def test_a_network_says_it_for_all_and_an_attachment_for_itself(quick, plan):
    text = quick.replace("internet: {subnets", "internet: {delay: 5ms, loss: 1%, mtu: 1400, subnets").replace(
        "[internet], command", "{internet: {delay: 50ms, jitter: 10ms, rate: 1mbit, mtu: 1300}}, command"
    )
    found = links(plan(text))
    assert found["web", "internet"] == (1400, "delay 5ms, loss 1%")
    assert found["tool", "internet"] == (1300, "rate 1mbit, delay 50ms, jitter 10ms, loss 1%")


def test_the_long_form_has_addresses_too(quick, plan):
    text = quick.replace("[internet], command", "{internet: {addresses: [10.50.0.77], down: true}}, command")
    [link] = [link for link in plan(text).links if link.node == "tool"]
    assert (link.addresses, link.impairment.down) == (["10.50.0.77/24"], True)


def test_a_tunnel_that_is_impaired_carries_single_packets(quick, plan):
    texts = [
        next(file.text for file in plan(text).files if file.path.endswith("agents.json"))
        for text in (quick, quick.replace("user: alice", "tunnel: {delay: 20ms}, user: alice"))
    ]
    assert "virtio-net" in texts[0]
    assert "virtio-net" not in texts[1]
    assert '"delay_s": 0.02' in texts[1]


MISTAKES = [
    ("rate: fast", "8:55: expected a rate such as 10mbit or 500kbit (found 'fast')"),
    ("delay: 5", "8:56: nodes.tool.networks.internet.delay: expected a string (found 5)"),
    ("delay: 5min", "8:56: expected a delay such as 20ms or 1.5s (found '5min')"),
    ("loss: 120%", "8:55: expected a share such as 1% or 0.01, from 0 to 1"),
    ("delay: 1ms, jitter: 5ms", "8:69: jitter cannot be more than the delay"),
    ("mtu: 1000", "8:54: IPv6 needs an MTU of at least 1280"),
    ("dely: 5ms", "8:49: unknown key 'dely'; did you mean 'delay'?"),
    ("addresses: [10.50.0.999]", "8:61: not an address"),
    ("addresses: [10.51.0.1]", "8:61: 10.51.0.1 is outside network 'internet'"),
]


@pytest.mark.parametrize(("said", "message"), MISTAKES, ids=[said for said, _ in MISTAKES])
def test_a_mistake_is_one_message_with_its_place(quick, said, message):
    text = quick.replace("[internet], command", f"{{internet: {{{said}}}}}, command")
    with pytest.raises(DocumentError) as caught:
        loads(text, "test")
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("written", "instead", "message"),
    [
        ("internet: {subnets", "internet: {rate: 5, subnets", "lab.yaml:3:20: "),
        ("internet: {subnets", "internet: {rate: 5mb, subnets", "lab.yaml:3:20: expected a rate"),
        ("user: alice", "tunnel: {loss: all}, user: alice", "lab.yaml:6:66: expected a share"),
    ],
)
def test_mistakes_of_networks_and_tunnels(quick, written, instead, message):
    with pytest.raises(DocumentError) as caught:
        loads(quick.replace(written, instead, 1), "test")
    assert str(caught.value).startswith(message)
