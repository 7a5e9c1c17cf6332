"""`count:` and `defaults:`: one thing said, many nodes; and mistakes told where they were written."""

from __future__ import annotations

import pytest

from oxyctl.topology.file import loads
from proxy.settings import DocumentError

FARM = """
networks:
  lan: {subnets: [10.1.0.0/24, "fd01::/64"]}
defaults:
  process: {command: [sleep, "60"], env: {COLOUR: blue, NUMBER: "{i}"}, labels: {tier: tool}}
nodes:
  edge: {kind: proxy, networks: [lan], tenants: {acme: {}}}
  client:
    kind: warp
    count: 3
    proxy: edge
    tenant: acme
    user: "user{i}@acme.example"
    addresses: [100.96.0.254, "fd00:96::fe"]
  tool: {kind: process, count: 2, networks: {lan: [10.1.0.10]}, env: {COLOUR: red}, labels: {group: mine}}
  single: {kind: process, networks: [lan]}
checks:
  - {kind: ping, from: client, to: tool-1}
  - {kind: ping, from: [edge, tool], to: edge}
"""


def test_a_group_becomes_its_members_in_its_place():
    assert list(loads(FARM).nodes) == ["edge", "client-1", "client-2", "client-3", "tool-1", "tool-2", "single"]


def test_addresses_count_up_across_octets_and_numbers_are_filled_in():
    nodes = loads(FARM).nodes
    assert [nodes[f"client-{i}"].addresses for i in (1, 2, 3)] == [
        ["100.96.0.254", "fd00:96::fe"],
        ["100.96.0.255", "fd00:96::ff"],
        ["100.96.1.0", "fd00:96::100"],
    ]
    assert nodes["client-3"].user == "user3@acme.example"
    assert [nodes[f"tool-{i}"].attached for i in (1, 2)] == [{"lan": ["10.1.0.10"]}, {"lan": ["10.1.0.11"]}]


def test_what_a_node_says_comes_on_top_of_the_defaults():
    nodes = loads(FARM).nodes
    assert nodes["tool-2"].env == {"COLOUR": "red", "NUMBER": "2"}
    assert nodes["single"].env == {"COLOUR": "blue", "NUMBER": "{i}"}  # no member of a group
    assert nodes["single"].command == ["sleep", "60"]


def test_a_member_carries_the_name_of_its_group_unless_it_says_otherwise():
    nodes = loads(FARM).nodes
    assert nodes["client-2"].labels == {"group": "client"}
    assert nodes["tool-1"].labels == {"tier": "tool", "group": "mine"}
    assert nodes["single"].labels == {"tier": "tool"}


def test_a_check_from_a_group_is_tried_from_each():
    first, second = loads(FARM).checks
    assert first.sources == ["client-1", "client-2", "client-3"]
    assert second.sources == ["edge", "tool-1", "tool-2"]


MISTAKES = [
    ("count: 3", "count: 0", "10:12: nodes.client.count: expected an integer >= 1 (found 0)"),
    ("count: 3", "count: 1001", "10:12: nodes.client.count: expected an integer <= 1000 (found 1001)"),
    ("count: 3", "count: many", "10:12: nodes.client.count: expected an integer"),
    ("tenant: acme", "tenant: acne", "12:13: proxy 'edge' has no tenant 'acne'; did you mean 'acme'?"),
    ("    user: ", "    usr: ", "13:5: unknown key 'usr'; did you mean 'user'?"),
    ("lan: [10.1.0.10]", "lan: [10.1.0.254]", "15:52: 10.1.0.255 is the network address or the broadcast address"),
    ("  single:", "  tool-2:", "15:3: 'tool' expands to 'tool-2', and there is already a node of that name"),
    ("  process: {command", "  proces: {command", "5:3: unknown kind 'proces'; did you mean 'process'?"),
    ("command: [sleep", "comand: [sleep", "5:13: unknown key 'comand' for process nodes; did you mean 'command'?"),
    ('command: [sleep, "60"]', "command: 7", "5:22: nodes.tool-1.command: expected a list"),
    ("COLOUR: blue", "COLOUR: 7", "5:51: nodes.single.env.COLOUR: expected a string (found 7)"),
    ("from: client", "from: clients", "18:24: unknown node 'clients'; did you mean"),
    ("from: [edge, tool]", "from: [tool, egde]", "19:31: unknown node 'egde'; did you mean 'edge'?"),
]


@pytest.mark.parametrize(("written", "instead", "message"), MISTAKES, ids=[each[1] for each in MISTAKES])
def test_a_mistake_is_told_where_it_was_written(written, instead, message):
    assert FARM.count(written) == 1
    with pytest.raises(DocumentError) as caught:
        loads(FARM.replace(written, instead))
    assert f"lab.yaml:{message}" in str(caught.value)


def test_more_nodes_than_a_lab_may_have_are_refused():
    text = FARM.replace(
        "  single: {kind: process, networks: [lan]}",
        "  a: &m {kind: warp, proxy: edge, tenant: acme, count: 1000}\n  b: *m",
    )
    with pytest.raises(DocumentError, match=r"17:3: more than 2000 nodes"):
        loads(text)
