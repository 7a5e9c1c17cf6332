"""An application's tests: no root, no sockets; and all notices of a life in their order."""

from __future__ import annotations

import pytest

from proxy.hooks import Hooks, TunnelContext
from proxy.testing import Refused, Rehearsal


class Diary(Hooks[list]):
    """Writes down every notice."""

    def __init__(self):
        self.lines = []

    async def startup(self):
        self.lines.append("startup")

    async def packet_context(self, data):
        kind, _, user = data.decode().partition(" ")
        if kind == "no":
            return "not in this way"
        return TunnelContext(tenant="acme", addresses=["100.96.7.7"], user=user, extension=[user])

    async def tunnel_open(self, context):
        self.lines.append(f"open {context.user}")
        return "nobody knows you" if context.user == "mallory" else None

    async def tunnel_close(self, context):
        self.lines.append(f"close {context.user}")

    async def connected(self, flow):
        self.lines.append(f"connected {flow.dst_port}")

    async def connect_failed(self, flow):
        self.lines.append(f"failed {flow.dst_port}")

    async def flow_start(self, flow):
        self.lines.append(f"start {flow.dst_port} {flow.extension}")
        flow.extension = ["of the flow"]

    async def flow_update(self, flow):
        self.lines.append(f"update {flow.delta.client_packets}")

    async def flow_end(self, flow):
        self.lines.append(f"end {flow.close_reason} {flow.extension}")

    async def drain(self):
        self.lines.append("drain")

    async def shutdown(self):
        self.lines.append("shutdown")


def test_a_life_in_order():
    with Rehearsal(diary := Diary()) as rehearsal:
        client = rehearsal.tunnel(b"yes bob")
        web = client.tcp("203.0.113.5", 80)
        web.accept()
        assert web.answers == ["TCP SA"]
        rehearsal.advance(1)
        web.close()
        other = client.tcp("203.0.113.5", 81)
        other.refuse()
        assert other.answers == ["TCP RA"]
        rehearsal.hang_up(client)
    expected = """startup|open bob|start 80 ['bob']|connected 80|update 1|start 81 ['bob']|failed 81|close bob"""
    ends = [line for line in diary.lines if line.startswith("end")]
    assert [line for line in diary.lines if line not in ends][:-2] == expected.split("|")
    assert diary.lines[-2:] == ["drain", "shutdown"]
    assert sorted(ends) == ["end client_closed ['of the flow']", "end origin_refused ['of the flow']"]


def test_tunnels_are_refused_with_a_reason():
    with Rehearsal(Diary()) as rehearsal:
        with pytest.raises(Refused, match="not in this way"):
            rehearsal.tunnel(b"no bob")
        with pytest.raises(Refused, match="nobody knows you"):
            rehearsal.tunnel(b"yes mallory")
        with pytest.raises(Refused, match="unknown tenant 'globex'"):
            rehearsal.tunnel(tenant="globex")


def test_udp_comes_back():
    with Rehearsal() as rehearsal:
        flow = rehearsal.tunnel().udp("203.0.113.5", 53, b"question")
        flow.accept()
        assert flow.answers == ["UDP 6 bytes"]
        assert (flow.record.total.client_payload_bytes, flow.record.total.origin_payload_bytes) == (8, 6)


def test_a_packet_that_opens_no_flow_is_told():
    with Rehearsal() as rehearsal:
        exchange = rehearsal.tunnel().tcp("127.0.0.1", 80)
        with pytest.raises(LookupError, match="bad_address"):
            _ = exchange.record
