"""sftp streams, cut anywhere, with whatever names clients think of."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.inspect.ssh.scp import is_scp
from proxy.inspect.ssh.sftp import SftpTap, escaped


def packet(kind, number, *parts):
    body = bytes([kind]) + struct.pack("!I", number)
    for part in parts:
        body += struct.pack("!I", len(part)) + part if isinstance(part, bytes) else struct.pack("!I", part)
    return struct.pack("!I", len(body)) + body


class Notes:
    def __init__(self, *, read_only=False):
        self.notes, self.replies = [], b""
        self.tap = SftpTap(self.note, self.reply, read_only=read_only)

    def note(self, operation, path, **more):
        self.notes.append((operation, path, {name: value for name, value in more.items() if value}))

    def reply(self, data):
        self.replies += data


WRITE_UP = [
    packet(1, 3)[:9],
    packet(3, 1, b"/tmp/f", 0x1A, 0),
    struct.pack("!IBI", 1 + 4 + 4 + 2 + 8 + 4 + 5, 6, 2) + struct.pack("!I", 2) + b"h1" + bytes(8)
    + struct.pack("!I", 5) + b"hello",
    packet(4, 3, b"h1"),
]  # fmt: skip
ANSWERS = [
    packet(2, 3)[:9],
    packet(102, 1, b"h1"),
    packet(101, 2, 0, b"", b""),
    packet(101, 3, 0, b"", b""),
]


@given(st.lists(st.integers(1, 40), max_size=20))
def test_it_does_not_matter_where_the_stream_is_cut(cuts):
    notes = Notes()
    for asked, answered in zip(WRITE_UP, ANSWERS, strict=True):
        sent = got = b""
        for chunk in pieces(asked, cuts):
            sent += notes.tap.from_client(chunk)
        for chunk in pieces(answered, cuts):
            got += notes.tap.from_origin(chunk)
        assert (sent, got) == (asked, answered)
    assert notes.notes == [("write", "/tmp/f", {"bytes": 5})]


@given(st.binary(max_size=300), st.binary(max_size=300))
def test_anything_else_passes_unchanged(ours, theirs):
    notes = Notes()
    held = notes.tap.from_client(ours)
    assert ours.startswith(held) or ours[4:5] == b"\x01"
    assert notes.tap.from_origin(theirs) == theirs


@given(st.binary(max_size=300))
def test_nothing_unknown_passes_where_files_may_only_be_read(data):
    notes = Notes(read_only=True)
    passed = notes.tap.from_client(data)
    while passed:
        (length,) = struct.unpack_from("!I", passed)
        assert passed[4] in {1, 3, 4, 5, 7, 8, 11, 12, 16, 17, 19, 200}
        passed = passed[4 + length :]


def test_a_refusal_waits_for_the_end_of_the_packet_before_it():
    notes = Notes(read_only=True)
    answer = packet(103, 1, b"data that is on its way")
    assert notes.tap.from_origin(answer[:10]) == answer[:10]
    assert notes.tap.from_client(packet(13, 7, b"/etc/passwd")) == b""
    assert notes.replies == b""
    rest = notes.tap.from_origin(answer[10:])
    assert rest.startswith(answer[10:])
    assert rest[len(answer) - 10 + 4] == 101
    assert struct.unpack_from("!I", rest, len(answer) - 10 + 5) == (7,)
    assert notes.notes == [("remove", "/etc/passwd", {"refused": True})]


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        (b"../../etc/passwd", "../../etc/passwd"),
        (b"a\nb", "a\\x0ab"),
        (b"\xff\x1b[2J", "\\xff\\x1b[2J"),
        ("é".encode(), "é"),
    ],
)
def test_names_are_shown_without_control_characters(name, shown):
    assert escaped(name) == shown


def test_a_newer_version_is_not_agreed():
    assert Notes().tap.from_client(struct.pack("!IBI", 5, 1, 6)) == struct.pack("!IBI", 5, 1, 3)


@pytest.mark.parametrize(
    ("command", "what"),
    [("scp -t /x", "write"), ("/usr/bin/scp -r -p -f .", "read"), ("scp -prt 'a b'", "write"), ("echo scp -t", None),
     ("scp", None), ("'", None), ("", None)],
)  # fmt: skip
def test_commands_of_scp(command, what):
    assert is_scp(command) == what


def pieces(data, cuts):
    for cut in cuts:
        if data:
            yield data[:cut]
            data = data[cut:]
    if data:
        yield data
