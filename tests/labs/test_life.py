"""Up, exec, down, and everything that may come between: as root and rootless, with programs of the test's own."""

from __future__ import annotations

import json
import os
import signal
import subprocess

import pytest

from tests.labs.conftest import eventually, holding_namespaces, lab_files, links, processes_of, users_of

pytestmark = pytest.mark.netns

PAIR = """
networks:
  lan: {subnets: [10.0.0.0/24, "fd00::/64"]}
nodes:
  server: {kind: process, networks: [lan], command: [sh, -c, "echo serving; exec sleep 600"]}
  client: {kind: process, networks: [lan], command: [sleep, "600"], env: {COLOUR: blue}}
"""


@pytest.fixture
def pair(machine):
    """A lab of two programs in one network."""
    return machine.file("pair.yaml", PAIR)


@pytest.fixture(scope="module")
def lab(shared_machine):
    """A machine with that lab, up and left as it was."""
    shared_machine.oxyctl("lab", "up", shared_machine.file("pair.yaml", PAIR))
    return shared_machine


def test_up_exec_down(machine, pair):
    done = machine.oxyctl("lab", "up", pair)
    assert "server (process) is ready" in done.stderr
    assert "oxyctl lab down pair" in done.stdout
    addresses = json.loads(machine.exec("client", "ip", "-j", "address", "show", "eth0"))[0]["addr_info"]
    assert {"10.0.0.2", "fd00::2"} <= {each["local"] for each in addresses}
    assert not any(each.get("tentative") for each in addresses if each["scope"] == "global")
    assert machine.exec("client", "hostname") == "client\n"
    assert "10.0.0.1" in machine.exec("client", "getent", "ahostsv4", "server")
    assert machine.exec("client", "getent", "hosts", "example.org", code=2) == ""
    assert machine.exec("client", "id", "-u") == "0\n"
    assert set(os.listdir("/sys/class/net")) == set(links())
    machine.oxyctl("lab", "down", "pair")
    machine.oxyctl("lab", "down", "pair", code=5)


def test_packets_pass_between_nodes_in_both_families(lab):
    for address in ("10.0.0.1", "fd00::1"):
        assert "1 received" in lab.exec("client", "ping", "-c1", "-W2", address)


def test_exec_passes_on_exit_codes_signals_and_streams(lab):
    lab.exec("server", "sh", "-c", "exit 7", code=7)
    lab.exec("server", "sh", "-c", "kill -KILL $$", code=137)
    lab.exec("server", "no-such-program", code=127)
    lab.exec("server", "/etc/hosts", code=126)
    lab.oxyctl("lab", "exec", "serve", "--", "true", code=4)
    assert lab.exec("server", "cat", input="through\n") == "through\n"
    assert lab.exec("server", "sh", "-c", "pwd; echo $OXYCTL_LAB $OXYCTL_NODE", cwd="/tmp") == "/tmp\npair server\n"
    script = "trap 'echo got it; exit 9' TERM; echo ready; while :; do sleep 0.05; done"
    with lab.start("lab", "exec", "server", "--", "sh", "-c", script) as running:
        assert running.stdout.readline() == "ready\n"
        running.send_signal(signal.SIGTERM)
        assert running.communicate(timeout=20)[0] == "got it\n"
        assert running.returncode == 9


def test_a_killed_exec_leaves_no_program(lab):
    with lab.start("lab", "exec", "server", "--", "sh", "-c", "echo ready; exec sleep 601") as running:
        assert running.stdout.readline() == "ready\n"
        running.kill()
    eventually(lambda: "sleep 601" not in " ".join(processes_of(lab.run).values()), "the program is gone")


def test_a_terminal_is_passed_on_only_where_there_is_one(lab):
    assert lab.exec("server", "tty", code=1, stdin=subprocess.DEVNULL) == "not a tty\n"
    master, slave = os.openpty()
    try:
        lab.oxyctl("lab", "exec", "server", "--", "test", "-t", "0", stdin=slave)
    finally:
        os.close(master)
        os.close(slave)


def test_up_again_changes_nothing_and_another_topology_is_refused(machine, pair):
    machine.oxyctl("lab", "up", pair)
    supervisor = machine.supervisor()
    assert "is already up" in machine.oxyctl("lab", "up", pair).stderr
    pair.write_text(PAIR.replace("blue", "red"))
    assert "another topology" in machine.oxyctl("lab", "up", pair, code=2).stderr
    assert machine.supervisor() == supervisor
    pair.unlink()
    machine.oxyctl("lab", "down", "pair", cwd="/")


def test_status_says_what_became_of_a_program(machine, pair):
    machine.oxyctl("lab", "up", pair)
    status = machine.status("pair")
    assert (status["kind"], status["lab"]["state"]) == ("lab-status", "up")
    assert [(node["name"], node["state"]) for node in status["items"]] == [("server", "ready"), ("client", "ready")]
    machine.exec("server", "kill", "-KILL", str(status["items"][0]["pid"]))
    eventually(lambda: machine.status()["lab"]["state"] == "degraded", "the lab is degraded")
    assert machine.status()["items"][0] | {"addresses": 0, "kind": 0} == {
        "name": "server",
        "kind": 0,
        "state": "exited",
        "addresses": 0,
        "pid": None,
        "exit_code": -9,
        "detail": "was killed by SIGKILL",
        "restart": "never",
        "restarts": 0,
    }
    assert "server (was killed by SIGKILL)" in machine.oxyctl("lab", "up", pair, code=1).stderr


def test_logs(machine, pair):
    machine.oxyctl("lab", "up", pair)
    eventually(lambda: machine.oxyctl("lab", "logs", "server").stdout == "serving\n", "what it printed first")
    assert "server | serving\n" in machine.oxyctl("lab", "logs").stdout
    with machine.start("lab", "logs", "-f", "server") as following:
        assert following.stdout.readline() == "serving\n"
        machine.oxyctl("lab", "down", "pair")
        assert following.communicate(timeout=20)[0] == ""


def test_two_labs_of_one_file_do_not_know_each_other(machine, pair):
    machine.oxyctl("lab", "up", pair)
    machine.oxyctl("lab", "up", pair, "--name", "other")
    machine.oxyctl("lab", "exec", "server", "--", "true", code=5)
    first, second = (
        set(machine.oxyctl("lab", "exec", "--lab", name, "server", "--", "readlink", *kinds).stdout.split())
        for name, kinds in (
            (name, [f"/proc/self/ns/{kind}" for kind in ("net", "pid", "mnt")]) for name in ("pair", "other")
        )
    )
    assert not first & second
    machine.oxyctl("lab", "down", "pair")
    assert machine.exec("server", "echo", "alive") == "alive\n"


def test_a_program_that_fails_takes_the_lab_down(machine, pair):
    pair.write_text(PAIR.replace("exec sleep 600", "echo oh no >&2; exit 3"))
    error = machine.oxyctl("lab", "up", pair, code=1).stderr
    assert "error: node 'server' (process): `sh -c echo serving; echo oh no >&2; exit 3` exited with code 3" in error
    assert "    oh no" in error
    assert lab_files(machine.run) == []
    pair.write_text(PAIR.replace("[sh, -c", "[no-such-program, -c"))
    assert "cannot start no-such-program: No such file" in machine.oxyctl("lab", "up", pair, code=1).stderr


UNREADY = """
networks: {lan: {subnets: [10.0.0.0/24]}}
nodes:
  early: {kind: process, networks: [lan], command: [sleep, "600"]}
  never: {kind: process, networks: [lan], command: [sleep, "600"], ready: {exec: ["false"], timeout: 100s}}
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_a_signal_while_it_is_built_takes_everything_down(machine, number):
    with machine.start("lab", "up", machine.file("unready.yaml", UNREADY)) as building:
        assert "early (process) is ready" in building.stderr.readline()
        with holding_namespaces(processes_of(machine.run)) as namespaces:
            assert len(namespaces) >= 5
            building.send_signal(number)
            building.communicate(timeout=30)
            eventually(lambda: not processes_of(machine.run), "every process is gone")
            eventually(lambda: not users_of(namespaces), "nobody is in its namespaces")
    assert building.returncode == (-9 if number == signal.SIGKILL else 128 + number)
    assert number == signal.SIGKILL or lab_files(machine.run) == []


def test_killing_the_supervisor_ends_everything_and_blocks_nothing(machine, pair):
    machine.oxyctl("lab", "up", pair)
    supervisor = machine.supervisor()
    with holding_namespaces(processes_of(machine.run)) as namespaces:
        os.kill(supervisor, signal.SIGKILL)
        eventually(lambda: not processes_of(machine.run), "every process is gone")
        eventually(lambda: not users_of(namespaces), "nobody is in its namespaces")
    assert "dead" in machine.oxyctl("lab", "ls").stdout
    machine.oxyctl("lab", "status", code=5)
    machine.oxyctl("lab", "up", pair)
    assert machine.supervisor() != supervisor


def test_only_the_lab_of_a_killed_command_is_taken_down(machine, pair):
    machine.oxyctl("lab", "up", pair, "--name", "other")
    supervisor = machine.supervisor("other")
    with machine.start("lab", "up", pair) as building:
        building.kill()
    eventually(lambda: all("labs/pair" not in line for line in processes_of(machine.run).values()), "it is gone")
    assert machine.supervisor("other") == supervisor


def test_a_run_directory_deeper_than_a_socket_name(machine, pair):
    machine.run = machine.run / ("d" * 100)
    machine.environment["OXYCTL_RUN_DIR"] = str(machine.run)
    machine.oxyctl("lab", "up", pair)
    assert machine.status()["lab"]["state"] == "up"
    machine.oxyctl("lab", "down")
