"""Impaired links, measured by real pings and transfers: by the kernel where it can, and by the relay."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal

import pytest

from tests.labs.conftest import eventually, processes_of

pytestmark = [
    pytest.mark.netns,
    pytest.mark.user("rootless"),
    pytest.mark.skipif(shutil.which("ping") is None or shutil.which("curl") is None, reason="needs ping and curl"),
]

LAB = """
name: links
networks:
  lan: {{subnets: [10.0.0.0/24, "fd00::/64"]}}
nodes:
  near: {{kind: process, networks: [lan], command: [sleep, "600"]}}
  web:  {{kind: upstream, networks: {{lan: {{{said}}}}}, services: {{http: 80}}}}
"""


@pytest.fixture
def lab(machine):
    """Bring up a client and an origin whose link is impaired as it says; `is_ours`: whatever the kernel has."""

    def bring_up(said, is_ours=False):
        machine.environment |= {"OXYCTL_IMPAIR": "user" if is_ours else ""}
        machine.oxyctl("lab", "up", machine.file("links.yaml", LAB.format(said=said)))
        return machine

    return bring_up


def link(machine, name="web:lan"):
    return next(each for each in machine.status()["links"] if each["name"] == name)


def least_ms(machine, family="-4", source="near", target="web"):
    """The shortest of some round trips: what a busy machine adds is in the others."""
    out = machine.exec(source, "ping", family, "-q", "-c8", "-i0.1", "-W3", target)
    return float(re.search(r"= ([0-9.]+)/", out)[1])


def pin_neighbours(machine, source="near", target="web"):
    """Have both remember each other's link address: three lost requests for it cost every packet of a second."""
    machine.exec(source, "sh", "-c", f"until ping -4 -q -c1 -W1 {target}; do :; done")
    for node in (source, target):
        known = "ip -4 neigh show dev eth0 | cut -d' ' -f1"
        machine.exec(node, "sh", "-c", f"for each in $({known}); do ip neigh change $each dev eth0 nud permanent; done")


def bits_per_s(machine, url, source="near"):
    out = machine.exec(source, "curl", "-sS", "-4", "-o", "/dev/null", "-w", "%{speed_download}", url)
    return float(out) * 8


@pytest.mark.parametrize("is_ours", [True, False], ids=["relay", "whatever is there"])
def test_delay_is_there_in_both_directions_and_families(lab, is_ours):
    machine = lab("delay: 30ms", is_ours)
    for family in ("-4", "-6"):
        assert 59 <= least_ms(machine, family) < 119  # once, not twice
    if is_ours:
        assert link(machine)["by"] == "user space"
        assert link(machine)["frames"]["passed"] >= 32


def test_loss_is_what_was_asked_for(lab):
    machine = lab("loss: 20%", is_ours=True)
    pin_neighbours(machine)
    out = machine.exec("near", "ping", "-q", "-c400", "-i0.005", "-W1", "10.0.0.2", code=0)
    received = int(re.search(r"(\d+) received", out)[1])
    assert 400 * 0.64 - 50 <= received <= 400 * 0.64 + 50  # five standard deviations
    frames = link(machine)["frames"]
    assert frames["lost"] / (frames["lost"] + frames["passed"]) == pytest.approx(0.2, abs=0.08)


@pytest.mark.parametrize("is_ours", [True, False], ids=["relay", "whatever is there"])
def test_a_transfer_keeps_to_the_rate(lab, is_ours):
    machine = lab("rate: 20mbit", is_ours)

    def is_used():  # a busy machine may make a transfer slower, and nothing makes it faster
        rate = bits_per_s(machine, "http://web/bytes/6000000")
        assert rate <= 20.6e6
        return rate >= 16e6

    eventually(is_used, "a transfer that the rate limits")
    assert link(machine)["by"] == ("user space" if is_ours else "kernel")


def test_the_mtu_is_that_of_both_ends(lab):
    machine = lab("mtu: 1400")
    machine.exec("near", "ping", "-4", "-c1", "-W2", "-M", "do", "-s", "1372", "web")
    shown = json.loads(machine.exec("web", "ip", "-j", "link", "show", "eth0"))[0]
    assert shown["mtu"] == 1400
    machine.exec("near", "ping", "-4", "-c1", "-W1", "-M", "do", "-s", "1373", "web", code=1)
    machine.exec("near", "ping", "-4", "-c1", "-W2", "-M", "do", "-s", "1372", "web")


def test_what_a_running_link_does_can_be_changed(lab):
    machine = lab("down: true")

    def reaches():
        return (
            "1 received"
            in machine.oxyctl("lab", "exec", "near", "--", "sh", "-c", "ping -4 -q -c1 -W1 web || true").stdout
        )

    assert not reaches()
    machine.oxyctl("lab", "impair", "web:lan", "--up")
    assert eventually(reaches, "the link is up")
    machine.oxyctl("lab", "impair", "web:lan", "--delay", "40ms")
    assert least_ms(machine) >= 79
    done = machine.oxyctl("lab", "impair", "web:lan", "--delay", "10ms", "--format", "json")
    assert json.loads(done.stdout)["items"] == [
        {"action": "change", "what": "link", "name": "web:lan", "detail": "delay 40ms -> delay 10ms"}
    ]
    assert 19 <= least_ms(machine) < 79
    assert link(machine)["detail"] == "delay 10ms"
    machine.oxyctl("lab", "impair", "lan", "--clear", "--rate", "50mbit")
    assert {each["detail"] for each in machine.status()["links"]} == {"rate 50mbit"}
    assert bits_per_s(machine, "http://web/bytes/3000000") <= 51.5e6
    machine.oxyctl("lab", "impair", "lan", "--clear")
    assert [each["by"] for each in machine.status()["links"]] == [None, None]
    assert least_ms(machine) < 19


def test_mistakes_change_nothing(lab):
    machine = lab("delay: 1ms")
    error = machine.oxyctl("lab", "impair", "web:lna", "--down", code=4).stderr
    assert "has no link 'web:lna'; did you mean 'web:lan'?" in error
    assert "--delay: expected a delay" in machine.oxyctl("lab", "impair", "lan", "--delay", "soon", code=2).stderr
    assert "jitter cannot be more" in machine.oxyctl("lab", "impair", "lan", "--jitter", "5ms", code=2).stderr
    machine.oxyctl("lab", "impair", "lan", code=2)
    assert link(machine)["detail"] == "delay 1ms"


def test_a_tunnel_is_impaired_while_it_carries_a_client(machine):
    text = """
name: tunnel
networks: {lan: {subnets: [10.0.0.0/24, "fd00::/64"]}}
nodes:
  edge: {kind: proxy, networks: [lan], tenants: {acme: {}}}
  pc:   {kind: warp, proxy: edge, tenant: acme, tunnel: {delay: 25ms}}
  fast: {kind: warp, proxy: edge, tenant: acme}
  web:  {kind: upstream, networks: [lan], services: {http: 80}}
"""
    machine.oxyctl("lab", "up", machine.file("tunnel.yaml", text))
    assert 49 <= least_ms(machine, source="pc") <= 90
    assert least_ms(machine, source="fast") < 49
    machine.oxyctl("lab", "impair", "pc:tunnel", "--clear", "--rate", "8mbit")
    assert bits_per_s(machine, "http://web/bytes/2000000", source="pc") <= 8.5e6
    machine.oxyctl("lab", "impair", "pc:tunnel", "--clear")
    assert least_ms(machine, source="pc") < 49
    assert machine.exec("pc", "curl", "-sS", "http://web/").startswith("node ")


def relay_of(machine):
    """The PID of the relay; None when there is none."""
    return next((pid for pid, words in processes_of(machine.run).items() if "oxyctl.agents.impair" in words), None)


def kill_relay(machine):
    """The PID that it had."""
    pid = eventually(lambda: relay_of(machine), "the relay runs")
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: relay_of(machine) != pid, "it is dead")
    return pid


def is_counting(machine):
    """The relay has been told all links and has answered: the way through it is there again."""
    return "passed" in link(machine)["frames"] and machine.status()["lab"]["state"] == "up"


def test_a_relay_that_dies_is_started_again(lab):
    machine = lab("delay: 20ms", is_ours=True)
    first = kill_relay(machine)
    assert eventually(lambda: relay_of(machine), "another relay") != first
    eventually(lambda: is_counting(machine), "links are relayed again")
    pin_neighbours(machine)
    assert least_ms(machine) >= 39
    machine.oxyctl("lab", "impair", "web:lan", "--delay", "5ms")
    assert 9 <= least_ms(machine) < 39
    machine.oxyctl("lab", "impair", "web:lan", "--clear")
    assert least_ms(machine) < 9


def test_a_relay_that_always_dies_is_told_as_what_it_is(lab):
    machine = lab("delay: 1ms", is_ours=True)
    for _ in range(6):
        kill_relay(machine)
    eventually(lambda: machine.status()["lab"]["state"] == "degraded", "the lab is degraded")
    assert link(machine)["detail"] == "delay 1ms; its relay was killed by SIGKILL"
    assert {node["state"] for node in machine.status()["items"]} == {"ready"}
    machine.oxyctl("lab", "impair", "web:lan", "--delay", "2ms")  # a change starts it again
    assert least_ms(machine) >= 3
    assert machine.status()["lab"]["state"] == "up"


@pytest.mark.slow
def test_the_lossy_lab_is_as_its_file_says(machine):
    machine.oxyctl("lab", "up", "lossy")
    out = machine.oxyctl("lab", "check", "lossy").stdout
    assert "all 7 passed" in out
    named = {each["name"]: each["detail"] for each in machine.status()["links"] if each["detail"]}
    assert named["gone:internet"] == "down"
    assert named["laptop:tunnel"] == "delay 20ms"
