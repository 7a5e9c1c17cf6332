"""Recordings of terminals: characters, secrets, versions, keys, bounds and full disks."""

from __future__ import annotations

import json
import os

import pytest

from proxy.inspect.ssh.recording import Recorder
from proxy.inspect.ssh.terminal import TAIL, Terminal
from proxy.wire import age

KEY = "age1n3crr3fpyct29gv36ve5vqupfkj4tk7glctv2sqtk8f8qhwq5u7s089wts"
IDENTITY = "AGE-SECRET-KEY-1NYAJLMJK7QYGMP5WSTX6PENDH4C7EEP8Y8YDWXLU5FYYG5WR504Q73HXJ7"


class Tape:
    def __init__(self, path, *, takes_input=True, **more):
        self.path, self.failures, self.now = path, [], 100.0
        settings = {"most": 1 << 20, "failed": self.failures.append, "clock": lambda: self.now}
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
        self.recorder = Terminal((80, 24), "xterm", takes_input=takes_input, end=self.failures.append)
        self.recorder.listen(Recorder(descriptor, (80, 24), "xterm", **{**settings, **more}))

    def lines(self, data=None):
        return [json.loads(line) for line in (data or self.path.read_bytes()).splitlines()]

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
    assert events[-1][1:] == ["m", "the recording is full: 1000 bytes"]
    assert (tmp_path / "c.cast").stat().st_size < 1_100
    assert tape.failures == ["the recording is full: 1000 bytes"]


def test_a_disk_that_is_full_is_told_once_and_the_terminal_goes_on():
    failures = []
    terminal = Terminal((80, 24), "xterm", takes_input=False, end=failures.append)
    descriptor = os.open("/dev/full", os.O_WRONLY)
    terminal.listen(Recorder(descriptor, (80, 24), "xterm", most=1_000, failed=failures.append))
    assert terminal.from_origin(b"x") == b"x"
    terminal.close()
    assert failures == ["the recording cannot be written: No space left on device"]
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)


def test_version_3_counts_from_the_event_before_and_tells_how_it_ended(tmp_path):
    tape = Tape(tmp_path / "d.cast", version=3)
    for moment in 100.5, 100.75, 102.0:
        tape.now = moment
        tape.recorder.from_origin(b"x")
    tape.recorder.close(7)
    header, *events = tape.lines()
    assert header == {"version": 3, "term": {"cols": 80, "rows": 24, "type": "xterm"}, "timestamp": 100}
    assert events == [[0.5, "o", "x"], [0.25, "o", "x"], [1.25, "o", "x"], [0.0, "x", "7"]]


def test_what_is_encrypted_can_be_read_with_the_identity_only(tmp_path):
    tape = Tape(tmp_path / "e.cast.age", recipients=[age.recipient(KEY)])
    for _ in range(100):
        tape.recorder.from_origin(b"secret " * 200)
    tape.recorder.close()
    data = tape.path.read_bytes()
    assert b"secret" not in data
    header, *events = tape.lines(b"".join(age.decrypt(data, [age.identity(IDENTITY)])))
    assert header["version"] == 2
    assert "".join(text for _, _, text in events) == "secret " * 20_000


def test_who_begins_to_watch_sees_what_was_shown_last():
    terminal = Terminal((80, 24), "xterm", takes_input=False, end=lambda why: None)
    for number in range(10_000):
        terminal.from_origin(b"%05d\r\n" % number)
    assert terminal.tail.endswith("09998\r\n09999\r\n")
    assert TAIL - 10 < len(terminal.tail) <= TAIL + 10
