"""Nodes of a running lab that are stopped, started, restarted, killed, and started again by their policy."""

from __future__ import annotations

import json
import os
import signal
import subprocess

import pytest

from tests.labs.conftest import eventually, processes_of, state_of

pytestmark = [pytest.mark.netns, pytest.mark.user("rootless")]

SHOP = """
name: shop
networks:
  lan:  {subnets: [10.0.0.0/24, "fd00::/64"]}
  back: {subnets: [10.9.0.0/24]}
nodes:
  edge: {kind: proxy, networks: [lan], tenants: {acme: {}}}
  pc:   {kind: warp, proxy: edge, tenant: acme, services: {echo: 7}}
  web:  {kind: upstream, networks: [lan], services: {http: 80, echo: 7}}
  db:   {kind: upstream, networks: [lan], services: {http: 80}}
  r1:   {kind: router, networks: [lan, back]}
  tool: {kind: process, networks: [lan], command: [sh, -c, "sleep 600 & wait"]}
checks:
  - {kind: http, from: pc, url: "http://web/"}
  - {kind: http, from: pc, url: "http://db/"}
  - {kind: ping, from: pc, to: web}
"""


SLOW = """
nodes:
  slow: {kind: process, command: [sleep, "600"], ready: {exec: [test, -e, GATE]}}
"""


@pytest.fixture
def shop(machine):
    """A proxy, a client, two origins, a router and a program."""
    machine.oxyctl("lab", "up", machine.file("shop.yaml", SHOP))
    return machine


def nodes(machine):
    return {node["name"]: node for node in machine.status()["items"]}


def states(machine):
    return {name: node["state"] for name, node in nodes(machine).items()}


def ready_but(**others):
    return dict.fromkeys(("edge", "pc", "web", "db", "r1", "tool"), "ready") | others


def pid_of(machine, command):
    """Outside of the lab: the process of the lab whose command line has this in it."""
    found = [pid for pid, line in processes_of(machine.run).items() if command in line and "supervisor" not in line]
    assert len(found) == 1, f"{command}: {found}"
    return found[0]


def sleepers(machine):
    return [pid for pid, line in processes_of(machine.run).items() if line.startswith("sleep 600")]


def is_whole(machine):
    machine.oxyctl("lab", "check")
    assert machine.status()["lab"]["state"] == "up"
    return True


def test_a_killed_proxy_is_started_and_all_is_as_it_was(shop):
    before = nodes(shop)
    os.kill(pid_of(shop, "-m proxy"), signal.SIGKILL)
    eventually(lambda: states(shop) == ready_but(edge="exited", pc="degraded"), "the client has lost its tunnel")
    assert nodes(shop)["edge"]["detail"] == "was killed by SIGKILL"
    told = shop.oxyctl("lab", "start", "edge").stderr
    assert "edge (proxy) is ready" in told
    assert "pc (warp) has reconnected" in told
    assert is_whole(shop)
    after = nodes(shop)
    assert {name for name in after if after[name]["pid"] != before[name]["pid"]} == {"edge"}
    assert {name for name in after if after[name]["restarts"]} == {"edge"}


def recorded(machine):
    """The ids of the flows of acme that are in the store."""
    found = machine.oxyctl("flows", "--tenant", "acme", "--past", "--format", "json").stdout
    return [flow["flow_id"] for flow in json.loads(found)["items"]]


def test_what_a_killed_proxy_recorded_can_be_read(shop):
    shop.oxyctl("lab", "check")
    flows = ("flows", "--tenant", "acme", "--past", "--format", "json")
    before = eventually(lambda: len(recorded(shop)) >= 2 and recorded(shop), "connections have ended")
    shop.oxyctl("lab", "kill", "edge")
    done = shop.oxyctl(*flows)
    found = json.loads(done.stdout)
    assert (found["proxy_running"], done.stderr) == (False, "the proxy is not running; these are its records\n")
    assert [flow["flow_id"] for flow in found["items"]][-len(before) :] == before
    one = json.loads(shop.oxyctl("flows", "get", before[0], "--tenant", "acme", "--format", "json").stdout)
    assert (one["proxy_running"], one["items"][0]["flow_id"]) == (False, before[0])
    shop.oxyctl("lab", "start", "edge")
    assert json.loads(shop.oxyctl(*flows).stdout)["proxy_running"]
    os.kill(shop.supervisor(), signal.SIGKILL)  # all of the lab
    eventually(lambda: not processes_of(shop.run), "the lab has ended")
    found = json.loads(shop.oxyctl(*flows).stdout)
    assert (found["proxy_running"], before[0] in recorded(shop)) == (False, True)


def test_nodes_of_a_shared_program_are_stopped_one_by_one(shop):
    shop.oxyctl("lab", "stop", "web")
    assert states(shop) == ready_but(web="stopped")
    shop.exec("pc", "curl", "-sS", "http://web/", code=7)  # refused: its address is there, its service is not
    assert shop.exec("pc", "curl", "-sS", "http://db/").startswith("node ")
    assert "2 received" in shop.exec("pc", "ping", "-c2", "-i0.2", "web")
    shop.oxyctl("lab", "stop", "pc", "web")
    assert states(shop) == ready_but(web="stopped", pc="stopped")
    found = json.loads(shop.oxyctl("lab", "start", "pc", "web", "--format", "json").stdout)
    assert (found["kind"], found["action"]) == ("lab-nodes", "start")
    assert [(node["name"], node["state"], node["restarts"]) for node in found["items"]] == [
        ("pc", "ready", 1),
        ("web", "ready", 1),
    ]
    assert is_whole(shop)


def test_a_shared_program_that_died_is_started_for_whom_it_is_asked(shop):
    os.kill(pid_of(shop, "oxyctl.services /"), signal.SIGKILL)
    eventually(lambda: states(shop) == ready_but(web="exited", db="exited", pc="exited"), "its nodes have ended")
    shop.oxyctl("lab", "start", "web")
    assert states(shop) == ready_but(db="exited", pc="exited")
    shop.oxyctl("lab", "restart", "pc", "db")
    assert is_whole(shop)


def test_all_that_a_program_left_ends_with_it(shop):
    """The shell's child, too; and what was started in the node by somebody else is left alone."""
    (child,) = sleepers(shop)
    with shop.start("lab", "exec", "tool", "--", "cat", stdin=subprocess.PIPE) as mine:
        eventually(lambda: "cat " in processes_of(shop.run).values(), "the program of `lab exec` runs")
        shop.oxyctl("lab", "restart", "tool")
        assert len(sleepers(shop)) == 1
        assert child not in sleepers(shop)
        shop.oxyctl("lab", "stop", "tool")
        assert sleepers(shop) == []
        out, _ = mine.communicate("still here\n")
        assert (out, mine.returncode) == ("still here\n", 0)


@pytest.mark.user("root")  # who may look into it
def test_no_descriptor_is_left_in_the_supervisor(machine):
    machine.oxyctl("lab", "up", machine.file("shop.yaml", SHOP))
    place = f"/proc/{machine.supervisor()}/fd"
    counts = []
    for _ in range(3):
        machine.oxyctl("lab", "restart", "edge", "pc", "web", "tool")
        counts.append(len(os.listdir(place)))
    assert len(set(counts)) == 1


def test_what_makes_no_sense_is_told_and_changes_nothing(shop):
    before = nodes(shop)
    for words, code, message in [
        (("restart", "wep"), 4, "lab 'shop' has no node 'wep'; did you mean 'web'?"),
        (("stop", "web", "wep"), 4, "lab 'shop' has no node 'wep'; did you mean 'web'?"),
        (("restart", "web", "web"), 2, "node 'web' is listed twice"),
        (("stop", "web", "r1"), 2, "node 'r1' (router) has no program to stop or start: the kernel does the routing"),
        (("restart",), 2, "NODE"),
    ]:
        assert message in shop.oxyctl("lab", *words, code=code).stderr
    assert nodes(shop) == before
    assert "is already running" in shop.oxyctl("lab", "start", "web").stderr
    shop.oxyctl("lab", "stop", "web")
    assert "'web' (upstream) is not running" in shop.oxyctl("lab", "kill", "web", code=1).stderr
    assert (
        "degraded: web (`oxyctl lab start web`" in shop.oxyctl("lab", "up", shop.file("shop.yaml", SHOP), code=1).stderr
    )
    shop.oxyctl("lab", "down", "shop")
    assert "no lab is running" in shop.oxyctl("lab", "restart", "web", code=5).stderr


def test_those_who_restart_at_once_take_turns(shop):
    commands = [shop.start("lab", "restart", "edge") for _ in range(3)]
    told = [command.communicate()[1] for command in commands]
    assert [command.returncode for command in commands] == [0, 0, 0], told
    assert nodes(shop)["edge"]["restarts"] == 3
    assert is_whole(shop)


def test_who_waits_for_a_node_that_is_stopped_is_told(machine):
    gate = machine.directory / "gate"
    gate.touch()
    text = SLOW.replace("GATE", str(gate))
    machine.oxyctl("lab", "up", machine.file("slow.yaml", text))
    gate.unlink()
    with machine.start("lab", "restart", "slow") as waiting:
        eventually(lambda: machine.status()["items"][0]["state"] == "starting", "it is being started")
        machine.oxyctl("lab", "stop", "slow")
        _, told = waiting.communicate()
    assert (waiting.returncode, "was stopped before it was ready" in told) == (1, True)
    assert "not ready in time" in machine.oxyctl("lab", "start", "slow", "--timeout", "0.5", code=1).stderr
    assert machine.status()["items"][0]["state"] == "starting"


def test_a_supervisor_that_is_killed_meanwhile(machine):
    gate = machine.directory / "gate"
    gate.touch()
    text = SLOW.replace("GATE", str(gate))
    machine.oxyctl("lab", "up", machine.file("slow.yaml", text))
    gate.unlink()
    with machine.start("lab", "restart", "slow") as waiting:
        eventually(lambda: machine.status()["items"][0]["state"] == "starting", "it is being started")
        os.kill(machine.supervisor(), signal.SIGKILL)
        _, told = waiting.communicate()
    assert (waiting.returncode, "lab 'slow' has just ended" in told) == (5, True)


STEPS = """
  - {kind: node, name: the proxy is killed, do: kill, node: edge}
  - {kind: tcp, name: nobody forwards, from: pc, to: "web:80", expect: timeout, timeout: 1s}
  - {kind: flows, name: what it recorded is read, tenant: acme, since: 1h, where: {dst_port: 80}}
  - {kind: node, name: it is started, do: start, node: edge}
  - {kind: http, name: all is well, from: pc, url: "http://web/"}
  - {kind: node, name: two go, do: stop, node: [web, db]}
  - {kind: tcp, name: nobody listens, from: pc, to: "web:80", expect: refused}
  - {kind: node, name: one comes, do: start, node: tool}
  - {kind: node, name: what is gone cannot be killed, do: kill, node: web}
"""


def checks_file(machine, text):
    return machine.file("steps.yaml", SHOP.partition("  - {kind")[0] + text)


def test_checks_may_fell_nodes_and_all_is_as_before_when_they_are_over(shop):
    shop.oxyctl("lab", "check")
    eventually(lambda: len(recorded(shop)) >= 2, "connections have ended")
    shop.oxyctl("lab", "stop", "tool")
    before = states(shop)
    done = shop.oxyctl("lab", "check", "--file", checks_file(shop, STEPS), "--format", "json", code=3)
    *passed, last = json.loads(done.stdout)["items"]
    assert {check["name"]: check["actual"] for check in passed if check["state"] != "passed"} == {}
    assert passed[0]["actual"] == "edge: exited, was killed by SIGKILL"
    assert (last["state"], "'web' (upstream) is not running" in last["actual"]) == ("broken", True)
    assert states(shop) == before
    assert nodes(shop)["tool"]["restarts"] == 1  # it was started, and stopped again


def test_a_run_that_is_interrupted_leaves_all_as_before(shop):
    mark = shop.directory / "mark"
    mark.mkdir()
    mark.chmod(0o777)
    steps = """
  - {kind: node, do: stop, node: [edge, web]}
  - {kind: exec, from: pc, command: [sh, -c, "touch MARK/reached; sleep 600"], timeout: 600}
"""
    with shop.start("lab", "check", "--file", checks_file(shop, steps.replace("MARK", str(mark)))) as running:
        eventually((mark / "reached").exists, "the second step is reached")
        assert states(shop)["edge"] == "stopped"
        running.send_signal(signal.SIGINT)
        running.communicate()
    assert running.returncode == 130
    assert states(shop) == ready_but()


POLICIES = """
name: again
networks: {lan: {subnets: [10.0.0.0/24]}}
nodes:
  edge:   {kind: proxy, networks: [lan], tenants: {acme: {}}, restart: always}
  pc:     {kind: warp, proxy: edge, tenant: acme}
  web:    {kind: upstream, networks: [lan], services: {http: 80}, restart: on-failure}
  db:     {kind: upstream, networks: [lan], services: {http: 80}}
  fails:  {kind: process, networks: [lan], command: [sh, -c, "sleep 600; exit 3"], restart: on-failure}
  ends:   {kind: process, networks: [lan], command: [sleep, "600"], restart: on-failure}
checks: [{kind: http, from: pc, url: "http://web/", retry_until: 10s}]
"""


def test_policies(machine):
    machine.oxyctl("lab", "up", machine.file("again.yaml", POLICIES))
    os.kill(pid_of(machine, "-m proxy"), signal.SIGKILL)
    eventually(lambda: nodes(machine)["edge"]["restarts"] == 1, "the proxy is started again")
    os.kill(pid_of(machine, "oxyctl.services /"), signal.SIGKILL)
    eventually(lambda: nodes(machine)["web"]["restarts"] == 1, "one of the origins is")
    eventually(lambda: nodes(machine)["web"]["state"] == "ready", "it serves")
    assert (nodes(machine)["db"]["state"], nodes(machine)["db"]["restarts"]) == ("exited", 0)
    machine.oxyctl("lab", "start", "db")
    machine.oxyctl("lab", "kill", "web", "fails", "ends")
    eventually(lambda: {nodes(machine)[name]["restarts"] for name in ("fails", "ends")} == {1}, "both were killed")
    eventually(lambda: nodes(machine)["web"]["restarts"] == 2, "and so was this one")
    eventually(lambda: machine.status()["lab"]["state"] == "up", "all is well")
    machine.oxyctl("lab", "check")
    table = machine.oxyctl("lab", "status").stdout
    assert any(line.split()[4:6] == ["1", "(always)"] for line in table.splitlines() if line.startswith("edge "))
    assert "was killed by SIGKILL: restarted" in machine.oxyctl("lab", "logs", "edge").stdout
    machine.oxyctl("lab", "stop", "edge", "fails")
    assert {name: nodes(machine)[name]["state"] for name in ("edge", "fails")} == {
        "edge": "stopped",
        "fails": "stopped",
    }


def test_one_that_ends_again_and_again_is_started_later_each_time(machine):
    file = machine.directory / "mark"
    command = f"[sh, -c, 'test -e {file} && exit 7; exec sleep 600']"
    text = f"nodes:\n  flaky: {{kind: process, command: {command}, restart: always}}\n"
    machine.oxyctl("lab", "up", machine.file("flaky.yaml", text))
    file.touch()
    machine.oxyctl("lab", "kill", "flaky")
    eventually(lambda: nodes(machine)["flaky"]["restarts"] >= 3, "it was tried several times")
    detail = eventually(lambda: nodes(machine)["flaky"]["detail"], "it is waited")
    assert detail.startswith("exited with code 7; restarts in ")
    file.unlink()
    eventually(lambda: nodes(machine)["flaky"]["state"] == "ready", "and in the end it runs")


def test_a_stopped_node_stays_so_when_the_lab_is_changed(shop):
    shop.oxyctl("lab", "stop", "web", "pc")
    more = SHOP.replace("checks:", "  new: {kind: upstream, networks: [lan], services: {http: 80}}\nchecks:")
    shop.oxyctl("lab", "apply", shop.file("shop.yaml", more))
    assert states(shop) == ready_but(web="stopped", pc="stopped", new="ready")
    changed = more.replace(
        "web:  {kind: upstream, networks: [lan], services: {http: 80",
        "web:  {kind: upstream, networks: [lan], services: {http: 8080",
    )
    shop.oxyctl("lab", "apply", shop.file("shop.yaml", changed))
    assert states(shop) == ready_but(pc="stopped", new="ready")  # replaced, and new


def test_the_labs_resolver_comes_back_by_itself(shop):
    os.kill(pid_of(shop, "oxyctl.services.names"), signal.SIGKILL)
    eventually(lambda: "web" in shop.exec("pc", "getent", "hosts", "web"), "names are known")
    eventually(lambda: states(shop) == ready_but(), "routers are well")


def test_nobody_is_left_as_a_zombie(shop):
    shop.oxyctl("lab", "restart", "edge", "pc", "web", "tool")
    assert {pid for pid in processes_of(shop.run) if state_of(pid)[0] == "Z"} == set()
