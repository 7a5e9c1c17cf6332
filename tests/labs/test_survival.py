"""Each node of a lab falls in each way, and is started: the lab is whole again, and every check of it holds."""

from __future__ import annotations

import itertools
import json
import os
import signal

import pytest

from tests.labs.conftest import eventually, processes_of

pytestmark = [pytest.mark.netns, pytest.mark.slow, pytest.mark.timeout(600)]

PROGRAMS = {
    "proxy": "-m proxy ",
    "warp": "-m oxyctl.agents ",
    "upstream": "-m oxyctl.services ",
    "gre-site": "-m oxyctl.agents.sites ",
    "gue-site": "-m oxyctl.agents.sites ",
}


def kill_9(machine, node):
    """What serves `node`, and maybe others, is killed from outside; then each of those is started."""
    pids = [pid for pid, line in processes_of(machine.run).items() if PROGRAMS[node["kind"]] in line]
    assert len(pids) == 1
    os.kill(pids[0], signal.SIGKILL)
    eventually(lambda: fallen(machine, "exited"), f"{node['name']} has ended")
    assert node["name"] in fallen(machine, "exited")
    machine.oxyctl("lab", "start", *fallen(machine, "exited"))


def kill(machine, node):
    machine.oxyctl("lab", "kill", node["name"])
    assert fallen(machine, "exited") == [node["name"]]
    machine.oxyctl("lab", "start", node["name"])


def stop(machine, node):
    machine.oxyctl("lab", "stop", node["name"])
    assert fallen(machine, "stopped") == [node["name"]]
    machine.oxyctl("lab", "start", node["name"])


def restart(machine, node):
    machine.oxyctl("lab", "restart", node["name"])


def fallen(machine, state):
    return [node["name"] for node in machine.status()["items"] if node["state"] == state]


def check_whole(machine, story):
    status = machine.status()
    assert (status["lab"]["state"], {node["state"] for node in status["items"]}) == ("up", {"ready"}), story
    done = machine.oxyctl("lab", "check", "--format", "json")
    assert {check["state"] for check in json.loads(done.stdout)["items"]} == {"passed"}, story


@pytest.mark.parametrize("way", [kill_9, kill, stop, restart], ids=lambda way: way.__name__)
def test_each_node_of_the_quickstart(machine, way):
    if not (machine.is_rootless or way is kill_9):
        pytest.skip("once as root is enough: rootless is the harder way")
    machine.oxyctl("lab", "up", "quickstart")
    for node in machine.status()["items"]:
        way(machine, node)
        check_whole(machine, f"{node['name']} after {way.__name__}")


def test_each_node_of_the_magic_wan(machine):
    """One pass: each node is killed, and falls in one more way; then the checks. As one user, for it takes a minute."""
    if not machine.is_rootless:
        pytest.skip("rootless is enough, and the harder way")
    machine.oxyctl("lab", "up", "magic-wan")
    carriers = {tunnel["site"]: (tunnel["by"], tunnel["edge"]) for tunnel in machine.status()["tunnels"]}
    others = itertools.cycle((kill, stop, restart))
    for node in machine.status()["items"]:
        if carriers.get(node["name"]) == ("kernel", None):
            assert "the kernel carries its tunnel" in machine.oxyctl("lab", "stop", node["name"], code=2).stderr
            continue
        for way in (kill_9, next(others)):
            way(machine, node)
        check_whole(machine, node["name"])
