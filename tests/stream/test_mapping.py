"""One socket for each endpoint of a client, whoever it writes to; who else may write to it; DNS exchanges that end."""

from __future__ import annotations

import contextlib
import socket

import pytest
from scapy.layers.inet import UDP
from scapy.packet import Raw

from proxy.errors import DropReason
from proxy.hooks import Hooks
from proxy.settings.model import TenantSettings
from proxy.stream.udp import DNS_ANSWERED_IDLE_S, MAX_PENDING_QUERIES
from tests.packets import CLIENT, decode, network
from tests.stream.test_datagrams import datagram, echo_server, received
from tests.stream.world import LOCALHOST, closed_port, world

FAMILIES = pytest.mark.parametrize("version", [4, 6])


def filtering(w, how):
    """Let the tenant filter so."""
    w.tenant.settings = TenantSettings(udp_filtering=how)


def other_host():
    """A socket of the same machine with an address of its own."""
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.bind(("127.0.0.77", 0))
    return server


@FAMILIES
def test_one_endpoint_has_one_address_towards_all(monkeypatch, version):
    with echo_server(version) as one, echo_server(version) as two, world(monkeypatch) as w:
        w.give_all(
            datagram(one.getsockname()[1], version=version),
            datagram(two.getsockname()[1], version=version),
            datagram(one.getsockname()[1], version=version, sport=40_001),
        )
        first, second, other = received(w, one)[1], received(w, two)[1], received(w, one)[1]
        assert first[:2] == second[:2] != other[:2]
        assert (len(list(w.tenant.live())), w.lifecycle.descriptors.held_by(w.tenant)) == (3, 2)
        for server, address in ((one, first), (two, second)):
            server.sendto(b"%d" % server.getsockname()[1], address)
        w.loop.until(lambda: len(w.tunnel.sent) == 2)
        answers = {decode(packet)[UDP].sport: bytes(decode(packet)[UDP].payload) for packet in w.tunnel.take()}
        assert answers == {server.getsockname()[1]: b"%d" % server.getsockname()[1] for server in (one, two)}


@FAMILIES
def test_answer_from_another_port_is_a_flow_of_its_own(monkeypatch, version):
    """As a TFTP server gives it; what the client then writes there goes there."""
    with echo_server(version) as server, echo_server(version) as transfer, world(monkeypatch) as w:
        w.give(datagram(server.getsockname()[1], b"read", version=version))
        parent = w.flow
        _, address = received(w, server)
        transfer.sendto(b"block", address)
        w.loop.until(lambda: w.tunnel.sent)
        packet = decode(w.tunnel.take()[0])
        port = transfer.getsockname()[1]
        assert (packet.src, packet[UDP].sport, packet[UDP].dport) == (LOCALHOST[version], port, 40_000)
        w.give(datagram(port, b"ack", version=version))
        assert received(w, transfer) == (b"ack", address)
        (child,) = [flow for flow in w.tenant.live() if flow is not parent]
        assert (child.parent_id, child.destination_port, child.history) == (parent.id, port, "d")
        assert (child.client_payload, child.origin_payload) == (3, 5)
        starts = [record.parent_id for record in w.records if record.event == "start"]
        assert starts == [None, parent.id]
        assert w.lifecycle.descriptors.held_by(w.tenant) == 1


@pytest.mark.parametrize(
    ("how", "same_host", "another"),
    [("endpoint", True, True), ("address", True, False), ("address-and-port", False, False)],
)
def test_who_may_write_is_as_the_tenant_says(monkeypatch, how, same_host, another):
    with echo_server() as server, echo_server() as port, other_host() as host, world(monkeypatch) as w:
        filtering(w, how)
        w.give(datagram(server.getsockname()[1]))
        _, address = received(w, server)
        port.sendto(b"same host", address)
        host.sendto(b"another", address)
        server.sendto(b"canary", address)
        w.loop.until(lambda: any(packet.endswith(b"canary") for packet in w.tunnel.sent))
        seen = {bytes(decode(packet)[UDP].payload) for packet in w.tunnel.take()}
        assert (b"same host" in seen, b"another" in seen) == (same_host, another)
        assert w.tenant.drops[DropReason.UNSOLICITED] == 2 - same_host - another


def test_host_whose_flow_has_ended_may_not_write_any_more(monkeypatch):
    with echo_server() as server, other_host() as host, world(monkeypatch) as w:
        w.give(datagram(server.getsockname()[1]))
        first = w.flow
        _, address = received(w, server)
        head = network(4, dst="127.0.0.77")
        w.give(bytes(head / UDP(sport=40_000, dport=host.getsockname()[1]) / Raw(b"two")))
        assert host.recvfrom(10) == (b"two", address)
        w.loop.call(lambda: first.handler.end("admin_killed"))
        server.sendto(b"late", address)
        host.sendto(b"canary", address)
        w.loop.until(lambda: w.tunnel.sent)
        assert [bytes(decode(packet)[UDP].payload) for packet in w.tunnel.take()] == [b"canary"]
        assert w.tenant.drops[DropReason.UNSOLICITED] == 1


def test_unsolicited_flow_is_asked_about_and_may_be_denied(monkeypatch):
    class Application(Hooks):
        async def flow_start(self, flow):
            return "no" if flow.parent_id else None

    with echo_server() as server, echo_server() as other, world(monkeypatch, hooks=Application()) as w:
        w.give(datagram(server.getsockname()[1]))
        _, address = received(w, server)
        other.sendto(b"hello", address)
        w.loop.until(lambda: "end" in w.events())
        (end,) = [record for record in w.records if record.event == "end"]
        assert (end.close_reason, end.dst_port) == ("denied", other.getsockname()[1])
        assert w.tunnel.sent == []


@FAMILIES
def test_error_of_the_network_is_for_the_origin_that_it_is_about(monkeypatch, version):
    """One socket, two destinations: one of them has nobody."""
    with echo_server(version) as server, world(monkeypatch) as w:
        closed = closed_port(version, socket.SOCK_DGRAM)
        w.give_all(
            datagram(server.getsockname()[1], b"one", version=version), datagram(closed, b"two", version=version)
        )
        w.loop.until(lambda: w.tunnel.sent)
        (packet,) = w.tunnel.sent
        kind = {4: "ICMP 3/3", 6: "ICMPv6 1/4"}[version]
        assert w.replies() == [f"{LOCALHOST[version]} > {CLIENT[version]} {kind} about {LOCALHOST[version]}"]
        quoted = decode(packet[28 if version == 4 else 48 :])
        assert (quoted[UDP].dport, quoted[UDP].sport) == (closed, 40_000)
        assert received(w, server)[0] == b"one"


def query(number, *, answer=False):
    return number.to_bytes(2, "big") + (b"\x81\x80" if answer else b"\x01\x00") + bytes(8)


@contextlib.contextmanager
def resolver(monkeypatch):
    """A world, a server at a port that is taken for a resolver's, and what asks it."""
    with echo_server() as server, world(monkeypatch) as w:
        monkeypatch.setattr("proxy.stream.udp.DNS", server.getsockname()[1])
        yield w, server, lambda payload: w.give(datagram(server.getsockname()[1], payload))


def passed(w, seconds):
    """Let time pass as the wheel sees it: it looks four times in each timeout."""
    for step in range(1, 9):
        w.tick(seconds * step / 4)


def test_answered_query_ends_its_session_soon(monkeypatch):
    with resolver(monkeypatch) as (w, server, ask):
        ask(query(7))
        flow = w.flow
        _, address = received(w, server)
        server.sendto(query(7, answer=True), address)
        w.loop.until(lambda: w.tunnel.sent)
        passed(w, DNS_ANSWERED_IDLE_S)
        assert flow.close_reason == "client_idle_timeout"
        assert w.lifecycle.descriptors.held_by(w.tenant) == 0


@pytest.mark.parametrize(
    "answer", [query(8, answer=True), query(7), b"\x00\x07", b""], ids=["foreign id", "no answer", "short", "empty"]
)
def test_what_answers_no_query_ends_nothing(monkeypatch, answer):
    with resolver(monkeypatch) as (w, server, ask):
        ask(query(7))
        flow = w.flow
        _, address = received(w, server)
        server.sendto(answer, address)
        w.loop.until(lambda: w.tunnel.sent)
        passed(w, DNS_ANSWERED_IDLE_S)
        assert not flow.is_ended


def test_session_with_a_query_unanswered_is_kept(monkeypatch):
    with resolver(monkeypatch) as (w, server, ask):
        for number in (1, 2):
            ask(query(number))
            _, address = received(w, server)
        flow = w.flow
        server.sendto(query(2, answer=True), address)
        w.loop.until(lambda: w.tunnel.sent)
        passed(w, DNS_ANSWERED_IDLE_S)
        assert not flow.is_ended
        server.sendto(query(1, answer=True), address)
        w.loop.until(lambda: len(w.tunnel.sent) == 2)
        passed(w, 3 * DNS_ANSWERED_IDLE_S)
        assert flow.is_ended


def test_session_with_very_many_queries_has_its_whole_time(monkeypatch):
    with resolver(monkeypatch) as (w, server, ask):
        for number in range(MAX_PENDING_QUERIES + 1):
            ask(query(number))
            _, address = received(w, server)
        flow = w.flow
        for number in range(MAX_PENDING_QUERIES + 1):
            server.sendto(query(number, answer=True), address)
        w.loop.until(lambda: len(w.tunnel.sent) == MAX_PENDING_QUERIES + 1)
        passed(w, DNS_ANSWERED_IDLE_S)
        assert not flow.is_ended
