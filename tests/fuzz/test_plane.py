"""Anything at all through pump and packet plane: never an exception, tables bounded, each packet passed or counted.

FUZZ_SECONDS makes it go on for that long, with new seeds, which a failure names. FUZZ_PACKETS=10000000 gives it so
many, half with offload and half without, shared by seed among as many processes as FUZZ_PROCESSES (1) says.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import time
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.errors import DropReason
from proxy.flow.path import Path
from proxy.packet.translate import set_rewrite
from proxy.wire import ip
from proxy.wire.ip import IPPacket
from tests.bridge.pipes import Ramp
from tests.fuzz.mutate import corpus, mutate
from tests.packet.script import Script
from tests.packets import parsed, recomputed

PACKETS = corpus(1)
ROUNDS = 10_000
FLOWS, BYTES_HELD = 40, 20_000
MODES = pytest.mark.parametrize("offload", [False, True], ids=["plain", "offload"])


class Fuzzed:
    """A ramp's pump before a packet plane; TCP flows get a memoised path as soon as they are open."""

    def __init__(self, offload: bool) -> None:
        self.script = Script(offload=offload, flows=FLOWS, new_flows_per_s=100_000, bytes_held=BYTES_HELD)
        self.script.tunnel.send = self._reply
        self.ramp = Ramp(self.script.tunnel.header_bytes, self._slow)
        self.reasons: Counter[DropReason | None] = Counter()

    def _reply(self, packet: bytes) -> None:
        """What we send ourselves is always a good packet."""
        bare = packet[self.script.tunnel.header_bytes :]
        assert isinstance(ip.parse(bare, 0, len(bare)), IPPacket)
        assert len(bare) <= 1280

    def _slow(self, buffer: bytearray, end: int) -> None:
        script = self.script
        passed = len(script.opener.packets)
        reason = script.plane.handle(script.tunnel, buffer, end, script.now, int(script.now * 1e9))
        self.reasons[reason] += 1
        if reason is None and len(script.opener.packets) == passed:
            found = ip.parse(buffer, self.ramp.header_bytes, end)
            assert isinstance(found, IPPacket)
            assert found.is_fragment, "a packet was neither passed nor counted nor kept"
        if reason is None and len(script.opener.packets) > passed:
            self._check_passed(script.opener.packets[-1][1])

    def _check_passed(self, packet: bytes) -> None:
        """What a flow gets is whole, and from the client."""
        found = parsed(packet)
        assert self.script.tunnel.owns(found.source)
        assert found.end == len(packet)
        assert not found.is_fragment
        self.script.opener.packets.clear()
        flow = self.script.opener.opened[-1] if self.script.opener.opened else None
        if flow is not None and flow.protocol == "tcp" and flow.key not in self.ramp.paths:
            path = self.ramp.paths[flow.key] = Path()
            set_rewrite(path, flow.key, flow.key[::-1])

    def give(self, datagram: bytes) -> None:
        translated = len(self.ramp.give(datagram))
        self.reasons[None] += translated
        tenant = self.script.tenant
        assert tenant.count <= FLOWS
        assert 0 <= tenant.fragments.held_bytes <= BYTES_HELD

    def pass_time(self, rng: random.Random) -> None:
        """Flows end and are forgotten, fragments expire."""
        script = self.script
        script.now += rng.random() * 5
        script.tenant.expire_fragments(script.now)
        for flow in list(script.tenant.live()):
            if rng.random() < 0.2:
                flow.close("client_closed", 1)
            elif flow.is_ended:
                script.tenant.remove({"tcp": 6, "udp": 17, "icmp": 1, "icmpv6": 58}[flow.protocol], flow)
                self.ramp.paths.pop(flow.key, None)


def fuzz(seed: int, offload: bool, rounds: int) -> Fuzzed:
    rng = random.Random(seed)
    fuzzed = Fuzzed(offload)
    given = 0
    with fuzzed.ramp:
        for number in range(rounds):
            header = b""
            if offload:
                header = bytes(10) if rng.random() < 0.7 else bytes(rng.choice((0, 1, 5, 20, 255)) for _ in range(10))
            datagram = header + mutate(rng, PACKETS)
            given += 1
            fuzzed.give(datagram)
            if number % 50 == 49:
                fuzzed.pass_time(rng)
    assert sum(fuzzed.reasons.values()) == given
    return fuzzed


@MODES
def test_mutated_packets_are_passed_or_counted(offload):
    fuzzed = fuzz(1, offload, ROUNDS)
    reasons = set(fuzzed.reasons)
    assert {None, DropReason.BAD_IP_CHECKSUM, DropReason.TRUNCATED, DropReason.SPOOFED_SOURCE} <= reasons
    assert len(reasons) > 10  # the packets are not all refused at the door


@pytest.mark.slow
@pytest.mark.timeout(0)
@pytest.mark.skipif("FUZZ_SECONDS" not in os.environ, reason="FUZZ_SECONDS says for how long")
@MODES
def test_mutated_packets_for_as_long_as_asked(offload):
    deadline = time.monotonic() + float(os.environ["FUZZ_SECONDS"])
    while time.monotonic() < deadline:
        seed = random.SystemRandom().randrange(1 << 32)
        print(f"seed {seed}")
        fuzz(seed, offload, ROUNDS)


def fuzz_share(share: tuple[int, int]) -> Counter[DropReason | None]:
    """What became of so many packets, in rounds of both modes, each with a seed of its own: (first seed, packets)."""
    seed, packets = share
    reasons: Counter[DropReason | None] = Counter()
    for number, start in enumerate(range(0, packets, ROUNDS)):
        try:
            reasons += fuzz(seed + number, number % 2 == 1, min(ROUNDS, packets - start)).reasons
        except BaseException as error:
            error.add_note(f"seed {seed + number}, offload {number % 2 == 1}")
            raise
    return reasons


@pytest.mark.slow
@pytest.mark.timeout(0)
@pytest.mark.skipif("FUZZ_PACKETS" not in os.environ, reason="FUZZ_PACKETS says how many")
def test_as_many_mutated_packets_as_asked():
    packets, processes = int(os.environ["FUZZ_PACKETS"]), int(os.environ.get("FUZZ_PROCESSES", "1"))
    share = -(-packets // processes)
    shares = [(number << 32, min(share, packets - number * share)) for number in range(processes)]
    began = time.monotonic()
    if processes == 1:
        results = [fuzz_share(shares[0])]
    else:
        with multiprocessing.get_context("spawn").Pool(processes) as pool:
            results = pool.map(fuzz_share, shares)
    reasons = sum(results, Counter())
    print(f"\n{reasons.total():,} packets in {time.monotonic() - began:.0f} s")
    for reason, count in reasons.most_common():
        print(f"{count:12,}  {reason or 'passed, or a fragment kept'}")
    assert reasons.total() == packets


@given(st.lists(st.binary(max_size=100), max_size=10), st.booleans())
def test_arbitrary_datagrams_never_raise(datagrams, offload):
    fuzzed = Fuzzed(offload)
    with fuzzed.ramp:
        for datagram in datagrams:
            fuzzed.give(datagram)
        assert sum(fuzzed.reasons.values()) == len(datagrams)


def test_corpus_is_good():
    """A corpus of broken packets would test the first check only."""
    assert all(isinstance(ip.parse(packet, 0, len(packet)), IPPacket) for packet in PACKETS)
    whole = [packet for packet in PACKETS if not parsed(packet).is_fragment and parsed(packet).protocol in (6, 17)]
    assert all(recomputed(packet) == packet for packet in whole)
