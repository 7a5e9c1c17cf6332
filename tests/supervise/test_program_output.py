"""Logs that never outgrow their bound, and know when what was written."""

from __future__ import annotations

import asyncio
import os
import time

import pytest

from oxyctl.supervise import program_output as output
from oxyctl.supervise.program_output import TIMESTAMP, Log, Pump, rotated, timestamps_of


@pytest.fixture
def log(tmp_path, monkeypatch):
    """A log of 1,000 bytes."""
    monkeypatch.setattr(output, "LOG_BYTES", 1000)
    made = Log(tmp_path / "prog.log")
    yield made
    made.close()


def test_a_full_log_becomes_the_older_one_and_nothing_older_is_kept(log):
    for number in range(100):
        log.write(f"{number:09d}\n".encode() * 10)
    assert log.path.read_text().splitlines()[-1] == "000000099"
    assert (log.path.stat().st_size, rotated(log.path).stat().st_size) == (1000, 1000)
    assert rotated(log.path).read_text().startswith("000000080")
    assert sorted(path.name for path in log.path.parent.iterdir()) == [
        "prog.log",
        "prog.log.1",
        "prog.times",
        "prog.times.1",
    ]


def test_times_say_when_a_byte_came(log, monkeypatch):
    now = 10**18
    monkeypatch.setattr(time, "time_ns", lambda: now)
    log.write(b"first\n")
    now += output.TIMESTAMP_INTERVAL_NS // 2
    log.write(b"with it\n")
    now += output.TIMESTAMP_INTERVAL_NS
    log.write(b"later\n")
    noted = list(TIMESTAMP.iter_unpack(timestamps_of(log.path).read_bytes()))
    assert noted == [(10**18, 0), (now, len(b"first\nwith it\n"))]


def test_many_little_writes_do_not_let_the_times_outgrow_the_log(log, monkeypatch):
    monkeypatch.setattr(output, "MAX_TIMESTAMPS", 10)
    monkeypatch.setattr(output, "TIMESTAMP_INTERVAL_NS", 0)
    for _ in range(35):
        log.write(b".")
    assert timestamps_of(log.path).stat().st_size <= 10 * TIMESTAMP.size
    assert rotated(timestamps_of(log.path)).stat().st_size == 10 * TIMESTAMP.size


def test_without_room_for_another_file_the_log_begins_again(log):
    log.write(b"x" * 900)
    rotated(log.path).mkdir()  # nothing can be renamed to it
    (rotated(log.path) / "file").touch()
    log.write(b"y" * 200)
    assert log.path.read_bytes() == b"y" * 200


def test_a_full_disk_is_not_the_programs_trouble(tmp_path):
    log = Log(tmp_path / "prog.log")
    os.close(log._log)
    log._log = os.open("/dev/full", os.O_WRONLY)
    log.write(b"lost\n")
    log.close()
    assert (tmp_path / "prog.log").read_bytes() == b""


def test_a_pump_takes_everything_up_to_the_end(tmp_path):
    taken = bytearray()

    async def scenario():
        reader, writer = os.pipe()
        ended = asyncio.Event()
        pump = Pump(reader, lambda data: (taken.extend(data), data.endswith(b"end") and ended.set()))
        os.write(writer, b"one ")
        os.write(writer, b"end")
        await asyncio.wait_for(ended.wait(), 20)
        os.write(writer, b" last words")
        pump.finish()
        os.close(writer)
        pump.finish()

    asyncio.run(scenario())
    assert bytes(taken) == b"one end last words"
