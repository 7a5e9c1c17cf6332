"""The context datagram: who gets in, who hears why not, and that nobody holds up the others."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import stat

import pytest

from proxy.context import MAX_CONTEXT_BYTES, TunnelContext
from proxy.errors import ProxyError
from proxy.hooks import Hooks
from proxy.onramps import connected
from proxy.onramps.connected import ConnectedRamp
from proxy.settings.model import ConnectedOnRamp
from tests.loops import open_descriptors
from tests.onramps.ramps import GOOD, ramping


@pytest.mark.parametrize("offload", [None, "virtio-net"])
def test_good_context_is_answered_with_what_was_agreed(offload):
    with ramping() as ramp:
        client = ramp.client().send({**GOOD, "mtu": 1400, "user": "ann", "device": "laptop", "offload": offload})
        expected = {"ok": True, "mtu": 1400}
        assert client.answer() == (expected | {"offload": offload} if offload else expected)
        (tunnel,) = ramp.opened
        assert (tunnel.user, tunnel.device, tunnel.mtu, tunnel.header_bytes) == (
            "ann",
            "laptop",
            1400,
            10 if offload else 0,
        )
        assert tunnel.addresses == ["100.96.0.2", "fd00:96::2"]
        assert ramp.acme.carriers == {tunnel.id: tunnel}
        assert ramp.ramp.refused == 0


def test_defaults_and_unknown_keys():
    with ramping() as ramp:
        client = ramp.client().send({**GOOD, "colour": "blue"})
        assert client.answer() == {"ok": True, "mtu": 1280}


def context(**changes):
    return {key: value for key, value in {**GOOD, **changes}.items() if value is not ...}


REFUSED = {
    "unknown tenant": (context(tenant="umbrella"), "unknown tenant 'umbrella'"),
    "no tenant": (context(tenant=...), "tenant"),
    "bad token": (context(token="wrong"), "bad token"),
    "no token": (context(token=...), "bad token"),
    "token of another type": (context(token=5), "bad context"),
    "token that is no text": (b'{"tenant": "acme", "token": "\\ud800", "addresses": ["100.96.0.2"]}', "bad"),
    "bad JSON": (b'{"tenant": ', "bad context"),
    "not an object": (b'["acme"]', "bad context"),
    "a number": (b"7", "bad context"),
    "not UTF-8": (b'{"tenant": "\xff"}', "bad context"),
    "an IP packet": (b"\x45" + bytes(39), "bad context"),
    "nothing": (b"", "the context is empty"),
    "too long": (json.dumps(GOOD).encode() + b" " * MAX_CONTEXT_BYTES, "larger than 65536 bytes"),
    "deeply nested": (b'{"x": ' + b"[" * 50_000, "bad context"),
    "no addresses": (context(addresses=[]), "addresses"),
    "addresses missing": (context(addresses=...), "addresses"),
    "too many addresses": (context(addresses=[f"100.96.1.{n}" for n in range(65)]), "addresses"),
    "no address": (context(addresses=["localhost"]), "localhost"),
    "a prefix": (context(addresses=["100.96.0.0/24"]), "100.96.0.0/24"),
    "not of the tenant": (context(addresses=["100.96.0.2", "192.0.2.1"]), "192.0.2.1 is in no prefix of tenant acme"),
    "multicast": (context(addresses=["224.0.0.1"]), "224.0.0.1 cannot be"),
    "multicast, IPv6": (context(addresses=["ff02::1"]), "ff02::1 cannot be"),
    "loopback": (context(addresses=["127.0.0.1"]), "127.0.0.1 cannot be"),
    "unspecified": (context(addresses=["::"]), ":: cannot be"),
    "MTU too small": (context(mtu=100), "mtu"),
    "MTU too large": (context(mtu=100_000), "mtu"),
    "unknown offload": (context(offload="magic"), "offload"),
    "a long name": (context(user="x" * 300), "user"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_client_hears_why_and_is_counted(name):
    data, reason = REFUSED[name]
    with ramping() as ramp:
        assert reason in ramp.client().send(data).refusal()
        assert (ramp.ramp.refused, ramp.opened, ramp.acme.carriers) == (1, [], {})
        ramp.admitted()


def test_context_of_exactly_the_limit_is_read():
    with ramping() as ramp:
        raw = json.dumps(GOOD).encode()
        client = ramp.client().send(raw + b" " * (MAX_CONTEXT_BYTES - len(raw)))
        assert client.answer()["ok"] is True


def test_silent_client_is_refused_after_its_time():
    with ramping(context_s=0.02) as ramp:
        silent = ramp.client()
        assert silent.refusal() == "no context within 0.02 s"
        assert ramp.ramp.refused == 1


def test_address_in_use_is_refused_until_it_is_free():
    with ramping() as ramp:
        first, tunnel = ramp.admitted()
        assert (
            f"fd00:96::2 is in use by tunnel {tunnel.id}"
            in ramp.client().send(context(addresses=["100.96.0.9", "fd00:96::2"])).refusal()
        )
        first.close()
        ramp.loop.until(lambda: ramp.closed)
        ramp.admitted()
        assert ramp.closed == [tunnel]


def test_same_address_in_another_tenant_is_no_matter():
    with ramping() as ramp:
        ramp.admitted()
        _, tunnel = ramp.admitted(tenant="globex")
        assert tunnel.tenant is ramp.globex


def test_tunnels_of_a_tenant_are_limited():
    with ramping(tunnels=1) as ramp:
        ramp.admitted()
        refusal = ramp.client().send(context(addresses=["100.96.0.3"])).refusal()
        assert refusal == "tenant acme has 1 tunnels, which is its limit"
        ramp.admitted(tenant="globex", addresses=["100.96.0.3"])


@pytest.mark.parametrize("said", [None, b"", b'{"tenant": "acme"', json.dumps(GOOD).encode()])
def test_client_that_hangs_up_meanwhile_leaves_nothing(said):
    with ramping() as ramp:
        before = open_descriptors()
        client = ramp.client()
        if said is not None:
            client.send(said)
        client.close()
        ramp.loop.until(lambda: ramp.ramp.refused or ramp.closed)
        assert open_descriptors() == before
        assert ramp.acme.carriers == {}
        ramp.admitted()


def test_too_many_that_wait_are_refused_and_those_that_speak_get_in(monkeypatch):
    monkeypatch.setattr(connected, "MAX_WAITING", 3)
    with ramping() as ramp:
        waiting = [ramp.client() for _ in range(3)]
        ramp.loop.turns(5)
        assert "too many clients" in ramp.client().refusal()
        assert waiting[1].send(GOOD).answer()["ok"] is True
        late = ramp.client()
        assert late.send(context(addresses=["100.96.0.7"])).answer()["ok"] is True
        assert ramp.ramp.refused == 1


def test_packets_behind_the_context_are_the_tunnels():
    from tests.packets import tcp_packet

    with ramping() as ramp:
        client = ramp.client().send(GOOD).send(tcp_packet()).send(tcp_packet(sport=2))
        assert client.answer()["ok"] is True
        ramp.loop.until(lambda: len(ramp.opener.opened) == 2)


class Application(Hooks):
    def __init__(self):
        self.gate, self.seen = asyncio.Event(), []

    async def tunnel_open(self, context):
        self.seen.append(context)
        await self.gate.wait()
        return "not you" if context.user == "mallory" else None


def test_application_may_refuse():
    hooks = Application()
    hooks.gate.set()
    with ramping(hooks=hooks) as ramp:
        assert ramp.client().send(context(user="mallory")).refusal() == "not you"
        ramp.admitted(user="ann")
        assert [seen.user for seen in hooks.seen] == ["mallory", "ann"]


def test_application_may_think_longer_than_a_client_may_be_silent():
    hooks = Application()
    with ramping(hooks=hooks, context_s=0.02) as ramp:
        client = ramp.client().send(GOOD)
        assert ramp.client().refusal() == "no context within 0.02 s"  # the first one's time is over as well
        ramp.loop.call(hooks.gate.set)
        assert client.answer()["ok"] is True


def test_two_that_want_one_address_while_the_application_thinks_are_not_both_let_in():
    hooks = Application()
    with ramping(hooks=hooks) as ramp:
        clients = [ramp.client().send(GOOD) for _ in range(2)]
        ramp.loop.until(lambda: len(hooks.seen) == 2)
        ramp.loop.call(hooks.gate.set)
        answers = [client.answer() for client in clients]
        assert [answer["ok"] for answer in answers] == [True, False]
        assert "in use" in answers[1]["error"]


def test_stopping_ramp_tells_those_that_wait():
    with ramping() as ramp:
        client = ramp.client()
        ramp.loop.until(lambda: ramp.ramp._waiting)
        ramp.loop.call(ramp.ramp.close)
        assert client.refusal() == "the proxy is stopping"


def test_socket_is_for_its_owner_only():
    with ramping() as ramp:
        assert stat.S_IMODE(os.stat(ramp.path).st_mode) == 0o600


def listen(ramp, path):
    return ramp.loop.call(
        lambda: ConnectedRamp(
            ConnectedOnRamp(path=path), {}, None, ramp.loop.poller, ramp.hooks, {}, context_timeout_s=1,
            opened=ramp.opened.append, closed=ramp.closed.append,
        )
    )  # fmt: skip


def test_path_of_a_living_proxy_is_not_taken():
    with ramping() as ramp:
        before = open_descriptors()
        with pytest.raises(ProxyError, match="another proxy serves this path"):
            listen(ramp, ramp.path)
        ramp.loop.until(lambda: open_descriptors() == before)  # who lives may have taken the question for a client
        ramp.admitted()


def test_path_of_a_dead_proxy_is_taken():
    with ramping() as ramp:
        path = ramp.path + ".dead"
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as dead:
            dead.bind(path)
        second = listen(ramp, path)
        ramp.loop.call(second.close)


def test_path_that_cannot_be_is_one_clear_error():
    with ramping() as ramp, pytest.raises(ProxyError, match=r"on-ramp .*missing/ramp\.sock"):
        listen(ramp, os.path.join(os.path.dirname(ramp.path), "missing", "ramp.sock"))


class Understands(Hooks):
    async def packet_context(self, data):
        if data.startswith(b"{"):
            return None
        if data == b"raise":
            raise ValueError("a bug")
        if data == b"number":
            return 7
        user, _, address = data.decode().partition("@")
        if user == "mallory":
            return "you are not welcome"
        return TunnelContext(tenant="acme", token="secret", addresses=[address], user=user, extension={"role": user})


def test_application_may_understand_another_format():
    with ramping(hooks=Understands()) as ramp:
        assert ramp.client().send(b"ann@100.96.0.7").answer() == {"ok": True, "mtu": 1280}
        (tunnel,) = ramp.opened
        assert (tunnel.user, tunnel.addresses, tunnel.extension) == ("ann", ["100.96.0.7"], {"role": "ann"})
        _, usual = ramp.admitted(extension={"role": "admin"})
        assert (usual.user, usual.extension) == (None, None)


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (b"mallory@100.96.0.7", "you are not welcome"),
        (b"ann@100.96.0.777", "'100.96.0.777' does not appear to be an IPv4 or IPv6 address"),
        (b"ann@127.0.0.1", "127.0.0.1 cannot be a client's address"),
        (b"ann@" + b"1" * 300, "bad context: Expected `str` of length <= 256 - at `$.addresses[0]`"),
        (b"raise", "hook packet_context failed"),
        (b"number", "hook packet_context returned int"),
    ],
)
def test_what_the_application_does_not_understand_is_refused(said, reason):
    with ramping(hooks=Understands()) as ramp:
        assert ramp.client().send(said).refusal() == reason
