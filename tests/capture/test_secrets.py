"""Secrets of TLS sessions in a capture: read as they are written, and before the packets that they decrypt."""

from __future__ import annotations

import struct

from oxyctl.capture import pcapng
from oxyctl.capture.secrets import Secrets
from oxyctl.capture.sinks import RingSink
from oxyctl.capture.writers import PcapngWriter
from tests.capture.test_pcapng import HEAD, blocks_of

LINE = b"CLIENT_RANDOM " + b"0" * 64 + b" " + b"1" * 96 + b"\n"


def test_a_block_as_the_format_has_it():
    ((kind, body),) = blocks_of(pcapng.tls_secrets(LINE))
    assert (kind, struct.unpack_from("<II", body)) == (10, (0x544C534B, len(LINE)))
    assert body[8 : 8 + len(LINE)] == LINE
    assert len(body) % 4 == 0


def test_whole_lines_are_taken_as_they_come(tmp_path):
    path, found = tmp_path / "keys", []
    secrets = Secrets([path, tmp_path / "missing"], found.append)
    secrets.poll()
    path.write_bytes(LINE + LINE[:20])
    secrets.poll()
    secrets.poll()
    path.write_bytes(LINE + LINE)
    secrets.poll()
    assert found == [LINE, LINE]


def test_each_file_of_a_ring_has_them_before_its_packets(tmp_path):
    path = tmp_path / "keys"
    path.write_bytes(LINE)
    sink = RingSink(tmp_path / "ring.pcapng", 16 << 10, 9, HEAD)
    writer = PcapngWriter(sink, [])
    writer.before_packets = Secrets([path], writer.secrets).poll
    writer.packets([])
    for _ in range(3):
        sink.write([pcapng.packet(0, 1, bytes(9_000), 9_000, pcapng.packet_options("x", 1))])
    sink.close([])
    files = sorted(tmp_path.glob("ring-*.pcapng"))
    assert len(files) > 1
    for file in files:
        kinds = [kind for kind, _ in blocks_of(file.read_bytes())]
        assert kinds[:4] == [0x0A0D0D0A, 1, 1, 10]
