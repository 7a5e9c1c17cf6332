"""Subnets may overlap where nobody has to tell them apart; and what else a node may say of itself."""

from __future__ import annotations

import json
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from oxyctl.plan.make import make_plan
from oxyctl.plan.steps import Exec, Http, Port
from oxyctl.topology import library
from oxyctl.topology.file import load, loads
from oxyctl.topology.library import find_file
from proxy.settings import DocumentError

TWICE = """
networks:
  left: {subnets: [10.50.0.0/24]}
  right: {subnets: [10.50.0.0/16]}
nodes:
  edge: {kind: proxy, networks: [left, right], tenants: {acme: {network: left}, globex: {network: right}}}
  one: {kind: upstream, networks: {left: [10.50.0.10]}, services: {http: 80}}
  two: {kind: upstream, networks: {right: [10.50.0.10]}, services: {http: 80}}
"""


def files(plan):
    return {Path(file.path).name: file.text for file in plan.files}


def test_a_proxy_that_binds_its_tenants_tells_networks_apart(plan):
    settings = yaml.safe_load(files(plan(TWICE))["proxy.yaml"])
    assert {name: tenant["egress"] for name, tenant in settings["tenants"].items()} == {
        "acme": "eth0",
        "globex": "eth1",
    }
    assert "network" not in settings["tenants"]["acme"]


REFUSED = [
    ("globex: {network: right}", "globex: {}", "node 'edge' is in both; set the `network` of each of its tenants"),
    ("{left: [10.50.0.10]}", "[left, right]", "node 'one' is in both"),
    ("  one:", "  r: {kind: router, networks: [left, right]}\n  one:", "routers connect the two"),
    (
        "[10.50.0.0/24]",
        "[10.50.0.0/24, 10.50.0.0/25]",
        "10.50.0.0/25 overlaps 10.50.0.0/24 of network 'left', and it is",
    ),
    ("right: [10.50.0.10]", "right: [10.50.0.10, 10.50.0.10]", "8:56: 10.50.0.10 is already an address of node 'two'"),
    ("network: left", "network: lft", "6:74: proxy 'edge' is in no network 'lft'; did you mean 'left'?"),
]


@pytest.mark.parametrize(("written", "instead", "message"), REFUSED, ids=[each[2][:30] for each in REFUSED])
def test_who_cannot_tell_them_apart_is_named(written, instead, message):
    assert TWICE.count(written) == 1
    with pytest.raises(DocumentError) as caught:
        loads(TWICE.replace(written, instead))
    assert message in str(caught.value)


@pytest.mark.parametrize("name", ["quickstart", "two-tenants", "scale"])
def test_the_labs_that_come_along_are_valid(name, tmp_path):
    assert make_plan(load(find_file(name)), tmp_path).nodes


TOOL = "  tool: {kind: process, networks: [internet], command: [x], "


@pytest.fixture
def planned(quick, plan):
    """The plan of the lab with this said of its tool; the planned node."""

    def planned(said):
        text = quick.partition("  tool:")[0]
        made = plan(text + TOOL + said + "}\n")
        return made, next(node for node in made.nodes if node.name == "tool")

    return planned


def test_ready_becomes_a_probe_of_the_nodes_own_addresses(planned):
    own = ["10.50.0.3", "fd00:50::3"]
    assert planned("ready: {tcp: 8080}")[1].probe == Port(addresses=["127.0.0.1", "::1", *own], port=8080)
    assert planned('ready: {http: "http://tool:81/up?x=1", timeout: 2s}')[1].probe == Http(
        addresses=own, port=81, host="tool:81", path="/up?x=1", timeout_s=2
    )
    assert planned('ready: {http: "http://[fd00::7]/"}')[1].probe.addresses == ["fd00::7"]
    probe = planned("env: {A: b}, ready: {exec: [test, -e, /x]}")[1].probe
    assert isinstance(probe, Exec)
    assert (probe.command, probe.environment, probe.timeout_s) == (["test", "-e", "/x"], {"A": "b"}, None)


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ("{}", "one of tcp, http and exec is required (found none)"),
        ("{tcp: 1, exec: [x]}", "one of tcp, http and exec is required (found tcp and exec)"),
        ("{tcp: 0}", "expected an integer >= 1 (found 0)"),
        ("{http: 'https://web/'}", "not a URL that starts with http://"),
        ("{http: 'http://wbe/'}", "unknown node 'wbe'; did you mean 'web'?"),
        ("{http: 'http://web:x/'}", "not a URL: "),
        ("{tcp: 1, timeout: soon}", "not a duration"),
        ("{tpc: 1}", "unknown key 'tpc'; did you mean 'tcp'?"),
    ],
)
def test_ready_that_cannot_be_asked_is_told_with_its_place(planned, said, message):
    with pytest.raises(DocumentError) as caught:
        planned(f"ready: {said}")
    assert message in str(caught.value)
    assert str(caught.value).startswith("lab.yaml:8:")


def test_files_are_planned_below_the_nodes_directory(planned, tmp_path):
    made, _ = planned("files: {/etc/motd: hello}")
    (own,) = [each.files for each in made.namespaces if each.files]
    assert list(own) == ["/etc/motd"]
    assert Path(own["/etc/motd"]).is_relative_to(tmp_path / "labs" / "test" / "nodes" / "tool")
    assert next(file.text for file in made.files if file.path == own["/etc/motd"]) == "hello"


@pytest.mark.parametrize("path", ["motd", "/", "/etc/../motd", "/etc/", "//etc/motd"])
def test_a_file_is_named_by_its_plain_path(planned, path):
    with pytest.raises(DocumentError, match=r"lab.yaml:8:\d+: not an absolute path of a file"):
        planned(f"files: {{'{path}': x}}")


def test_labels_and_environment_are_told_with_the_node(planned):
    _, node = planned("labels: {tier: tool}, env: {A: b}")
    assert (node.labels, node.environment) == ({"tier": "tool"}, {"A": "b"})


def test_the_resolver_serves_every_node_whose_port_53_is_free(plan, quick):
    text = quick.replace("{http: 80, echo: 7}", "{http: 80, dns: 53}").replace(
        "[internet], command", "[internet], resolver: false, command"
    )
    asked = json.loads(files(plan(text))["names.json"])["nodes"]
    assert [(each["name"], Path(each["netns"]).name) for each in asked] == [(name, name) for name in ("edge", "laptop")]


def test_the_labs_are_installed_where_they_are_looked_for(tmp_path, monkeypatch):
    root = Path(__file__).parents[2]
    wheel = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert Path(sys.prefix, wheel["shared-data"]["labs"]) in library.LIBRARIES
    (tmp_path / "only-here.yaml").touch()
    monkeypatch.setattr(library, "LIBRARIES", (tmp_path / "none", tmp_path))
    assert library.find_file("only-here") == tmp_path / "only-here.yaml"
