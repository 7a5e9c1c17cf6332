"""scp's old protocol, cut anywhere: files, directories, refusals, what is no scp."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.inspect.ssh.scp import MAX_LINE, ScpCommand, ScpTap, is_scp, parse_scp

TREE = b"T1 0 1 0\nD0755 0 docs\nC0644 5 a.txt\nhello\0C0600 0 empty\n\0E\nC0644 3 b\nxyz\0"


class Notes:
    def __init__(self, command="scp -d -t /tmp", *, hashes=False):
        self.notes = []
        self.tap = ScpTap(parse_scp(command), self.note, hashes=hashes)

    def note(self, operation, path, **more):
        self.notes.append((operation, path, {name: value for name, value in more.items() if value}))


@pytest.mark.parametrize(
    ("command", "found"),
    [
        ("scp -t /tmp/x", ScpCommand("write", "/tmp/x")),
        ("scp -r -d -t /tmp", ScpCommand("write", "/tmp", is_directory=True)),
        ("scp -t .", ScpCommand("write", ".", is_directory=True)),
        ("/usr/bin/scp -v -r -p -f -- 'a b'", ScpCommand("read", "a b")),
        ("scp -d", None),
        ("scpx -t /tmp", None),
        ("scp 'unclosed", None),
        ("", None),
    ],
)
def test_what_a_command_asks_for(command, found):
    assert parse_scp(command) == found
    assert is_scp(command) == (found.direction if found else None)


@given(st.lists(st.integers(1, 9), min_size=1))
def test_it_does_not_matter_where_the_stream_is_cut(cuts):
    notes, at, number = Notes(hashes=True), 0, 0
    while at < len(TREE):
        step = cuts[number % len(cuts)]
        assert notes.tap.from_client(TREE[at : at + step]) == TREE[at : at + step]
        at, number = at + step, number + 1
    notes.tap.close()
    hello, empty, xyz = (hashlib.sha256(text).hexdigest() for text in (b"hello", b"", b"xyz"))
    assert notes.notes == [
        ("mkdir", "/tmp/docs", {}),
        ("write", "/tmp/docs/a.txt", {"bytes": 5, "sha256": hello}),
        ("write", "/tmp/docs/empty", {"sha256": empty}),
        ("write", "/tmp/b", {"bytes": 3, "sha256": xyz}),
    ]


def test_a_file_that_is_stored_may_be_renamed_by_that():
    notes = Notes("scp -t /tmp/new.txt")
    notes.tap.from_client(b"C0644 2 old.txt\nhi\0")
    assert notes.notes == [("write", "/tmp/new.txt", {"bytes": 2, "sent_as": "old.txt"})]


@pytest.mark.parametrize(("asked", "path"), [("notes.txt", "notes.txt"), ("/a/*.txt", "/a/notes.txt"),
                                             ("/notes.txt", "/notes.txt")])  # fmt: skip
def test_files_that_are_fetched_come_from_the_origin(asked, path):
    notes = Notes(f"scp -f '{asked}'")
    notes.tap.from_client(b"\0")
    notes.tap.from_origin(b"C0644 5 notes.txt\n")
    notes.tap.from_client(b"\0")
    notes.tap.from_origin(b"hello\0")
    assert notes.notes == [("read", path, {"bytes": 5})]


def test_a_file_that_is_refused_or_cut_off_is_noted_as_that():
    notes = Notes()
    notes.tap.from_client(b"C0644 5 a\n")
    notes.tap.from_origin(b"\x01scp: /tmp/a: Permission denied\n")
    notes.tap.from_client(b"C0644 5 b\nhel")
    notes.tap.close()
    assert notes.notes == [
        ("write", "/tmp/a", {"error": "scp: /tmp/a: Permission denied"}),
        ("write", "/tmp/b", {"bytes": 3, "error": "the channel ended before the file was whole"}),
    ]


@pytest.mark.parametrize("noise", [b"hello\n", b"C0644 x a\n", b"C0644 -1 a\n", b"C\n", b"x" * (MAX_LINE + 1)])
def test_what_is_no_scp_passes_and_is_noted_no_more(noise):
    notes = Notes()
    assert notes.tap.from_client(noise) == noise
    assert notes.tap.from_client(b"C0644 0 a\n\0") == b"C0644 0 a\n\0"
    assert notes.notes == []


@given(st.binary(max_size=200))
def test_noise_passes_unchanged(noise):
    notes = Notes(hashes=True)
    assert (notes.tap.from_client(noise), notes.tap.from_origin(noise)) == (noise, noise)
    notes.tap.close()


def test_names_with_control_characters_are_written_out():
    notes = Notes()
    notes.tap.from_client(b"C0644 0 a\x1b[2J\xff\n\0")
    assert notes.notes == [("write", "/tmp/a\\x1b[2J\\xff", {})]
