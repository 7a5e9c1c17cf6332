"""The process: told of changes, asked for counters, ended; and what it leaves, which is nothing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading

import pytest

from tests.agents.sites.test_edge import both_ends, to_proxy
from tests.agents.sites.world import CLIENT, DEADLINE_S, EDGE, ROOT, SITE, Agents, file_of, text_of

GRE = {"local": SITE[4], "remote": EDGE[4], "key": 1}
INSIDE = "OXYCTL_TEST_INSIDE"


def rules(world, family="-4"):
    """The policy rules of the site, as `ip rule` shows them."""
    done = world.site.run(subprocess.run, ["ip", family, "rule"], capture_output=True, text=True, check=True)
    return [line for line in done.stdout.splitlines() if "blackhole" in line]


@pytest.mark.parametrize("way", ["SIGTERM", "SIGINT", "EOF"])
def test_it_ends_when_told_and_leaves_nothing(world, way):
    ours, theirs = os.pipe()
    agents = world.start(world.entry(device="tun0", gre=GRE), stdin=ours)
    os.close(ours)
    expected = f"from {SITE[4]} to {EDGE[4]} ipproto icmp dport 771 blackhole"
    assert [" ".join(line.split()[1:]) for line in rules(world)] == [expected]
    assert agents.status_path.exists()
    if way != "EOF":
        agents.process.send_signal(getattr(signal, way))
    else:
        os.close(theirs)
    assert agents.process.wait(DEADLINE_S) == 0
    assert rules(world) == []
    assert not agents.status_path.exists()
    assert "tun0" in os.listdir(world.site.run(_devices))  # a plan's device is the plan's
    if way != "EOF":
        os.close(theirs)


def _devices():
    return f"/proc/{os.getpid()}/task/{threading.get_native_id()}/net/dev_snmp6"


def test_port_unreachable_of_ipv6_is_hushed_too(world):
    world.start(world.entry(device="tun0", gre={"local": SITE[6], "remote": EDGE[6]}))
    assert f"from {SITE[6]} to {EDGE[6]} ipproto ipv6-icmp dport 260 blackhole" in " ".join(
        rules(world, "-6")[0].split()
    )


def test_a_change_replaces_what_differs_and_nothing_else(world):
    host, proxy = world.host(4), world.proxy()
    agents = world.start(*both_ends(world))
    host.sendto(b"1", (CLIENT[4], 7))
    proxy.receive()
    site, edge = both_ends(world)
    edge["gue"] = to_proxy(20_002, tenant=8, site=2)
    assert agents.change([site, edge]) == {"generation": 1, "problems": {}}
    host.sendto(b"2", (CLIENT[4], 7))
    header, packet = proxy.receive()
    assert (header.context.tenant, text_of(packet)) == (8, "2")
    assert agents.tunnel("site")["sent"]["packets"] == 2  # the same tunnel
    assert agents.tunnel("edge")["sent"]["packets"] == 1  # a new one
    assert agents.change([site])["problems"] == {}
    assert [each["end"] for each in agents.status()["tunnels"]] == ["site"]
    opened = [(each["node"], each["end"]) for each in agents.seen if each.get("event") == "open"]
    assert opened == [("berlin", "site"), ("berlin", "edge"), ("berlin", "edge")]


def test_what_cannot_be_opened_is_told_and_the_rest_goes_on(world):
    good = world.entry(device="tun0", gre=GRE)
    same = world.entry("edge", node="twin", gre=GRE, gue=to_proxy()) | {"netns": good["netns"]}
    gone = world.entry(node="gone", device="tun1", gre=GRE | {"key": 9}) | {"netns": "/nonexistent"}
    busy = world.entry(node="busy", device="tun0", gre=GRE | {"key": 8})
    foreign = world.entry(node="foreign", device="tun2", gre=GRE | {"local": "10.50.0.77", "key": 7})
    agents = world.agents = Agents(world.directory, [good, same, gone, busy, foreign])
    report = agents.report(lambda report: "generation" in report)
    assert report["problems"] == {
        "twin": f"another tunnel to {EDGE[4]} has the same key",
        "gone": "No such file or directory",
        "busy": "Device or resource busy",
        "foreign": "10.50.0.77: Cannot assign requested address",
    }
    refused = {each["node"]: each["detail"] for each in agents.seen if each.get("event") == "refused"}
    assert refused.keys() == report["problems"].keys()
    assert [each["node"] for each in agents.status()["tunnels"]] == ["berlin"]
    host, peer = world.host(4), world.raw(4)
    host.sendto(b"x", (CLIENT[4], 7))
    assert peer.receive()[1].endswith(b"x")


def test_a_namespace_that_was_made_anew_under_its_name_is_entered_anew(world):
    link = world.directory / "netns"
    link.symlink_to(file_of(world.edge))
    entry = {"node": "a", "end": "edge", "netns": str(link), "mtu": 1400, "device": "t0", "gue": to_proxy()}
    agents = world.start(entry)
    link.unlink()
    link.symlink_to(file_of(world.site))
    assert agents.change([entry])["problems"] == {}
    assert [each["event"] for each in agents.seen if "event" in each] == ["open", "open"]
    assert world.site.run(_has_device, "t0")
    assert not world.edge.run(_has_device, "t0")


def _has_device(name):
    return name in os.listdir(_devices())


def test_a_device_that_is_removed_is_told_once(world):
    agents = world.start(world.entry("edge", device="e1", gue=to_proxy()))
    world.edge.run(subprocess.run, ["ip", "link", "del", "e1"], check=True)
    report = agents.report(lambda report: report.get("event") == "lost")
    assert report["detail"].startswith("device e1: ")
    assert agents.tunnel("edge")["kind"] == "device+gue"  # it goes on
    assert agents.change([])["problems"] == {}
    assert [report for report in agents.seen if report.get("event") == "lost"] == [report]


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"device": "t"}, "a tunnel has two of 'device', 'gre' and 'gue', or only a 'probe'"),
        ({"device": "t", "gre": {"local": "10.0.0.1", "remote": "fd00::1"}}, "of different families"),
        ({"device": "t", "gre": {"local": "10.0.0.1", "remote": "here"}}, "does not appear to be an IPv4 or IPv6"),
        (
            {"device": "t", "gue": {"local": "10.0.0.1", "remote": "10.0.0.2:1"}},
            "'10.0.0.1' is not an address with a port",
        ),
        ({"device": "t", "gue": to_proxy() | {"remote": "127.0.0.1:0"}}, "is not an address with a port"),
        ({"device": "t", "gue": to_proxy() | {"version": 1}}, "version 1 has no header for a context"),
        ({"device": "t", "gue": to_proxy(token="x" * 200)}, "a context has at most 124 bytes"),
        ({"device": "t", "colour": "red"}, "unknown field `colour`"),
    ],
)
def test_a_bad_file_is_one_line(tmp_path, entry, message):
    path = tmp_path / "bad.json"
    path.write_text(json.dumps({"tunnels": [{"node": "a", "end": "site", "netns": "/x"} | entry]}))
    command = [sys.executable, "-m", "oxyctl.agents.sites", str(path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 1
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_no_descriptor_is_left_after_many_changes(world):
    agents = world.start(*both_ends(world))
    descriptors = f"/proc/{agents.process.pid}/fd"
    before = len(os.listdir(descriptors))
    for _ in range(5):
        agents.change([])
        assert len(os.listdir(descriptors)) < before
        agents.change(both_ends(world))
    assert len(os.listdir(descriptors)) == before
    agents.change([world.entry(node="broken", device="tun0", gre=GRE | {"local": "10.50.0.77"})])
    agents.change(both_ends(world))
    assert len(os.listdir(descriptors)) == before


@pytest.mark.skipif(INSIDE in os.environ, reason="this is inside")
def test_all_of_it_works_in_a_user_namespace():
    """The same tests once more, where root is a name for somebody with no right outside."""
    tests = ["test_edge.py", "test_gre.py", "test_life.py", "test_probes.py"]
    chosen = "crosses or come_back or scapy_reads or ends_when or healthy or tcp_connection"
    pytest_ = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-n0", "-k", chosen]
    done = subprocess.run(
        ["unshare", "--user", "--map-root-user", "--net", *pytest_, *(f"tests/agents/sites/{name}" for name in tests)],
        cwd=ROOT, env=os.environ | {INSIDE: "1"}, capture_output=True, text=True, timeout=150, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "skipped" not in done.stdout
    assert int(done.stdout.split(" passed")[0].split()[-1]) > 20
