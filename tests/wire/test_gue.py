"""GUE headers and the context in them: round trips, known bytes, and each kind of bad one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.errors import DropReason
from proxy.packet.fragment import split
from proxy.wire import gue
from proxy.wire.gue import Context, Gue
from tests.packets import ping_packet, tcp_packet, udp_packet, versions, words

tokens = st.binary(max_size=gue.MAX_TOKEN)
contexts = st.builds(Context, st.none() | words, st.none() | words, st.none() | tokens)


def read(raw):
    return gue.parse(raw, 0, len(raw))


def with_private(private, protocol=4):
    """A version 0 datagram with these bytes of private data, filled up with zeros to whole words."""
    private += bytes(-len(private) % 4)
    return bytes([len(private) // 4, protocol, 0, 0]) + private + udp_packet()


def with_fields(*fields):
    return with_private(b"OX\x01" + b"".join(bytes([kind, len(value)]) + value for kind, value in fields))


@given(versions, st.none() | contexts, st.integers(0, 40))
def test_what_was_built_is_read(version, context, start):
    header = gue.header(version, context)
    raw = bytes(start) + header + tcp_packet(version)
    assert gue.parse(raw, start, len(raw)) == Gue(0, len(header), version, context)
    assert gue.parse(bytearray(raw), start, len(raw)) == Gue(0, len(header), version, context)


def test_known_bytes():
    assert gue.header(4) == bytes.fromhex("00040000")
    assert gue.header(6) == bytes.fromhex("00290000")
    assert gue.header(4, Context(7, 1, b"key")) == bytes.fromhex(
        "05040000 4f5801 0104 00000007 0204 00000001 0303 6b6579"
    )
    assert gue.header(6, Context(tenant=1)) == bytes.fromhex("03290000 4f5801 0104 00000001 000000")


@pytest.mark.parametrize("version", [4, 6])
def test_version_1_is_the_packet_itself(version):
    raw = b"outer" + udp_packet(version)
    assert gue.parse(raw, 5, len(raw)) == Gue(1, 0, version)


@pytest.mark.parametrize("first", [0x50, 0x5F, 0x70, 0x7F])
def test_version_1_before_anything_else_is_dropped(first):
    assert read(bytes([first]) + udp_packet()[1:]) is DropReason.GUE_V1_INNER


def test_zeros_are_no_packet_of_any_version():
    assert read(bytes(40)) is DropReason.GUE_PROTOCOL


@pytest.mark.parametrize("first", [0x80, 0xBF, 0xC0, 0xFF])
def test_versions_2_and_3_are_dropped(first):
    assert read(bytes([first, 4, 0, 0]) + udp_packet()) is DropReason.GUE_VERSION


@pytest.mark.parametrize("first", [0x20, 0x21, 0x3F])
def test_control_messages_are_dropped(first):
    assert read(bytes([first, 4, 0, 0]) + bytes(124) + udp_packet()) is DropReason.GUE_CONTROL


@pytest.mark.parametrize("bit", range(16))
def test_every_flag_is_unknown(bit):
    raw = bytes([1, 4]) + (1 << bit).to_bytes(2, "big") + bytes(4) + udp_packet()
    assert read(raw) is DropReason.GUE_FLAGS


def test_protocol_59_has_its_own_reason():
    assert read(bytes([0, 59, 0, 0]) + udp_packet()) is DropReason.GUE_NO_NEXT_HEADER


@pytest.mark.parametrize("protocol", [0, 1, 6, 17, 47, 58, 255])
def test_other_protocols_are_dropped(protocol):
    assert read(bytes([0, protocol, 0, 0]) + udp_packet()) is DropReason.GUE_PROTOCOL


@pytest.mark.parametrize(("protocol", "sent"), [(4, 6), (41, 4)])
def test_the_packet_is_what_the_protocol_says(protocol, sent):
    assert read(bytes([0, protocol, 0, 0]) + udp_packet(sent)) is DropReason.GUE_INNER


@given(contexts)
def test_truncated_anywhere_in_the_header(context):
    header = gue.header(4, context)
    assert {gue.parse(header + b"E", 0, end) for end in range(len(header) + 1)} == {DropReason.GUE_TRUNCATED}


def test_hlen_past_the_end():
    packet = udp_packet()
    words = len(packet) // 4 + 1
    assert read(bytes([words, 4, 0, 0]) + packet) is DropReason.GUE_TRUNCATED


@given(st.binary(min_size=2, max_size=124).filter(lambda data: data[:2] != b"OX"))
def test_private_data_of_others_is_not_read(private):
    raw = with_private(private)
    assert read(raw) == Gue(0, len(raw) - len(udp_packet()), 4, None)


@pytest.mark.parametrize("private", [b"OX", b"OX\x00\x01", b"OX\x02\x01\x04\x00\x00\x00\x07"])
def test_a_context_of_another_version(private):
    assert read(with_private(private)) is DropReason.CONTEXT_VERSION


@pytest.mark.parametrize("private", [b"OX\x01\x01", b"OX\x01\x01\x05abcd\x00"[:8], b"OX\x01\x03\xff1234567",
                                     b"OX\x01\x01\x04\x00\x00\x00\x07\x00\x00\x02"])  # fmt: skip
def test_a_field_that_ends_behind_the_header(private):
    assert len(private) % 4 == 0
    assert read(with_private(private)) is DropReason.CONTEXT_TRUNCATED


@pytest.mark.parametrize("kind", [1, 2, 3, 200])
def test_a_field_that_is_there_twice(kind):
    assert read(with_fields((kind, b"abcd"), (9, b""), (kind, b"abcd"))) is DropReason.CONTEXT_REPEATED


@pytest.mark.parametrize("kind", [1, 2])
@pytest.mark.parametrize("value", [b"", b"\x07", b"\x00\x00\x00\x00\x07"])
def test_a_number_has_four_bytes(kind, value):
    assert read(with_fields((kind, value))) is DropReason.CONTEXT_BAD_FIELD


def test_fields_of_others_are_kept():
    found = read(with_fields((9, b"extra"), (1, b"\0\0\0\7"), (200, b"")))
    assert isinstance(found, Gue)
    assert found.context == Context(7, others=((9, b"extra"), (200, b"")))
    assert read(gue.header(4, found.context) + udp_packet()).context == found.context


def test_padding_may_stand_between_fields():
    found = read(with_private(b"OX\x01\x00\x00\x01\x04\x00\x00\x00\x07\x00\x02\x04\x00\x00\x00\x09"))
    assert found.context == Context(7, 9)


def test_the_longest_context():
    context = Context(2**32 - 1, 0, b"t" * gue.MAX_TOKEN)
    header = gue.header(4, context)
    assert len(header) == 128
    assert read(header + udp_packet()).context == context
    with pytest.raises(ValueError, match="at most 124 bytes, this one 128"):
        gue.header(4, Context(1, 2, b"t" * (gue.MAX_TOKEN + 1)))
    with pytest.raises(ValueError, match="at most 255 bytes"):
        gue.header(4, Context(token=bytes(256)))


@given(words)
def test_source_ports_are_ephemeral_and_follow_the_hash(flow_hash):
    assert 49_152 <= gue.source_port(flow_hash) <= 65_535
    assert gue.source_port(flow_hash) != gue.source_port(flow_hash + 1)


@pytest.mark.parametrize("version", [4, 6])
def test_entropy_is_of_the_flow(version):
    def of(raw):
        return gue.entropy(bytearray(3) + raw, 3)

    flow = of(tcp_packet(version))
    assert of(tcp_packet(version, b"data", seq=7, flags="PA", ttl=3)) == flow
    assert of(tcp_packet(version, sport=40_001)) != flow
    assert of(tcp_packet(version, dport=81)) != flow
    assert of(ping_packet(version, seq=1)) == of(ping_packet(version, seq=2))
    assert of(ping_packet(version)) != of(ping_packet(10 - version))


def test_fragments_of_a_datagram_stay_together():
    pieces = split(udp_packet(4, bytes(3000)), 1280, 7) + split(udp_packet(6, bytes(3000)), 1280, 7)
    assert len({gue.entropy(piece, 0) for piece in pieces}) == 2


@given(st.binary(max_size=140))
def test_arbitrary_bytes_never_raise(raw):
    found = read(raw)
    assert isinstance(found, (Gue, DropReason))
    assert read(bytearray(raw)) == found
    if isinstance(found, Gue):
        assert raw[found.length] >> 4 == found.inner
