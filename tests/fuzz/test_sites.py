"""Anything at all into the port of the sites: never an exception, and each datagram goes on, waits, or is counted.

FUZZ_SECONDS makes it go on for that long, with new seeds, which a failure names.
"""

from __future__ import annotations

import itertools
import os
import random
import socket
import time
from typing import Any

import pytest

from proxy.errors import DropReason
from proxy.flow.route_table import RouteTable
from proxy.hooks import HookRunner, Hooks
from proxy.offramps.tunnel import ForwardedFlow, TunnelOffRamp
from proxy.onramps.unconnected import GueRamp
from proxy.packet.icmp_errors import IcmpErrors
from proxy.packet.plane import Plane
from proxy.settings.model import Timeouts
from proxy.settings.sites import GueOnRamp, Route, Site
from proxy.stream.descriptors import Descriptors
from proxy.stream.flow_setup import FlowSetup
from proxy.stream.lifecycle import Lifecycle
from proxy.wire import gue, ip
from proxy.wire.ip import IPPacket
from tests.bridge.pipes import pair
from tests.flows import make_tenant, make_tunnel
from tests.fuzz.mutate import corpus, mutate
from tests.packet.script import Opener

ROUNDS = 6_000
CONTEXT = gue.Context(7, 1, b"token")
FLOWS, BYTES_HELD = 60, 20_000
ROUTES = {"10.50.0.0/24": "clients", "fd00:50::/64": "clients", "10.50.0.8/29": "stream", "10.50.0.10/32": "clients"}
BESIDE = (DropReason.RATE_LIMITED, DropReason.FRAGMENT_TIMEOUT)  # of what was said, not of what came


def free_port(address: str) -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind((address, 0))
        return int(sock.getsockname()[1])


class Poller:
    """Nothing is waited for: the test says when."""

    def watch(self, fd: int, events: int, ready: Any, crashed: Any) -> None:
        self.ready = ready

    def forget(self, fd: int) -> None:
        pass


class Fuzzed:
    """A site and a client of one tenant: packets from the site go to the client, or to sockets, or nowhere."""

    def __init__(self) -> None:
        self.tenant = make_tenant(id=7, flows=FLOWS, new_flows_per_s=1e9, bytes_held=BYTES_HELD)
        self.client = make_tunnel(self.tenant, addresses=["10.50.0.10", "fd00:50::10"], offload=True)
        self.tenant.networks["default"].routes = RouteTable(
            Route(prefix=prefix, via=via) for prefix, via in ROUTES.items()
        )
        self.opener = Opener()
        self.lifecycle = lifecycle = Lifecycle("edge", HookRunner(Hooks()), Descriptors(10_000))
        openers = dict.fromkeys(("tcp", "udp", "icmp", "icmpv6"), self.opener)
        forwarder = TunnelOffRamp(lifecycle, IcmpErrors(), Timeouts())
        plane = Plane(FlowSetup(lifecycle, IcmpErrors(), openers, forwarder), IcmpErrors())
        self.peer = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.peer.bind(("127.0.0.9", 0))
        self.peer.setblocking(False)
        peers, prefixes = [f"127.0.0.9:{self.peer.getsockname()[1]}"], ["100.96.0.0/12", "fd00:96::/32"]
        site = Site(name="berlin", tenant="acme", id=1, token="token", peers=peers, prefixes=prefixes)
        self.address = ("127.0.0.1", free_port("127.0.0.1"))
        self.kernel, self._tun = pair()
        poller: Any = Poller()
        settings = GueOnRamp(listen=f"127.0.0.1:{self.address[1]}", sites=[site])
        self.ramp = GueRamp(settings, {"acme": self.tenant}, plane, poller, self._tun.fileno())
        self.poller = poller

    def close(self) -> None:
        self.ramp.close()
        for tunnel in self.ramp.tunnels:
            tunnel.close()
        for sock in (self.peer, self.kernel, self._tun):
            sock.close()

    def moved(self) -> int:
        """How many packets went on, were kept, or were counted so far."""
        counted = sum(n for reason, n in (self.tenant.drops + self.ramp.drops).items() if reason not in BESIDE)
        return counted + len(self.client.sent) + len(self.opener.packets)

    def give(self, datagram: bytes) -> None:
        before, kept = self.moved(), self.tenant.fragments.held_bytes
        self.peer.sendto(datagram, self.address)
        self.poller.ready(0)
        went = self.moved() - before
        waits = self.tenant.fragments.held_bytes != kept
        assert went >= 1 or waits or self._is_fragment(datagram), datagram
        assert self.tenant.count <= FLOWS
        assert self.tenant.fragments.held_bytes <= BYTES_HELD
        for sent in self.client.sent:
            found = ip.parse(sent, 10, len(sent))
            assert isinstance(found, IPPacket)
            assert len(sent) - 10 <= self.client.mtu
        if len(self.client.sent) + len(self.opener.packets) > 500:
            self.client.sent.clear()
            self.opener.packets.clear()
        while True:
            try:
                self.peer.recv(70_000)
            except BlockingIOError:
                break

    def _is_fragment(self, datagram: bytes) -> bool:
        """A fragment that came twice is neither kept nor counted."""
        header = gue.parse(datagram, 0, len(datagram))
        if isinstance(header, DropReason):
            return False
        packet = ip.parse(datagram, header.length, len(datagram))
        return isinstance(packet, IPPacket) and packet.is_fragment

    def forget(self, rng: random.Random) -> None:
        """Flows end and are forgotten, fragments expire."""
        self.tenant.expire_fragments(time.monotonic() + 20)
        for flow in list(self.tenant.live()):
            if rng.random() < 0.5:
                if isinstance(flow.handler, ForwardedFlow):
                    flow.handler.end("drain")
                else:
                    self.tenant.remove({"tcp": 6, "udp": 17, "icmp": 1, "icmpv6": 58}[flow.protocol], flow)


def datagrams(seed: int) -> list[bytes]:
    found = []
    for packet in corpus(seed):
        version = packet[0] >> 4
        found += [gue.header(version, CONTEXT) + packet] * 3 + [gue.header(version) + packet, packet]
    return found


def fuzz(seed: int, rounds: int) -> Fuzzed:
    rng = random.Random(seed)
    fuzzed, good = Fuzzed(), datagrams(seed)
    headers = [gue.header(version, CONTEXT) for version in (4, 6)]
    bare = corpus(seed)
    try:
        for number in range(rounds):
            if rng.random() < 0.5:  # the header is good, the packet is not
                packet = mutate(rng, bare)
                datagram = headers[packet[:1] > b"\x5f"] + packet
            else:
                datagram = mutate(rng, good)
            fuzzed.give(datagram[:65_000])
            if number % 50 == 49:
                fuzzed.forget(rng)
    finally:
        fuzzed.close()
    return fuzzed


def test_mutated_datagrams_go_on_or_are_counted():
    fuzzed = fuzz(1, ROUNDS)
    assert fuzzed.tenant.opened.keys() >= {"tcp", "udp", "icmp"}
    ramp, tenant = set(fuzzed.ramp.drops), set(fuzzed.tenant.drops)
    assert {DropReason.CONTEXT_MISSING, DropReason.GUE_TRUNCATED, DropReason.GUE_FLAGS, DropReason.GUE_VERSION,
            DropReason.GUE_CONTROL, DropReason.FOREIGN_TENANT, DropReason.CONTEXT_TRUNCATED} <= ramp  # fmt: skip
    assert {DropReason.SPOOFED_SOURCE, DropReason.BAD_IP_CHECKSUM, DropReason.NO_ROUTE, DropReason.TRUNCATED} <= tenant
    assert fuzzed.ramp.tunnels[0].packets_in > ROUNDS / 3
    assert DropReason.PROXY_ERROR not in ramp | tenant


@pytest.mark.slow
@pytest.mark.timeout(0)
@pytest.mark.skipif("FUZZ_SECONDS" not in os.environ, reason="FUZZ_SECONDS says for how long")
def test_mutated_datagrams_for_as_long_as_asked():
    deadline = time.monotonic() + float(os.environ["FUZZ_SECONDS"])
    for seed in itertools.count(random.SystemRandom().randrange(1 << 32)):
        print(f"seed {seed}")
        fuzz(seed, ROUNDS)
        if time.monotonic() > deadline:
            return
