"""Routers, names, files, readiness, groups, and networks with the same addresses: as root and rootless."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.labs.conftest import eventually

pytestmark = [pytest.mark.netns, pytest.mark.user("rootless")]

TOPOLOGY = """
networks:
  front: {subnets: [10.1.0.0/24, "fd01::/64"]}
  middle: {subnets: [10.2.0.0/24, "fd02::/64"]}
  back: {subnets: [10.3.0.0/24, "fd03::/64"]}
  side: {subnets: [10.4.0.0/24]}
defaults:
  process: {env: {COLOUR: blue, SIZE: small}}
nodes:
  edge: {kind: proxy, networks: [front], tenants: {acme: {}}}
  client: {kind: warp, count: 2, proxy: edge, tenant: acme}
  r1: {kind: router, networks: [front, middle]}
  r2: {kind: router, networks: [middle, back]}
  r3: {kind: router, networks: [middle, side]}
  web: {kind: upstream, networks: [back], services: {http: 80, dns: 53}}
  corner: {kind: upstream, networks: [side], services: {http: 80}}
  app:
    kind: process
    networks: [back]
    command: [sh, -c, 'cat /etc/oxy-test/app.conf /etc/hostname; echo "$COLOUR $SIZE"; exec sleep 1000']
    env: {SIZE: large}
    files: {/etc/oxy-test/app.conf: "from the lab file\\n", /etc/hostname: "renamed\\n"}
checks:
  - {kind: http, from: client, url: "http://web/", family: 4, contains: "node         web\\n"}
  - {kind: http, from: client, url: "http://web/", family: 6, contains: "client       fd01::1\\n"}
  - {kind: ping, from: client, to: web, family: 6}
  - {kind: http, name: a third one, from: [client-1, app], url: "http://corner/", contains: "node         corner\\n"}
  - {kind: dns, name: by the proxy, from: client-1, server: web, query: client-2, type: AAAA, answers: ["fd00:96::3"]}
  - {kind: dns, name: dns over tcp, from: client-2, server: web, query: corner, over: tcp, answers: [10.4.0.2]}
  - {kind: dns, name: the resolver of a router, from: r2, server: 127.0.0.1, query: edge, answers: [10.1.0.1]}
  - {kind: dns, name: no other name, from: client-1, server: 127.0.0.1, query: example.com, code: nxdomain}
"""


def test_traffic_crosses_routers_and_names_are_answered(machine):
    machine.oxyctl("lab", "up", machine.file("topo.yaml", TOPOLOGY))
    machine.oxyctl("lab", "check", "topo")
    assert {node["name"]: node["state"] for node in machine.status()["items"]}["r1"] == "ready"
    hops = machine.exec("edge", "cat", "/proc/net/route")
    assert hops.count("\n") == 3  # the head, the default route, the network's own


def test_files_and_environment_are_one_nodes_own(machine):
    machine.oxyctl("lab", "up", machine.file("topo.yaml", TOPOLOGY))
    expected = "from the lab file\nrenamed\nblue large\n"
    script = 'cat /etc/oxy-test/app.conf /etc/hostname; echo "$COLOUR $SIZE"'
    assert machine.exec("app", "sh", "-c", script) == expected
    log = machine.run / "labs" / "topo" / "log" / "app.log"
    eventually(lambda: log.read_text() == expected, "what the program itself found")
    machine.exec("web", "cat", "/etc/oxy-test/app.conf", code=1)
    assert "renamed" not in machine.exec("web", "cat", "/etc/hostname")
    assert "lab file" not in machine.exec("web", "sh", "-c", "ls /etc")
    assert machine.exec("app", "cat", "/etc/passwd") == machine.exec("web", "cat", "/etc/passwd")
    assert not Path("/etc/oxy-test").exists()


SESSIONS = """
networks: {lan: {subnets: [10.0.0.0/24]}}
nodes:
  pc:  {kind: process, networks: [lan], command: [sleep, "600"]}
  web:
    kind: upstream
    networks: [lan]
    services: {ssh: 22}
    files: {/etc/oxy-test/app.conf: "from the lab file"}
    env: {COLOUR: blue, PATH_OF_MINE: "/a b"}
  old: {kind: upstream, networks: [lan], services: {ssh: 22}}
"""


@pytest.mark.skipif(shutil.which("ssh") is None, reason="needs ssh")
def test_sessions_by_ssh_see_the_files_and_the_environment_of_their_node(machine):
    machine.oxyctl("lab", "up", machine.file("sessions.yaml", SESSIONS))
    script = 'cat /etc/oxy-test/app.conf; echo ", $COLOUR, $PATH_OF_MINE, $(hostname)"'

    def ask(node, *options, **expected):
        return machine.exec("pc", "ssh", "-o", "BatchMode=yes", *options, node, script, **expected)

    assert ask("web").strip() == "from the lab file, blue, /a b, web"
    assert "from the lab file, blue, /a b, web" in ask("web", "-tt")
    assert ask("old").strip() == ", , , old"
    here = machine.exec("pc", "mktemp", "-d").strip()
    batch = f"get /etc/oxy-test/app.conf {here}/got\nput {here}/got /etc/oxy-test/put\nls -1 /etc/oxy-test\n"
    shown = machine.exec("pc", "sftp", "-o", "BatchMode=yes", "-b", "-", "web", input=batch)
    assert {"/etc/oxy-test/app.conf", "/etc/oxy-test/put"} <= set(shown.split())
    for how in ((), ("-O",)):
        machine.exec("pc", "scp", *how, "-o", "BatchMode=yes", "web:/etc/oxy-test/put", f"{here}/copied")
        assert machine.exec("pc", "cat", f"{here}/copied") == "from the lab file"
    machine.exec("pc", "rm", "-r", here)
    assert not Path("/etc/oxy-test").exists()


def test_a_file_that_needs_a_new_directory_at_the_root_is_refused_and_nothing_is_left(machine):
    text = TOPOLOGY.replace("/etc/oxy-test/app.conf: ", "/oxy-test-root/app.conf: ")
    done = machine.oxyctl("lab", "up", machine.file("topo.yaml", text), code=1)
    assert "node 'app': cannot mount a file at /oxy-test-root/app.conf: its directory must exist" in done.stderr


READY = """
nodes:
  app:
    kind: process
    command: [python3, -c, "{program}"]
    ready: {ready}
"""
SERVER = "import http.server as h; h.HTTPServer(('127.0.0.1', 8080), h.SimpleHTTPRequestHandler).serve_forever()"


@pytest.mark.parametrize(
    "ready",
    [
        "{tcp: 8080}",
        '{http: "http://localhost:8080/"}',
        "{exec: [python3, -c, \"import socket; socket.create_connection(('127.0.0.1', 8080))\"]}",
    ],
    ids=["tcp", "http", "exec"],
)
def test_a_program_is_ready_when_it_answers(machine, ready):
    machine.oxyctl("lab", "up", machine.file("app.yaml", READY.format(program=SERVER, ready=ready)))
    # and not before: the first connection after `up` succeeds
    machine.exec("app", "python3", "-c", "import socket; socket.create_connection(('127.0.0.1', 8080))")


@pytest.mark.parametrize(
    ("ready", "awaited"),
    [
        ("{tcp: 8081, timeout: 0.3}", "its program to accept TCP on port 8081"),
        ('{http: "http://localhost:8080/none", timeout: 0.3}', "GET http://localhost:8080/none to be answered with"),
        ("{exec: ['false'], timeout: 0.3}", "`false` to end with exit code 0"),
    ],
    ids=["tcp", "http", "exec"],
)
def test_a_program_that_never_answers_is_told_with_what_was_awaited(machine, ready, awaited):
    text = READY.format(program=SERVER, ready=ready)
    done = machine.oxyctl("lab", "up", machine.file("app.yaml", text), code=1)
    assert "node 'app' (process): not ready within 0.3 s" in done.stderr
    assert f"waiting for: {awaited}" in done.stderr


def test_a_program_that_ends_before_it_answers_is_told_at_once(machine):
    text = READY.format(program="import sys; sys.exit(7)", ready="{tcp: 8080}")
    done = machine.oxyctl("lab", "up", machine.file("app.yaml", text), code=1)
    assert "exited with code 7" in done.stderr


@pytest.mark.parametrize("lab", ["two-tenants", "scale"])
def test_a_lab_that_comes_along_passes_its_own_checks(machine, lab):
    machine.oxyctl("lab", "up", lab)
    machine.oxyctl("lab", "check", lab)


def test_the_records_say_which_origin_each_tenant_reached(machine):
    machine.oxyctl("lab", "up", "two-tenants")
    for client, origin in (("acme-laptop", "acme-web"), ("globex-laptop", "globex-web")):
        for host in ("10.50.0.10", "[fd00:50::10]"):
            page = machine.exec(client, "curl", "-sS", "--max-time", "10", f"http://{host}/")
            assert f"node         {origin}\n" in page
    for tenant in ("acme", "globex"):
        items = json.loads(machine.oxyctl("flows", "--tenant", tenant, "--format", "json").stdout)["items"]
        assert {(flow["tenant"], flow["src"]) for flow in items} == {(tenant, "100.96.0.2"), (tenant, "fd00:96::2")}
