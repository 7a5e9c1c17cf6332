"""From a lab to its steps, without a kernel."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest
import yaml

from oxyctl.plan.steps import Control, Plan, Running, Services, Tunnel
from proxy.settings import load as load_settings


def files(plan):
    return {Path(file.path).name: file.text for file in plan.files}


def test_every_node_has_a_namespace_and_each_attachment_a_link(quick, plan):
    made = plan(quick)
    assert [namespace.node for namespace in made.namespaces] == ["edge", "laptop", "web", "tool"]
    assert [(link.node, link.interface, link.addresses) for link in made.links] == [
        ("edge", "eth0", ["10.50.0.1/24", "fd00:50::1/64"]),
        ("web", "eth0", ["10.50.0.2/24", "fd00:50::2/64"]),
        ("tool", "eth0", ["10.50.0.3/24", "fd00:50::3/64"]),
    ]
    assert {link.bridge_index for link in made.links} == {made.bridges[0].index}
    assert len({link.port_index for link in made.links} | {link.port for link in made.links}) == 6
    assert len({link.mac for link in made.links}) == 3


def test_only_the_proxy_may_ping_and_use_low_ports(quick, plan):
    sysctls = {namespace.node: namespace.sysctls for namespace in plan(quick).namespaces}
    assert sysctls["edge"]["net/ipv4/ping_group_range"] == ["0 2147483647", "0 0"]
    assert sysctls["edge"]["net/ipv4/ip_local_port_range"] == ["1024 65535"]
    assert "net/ipv4/ping_group_range" not in sysctls["web"]
    assert all(each["net/ipv6/conf/all/accept_dad"] == ["0"] for each in sysctls.values())


def test_the_proxy_gets_a_file_that_it_accepts(quick, plan, tmp_path):
    text = quick.replace(
        "{acme: {}}}", "{acme: {token: t}}, settings: {timeouts: {connect_s: 2}, bridge: {mtu: 1400}}}"
    )
    (tmp_path / "proxy.yaml").write_text(files(plan(text))["proxy.yaml"])
    settings = load_settings(tmp_path / "proxy.yaml")
    home = tmp_path / "labs" / "test" / "nodes" / "edge"
    assert (settings.node, settings.tenants["acme"].token) == ("edge", "t")
    assert (settings.timeouts.connect_s, settings.bridge.mtu) == (2, 1400)
    assert (settings.control, settings.onramps[0].path) == (str(home / "control.sock"), str(home / "tunnels.sock"))


@pytest.mark.parametrize(
    ("said", "gateway"), [("{}", ["10.50.0.1", "fd00:50::1"]), ("{gateway: [100.96.0.1]}", ["100.96.0.1"])]
)
def test_errors_of_the_proxy_come_from_its_own_address_unless_the_tenant_says_another(quick, plan, said, gateway):
    text = quick.replace("{acme: {}}", f"{{acme: {said}}}")
    assert yaml.safe_load(files(plan(text))["proxy.yaml"])["tenants"]["acme"]["gateway"] == gateway


def test_clients_share_one_agent_and_know_their_token(quick, plan):
    text = (
        quick.replace("{acme: {}}", "{acme: {token: t}}")
        + "  pc: {kind: warp, proxy: edge, tenant: acme, offload: false}\n"
    )
    made = plan(text)
    laptop, pc = json.loads(files(made)["agents.json"])["clients"]
    assert [process.name for process in made.processes].count("agents") == 1
    assert laptop["socket"] == pc["socket"]
    assert laptop["context"] == {
        "tenant": "acme",
        "token": "t",
        "addresses": ["100.96.0.2", "fd00:96::2"],
        "user": "alice@acme.example",
        "device": "laptop",
        "mtu": 1280,
        "offload": "virtio-net",
    }
    assert "offload" not in pc["context"]


def test_origins_share_one_process(quick, plan):
    made = plan(quick + "  db: {kind: upstream, networks: [internet], services: {sink: 9}}\n")
    config = json.loads(files(made)["services.json"])
    assert [(node["name"], node["services"]) for node in config["nodes"]] == [
        ("web", {"http": 80, "echo": 7}),
        ("db", {"sink": 9}),
    ]
    assert [process.name for process in made.processes].count("services") == 1


def test_ready_means_something_else_for_each_kind(quick, plan):
    nodes = {node.name: node for node in plan(quick).nodes}
    assert isinstance(nodes["edge"].probe, Control)
    assert isinstance(nodes["laptop"].probe, Tunnel)
    assert nodes["web"].probe == Services(addresses=["10.50.0.2", "fd00:50::2"], services={"http": 80, "echo": 7})
    assert isinstance(nodes["tool"].probe, Running)
    assert {name: node.process for name, node in nodes.items()} == {
        "edge": "edge",
        "laptop": "agents",
        "web": "services",
        "tool": "tool",
    }


def test_every_name_resolves_to_every_address(quick, plan):
    lines = files(plan(quick))["hosts"].splitlines()
    assert {"127.0.0.1 localhost", "10.50.0.1 edge", "fd00:50::1 edge", "100.96.0.2 laptop", "fd00:50::2 web"} <= set(
        lines
    )


def test_a_plan_is_data_and_the_same_each_time(quick, plan):
    made = plan(quick)
    assert msgspec.json.decode(msgspec.json.encode(made), type=Plan) == made == plan(quick)
    assert made != plan(quick.replace("blue", "red"))


def test_sockets_deep_down_are_named_by_a_descriptor(quick, tmp_path):
    from oxyctl.plan.make import make_plan
    from oxyctl.topology.file import loads

    deep = tmp_path / ("d" * 100)
    made = make_plan(loads(quick, "test"), deep)
    edge = next(process for process in made.processes if process.name == "edge")
    settings = yaml.safe_load(files(made)["proxy.yaml"])
    assert edge.inherit == str(deep / "nodes" / "edge")
    assert (settings["control"], settings["onramps"][0]["path"]) == (
        "/proc/self/fd/3/control.sock",
        "/proc/self/fd/3/tunnels.sock",
    )


def test_hooks_are_found_beside_the_lab_file(quick, plan, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = quick.replace("{acme: {}}}", "{acme: {}}, settings: {hooks: 'mine:Hooks'}}")
    directories = {process.name: process.directory for process in plan(text).processes}
    assert directories["edge"] == directories["tool"] == str(tmp_path)


@pytest.mark.parametrize("kind", ["proxy", "warp", "upstream", "process"])
def test_every_kind_is_planned(quick, plan, kind):
    assert kind in {node.kind for node in plan(quick).nodes}
