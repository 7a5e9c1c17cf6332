"""Entries from netlink and to netlink: what is remembered of layouts changes nothing, and nothing malformed raises."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.wire import ctnetlink
from proxy.wire.ctnetlink import Decoder, Entry
from proxy.wire.netlink import attribute, header, message, messages, nest

V4, V6 = b"\x0a\0\0\1\xc0\0\2\1", bytes(range(32))
ENTRIES = [
    Entry(6, V4 + b"\x04\0\0\x50", V4[4:] + V4[:4] + b"\0\x50\x04\0", 7, 1, 0x18E, 30, 1, 2, 3, 4, 3),
    Entry(6, V4 + b"\x04\0\0\x50", V4[4:] + V4[:4] + b"\0\x50\x04\0", 0, 1, 0x18E, 30, 1, 2, 3, 4, 3),
    Entry(17, V4 + b"\x04\0\0\x35", V4[4:] + V4[:4] + b"\0\x35\x04\0", 9, 2**32 - 1, 8, 30, 2**40, 2**50),
    Entry(17, V6 + b"\x04\0\0\x35", V6[16:] + V6[:16] + b"\0\x35\x04\0", 65_535, 5, 8, 30),
    Entry(1, V4 + b"\x12\x34", V4[4:] + V4[:4] + b"\x12\x34", 7, 0, 8, 30, 1, 84, 1, 84),
    Entry(58, V6 + b"\x12\x34", V6[16:] + V6[:16] + b"\x12\x34", 0, 0, 8, 30),
    Entry(50, V4, V4[4:] + V4[:4], 3, 0, 8, 30),
]


def body_of(entry: Entry, *, counted: bool = True) -> bytes:
    """As the kernel would send it."""
    body = ctnetlink.creation(entry)
    for kind, at in ((ctnetlink.COUNTERS_ORIG, 7), (ctnetlink.COUNTERS_REPLY, 9)):
        if counted:
            body += nest(kind, *(attribute(n, entry[at + n - 1].to_bytes(8, "big")) for n in (1, 2)))
    return body


@pytest.mark.parametrize("entry", ENTRIES)
def test_an_entry_is_read_as_it_was_written(entry):
    decoder, body = Decoder(), body_of(entry)
    assert decoder.parse(body, 0, len(body)) == entry
    assert decoder.parse(bytearray(b"before" + body + b"behind"), 6, 6 + len(body)) == entry


def test_what_is_not_counted_is_zero_and_a_zone_of_both_directions_is_a_zone():
    body = body_of(ENTRIES[1], counted=False) + attribute(ctnetlink.ZONE, b"\0\x09")
    assert Decoder().parse(body, 0, len(body)) == Entry(*ENTRIES[1][:7])._replace(zone=9, tcp_state=3)


@given(st.sampled_from(ENTRIES), st.data())
def test_a_decoder_that_has_learned_reads_what_a_new_one_reads(entry, data):
    decoder, body = Decoder(), bytearray(body_of(entry))
    decoder.parse(body, 0, len(body))
    for _ in range(data.draw(st.integers(1, 3))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    assert decoder.parse(body, 0, len(body)) == Decoder().parse(body, 0, len(body))


@pytest.mark.parametrize("entry", ENTRIES)
def test_half_a_tuple_is_no_entry(entry):
    body, whole = body_of(entry), len(ctnetlink.creation(entry))
    decoder = Decoder()
    decoder.parse(body, 0, len(body))
    shorter = [decoder.parse(body, 0, end) for end in range(len(body))]
    assert shorter[:40] == [None] * 40
    assert all(found is None or found[:3] == entry[:3] for found in shorter)
    assert shorter[whole] == Entry(*entry[:7], tcp_state=entry.tcp_state)


@given(st.binary(max_size=300))
def test_arbitrary_bytes_are_no_entry_or_a_whole_one(body):
    found = Decoder().parse(body, 0, len(body))
    assert found is None or len(found.original) in (8, 10, 12, 32, 34, 36)


@given(st.binary(max_size=200), st.integers(0, 40))
def test_messages_stay_within_what_was_received(garbage, cut):
    good = message(256, 0, 1, b"body")
    buffer = good + garbage
    found = list(messages(buffer, len(buffer)))
    assert buffer[found[0].start : found[0].end] == b"body"
    assert all(header.size <= each.start <= each.end <= len(buffer) for each in found)
    assert list(messages(good, min(cut, len(good) - 1))) == []


@pytest.mark.parametrize(("entry", "kind"), [(ENTRIES[0], "NAT_SRC"), (ENTRIES[3], "NAT_SRC"), (ENTRIES[0], "NAT_DST")])
def test_a_translation_is_asked_for_only_where_the_tuples_differ(entry, kind):
    size = 4 if len(entry.original) < 16 else 16
    plain = ctnetlink.creation(entry)
    at = size if kind == "NAT_SRC" else 0
    reply = entry.reply[:at] + bytes(size - 1) + b"\x63" + entry.reply[at + size :]
    translated = ctnetlink.creation(entry._replace(reply=reply))
    assert translated.startswith(plain)
    assert translated[len(plain) + 2] == getattr(ctnetlink, kind)
    assert bytes(size - 1) + b"\x63" in translated[len(plain) :]
