"""The virtio-net header: what we write, and which lies are seen before the kernel gets them."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.wire import virtio

header = struct.Struct("<BBHHHH")


@given(st.sampled_from([20, 40]), st.integers(1, 65_000))
def test_udp_header_says_where_the_checksum_stands(ip_header, segment):
    assert header.unpack(virtio.udp_header(ip_header)) == (1, 0, ip_header + 8, 0, ip_header, 6)
    assert header.unpack(virtio.udp_header(ip_header, segment)) == (1, 5, ip_header + 8, segment, ip_header, 6)
    assert virtio.gso_size(virtio.udp_header(ip_header, segment)) == segment
    assert virtio.gso_size(virtio.udp_header(ip_header)) == 0
    assert virtio.is_plausible(virtio.udp_header(ip_header, segment), ip_header + 8 + segment)


def test_size_without_a_type_means_nothing():
    assert virtio.gso_size(header.pack(0, 0, 0, 1200, 0, 0)) == 0


@pytest.mark.parametrize(
    ("fields", "plausible"),
    [
        ((0, 0, 0, 0, 0, 0), True),
        ((1, 0, 0, 0, 20, 16), True),
        ((1, 0, 0, 0, 82, 16), True),  # the field's two bytes are the packet's last
        ((1, 0, 0, 0, 83, 16), False),
        ((1, 0, 0, 0, 0xFFFF, 0xFFFF), False),
        ((0, 0, 0, 0, 0xFFFF, 0xFFFF), True),  # no checksum is asked for: the offsets mean nothing
        ((1, 1, 54, 1240, 20, 16), True),
        ((1, 0x81, 54, 1240, 20, 16), True),  # with ECN
        ((1, 4, 74, 1240, 40, 16), True),
        ((1, 5, 28, 1240, 20, 6), True),
        ((1, 1, 101, 1240, 20, 16), False),  # headers longer than the packet
        ((1, 1, 54, 0, 20, 16), False),  # segments of nothing
        ((0, 1, 54, 1240, 0, 0), False),  # segmentation without a checksum to complete
        ((1, 2, 54, 1240, 20, 16), False),
        ((1, 3, 54, 1240, 20, 16), False),  # UFO is gone from Linux
        ((1, 0x40, 54, 1240, 20, 16), False),
        ((1, 0xFF, 54, 1240, 20, 16), False),
    ],
)
def test_is_plausible_of_a_packet_of_100_bytes(fields, plausible):
    assert virtio.is_plausible(header.pack(*fields), 100) is plausible


@given(st.binary(min_size=10, max_size=10), st.integers(0, 70_000))
def test_plausible_offsets_lie_inside_the_packet(raw, size):
    flags, kind, head, segment, start, offset = header.unpack(raw)
    if virtio.is_plausible(raw, size):
        assert not flags & 1 or start + offset + 2 <= size
        assert not kind or (segment and head <= size)
