"""Sites of files that make no sense otherwise: they are left to be told where everything is told."""

from __future__ import annotations

import pytest

from oxyctl.topology.file import loads
from proxy.settings import DocumentError
from tests.topology.test_sites import WAN

STRANGE = [
    ("hosts: {web: {}}", "hosts: [web]", "nodes.lima.hosts: expected a mapping"),
    ("hosts: {web: {}}", "hosts: {web: 80}", "nodes.lima.hosts"),
    ("hosts: {web: {}}", "hosts: {web: {services: 80}}", "nodes.lima.hosts"),
    ("hosts: {web: {}}", "hosts: {web: {services: [80]}}", "nodes.lima.hosts"),
    ("lan: {ipv4: 10.9.0.0/24, ipv6: false}", "lan: office", "nodes.lima.lan: expected"),
    ("lan: {ipv4: 10.9.0.0/24, ipv6: false}", "lan: {ipv4: 10}", "nodes.lima.lan.ipv4: expected"),
    ("lan: {ipv4: 10.9.0.0/24, ipv6: false}", "lan: {name: 7}", "nodes.lima.lan.name: expected"),
    ("kind: gue-site", "kind: gui-site", "nodes.lima.kind: unknown value 'gui-site'; did you mean 'gue-site'?"),
    ('{subnets: [10.50.0.0/24, "fd00:50::/64"]}', "7", "networks.internet: expected"),
    ('{subnets: [10.50.0.0/24, "fd00:50::/64"]}', "{subnets: 7}", "networks.internet.subnets: expected"),
    ('{internet: [10.50.0.1, "fd00:50::1"]}', "7", "nodes.edge.networks: expected"),
    ("kind: proxy", "kind: upstream", "unknown key 'tenants'"),
]


@pytest.mark.parametrize(("written", "instead", "message"), STRANGE, ids=[each[1][:40] for each in STRANGE])
def test_what_cannot_be_read_is_one_message(written, instead, message):
    assert written in WAN
    with pytest.raises(DocumentError) as caught:
        loads(WAN.replace(written, instead, 1), "test")
    assert message.removesuffix("expected") in str(caught.value)
    assert str(caught.value).startswith("lab.yaml:")


def test_a_lab_without_sites_is_as_it_was(quick):
    assert list(loads(quick, "test").networks) == ["internet"]


def test_what_is_wrong_with_a_host_is_told_at_the_host():
    text = WAN.replace("hosts: {web: {}}", "hosts: {web: {root: /no/such/directory}}")
    with pytest.raises(DocumentError, match=r"lab\.yaml:16:25: not a directory: /no/such/directory"):
        loads(text, "test")
