"""An open tunnel: what it counts, and a client that does not read."""

from __future__ import annotations

import pytest

from proxy.device.seqpacket import dial
from proxy.errors import DropReason, ProxyError
from proxy.onramps import tunnel as tunnel_module
from proxy.wire.ip import MAX_PACKET
from tests.onramps.ramps import GOOD, ramping
from tests.packets import tcp_packet, udp_packet

MODES = pytest.mark.parametrize("offload", [None, "virtio-net"], ids=["plain", "offload"])
PACKET = b"\x45" + bytes(60_000)


@MODES
def test_every_datagram_is_counted_for_what_it_is(offload):
    head = bytes(10) if offload else b""
    with ramping() as ramp:
        client, tunnel = ramp.admitted(offload=offload)
        datagrams = [
            head + tcp_packet(), b"", b'{"tenant": "acme"}', b'{"ok": true}' * 30, head + b"\x55" * 50, head + b"\x45",
            head + bytes(MAX_PACKET + 100), head + tcp_packet()[:-3], head + udp_packet(sport=5),
        ]  # fmt: skip
        for datagram in datagrams:
            client.send(datagram)
        ramp.loop.until(lambda: len(ramp.opener.opened) == 2)
        assert ramp.acme.drops == {
            DropReason.EMPTY: 1, DropReason.BAD_CONTROL: 2, DropReason.BAD_VERSION: 1, DropReason.TRUNCATED: 2,
            DropReason.OVERSIZE: 1,
        }  # fmt: skip
        assert tunnel.packets_in == len(datagrams) == sum(ramp.acme.drops.values()) + len(ramp.opener.opened)
        assert ramp.closed == []


def test_bug_costs_one_packet_and_is_counted(monkeypatch, caplog):
    with ramping() as ramp:
        client, _ = ramp.admitted()
        monkeypatch.setattr(ramp.opener, "open", lambda *_: 1 / 0)
        client.send(tcp_packet())
        ramp.loop.until(lambda: ramp.acme.drops[DropReason.PROXY_ERROR])
        monkeypatch.undo()
        client.send(tcp_packet(sport=2))
        ramp.loop.until(lambda: ramp.opener.opened)
        assert "ZeroDivisionError" in caplog.text


@pytest.mark.parametrize("last", [b"", b"\x45", None])
def test_hang_up_is_told_once_and_not_confused_with_an_empty_datagram(last):
    with ramping() as ramp:
        client, tunnel = ramp.admitted()
        client.send(b"").send(tcp_packet())
        if last is not None:
            client.send(last)
        client.close()
        ramp.loop.until(lambda: ramp.closed)
        ramp.loop.turns(10)
        assert ramp.closed == [tunnel]
        assert tunnel.is_closed
        assert len(ramp.opener.opened) == 1
        assert ramp.acme.drops[DropReason.EMPTY] >= 1


def fill(tunnel, count):
    for number in range(count):
        tunnel.send(PACKET + number.to_bytes(4, "big"))


def test_client_that_never_reads_has_a_bounded_queue_and_the_others_go_on(monkeypatch):
    monkeypatch.setattr(tunnel_module, "QUEUE_BYTES", 1 << 20)
    with ramping() as ramp:
        _, deaf = ramp.admitted()
        other, reading = ramp.admitted(addresses=["100.96.0.3"])
        ramp.loop.call(lambda: fill(deaf, 300))
        assert 0 < deaf.queued_bytes <= 1 << 20
        assert ramp.acme.held_bytes == deaf.queued_bytes
        lost = ramp.acme.drops[DropReason.TUNNEL_FULL]
        assert lost > 100
        ramp.loop.call(lambda: reading.send(b"for you"))
        assert other.receive() == b"for you"
        ramp.loop.call(lambda: fill(deaf, 1))
        assert ramp.acme.drops == {DropReason.TUNNEL_FULL: lost + 1}
        assert deaf.packets_out < 301 - lost  # neither what was dropped nor what still waits has gone out


def test_what_a_tenant_holds_is_bounded_over_all_its_tunnels():
    with ramping(bytes_held=200_000) as ramp:
        tunnels = [ramp.admitted(addresses=[f"100.96.0.{n}"])[1] for n in (2, 3)]
        ramp.loop.call(lambda: [fill(tunnel, 300) for tunnel in tunnels])
        assert ramp.acme.held_bytes == sum(tunnel.queued_bytes for tunnel in tunnels) <= 200_000
        assert tunnels[0].queued_bytes > 0


def test_queue_is_delivered_in_order_once_the_client_reads():
    with ramping() as ramp:
        client, tunnel = ramp.admitted()
        ramp.loop.call(lambda: fill(tunnel, 150))
        assert tunnel.queued_bytes > 0
        numbers = [int.from_bytes(client.receive()[-4:], "big") for _ in range(150)]
        assert numbers == list(range(150))
        ramp.loop.until(lambda: tunnel.queued_bytes == 0)
        assert ramp.acme.held_bytes == 0
        assert not ramp.acme.drops


def test_later_packet_does_not_overtake_the_queue():
    """Between the client's read and our next look there is room in the socket: not for what comes last."""
    with ramping() as ramp:
        client, tunnel = ramp.admitted()

        def work():
            fill(tunnel, 150)
            client.sock.recv(70_000)
            tunnel.send(b"last")

        ramp.loop.call(work)
        assert len([client.receive() for _ in range(149)][-1]) > 4
        assert client.receive() == b"last"


def test_queue_of_a_client_that_vanishes_is_given_back():
    with ramping() as ramp:
        client, tunnel = ramp.admitted()
        ramp.loop.call(lambda: fill(tunnel, 150))
        client.close()
        ramp.loop.until(lambda: ramp.closed)
        assert (tunnel.queued_bytes, ramp.acme.held_bytes) == (0, 0)
        ramp.loop.call(lambda: tunnel.send(PACKET))
        assert ramp.acme.drops[DropReason.TUNNEL_CLOSED] >= 1


@MODES
def test_deliver_cuts_what_is_larger_than_the_mtu(offload):
    with ramping() as ramp:
        client, tunnel = ramp.admitted(offload=offload, mtu=576)
        ramp.loop.call(lambda: tunnel.deliver(udp_packet(4, bytes(2000))))
        pieces = [client.receive() for _ in range(4)]
        head = 10 if offload else 0
        assert all(piece[:head] == bytes(head) and len(piece) - head <= 576 for piece in pieces)


def test_dial_of_the_clients_side_is_answered():
    import threading

    with ramping() as ramp:
        results = []

        def client(**changes):
            from proxy.context import TunnelContext

            try:
                sock, answer = dial(ramp.path, TunnelContext(**{**GOOD, **changes}))
                results.append((answer.ok, answer.mtu, sock.getblocking()))
                sock.close()
            except ProxyError as error:
                results.append(str(error))

        for changes in ({"mtu": 1400}, {"token": "wrong"}):
            thread = threading.Thread(target=client, kwargs=changes)
            thread.start()
            ramp.loop.until(lambda thread=thread: not thread.is_alive())
        assert results == [(True, 1400, False), "the proxy refused the tunnel: bad token"]
