"""TCP flows through their stages: nothing is answered before the origin has, and everything ends once."""

from __future__ import annotations

import errno
import gc
import socket

import pytest
from scapy.layers.inet import TCP
from scapy.packet import Raw

from proxy.errors import DropReason
from proxy.flow.flow import Flow
from proxy.flow.path import Path
from proxy.hooks import Hooks
from proxy.offramps import sockets
from proxy.settings.model import Timeouts
from proxy.stream.relay import LINGER_RESET
from proxy.stream.undelivered import STALL_TIMEOUT_S
from tests.packets import CLIENT, decode, network
from tests.stream.world import LOCALHOST, closed_port, distant, listening, world

FAMILIES = pytest.mark.parametrize("version", [4, 6])
MODES = pytest.mark.parametrize("offload", [False, True], ids=["plain", "offload"])


def segment(port: int, flags: str = "S", *, version: int = 4, seq: int = 1000, payload: bytes = b"", **fields) -> bytes:
    head = network(version, dst=LOCALHOST[version])
    return bytes(head / TCP(**{"sport": 40_000, **fields}, dport=port, flags=flags, seq=seq) / Raw(payload))


@FAMILIES
@MODES
def test_syn_is_released_when_the_origin_has_answered_and_not_before(monkeypatch, version, offload):
    distant(monkeypatch)
    with listening(version) as origin, world(monkeypatch, offload=offload) as w:
        port = origin.getsockname()[1]
        assert w.give(segment(port, version=version, options=[("MSS", 1460)])) is None
        assert w.at_once == (["start"], 0)
        w.loop.until(lambda: w.bridge.written)
        ((flow, syn),) = w.bridge.written
        assert decode(syn)[TCP].options[0] == ("MSS", 1280 - (40 if version == 4 else 60))
        assert (w.events(), w.replies()) == (["start", "connected"], [])
        assert (flow.state, flow.history, flow.egress_ip) == ("established", "Sh", LOCALHOST[version])
        assert flow.origin_tcp_ms > 0


@FAMILIES
def test_origin_that_has_answered_when_connect_returns_is_not_waited_for(monkeypatch, version):
    with listening(version) as origin, world(monkeypatch) as w:
        assert w.give(segment(origin.getsockname()[1], version=version)) is None
        assert w.at_once == (["start", "connected"], 1)


@FAMILIES
def test_syn_held_is_reset_when_the_origin_refuses(monkeypatch, version):
    with world(monkeypatch) as w:
        port = closed_port(version)
        w.give(segment(port, version=version))
        w.loop.until(lambda: w.tunnel.sent)
        reset = f"{LOCALHOST[version]} > {CLIENT[version]} TCP RA seq 0 ack 1001"
        assert w.replies() == [reset]
        assert w.bridge.written == []
        assert (w.flow.close_reason, w.flow.conn_state(), w.flow.closed_by) == ("origin_refused", "REJ", "origin")
        assert w.give(segment(port, version=version)) is DropReason.HELD  # the same SYN, which crossed our answer
        assert w.replies() == [reset]
        assert w.give(segment(port, version=version, seq=5000)) is None  # another connection
        w.loop.until(lambda: w.tunnel.sent)
        assert w.events("start", "end").count("start") == 2


@pytest.mark.parametrize(
    ("code", "reason", "answer"),
    [
        (errno.ENETUNREACH, "origin_unreachable", "ICMP 3/0"),
        (errno.EHOSTUNREACH, "origin_unreachable", "ICMP 3/1"),
        (errno.EACCES, "origin_unreachable", "ICMP 3/13"),
        (errno.ETIMEDOUT, "origin_timeout", None),
        (errno.EMFILE, "proxy_error", "ICMP 3/1"),
    ],
)
def test_failure_of_the_dial_is_told_as_the_network_would(monkeypatch, code, reason, answer):
    def dial(*_):
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        if code == errno.EMFILE:
            sock.close()
            raise OSError(code, "no descriptors")
        return sock, code

    monkeypatch.setattr(sockets, "dial_tcp", dial)
    with world(monkeypatch) as w:
        assert w.give(segment(80)) is None
        expected = [f"192.0.0.8 > {CLIENT[4]} {answer} about 127.0.0.1"] if answer else []
        assert w.replies() == expected
        assert (w.flow.close_reason, w.flow.conn_state(), w.bridge.written) == (reason, "S0", [])


def test_dial_without_an_answer_ends_in_silence(monkeypatch):
    """A listener whose queue is full answers no SYN."""
    with listening(backlog=0) as origin, world(monkeypatch, timeouts=Timeouts(connect_s=30)) as w:
        filling = [socket.socket() for _ in range(2)]
        for sock in filling:
            sock.setblocking(False)
            sock.connect_ex(origin.getsockname())
        w.give(segment(origin.getsockname()[1]))
        w.loop.turns(5)
        w.tick(20)
        assert not w.flow.is_ended
        w.tick(35)
        assert (w.flow.close_reason, w.replies()) == ("origin_timeout", [])
        for sock in filling:
            sock.close()


def test_repetitions_are_held_and_other_segments_are_strays_until_the_origin_answers(monkeypatch):
    distant(monkeypatch)
    with listening() as origin, world(monkeypatch) as w:
        port = origin.getsockname()[1]
        reasons = w.give_all(segment(port), segment(port), segment(port, "A"))
        assert reasons == [None, DropReason.HELD, DropReason.STRAY]
        w.loop.until(lambda: w.bridge.written)
        assert len(w.bridge.written) == 1


def test_reset_of_a_held_syn_ends_the_flow_and_the_dial(monkeypatch):
    distant(monkeypatch)
    with listening() as origin, world(monkeypatch) as w:
        port = origin.getsockname()[1]
        assert w.give_all(segment(port), segment(port, "R", seq=1001)) == [None, None]
        assert (w.flow.close_reason, w.flow.history) == ("client_reset", "SR")
        w.loop.turns(20)
        assert w.bridge.written == []


def established(w, origin):
    """A flow whose both ends are connections: the client's far end, the origin's."""
    w.give(segment(origin.getsockname()[1]))
    w.loop.until(lambda: w.bridge.written)
    flow = w.flow
    client = w.accept(flow)
    server, _ = origin.accept()
    w.sockets.append(server)
    server.setblocking(False)
    return flow, client, server


def receive(w, sock):
    """What came, b'' for FIN; an OSError when the connection was reset."""

    def attempt():
        try:
            return [sock.recv(100)]
        except BlockingIOError:
            return None
        except OSError as error:
            return [error.errno]

    return w.loop.until(attempt)[0]


def test_bytes_are_relayed_and_the_record_says_how_many_and_who_closed(monkeypatch):
    with listening() as origin, world(monkeypatch) as w:
        flow, client, server = established(w, origin)
        assert w.tunnel.paths[flow.key] is flow.client_path
        client.send(b"question")
        assert receive(w, server) == b"question"
        server.send(b"answer")
        assert receive(w, client) == b"answer"
        client.shutdown(socket.SHUT_WR)
        assert receive(w, server) == b""
        server.close()
        assert receive(w, client) == b""
        assert flow.key not in w.tunnel.paths
        client.close()
        w.tick(0.5)
        w.tick(1)
        (end,) = [record for record in w.records if record.event == "end"]
        assert (end.close_reason, end.closed_by, end.conn_state, end.history) == (
            "client_closed",
            "client",
            "SF",
            "ShAFf",
        )
        assert (end.total.client_payload_bytes, end.total.origin_payload_bytes) == (8, 6)
        assert end.client_tcp_ms > 0
        w.tick(5)
        assert list(w.tenant.live()) == []


def test_last_packets_still_pass_after_the_end(monkeypatch):
    with listening() as origin, world(monkeypatch) as w:
        flow, client, server = established(w, origin)
        server.close()
        client.close()
        w.loop.until(lambda: flow.is_ended)
        assert w.give(segment(flow.destination_port, "A", seq=1002)) is None
        assert w.bridge.written[-1][0] is flow


def test_flow_that_is_over_leaves_nothing_for_the_collector(monkeypatch):
    def alive():
        return sum(isinstance(found, Flow | Path) for found in gc.get_objects())

    def pass_by(w, origin):
        flow, client, server = established(w, origin)
        server.close()
        client.close()
        w.loop.until(lambda: flow.is_ended)
        w.tick(5)
        w.tick(10)

    with listening() as origin, world(monkeypatch) as w:
        gc.collect()
        gc.disable()
        try:
            before = alive()
            pass_by(w, origin)
            del w.bridge.written[:], w.bridge.admitted[:], w.bridge.released[:]
            assert ([*w.tenant.live()], alive()) == ([], before)
        finally:
            gc.enable()


@pytest.mark.parametrize(("reason", "seen"), [("admin_killed", "admin_killed"), ("tunnel_closed", "tunnel_closed")])
def test_end_from_outside_resets_both_sides(monkeypatch, reason, seen):
    with listening() as origin, world(monkeypatch) as w:
        flow, client, server = established(w, origin)
        w.loop.call(lambda: flow.handler.end(reason))
        w.loop.call(lambda: flow.handler.end("drain"))
        assert (flow.close_reason, flow.closed_by) == (seen, "proxy")
        assert receive(w, client) == errno.ECONNRESET
        assert receive(w, server) == errno.ECONNRESET


def test_idle_flow_ends_and_a_busy_one_does_not(monkeypatch):
    with listening() as origin, world(monkeypatch, timeouts=Timeouts(tcp_idle_s=40)) as w:
        flow, client, server = established(w, origin)
        for step in range(1, 5):
            client.send(b"x")
            receive(w, server)
            w.tick(11 * step)
        assert not flow.is_ended
        for step in range(5, 9):
            w.tick(11 * step)
        assert flow.close_reason == "client_idle_timeout"


def test_half_closed_flow_has_a_timeout_of_its_own(monkeypatch):
    timeouts = Timeouts(tcp_idle_s=100_000, tcp_half_closed_s=10)
    with listening() as origin, world(monkeypatch, timeouts=timeouts) as w:
        flow, client, server = established(w, origin)
        client.shutdown(socket.SHUT_WR)
        assert receive(w, server) == b""
        for step in range(1, 8):
            w.tick(25_001 + 3 * step)
        assert flow.close_reason == "client_idle_timeout"


def test_origin_of_a_flow_that_lasts_is_asked_whether_it_lives(monkeypatch):
    with listening() as origin, world(monkeypatch) as w:
        flow, *_ = established(w, origin)
        sock = flow.handler._relay.origin.sock
        w.tick(50)
        assert not sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        w.tick(61)
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)


def test_client_that_never_completes_its_handshake_ends(monkeypatch):
    with listening() as origin, world(monkeypatch) as w:
        w.give(segment(origin.getsockname()[1]))
        w.loop.until(lambda: w.bridge.written)
        flow = w.flow
        w.tick(76)
        assert flow.close_reason == "client_idle_timeout"
        far = w.accept(flow)  # too late
        assert receive(w, far) == b""


def test_icmp_error_about_an_established_connection_is_no_end(monkeypatch):
    """A TCP without a proxy would repeat and live (RFC 5461): the socket must not be told any more."""
    with listening() as origin, world(monkeypatch) as w:
        flow, *_ = established(w, origin)
        recverr = flow.handler._relay.origin.sock.getsockopt(socket.IPPROTO_IP, sockets.IP_RECVERR)
        assert recverr == 0


class Denying(Hooks):
    async def flow_start(self, flow):
        return "not today" if flow.dst_port != 1 else None


def test_denied_flow_is_told_and_never_dialled(monkeypatch):
    monkeypatch.setattr(sockets, "dial_tcp", lambda *_: pytest.fail("dialled"))
    with world(monkeypatch, hooks=Denying()) as w:
        w.give(segment(80))
        w.loop.until(lambda: w.tunnel.sent)
        assert w.replies() == [f"192.0.0.8 > {CLIENT[4]} ICMP 3/13 about 127.0.0.1"]
        flow = w.flow
        assert (flow.close_reason, flow.verdict, flow.decisions[0].reason) == ("denied", "denied", "not today")


def test_flow_that_ends_while_its_hook_thinks_is_not_dialled(monkeypatch):
    import asyncio

    class Slow(Hooks):
        async def flow_start(self, flow):
            await gate.wait()

    monkeypatch.setattr(sockets, "dial_tcp", lambda *_: pytest.fail("dialled"))
    gate = asyncio.Event()
    with world(monkeypatch, hooks=Slow()) as w:
        w.give(segment(80))
        assert w.give(segment(80)) is DropReason.HELD
        flow = w.flow
        w.loop.call(lambda: flow.handler.end("tunnel_closed"))
        w.loop.call(gate.set)
        w.loop.run(w.hooks.drain())
        assert (flow.close_reason, flow.handler) == ("tunnel_closed", None)


def test_no_descriptors_left_means_reset(monkeypatch):
    with world(monkeypatch, descriptors=0) as w:
        assert w.give(segment(80)) is DropReason.NO_DESCRIPTORS
        assert w.replies() == [f"127.0.0.1 > {CLIENT[4]} TCP RA seq 0 ack 1001"]
        assert w.records == []


def test_descriptors_are_those_of_open_sockets(monkeypatch):
    """A flow that is remembered for its last packets has none; neither has one that was refused."""
    with listening() as origin, world(monkeypatch, descriptors=2) as w:
        flow, client, server = established(w, origin)
        assert w.give(segment(origin.getsockname()[1] ^ 1)) is DropReason.NO_DESCRIPTORS
        w.replies()
        client.close()
        server.close()
        w.loop.until(lambda: w.lifecycle.descriptors.free == 2)
        assert (flow.is_ended, w.tenant.count) == (True, 1)
        for port in (1, 2):
            w.give(segment(closed_port(), sport=port))
            w.loop.until(lambda: w.tunnel.sent)
            assert " RA " in w.replies()[0]
        assert (w.tenant.count, w.lifecycle.descriptors.free) == (3, 2)


def test_flow_replaced_before_its_record_is_still_recorded_once(monkeypatch):
    """A client may use the same port again while the last flow's packets fade."""
    with world(monkeypatch) as w:
        port = closed_port()
        for number in range(3):
            w.give(segment(port, seq=number * 1000))
            w.loop.until(lambda: w.tunnel.sent)
            w.replies()
        assert w.tenant.count == 1
        ended = [record.flow_id for record in w.records if record.event == "end"]
        live = [flow.id for flow in w.tenant.live()]
        assert len(ended) == 2
        assert len(w.bridge.released) == 2  # what the kernel still repeats of them would disturb the third
        assert set(ended).isdisjoint(live)


def filled(w, sender):
    """Send until nothing more fits anywhere on the way to a reader that takes nothing."""
    sent, turns = 0, 0
    while turns < 50:
        try:
            sent += sender.send(bytes(65_536))
            turns = 0
        except BlockingIOError:
            w.loop.turns(1)
            turns += 1
    return sent


@pytest.mark.parametrize("who", ["client", "origin"])
def test_reader_that_takes_nothing_after_a_reset_is_not_waited_for_for_ever(monkeypatch, who):
    with listening() as origin, world(monkeypatch) as w:
        flow, client, server = established(w, origin)
        gone, reader = (client, server) if who == "client" else (server, client)
        filled(w, gone)
        gone.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_RESET)
        gone.close()
        w.loop.until(lambda: flow.is_ended)
        assert (flow.close_reason, flow.is_recorded) == (f"{who}_reset", False)
        for seconds in (1, STALL_TIMEOUT_S - 1):
            w.tick(seconds)
        assert w.lifecycle.descriptors.free < 2000
        w.tick(2 * STALL_TIMEOUT_S)
        assert w.lifecycle.descriptors.free == 2000
        while isinstance(data := receive(w, reader), bytes):
            assert data  # no end: a reset
        assert data == errno.ECONNRESET


def test_reader_that_takes_a_little_now_and_then_is_waited_for(monkeypatch):
    with listening() as origin, world(monkeypatch) as w:
        flow, client, server = established(w, origin)
        filled(w, server)
        server.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_RESET)
        server.close()
        w.loop.until(lambda: flow.is_ended)
        for number in range(1, 6):
            w.tick(number * (STALL_TIMEOUT_S - 5))
            assert client.recv(1 << 20)
            w.loop.turns(20)
        assert w.lifecycle.descriptors.free < 2000


def test_client_that_reads_nothing_of_a_closed_origin_is_not_waited_for_for_ever(monkeypatch):
    with listening() as origin, world(monkeypatch) as w:
        flow, client, server = established(w, origin)
        monkeypatch.setattr("proxy.stream.undelivered.is_delivered", lambda sock, *, is_shut: False)
        client.shutdown(socket.SHUT_WR)
        server.close()
        w.loop.until(lambda: flow.is_ended)
        assert flow.close_reason == "client_closed"
        for seconds in (1, STALL_TIMEOUT_S - 1):
            w.tick(seconds)
        assert w.lifecycle.descriptors.free < 2000
        w.tick(2 * STALL_TIMEOUT_S)
        assert w.lifecycle.descriptors.free == 2000


def test_tuple_of_a_client_that_was_reset_is_free_while_the_origin_still_gets_its_bytes(monkeypatch):
    with listening() as origin, world(monkeypatch) as w:
        flow, client, server = established(w, origin)
        sent = filled(w, client)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_RESET)
        client.close()
        w.loop.until(lambda: flow.is_ended)
        assert w.give(segment(origin.getsockname()[1], seq=77_000)) is None
        again = w.flow
        assert (again is not flow, w.bridge.released) == (True, [flow])
        received = 0
        while isinstance(data := receive(w, server), bytes):
            received += len(data)
        assert data == errno.ECONNRESET
        assert 0 < received <= sent
        assert not again.is_ended
