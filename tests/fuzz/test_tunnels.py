"""Anything at all as GUE or GRE: never an exception, and each datagram read as a reader read it that has no shortcuts.

FUZZ_SECONDS makes it go on for that long, with new seeds, which a failure names.
"""

from __future__ import annotations

import os
import random
import time

import pytest

from proxy.errors import DropReason
from proxy.wire import ecn, gre, gue
from proxy.wire.gre import Gre
from proxy.wire.gue import Context, Gue
from tests.fuzz.mutate import corpus, mutate
from tests.packets import rfc1071

ROUNDS = 10_000
D = DropReason
OF_TUNNELS = {D.GRE_KEY, D.GRE_SEQUENCE, D.CONTEXT_MISSING}  # which a packet alone cannot be told for


def tunnelled(seed):
    """Good datagrams of both formats, with every option."""
    rng = random.Random(seed)
    gues, gres = [], []
    for packet in corpus(seed):
        version = packet[0] >> 4
        for context in (None, Context(rng.randrange(2**32)), Context(7, 1, rng.randbytes(rng.randrange(40)))):
            gues.append(gue.header(version, context) + packet)
        gues.append(packet)
        for options in range(8):
            key, sequence = (rng.randrange(2**32) if options & bit else None for bit in (1, 2))
            gres.append(gre.header(version, packet, key=key, sequence=sequence, checksum=bool(options & 4)) + packet)
    return gues, gres


def slow_gue(raw):
    """The draft, read from the top to the bottom."""
    if not raw:
        return D.GUE_TRUNCATED
    match raw[0] >> 6:
        case 1:
            return (1, 0, raw[0] >> 4, None) if raw[0] >> 4 in (4, 6) else D.GUE_V1_INNER
        case 2 | 3:
            return D.GUE_VERSION
    if raw[0] & 0x20:
        return D.GUE_CONTROL
    length = 4 + 4 * (raw[0] & 0x1F)
    if len(raw) <= length:
        return D.GUE_TRUNCATED
    if raw[2] or raw[3]:
        return D.GUE_FLAGS
    if raw[1] not in (4, 41):
        return D.GUE_NO_NEXT_HEADER if raw[1] == 59 else D.GUE_PROTOCOL
    context = slow_context(list(raw[4:length]))
    inner = {4: 4, 41: 6}[raw[1]]
    if isinstance(context, DropReason):
        return context
    return (0, length, inner, context) if raw[length] >> 4 == inner else D.GUE_INNER


def slow_context(left):
    if bytes(left[:2]) != b"OX":
        return None
    if left[2:3] != [1]:
        return D.CONTEXT_VERSION
    left, fields = left[3:], []
    while left:
        kind = left.pop(0)
        if kind == 0:
            continue
        if not left or len(left) - 1 < left[0]:
            return D.CONTEXT_TRUNCATED
        length = left.pop(0)
        if kind in dict(fields):
            return D.CONTEXT_REPEATED
        fields.append((kind, bytes(left[:length])))
        del left[:length]
    known = dict(fields)
    if any(len(known.get(kind, bytes(4))) != 4 for kind in (1, 2)):
        return D.CONTEXT_BAD_FIELD
    tenant, site = (int.from_bytes(known[kind], "big") if kind in known else None for kind in (1, 2))
    return Context(tenant, site, known.get(3), tuple(field for field in fields if field[0] > 3))


def slow_gre(raw):
    """RFC 2784 and RFC 2890, read from the top to the bottom."""
    if len(raw) < 4:
        return D.GRE_TRUNCATED
    bits = f"{int.from_bytes(raw[:2], 'big'):016b}"
    words = [raw[at : at + 4] for at in range(4, 4 + 4 * (bits[0] + bits[2:4]).count("1"), 4)]
    length = 4 + 4 * len(words)
    if len(raw) < length:
        return D.GRE_TRUNCATED
    if bits[13:] != "000":
        return D.GRE_VERSION
    if "1" in bits[1] + bits[4:6]:
        return D.GRE_ROUTING
    inner = {b"\x08\x00": 4, b"\x86\xdd": 6}.get(raw[2:4])
    if inner is None:
        return D.GRE_PROTOCOL
    if bits[0] == "1" and (words.pop(0) is None or rfc1071(raw)):
        return D.GRE_CHECKSUM
    key = int.from_bytes(words.pop(0), "big") if bits[2] == "1" else None
    sequence = int.from_bytes(words.pop(0), "big") if bits[3] == "1" else None
    if len(raw) == length or raw[length] >> 4 != inner:
        return D.GRE_INNER
    return (length, inner, key, sequence, bits[0] == "1")


def fast_gue(buffer, start, end):
    found = gue.parse(buffer, start, end)
    return (found.version, found.length, found.inner, found.context) if isinstance(found, Gue) else found


def fast_gre(buffer, start, end):
    found = gre.parse(buffer, start, end)
    if not isinstance(found, Gre):
        return found
    return (found.length, found.inner, found.key, found.sequence, found.has_checksum)


GUES, GRES = tunnelled(1)
FORMATS = pytest.mark.parametrize(
    ("good", "fast", "slow"), [(GUES, fast_gue, slow_gue), (GRES, fast_gre, slow_gre)], ids=["gue", "gre"]
)


def fuzz(good, fast, slow, seed):
    """What became of mutations of `good`: None, or the reason."""
    rng, seen = random.Random(seed), set()
    for number in range(ROUNDS):
        raw = mutate(rng, good)
        around = bytearray(rng.randbytes(8) + raw + rng.randbytes(8))  # what lies outside must not matter
        found = fast(around, 8, 8 + len(raw))
        assert found == slow(raw), f"seed {seed}, packet {number}: {raw.hex()}"
        seen.add(found if isinstance(found, DropReason) else None)
    return seen


@FORMATS
def test_mutated_datagrams_are_read_as_the_documents_say(good, fast, slow):
    names = ("gue", "context") if fast is fast_gue else ("gre",)
    expected = {None, *(reason for reason in DropReason if reason.startswith(names))}
    assert fuzz(good, fast, slow, 1) == expected - OF_TUNNELS


@pytest.mark.slow
@pytest.mark.timeout(0)
@pytest.mark.skipif("FUZZ_SECONDS" not in os.environ, reason="FUZZ_SECONDS says for how long")
@FORMATS
def test_mutated_datagrams_for_as_long_as_asked(good, fast, slow):
    deadline = time.monotonic() + float(os.environ["FUZZ_SECONDS"])
    while time.monotonic() < deadline:
        fuzz(good, fast, slow, random.SystemRandom().randrange(1 << 32))


@FORMATS
def test_random_datagrams_are_read_as_the_documents_say(good, fast, slow):
    rng = random.Random(2)
    for _ in range(ROUNDS):
        raw = bytearray(rng.randbytes(rng.randrange(160)))
        if raw:
            raw[0] = rng.choice([0, 1, 3, 0x20, 0x30, 0x45, 0x60, 0x80, 0xA0, raw[0]])
        raw[1:4] = rng.choice([raw[1:4], b"\x04\0\0", b"\x29\0\0", b"\x00\x08\x00", b"\x00\x86\xdd"])
        if rng.random() < 0.5:
            raw[4:7] = b"OX\x01"
        assert fast(raw, 0, len(raw)) == slow(bytes(raw)), raw.hex()


def test_marks_of_any_packet_that_a_header_announces():
    rng = random.Random(3)
    for packet in GUES:
        buffer = bytearray(mutate(rng, [packet]))
        found = gue.parse(buffer, 0, len(buffer))
        if isinstance(found, Gue) and len(buffer) - found.length >= 20:
            reason = ecn.arrive(buffer, found.length, rng.randrange(256))
            assert reason in (None, DropReason.ECN_NOT_CAPABLE)
