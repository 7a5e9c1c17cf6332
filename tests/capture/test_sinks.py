"""Where blocks go: what is there is whole, whatever happens to the disk or to the reader."""

from __future__ import annotations

import errno
import os
import threading

import pytest

from oxyctl.capture import sinks
from oxyctl.capture.sinks import FileSink, PipeSink, ReaderGone, RingSink, create, sink_to
from oxyctl.errors import OxyctlError


@pytest.fixture
def wake():
    fd = os.eventfd(0, os.EFD_NONBLOCK)
    yield fd
    os.close(fd)


def blocks(*sizes):
    """Blocks that tell which they are."""
    return [bytes([number]) * size for number, size in enumerate(sizes, 1)]


def test_a_file_holds_what_was_written(tmp_path):
    sink = FileSink(create(tmp_path / "x"), "x")
    sink.write(blocks(3, 4))
    sink.close([b"end"])
    assert (tmp_path / "x").read_bytes() == b"\1\1\1\2\2\2\2end"


def test_a_full_disk_leaves_whole_blocks(tmp_path, monkeypatch):
    sink = FileSink(create(tmp_path / "x"), "x")
    room = 10
    write = os.write

    def limited(fd, data):
        nonlocal room
        if room == 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        written = write(fd, data[:room])
        room -= written
        return written

    monkeypatch.setattr(sinks.os, "write", limited)
    with pytest.raises(OxyctlError, match="x: the disk is full"):
        sink.write(blocks(4, 4, 4))
    assert (tmp_path / "x").read_bytes() == b"\1\1\1\1\2\2\2\2"
    room = 100
    sink.close([b"end"])
    assert (tmp_path / "x").read_bytes() == b"\1\1\1\1\2\2\2\2end"


def test_what_stood_in_the_file_before_stays(tmp_path, monkeypatch):
    file = tmp_path / "x"
    file.write_bytes(b"before")
    fd = os.open(file, os.O_WRONLY)
    os.lseek(fd, 0, os.SEEK_END)
    sink = FileSink(fd, "x")
    monkeypatch.setattr(sinks.os, "write", lambda fd, data: (_ for _ in ()).throw(OSError(errno.EDQUOT, "quota")))
    with pytest.raises(OxyctlError, match="quota"):
        sink.write([b"more"])
    monkeypatch.undo()
    sink.close([])
    assert file.read_bytes() == b"before"


def test_a_file_that_cannot_be_made_is_said(tmp_path):
    with pytest.raises(OxyctlError, match="Is a directory"):
        create(tmp_path)


def test_a_device_that_is_full(wake):
    sink = sink_to(os.open("/dev/full", os.O_WRONLY), "/dev/full", wake)
    with pytest.raises(OxyctlError, match="the disk is full"):
        sink.write([b"x"])
    sink.close([])


def test_a_reader_that_goes_away(wake):
    reader, writer = os.pipe()
    sink = sink_to(writer, "standard output", wake)
    assert isinstance(sink, PipeSink)
    assert sink.has_hang_up
    os.close(reader)
    with pytest.raises(ReaderGone):
        sink.write([b"x"])
    with pytest.raises(ReaderGone):
        sink.close([b"x"])


def test_a_slow_reader_gets_everything(wake):
    reader, writer = os.pipe()
    sink = sink_to(writer, "standard output", wake)
    data = os.urandom(1 << 20)
    writing = threading.Thread(target=lambda: (sink.write([data]), sink.close([b"end"])))
    writing.start()
    with os.fdopen(reader, "rb") as pipe:
        assert pipe.read() == data + b"end"
    writing.join()


def test_a_reader_that_stops_reading_does_not_keep_a_capture_from_ending(wake, monkeypatch):
    monkeypatch.setattr(sinks, "READER_TIMEOUT_S", 0.05)
    reader, writer = os.pipe()
    sink = sink_to(writer, "standard output", wake)
    os.eventfd_write(wake, 1)
    with pytest.raises(OxyctlError, match="stopped reading"):
        sink.write([bytes(1 << 20)])
    os.close(reader)
    with pytest.raises(ReaderGone):
        sink.close([b"x"])


def test_others_who_write_to_the_pipe_do_not_find_it_non_blocking(wake):
    reader, writer = os.pipe()
    other = os.dup(writer)
    sink = sink_to(writer, "standard output", wake)
    assert os.get_blocking(other)
    sink.close([])
    os.close(other)
    os.close(reader)


def test_a_ring_is_bounded(tmp_path):
    head = [b"h" * 8]
    ring = RingSink(tmp_path / "x.pcapng", 8 + sinks.STATISTICS_BYTES + 20, 3, head)
    ring.write(blocks(*[10] * 7))
    ring.close([b"e" * sinks.STATISTICS_BYTES])
    files = sorted(tmp_path.iterdir())
    assert [file.name for file in files] == ["x-00002.pcapng", "x-00003.pcapng", "x-00004.pcapng"]
    assert ring.newest == files[-1]
    assert [file.read_bytes()[:8] for file in files] == head * 3
    kept = b"".join(file.read_bytes()[8:] for file in files)
    assert kept == b"".join(blocks(*[10] * 7)[2:]) + b"e" * sinks.STATISTICS_BYTES
    assert max(file.stat().st_size for file in files) <= 8 + sinks.STATISTICS_BYTES + 20


def test_a_packet_larger_than_a_ring_file_is_kept_in_one_of_its_own(tmp_path):
    ring = RingSink(tmp_path / "x.pcapng", 50, 9, [b"h"])
    ring.write(blocks(1000, 2000))
    ring.close([])
    assert [file.stat().st_size for file in sorted(tmp_path.iterdir())] == [1001, 2001]
