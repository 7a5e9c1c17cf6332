"""The health of a tunnel as its site sees it, with a proxy that answers, falls silent, and answers again."""

from __future__ import annotations

import json
import threading

import pytest
from scapy.layers.inet import ICMP, IP
from scapy.layers.inet6 import ICMPv6EchoReply, ICMPv6EchoRequest, IPv6

from proxy.wire import icmp
from tests.agents.sites.test_edge import both_ends
from tests.agents.sites.world import CLIENT, HOST, Agents

FAST = {"every_s": 0.05, "timeout_s": 1}


class Answering:
    """Answers echo requests in the proxy's place, in a thread, as long as `is_on`."""

    def __init__(self, proxy, is_on=True):
        self.proxy, self.is_on = proxy, is_on
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run)
        proxy.sock.settimeout(0.05)
        self._thread.start()

    def _run(self):
        while not self._ended.is_set():
            try:
                _, packet = self.proxy.receive()
            except TimeoutError:
                continue
            answer = reply(packet)
            if answer is not None and self.is_on:
                self.proxy.send(answer)

    def close(self):
        self._ended.set()
        self._thread.join()


def reply(packet):
    """What answers an echo request; None for anything else."""
    if packet[0] >> 4 == 4:
        found = IP(packet)
        if ICMP not in found or found[ICMP].type != icmp.ECHO_REQUEST:
            return None
        echo = ICMP(type=0, id=found[ICMP].id, seq=found[ICMP].seq)
        return bytes(IP(src=found.dst, dst=found.src) / echo / found[ICMP].payload)
    found = IPv6(packet)
    if ICMPv6EchoRequest not in found:
        return None
    request = found[ICMPv6EchoRequest]
    return bytes(
        IPv6(src=found.dst, dst=found.src) / ICMPv6EchoReply(id=request.id, seq=request.seq, data=request.data)
    )


@pytest.fixture
def probed(world):
    made = []

    def start(version=4, is_on=True):
        made.append(Answering(world.proxy(), is_on))
        site, edge = both_ends(world)
        site["probe"] = {"device": "tun0", "address": CLIENT[version], "source": HOST[version]} | FAST
        return world.start(site, edge), made[0]

    yield start
    for each in made:
        each.close()


def health(agents):
    return agents.report(lambda report: report.get("event") == "health")


@pytest.mark.parametrize("version", [4, 6])
def test_a_tunnel_that_answers_is_healthy(probed, version):
    agents, _ = probed(version)
    report = health(agents)
    assert (report["node"], report["end"], report["health"], report["answered"]) == ("berlin", "site", "healthy", 1)
    assert 0 < report["rtt_ms"] < FAST["timeout_s"] * 1000
    assert agents.tunnel()["health"]["health"] == "healthy"
    assert agents.tunnel("edge")["health"] is None


def test_silence_degrades_then_downs_and_answers_bring_it_back_degraded(probed):
    agents, proxy = probed()
    assert health(agents)["health"] == "healthy"
    proxy.is_on = False
    assert [health(agents)["health"] for _ in range(2)] == ["degraded", "down"]
    answered = agents.tunnel()["health"]["answered"]
    proxy.is_on = True
    report = health(agents)
    assert report["health"] == "degraded"
    assert report["answered"] >= answered + 3


def test_a_far_end_that_was_started_again_is_judged_anew_by_the_same_tunnel(probed):
    agents, proxy = probed()
    assert health(agents)["health"] == "healthy"
    proxy.is_on = False
    assert [health(agents)["health"] for _ in range(2)] == ["degraded", "down"]
    proxy.is_on = True
    assert health(agents)["health"] == "degraded"
    site, edge = json.loads(agents.path.read_text())["tunnels"]
    assert agents.change([site | {"far_end": 1}, edge])["problems"] == {}
    report = health(agents)
    assert (report["health"], report["answered"], report["lost"]) == ("healthy", 1, 0)
    assert sum(each.get("event") == "open" for each in agents.seen) == 2


def test_a_proxy_that_comes_late_is_healthy_from_its_first_answer_on(probed):
    agents, proxy = probed(is_on=False)
    assert [health(agents)["health"] for _ in range(2)] == ["degraded", "down"]
    proxy.is_on = True
    report = health(agents)
    assert (report["health"], report["answered"]) == ("healthy", 1)


def test_a_kernels_tunnel_is_probed_alone(world):
    """Only a probe, by way of a device that somebody else moves packets of."""
    answering = Answering(world.proxy())
    site, edge = both_ends(world)
    only = world.entry("probe", probe={"device": "tun0", "address": CLIENT[4], "source": HOST[4]} | FAST)
    try:
        agents = world.start(site, edge, only)
        assert health(agents)["end"] == "probe"
        status = agents.tunnel("probe")
        assert (status["kind"], status["sent"]["packets"], status["health"]["health"]) == ("", 0, "healthy")
    finally:
        answering.close()


def test_a_probe_that_cannot_be_sent_is_refused_with_its_reason(world):
    bad = world.entry("probe", probe={"device": "nothing0", "address": CLIENT[4], "source": HOST[4]})
    agents = world.agents = Agents(world.directory, [bad])
    report = agents.report(lambda report: "generation" in report)
    assert report["problems"] == {"berlin": f"cannot probe from {HOST[4]} on nothing0: No such device"}
