"""Recordings of terminals: characters, secrets, bounds and full disks."""

from __future__ import annotations

import json
import os

import pytest

from proxy.inspect.ssh.recording import Recorder


class Tape:
    def __init__(self, path, **more):
        self.path, self.failures, self.now = path, [], 100.0
        settings = {"takes_input": True, "most": 1 << 20, "failed": self.failures.append, "clock": lambda: self.now}
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
        self.recorder = Recorder(descriptor, (80, 24), "xterm", **{**settings, **more})

    def events(self):
        self.recorder.close()
        header, *events = map(json.loads, self.path.read_text().splitlines())
        assert (header["version"], header["width"], header["height"]) == (2, 80, 24)
        return events

    def typed(self):
        return "".join(data for _, code, data in self.events() if code == "i")


@pytest.fixture
def tape(tmp_path):
    return Tape(tmp_path / "a.cast")


def test_times_count_from_the_start_and_sizes_are_noted(tape):
    tape.now = 101.5
    tape.recorder.from_origin(b"hello")
    tape.recorder.resized(132, 43)
    assert tape.events() == [[1.5, "o", "hello"], [1.5, "r", "132x43"]]


def test_no_character_is_split(tape):
    for byte in "é€😀".encode():
        tape.recorder.from_origin(bytes([byte]))
    assert [data for _, _, data in tape.events()] == ["é", "€", "😀"]


def test_what_is_no_utf_8_is_replaced(tape):
    tape.recorder.from_origin(b"a\xffb\xe2")
    assert "".join(data for _, _, data in tape.events()) == "a\ufffdb\ufffd"


def test_what_is_echoed_is_noted_and_passes_unchanged(tape):
    for each in b"ls", b"\r":
        assert tape.recorder.from_client(each) == each
    assert tape.recorder.from_origin(b"ls\r\nfile\r\n$ ") == b"ls\r\nfile\r\n$ "
    assert tape.typed() == "ls\r"


@pytest.mark.parametrize("echo", [b"\r\n", b"\r\nSorry, try again.\r\n[sudo] password: "])
def test_a_line_that_is_not_echoed_is_left_out(tape, echo):
    for byte in b"hunter2\r":
        tape.recorder.from_client(bytes([byte]))
    tape.recorder.from_origin(echo)
    tape.recorder.from_client(b"id\r")
    tape.recorder.from_origin(b"id\r\n")
    assert "hunter" not in tape.typed()
    assert "id" in tape.typed()


def test_input_is_noted_only_where_it_is_wanted(tmp_path):
    tape = Tape(tmp_path / "b.cast", takes_input=False)
    tape.recorder.from_client(b"ls\r")
    tape.recorder.from_origin(b"ls\r\n")
    assert tape.typed() == ""


def test_a_full_recording_says_so_and_is_told_once(tmp_path):
    tape = Tape(tmp_path / "c.cast", most=1_000)
    for _ in range(100):
        tape.recorder.from_origin(b"x" * 100)
    events = tape.events()
    assert events[-1][1:] == ["m", "the recording is full"]
    assert (tmp_path / "c.cast").stat().st_size < 1_100
    assert tape.failures == ["the recording is full: 1000 bytes"]


def test_a_disk_that_is_full_is_told_once():
    failures = []
    recorder = Recorder(os.open("/dev/full", os.O_WRONLY), (80, 24), "xterm", takes_input=False, most=1_000,
                        failed=failures.append)  # fmt: skip
    recorder.from_origin(b"x")
    recorder.close()
    assert failures == ["the recording cannot be written: No space left on device"]
