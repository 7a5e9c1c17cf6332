"""Sites as root and rootless: their labs hold what they say, every packet decodes, and a running lab changes."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.labs.conftest import eventually
from tests.labs.test_capture import begin, end

pytestmark = [pytest.mark.netns, pytest.mark.user("rootless"), pytest.mark.slow]

ROOT = Path(__file__).parents[2]
LABS = ["magic-wan", "warp-to-warp", "overlapping-sites", "failover"]
SMALL = """
networks: {internet: {subnets: [10.50.0.0/24, "fd00:50::/64"]}}
defaults: {gre-site: {tenant: acme, tunnel: userspace}}
nodes:
  edge:   {kind: proxy, networks: [internet], tenants: {acme: {}}}
  laptop: {kind: warp, proxy: edge, tenant: acme, addresses: [100.96.0.2, "fd00:96::2"]}
  berlin: {kind: gre-site, key: 1, hosts: {web: {services: [http, echo]}}}
"""
LIMA = "  lima: {kind: gue-site, tenant: acme, token: secret, hosts: {web: {services: [http]}}}\n"


def curl(machine, node, url):
    return machine.exec(node, "curl", "-sS", "-m", "10", url)


def tunnels(machine):
    return {tunnel["site"]: tunnel for tunnel in machine.status_envelope()["tunnels"]}


@pytest.fixture
def small(machine):
    """The small lab, up; its file."""
    machine.status_envelope = lambda: json.loads(machine.oxyctl("lab", "status", "--format", "json").stdout)
    file = machine.file("small.yaml", SMALL)
    machine.oxyctl("lab", "up", file)
    return file


@pytest.mark.parametrize("name", LABS)
def test_every_check_of_a_lab_holds(machine, name):
    machine.oxyctl("lab", "up", name)
    machine.oxyctl("lab", "check", name)


def test_status_tells_of_both_ends_of_each_tunnel(machine, small):
    usable = ("healthy", "degraded")  # what a second's stall of the machine makes of it for five minutes

    def both():
        found = tunnels(machine)["berlin"]
        return found if found["health"] in usable and found["proxy_health"] in usable else None

    berlin = eventually(both, "either end sees the other")
    assert (berlin["by"], berlin["edge"], berlin["mtu"]) == ("user space", "user space", 1472)
    assert berlin["tenant"] == "acme"
    told = machine.oxyctl("lab", "status").stdout
    assert re.search("berlin  gre to edge  acme    1472  user space  user space  (healthy|degraded)", told)
    routes = json.loads(machine.oxyctl("routes", "--tenant", "acme", "--format", "json").stdout)["items"]
    ways = {(route["prefix"], route["via"]): route for route in routes}
    assert ways["0.0.0.0/0", "kernel"]["cost"] == 100
    assert {via for _, via in ways} == {"site:berlin", "clients", "kernel"}


def test_a_cut_link_is_seen_by_both_ends_and_by_the_node(machine, small):
    machine.oxyctl("lab", "impair", "berlin:internet", "--down")
    eventually(
        lambda: (tunnels(machine)["berlin"]["health"], tunnels(machine)["berlin"]["proxy_health"]) == ("down", "down"),
        "both ends see it",
    )
    states = {node["name"]: (node["state"], node["detail"]) for node in machine.status_envelope()["items"]}
    assert states["berlin"] == ("degraded", "tunnel down")
    machine.oxyctl("lab", "impair", "berlin:internet", "--up")
    eventually(lambda: tunnels(machine)["berlin"]["health"] == "degraded", "it is not forgotten at once")
    assert curl(machine, "laptop", "http://berlin-web/").startswith("node         berlin-web\n")


def test_a_site_comes_and_goes_in_a_running_lab(machine, small):
    pid = machine.supervisor()
    small.write_text(SMALL + LIMA)
    told = machine.oxyctl("lab", "apply", small).stdout
    assert {"+ network lima-lan", "+ node lima  gue-site", "+ node lima-web  upstream"} <= set(told.splitlines())
    answer = eventually(
        lambda: (
            "lima-web" in machine.oxyctl("lab", "exec", "berlin-web", "--", "curl", "-sS", "http://lima-web/").stdout
        ),
        "berlin reaches lima",
    )
    assert answer
    small.write_text(SMALL.replace("key: 1", "key: 2"))
    machine.oxyctl("lab", "apply", small)
    assert curl(machine, "laptop", "http://berlin-web/").startswith("node         berlin-web\n")
    assert machine.supervisor() == pid
    assert list(tunnels(machine)) == ["berlin"]


@pytest.mark.skipif(shutil.which("tshark") is None, reason="tshark decodes what was captured")
def test_every_packet_of_every_tunnel_decodes(machine, small):
    small.write_text(SMALL + LIMA)
    machine.oxyctl("lab", "apply", small)
    file = machine.directory / "all.pcapng"
    capture = begin(machine, "edge:lo", "internet", "-w", file)
    for url in ("http://berlin-web/bytes/200000", "http://lima-web/bytes/200000"):
        machine.exec("laptop", "curl", "-sS", "-m", "10", "-o", "/dev/null", url)
    machine.exec("berlin-web", "ping", "-4", "-c1", "-s", "3000", "laptop")
    end(capture)
    assert shown(file, "gre") > 20
    assert shown(file, "gue") > 20
    assert shown(file, 'gue.tenant == 1 and gue.site == 2 and gue.token == "secret"') > 20
    assert shown(file, "_ws.malformed or gue.broken or gre.checksum.status == 0") == 0


def shown(file, expression):
    """How many packets of `file` meet the filter. Streams are not put together: each packet was seen several times."""
    options = ["-X", f"lua_script:{ROOT / 'tools' / 'gue.lua'}", "-o", "tcp.desegment_tcp_streams:FALSE"]
    done = subprocess.run(
        ["tshark", *options, "-r", file, "-Y", expression], capture_output=True, text=True, timeout=60, check=True
    )
    return len(done.stdout.splitlines())


def test_a_kernel_that_must_carry_a_tunnel_and_cannot_is_one_message(machine):
    file = machine.file("kernel.yaml", SMALL.replace("tunnel: userspace", "tunnel: kernel"))
    done = machine.start("lab", "up", file)
    _, err = done.communicate(timeout=30)
    if done.returncode == 0:
        assert json.loads(machine.oxyctl("lab", "status", "--format", "json").stdout)["tunnels"][0]["by"] == "kernel"
    else:
        assert err.count("\n") == 1
        assert "error: node 'berlin': this kernel does not support GRE (" in err


FOREIGN_GRE = """
import socket, struct
sock = socket.socket(socket.AF_INET, socket.SOCK_RAW, 47)
for _ in range(3):
    sock.sendto(struct.pack("!HH", 1, 0x0800), ("{edge}", 0))  # version 1 (RFC 2637)
"""


def test_what_a_gre_end_drops_is_in_the_metrics_of_its_proxy(machine, small):
    outer = tunnels(machine)["berlin"]["outer"]
    machine.exec("berlin", "python3", "-c", FOREIGN_GRE.format(edge=outer[1]))

    def counted():
        text = machine.oxyctl("status", "--metrics").stdout
        return [line for line in text.splitlines() if line.startswith("oxy_tunnel_end_drops_total{")]

    end = 'tenant="acme",tunnel="site:berlin",end="edge",reason="gre_version"} 3'
    eventually(lambda: [line for line in counted() if line.endswith(end)], "drops of the edge's end")
