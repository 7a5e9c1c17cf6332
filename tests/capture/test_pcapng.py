"""The file format: what is written is what another implementation reads."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.utils import RawPcapNgReader

from oxyctl.capture import pcapng

HEAD = [
    pcapng.section("oxyctl capture", "Linux 6.1", "lab quick"),
    pcapng.interface(pcapng.RAW_IP, 1000, "laptop:warp0", "node laptop", "tcp port 80"),
    pcapng.interface(pcapng.ETHERNET, 1000, "web:eth0", "node web", None),
]
TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=40)
PACKETS = st.tuples(
    st.integers(0, 1), st.integers(1, 2**63 - 1), st.binary(min_size=1, max_size=100), st.integers(0, 5000), TEXT
)


def blocks_of(data):
    """Type and body of each block; both lengths of each must agree, and nothing is left over."""
    at, found = 0, []
    while at < len(data):
        kind, length = struct.unpack_from("<II", data, at)
        assert length % 4 == 0
        assert struct.unpack_from("<I", data, at + length - 4) == (length,)
        found.append((kind, data[at + 8 : at + length - 4]))
        at += length
    assert at == len(data)
    return found


def options_of(data):
    """By number, from where the options of a block begin to their end mark."""
    at, found = 0, {}
    while True:
        code, length = struct.unpack_from("<HH", data, at)
        if code == 0:
            assert (length, len(data)) == (0, at + 4)
            return found
        found[code] = data[at + 4 : at + 4 + length]
        at += 4 + length + -length % 4


def read(tmp_path, data):
    """Every packet as scapy understands it: data, and what it knows of it."""
    file = tmp_path / "x.pcapng"
    file.write_bytes(data)
    with RawPcapNgReader(str(file)) as reader:
        return list(reader)


@given(packets=st.lists(PACKETS, max_size=8))
def test_every_packet_is_read_back(tmp_path_factory, packets):
    written = [
        pcapng.packet(number, time_ns, data, len(data) + cut, pcapng.packet_options(comment, pcapng.OUTBOUND))
        for number, time_ns, data, cut, comment in packets
    ]
    found = read(tmp_path_factory.mktemp("read"), b"".join([*HEAD, *written]))
    assert len(found) == len(packets)
    for (data, about), (number, time_ns, sent, cut, comment) in zip(found, packets, strict=True):
        assert data == sent
        assert about.tshigh << 32 | about.tslow == time_ns
        assert (about.tsresol, about.wirelen) == (1_000_000_000, len(sent) + cut)
        assert about.linktype == (pcapng.RAW_IP, pcapng.ETHERNET)[number]
        assert about.ifname == (b"laptop:warp0", b"web:eth0")[number]
        assert (about.comments or [about.comment])[0] == comment.encode()
        assert about.direction == pcapng.OUTBOUND


def test_an_interface_says_its_name_its_filter_and_its_nanoseconds():
    [_, (kind, laptop), (_, web)] = blocks_of(b"".join(HEAD))
    assert (kind, *struct.unpack_from("<HHI", laptop)) == (1, pcapng.RAW_IP, 0, 1000)
    options = options_of(laptop[8:])
    assert options == {2: b"laptop:warp0", 3: b"node laptop", 9: b"\x09", 11: b"\0tcp port 80"}
    assert 11 not in options_of(web[8:])


def test_the_last_block_counts_what_was_lost():
    counts = pcapng.Statistics(received=10, dropped=3, delivered=7)
    [(kind, body)] = blocks_of(pcapng.statistics(1, 5, 2**40, counts))
    assert (kind, struct.unpack_from("<I", body)) == (5, (1,))
    options = {code: value for code, value in options_of(body[12:]).items() if code > 3}
    assert {code: int.from_bytes(value, "little") for code, value in options.items()} == {4: 10, 5: 3, 8: 7}


@pytest.mark.parametrize("size", range(1, 9))
def test_blocks_stay_aligned(size):
    options = pcapng.packet_options("x" * size, pcapng.INBOUND)
    [(kind, body)] = blocks_of(pcapng.packet(0, 1, b"y" * size, size, options))
    assert kind == 6
    assert options_of(body[20 + size + -size % 4 :])[1] == b"x" * size
