"""An application from a file, in a whole proxy: its verdicts reach real sockets, and it hears of reload and drain."""

from __future__ import annotations

import signal
import socket
import tempfile
from pathlib import Path

import pytest
from scapy.layers.inet import TCP, UDP
from scapy.packet import Raw

from tests.packet.script import describe
from tests.packets import ORIGIN
from tests.running import Stage, until

pytestmark = pytest.mark.netns

CONFIGURATION = """
node: edge
offramp: {offramp}
tenants:
  acme: {{prefixes: [100.96.0.0/12, "fd00:96::/32"]}}
onramps:
  - {{kind: connected, path: ramp.sock}}
hooks: ./mine.py:Mine
"""
APPLICATION = """
from pathlib import Path
from proxy.hooks import Hooks, Verdict, deny

PORTS = {7001: ("10.50.0.10", 8001), 7002: ("fd00:50::10", 8001)}


class Mine(Hooks):
    diary = Path(__file__).with_name("diary")

    def say(self, line):
        with self.diary.open("a") as file:
            file.write(line + "\\n")

    async def startup(self):
        self.say("startup")

    async def tunnel_open(self, context):
        context.user = "set by a hook"

    async def flow_start(self, flow):
        if flow.dst_port in PORTS:
            return Verdict(origin=PORTS[flow.dst_port])
        return deny("no", refusal="reset") if flow.dst_port == 7003 else None

    async def flow_update(self, flow):
        self.say("update")

    async def reload(self):
        self.say("reload")

    async def drain(self):
        self.say("drain")

    async def shutdown(self):
        self.say("shutdown")
"""


@pytest.fixture(scope="module", params=["sockets", "kernel"])
def stage(request):
    with tempfile.TemporaryDirectory() as directory:
        Path(directory, "mine.py").write_text(APPLICATION)
        stage = Stage(directory, configuration=CONFIGURATION.format(offramp=request.param))
        try:
            yield stage
        finally:
            stage.close()
        lines = Path(directory, "diary").read_text().splitlines()
        assert (lines[0], lines[-2:]) == ("startup", ["drain", "shutdown"])


@pytest.mark.parametrize(("version", "port"), [(4, 7001), (6, 7002)])
@pytest.mark.parametrize("offload", [False, True], ids=["plain", "offload"])
def test_connection_goes_elsewhere(stage, version, port, offload):
    listener, client = stage.listen(version, 8001), stage.client(offload=offload)
    ack = client.connect(version, 40_000, port)
    server = stage.accept(listener)
    client.send(client.segment(version, 40_000, port, "PA", payload=b"hello", seq=1001, ack=ack))
    assert server.recv(10) == b"hello"
    server.close()
    listener.close()
    client.send(client.segment(version, 40_000, port, "R", seq=1006))
    (record,) = until(lambda: stage.ended(src=client.addresses[version]))
    assert (record.verdict, record.user, record.dst_port) == ("redirected", "set by a hook", port)
    assert record.origin == (f"[{ORIGIN[6]}]:8001" if version == 6 else f"{ORIGIN[4]}:8001")
    stage.after_test()


@pytest.mark.parametrize(("version", "port"), [(4, 7001), (6, 7002)])
def test_datagrams_go_elsewhere(stage, version, port):
    server, client = stage.listen(version, 8001, kind=socket.SOCK_DGRAM), stage.client()
    client.send(bytes(client.network(version) / UDP(sport=5000, dport=port) / Raw(b"question")))
    question, address = server.recvfrom(100)
    assert question == b"question"
    server.sendto(b"answer", address)
    answer = client.packet()
    assert (answer.src, answer[UDP].sport, bytes(answer[UDP].payload)) == (ORIGIN[version], port, b"answer")
    stage.after_test()


def test_denial_is_told_by_reset(stage):
    client = stage.client()
    client.send(bytes(client.network(4) / TCP(sport=5000, dport=7003, flags="S", seq=7)))
    assert describe(client.receive()) == f"{ORIGIN[4]} > {client.addresses[4]} TCP RA seq 0 ack 8"
    stage.after_test()


def test_reload_is_heard(stage):
    diary = Path(stage.directory, "diary")
    before = diary.read_text().count("reload")
    stage.process.send_signal(signal.SIGHUP)
    until(lambda: diary.read_text().count("reload") > before)
