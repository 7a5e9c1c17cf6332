"""SSH's identification strings, whole and not."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.wire.ssh_identification import MAX_LINE, identification


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n\x00\x00\x05", "SSH-2.0-OpenSSH_9.2p1 Debian-2"),
        (b"SSH-1.99-old\n", "SSH-1.99-old"),
        (b"SSH-2.0-cut", "SSH-2.0-cut"),
        (b"SSH-2.0-\x1b[2J\xff\r\n", "SSH-2.0-?[2J?"),
        (b"SSH-" + b"x" * 1_000, "SSH-" + "x" * (MAX_LINE - 4)),
        (b"SSH", None),
        (b"", None),
        (b"\x16\x03\x01", None),
    ],
)
def test_identification(data, found):
    assert identification(data) == found


@given(st.binary(max_size=600))
def test_what_is_found_is_fit_for_a_line(data):
    found = identification(b"SSH-" + data)
    assert found is not None
    assert found.isprintable()
    assert len(found) <= MAX_LINE
