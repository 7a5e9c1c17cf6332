"""A running lab becomes what its file says by now; what does not differ is not touched."""

from __future__ import annotations

import json
import shutil
import subprocess

import pytest

from tests.labs.conftest import processes_of

pytestmark = [
    pytest.mark.netns,
    pytest.mark.user("rootless"),
    pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl"),
]

BASE = """
name: shop
networks:
  lan: {subnets: [10.0.0.0/24, "fd00::/64"]}
nodes:
  edge: {kind: proxy, networks: [lan], tenants: {acme: {}}}
  pc:   {kind: warp, proxy: edge, tenant: acme}
  web:  {kind: upstream, networks: [lan], services: {http: 80, echo: 7}}
"""
MORE = (
    BASE.replace("nodes:", "  back: {subnets: [10.9.0.0/24]}\nnodes:").replace(
        "networks: [lan], services", "networks: [lan, back], services"
    )
    + """
  phone: {kind: warp, proxy: edge, tenant: acme}
  db:    {kind: upstream, networks: [lan, back], services: {http: 80}}
  tool:  {kind: process, networks: [back], command: [sleep, "600"]}
"""
)


# One connection through the proxy, for as long as there are lines to send.
TALK = """
import socket, sys
with socket.create_connection(("web", 7)) as sock, sock.makefile("rw") as origin:
    for line in sys.stdin:
        origin.write(line)
        origin.flush()
        print(origin.readline(), end="", flush=True)
"""


@pytest.fixture
def shop(machine):
    """A proxy, a client and an origin."""
    machine.oxyctl("lab", "up", machine.file("shop.yaml", BASE))
    return machine


def apply(machine, text, *options, code=0):
    return machine.oxyctl("lab", "apply", machine.file("shop.yaml", text), *options, code=code)


def say(talk, line):
    """What the origin answers."""
    talk.stdin.write(f"{line}\n")
    talk.stdin.flush()
    return talk.stdout.readline().rstrip()


def pids(machine):
    return {node["name"]: node["pid"] for node in machine.status()["items"]}


def test_nodes_networks_and_links_come_and_go_while_a_flow_goes_on(shop):
    before = pids(shop)
    with shop.start("lab", "exec", "pc", "--", shop.python, "-c", TALK, stdin=subprocess.PIPE) as talk:
        assert say(talk, "before") == "before"
        told = apply(shop, MORE).stdout.splitlines()
        assert {"+ network back", "+ node phone  warp", "+ node db  upstream", "+ node tool  process"} <= set(told)
        assert "+ link web:back  10.9.0.1/24" in told
        assert say(talk, "while they are there") == "while they are there"
        assert shop.exec("phone", "curl", "-sS", "http://db/").startswith("node ")
        assert shop.exec("tool", "curl", "-sS", "http://10.9.0.1/").startswith("node ")
        assert "db" in shop.exec("pc", "getent", "hosts", "db")
        assert pids(shop).items() >= before.items()
        apply(shop, BASE)
        assert pids(shop) == before
        assert say(talk, "after") == "after"
        assert talk.communicate(timeout=60) == ("", "")
        assert talk.returncode == 0
    shop.oxyctl("lab", "exec", "db", "--", "true", code=4)
    assert "eth1" not in shop.exec("web", "ls", "/proc/sys/net/ipv4/conf")


def test_a_dry_run_only_tells(shop):
    before = shop.status()
    told = apply(shop, MORE, "--dry-run", "--format", "json").stdout
    items = json.loads(told)["items"]
    assert {"action": "add", "what": "node", "name": "phone", "detail": "warp"} in items
    assert shop.status() == before


def test_twice_is_once(shop):
    apply(shop, MORE)
    again = apply(shop, MORE)
    assert (again.stdout, again.stderr) == ("", "lab 'shop' already matches the file\n")
    assert "is already up" in shop.oxyctl("lab", "up", shop.directory / "shop.yaml").stderr


def test_a_failure_leaves_the_lab_as_it_was(shop):
    before = pids(shop)
    bad = MORE + '  bad: {kind: process, networks: [back], command: ["false"], ready: {tcp: 1}}\n'
    error = apply(shop, bad, code=1).stderr
    assert "node 'bad' (process): `false` exited with code 1" in error
    assert error.endswith("all changes were undone\n")
    assert pids(shop) == before
    assert shop.exec("pc", "curl", "-sS", "http://web/").startswith("node ")
    apply(shop, BASE)
    apply(shop, MORE)
    assert shop.exec("phone", "curl", "-sS", "http://db/").startswith("node ")


def test_a_node_that_is_another_is_replaced_alone(shop):
    before = pids(shop)
    told = apply(shop, BASE.replace("http: 80", "http: 8080")).stdout
    assert "~ node web  replaced: changed services" in told
    assert shop.exec("pc", "curl", "-sS", "http://web:8080/").startswith("node ")
    shop.exec("pc", "curl", "-sS", "http://web/", code=7)
    assert pids(shop) == before  # the services' process has been told


LOOK_UP = """
import socket, struct, sys
name = b"".join(bytes([len(part)]) + part.encode() for part in sys.argv[1].split(".")) + bytes(1)
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
    sock.settimeout(10)
    sock.connect(("127.0.0.1", 53))
    sock.send(struct.pack("!6H", 7, 0x0100, 1, 0, 0, 0) + name + struct.pack("!2H", 1, 1))
    answer = sock.recv(512)
print(answer[3] & 15, socket.inet_ntoa(answer[-4:]))
"""


def test_the_resolver_answers_in_nodes_that_come_or_are_replaced_and_goes_on_in_the_others(shop):
    def resolver():
        return [pid for pid, words in processes_of(shop.run).items() if "oxyctl.services.names" in words]

    def ask(node, name):
        return shop.exec(node, shop.python, "-c", LOOK_UP, name)

    before = resolver()
    assert ask("web", "edge").startswith("0 10.0.0.")
    apply(shop, MORE.replace("http: 80", "http: 8080", 1))
    assert resolver() == before
    for node in ("web", "db", "tool", "edge"):
        assert ask(node, "db").startswith("0 10."), node
    apply(shop, BASE)
    assert ask("edge", "db").startswith("3 ")
    assert resolver() == before


def test_what_apply_says_of_links_is_done_and_undone(shop):
    slow = BASE.replace("[lan], services", "{lan: {delay: 10ms}}, services")
    assert "~ link web:lan  unimpaired -> delay 10ms" in apply(shop, slow).stdout
    shop.oxyctl("lab", "impair", "web:lan", "--delay", "50ms")
    assert "~ link web:lan  delay 50ms -> delay 10ms" in apply(shop, slow).stdout
    assert "~ link web:lan  delay 10ms -> unimpaired" in apply(shop, BASE).stdout


def test_another_lab_and_a_wrong_file_are_refused_at_once(shop):
    before = shop.status()
    apply(shop, BASE.replace("name: shop", "name: market"), code=5)
    assert "unknown node 'egde'" in apply(shop, BASE.replace("proxy: edge", "proxy: egde"), code=2).stderr
    assert shop.status() == before
