"""The quickstart, with the programs that a newcomer would try first: as root and rootless."""

from __future__ import annotations

import json
import os
import shutil
import signal

import pytest

from tests.labs.conftest import eventually

pytestmark = pytest.mark.netns


@pytest.fixture(scope="module")
def quickstart(shared_machine):
    """The lab, up."""
    shared_machine.oxyctl("lab", "up", "quickstart")
    return shared_machine


def flows(machine, **wanted):
    """The flows of the tenant that have all of these values."""
    items = json.loads(machine.oxyctl("flows", "--tenant", "acme", "--format", "json").stdout)["items"]
    return [flow for flow in items if all(flow[name] == value for name, value in wanted.items())]


def needs(program):
    return pytest.mark.skipif(shutil.which(program) is None, reason=f"{program} is not installed")


def test_every_node_is_ready(quickstart):
    status = quickstart.status()
    assert {node["name"]: node["state"] for node in status["items"]} == {
        "edge": "ready",
        "laptop": "ready",
        "web": "ready",
    }
    assert status["items"][1]["addresses"] == ["100.96.0.2", "fd00:96::2"]


@needs("curl")
@pytest.mark.parametrize("family", ["-4", "-6"])
def test_curl_and_the_flow_that_it_was(quickstart, family):
    out = quickstart.exec("laptop", "curl", "-sS", family, "http://web/")
    assert "web" in out
    source = "100.96.0.2" if family == "-4" else "fd00:96::2"
    [flow] = eventually(lambda: flows(quickstart, dst_port=80, src=source, state="closed"), "the flow is recorded")
    assert (flow["tenant"], flow["user"], flow["device"]) == ("acme", "alice@acme.example", "laptop")
    assert (flow["dst"], flow["closed_by"]) == ("10.50.0.10" if family == "-4" else "fd00:50::10", "client")
    assert flow["total"]["origin_payload_bytes"] > 100


@needs("ping")
@pytest.mark.parametrize("family", ["-4", "-6"])
def test_ping(quickstart, family):
    out = quickstart.exec("laptop", "ping", family, "-c3", "-i0.2", "-W2", "web")
    assert "3 received, 0% packet loss" in out


@needs("curl")
def test_a_closed_port_is_refused_at_once(quickstart):
    quickstart.exec("laptop", "curl", "-sS", "--max-time", "5", "http://web:81/", code=7)


@needs("iperf3")
def test_bulk_in_both_directions(quickstart):
    for direction in ([], ["-R"]):
        report = json.loads(quickstart.exec("laptop", "iperf3", "-c", "web", "-n", "200M", "--json", *direction))
        assert report["end"]["sum_received"]["bytes"] > 180 << 20  # what is still on its way at the end is not in it


def test_clients_come_back_when_the_proxy_has_died(machine):
    """Nobody restarts a proxy here; the agent notices, keeps the device, and says so."""
    machine.oxyctl("lab", "up", "quickstart")
    edge = machine.status()["items"][0]["pid"]
    machine.exec("web", "kill", "-KILL", str(edge))
    eventually(lambda: machine.status()["items"][1]["state"] == "degraded", "the laptop's tunnel is lost")
    status = {node["name"]: node for node in machine.status()["items"]}
    assert status["edge"]["detail"] == "was killed by SIGKILL"
    assert status["laptop"]["detail"].startswith("tunnel lost: ")
    assert "warp0" in machine.exec("laptop", "ls", "/proc/sys/net/ipv4/conf")
    home = os.path.join(machine.status()["lab"]["directory"], "nodes", "edge")
    script = f"cd {home}; exec {machine.python} -m proxy proxy.yaml"
    with machine.start("lab", "exec", "edge", "--", "sh", "-c", script) as proxy:
        eventually(lambda: machine.status()["items"][1]["state"] == "ready", "the tunnel is back")
        machine.exec("laptop", "ping", "-c1", "-W2", "web")
        proxy.send_signal(signal.SIGTERM)
        proxy.communicate(timeout=20)


SPEAKS = """
import socket, time
listener = socket.create_server(("::", 7777), family=socket.AF_INET6, dualstack_ipv6=True)
print("listening", flush=True)
accepted = [listener.accept()[0] for _ in range(2)]
for number in range(40):
    for each in accepted:
        each.sendall(b"%d\\n" % number)
    time.sleep(0.1)
"""
LISTENS = """
import socket, sys
with socket.create_connection((sys.argv[1], 7777)) as sock:
    print("connected", flush=True)
    data = b""
    while more := sock.recv(1000):
        data += more
assert data == b"".join(b"%d\\n" % number for number in range(40)), data
"""


def test_connections_on_which_only_the_origin_speaks_go_on_after_a_killed_proxy(machine):
    machine.oxyctl("lab", "up", "quickstart")
    speaks, listens = machine.file("speaks.py", SPEAKS), machine.file("listens.py", LISTENS)
    with machine.start("lab", "exec", "web", "--", machine.python, speaks) as origin:
        assert origin.stdout.readline() == "listening\n"
        words = "lab", "exec", "laptop", "--", machine.python, listens
        with machine.start(*words, "10.50.0.10") as old, machine.start(*words, "fd00:50::10") as new:
            for client in old, new:
                assert client.stdout.readline() == "connected\n"
            machine.oxyctl("lab", "kill", "edge")
            machine.oxyctl("lab", "start", "edge")
            for client in old, new:
                assert client.wait(30) == 0
        assert origin.wait(30) == 0


def test_a_client_that_the_proxy_refuses_fails_the_lab(machine):
    text = """
nodes:
  edge: {kind: proxy, tenants: {acme: {token: right}}}
  pc:   {kind: warp, proxy: edge, tenant: acme, token: wrong}
"""
    error = machine.oxyctl("lab", "up", machine.file("refused.yaml", text), code=1).stderr
    assert "node 'pc' (warp): the proxy refused the tunnel" in error


def test_a_node_that_is_never_ready_is_named_with_what_was_awaited(machine):
    text = """
networks: {lan: {subnets: [10.0.0.0/24]}}
nodes:
  web: {kind: upstream, networks: [lan], services: {http: 80}}
"""
    error = machine.oxyctl("lab", "up", machine.file("slow.yaml", text), "--timeout", "0.1", code=1).stderr
    assert "node 'web' (upstream): not ready in time\n  command: `" in error
    assert "\n  waiting for: its services to accept connections (http on 80)\n" in error


def test_clients_with_and_without_offload_and_one_agent(machine):
    text = """
networks: {lan: {subnets: [10.0.0.0/24, "fd00::/64"]}}
nodes:
  edge:  {kind: proxy, networks: [lan], tenants: {acme: {}, zeta: {}}}
  fast:  {kind: warp, proxy: edge, tenant: acme}
  plain: {kind: warp, proxy: edge, tenant: acme, offload: false, mtu: 1400}
  other: {kind: warp, proxy: edge, tenant: zeta}
  web:   {kind: upstream, networks: [lan], services: {http: 80}}
"""
    machine.oxyctl("lab", "up", machine.file("three.yaml", text))
    assert len({node["pid"] for node in machine.status()["items"] if node["kind"] == "warp"}) == 1
    for node in ("fast", "plain", "other"):
        for family in ("-4", "-6"):
            assert "web" in machine.exec(node, "curl", "-sS", family, "--max-time", "5", "http://web/")
    link = json.loads(machine.exec("plain", "ip", "-j", "link", "show", "warp0"))[0]
    assert (link["mtu"], link["txqlen"]) == (1400, 2000)
