"""Expressions become programs for the kernel, or a message."""

from __future__ import annotations

import shutil
import socket

import pytest

from oxyctl.capture import pcapng
from oxyctl.capture.filters import attach, compile_filter
from oxyctl.errors import OxyctlError, UsageError

needs_tcpdump = pytest.mark.skipif(
    shutil.which("tcpdump", path="/usr/bin:/usr/sbin:/bin:/sbin") is None, reason="tcpdump is not installed"
)


def passed(program, *packets):
    """Those of `packets` that a socket with `program` receives, as far as it lets them through."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with ours, theirs:
        theirs.setblocking(False)
        attach(theirs, program)
        found = []
        for packet in packets:
            try:
                ours.send(packet)
                found.append(theirs.recv(1000))
            except (BlockingIOError, PermissionError):
                continue
        return found


def test_without_an_expression_packets_are_only_cut():
    assert passed(compile_filter(None, pcapng.RAW_IP, 4), b"abcdef", b"xy") == [b"abcd", b"xy"]


@needs_tcpdump
@pytest.mark.parametrize(("kind", "before"), [(pcapng.RAW_IP, b""), (pcapng.ETHERNET, bytes(12) + b"\x08\x00")])
def test_the_kernel_passes_what_the_expression_does(kind, before):
    udp = before + bytes.fromhex("45000020000000004011000001020304050607080035003500000000") + bytes(8)
    tcp = udp.replace(b"\x40\x11", b"\x40\x06")
    program = compile_filter("udp port 53", kind, 1000)
    assert passed(program, udp, tcp, udp) == [udp, udp]
    assert passed(compile_filter("udp port 53", kind, 24), udp) == [udp[:24]]


@needs_tcpdump
@pytest.mark.parametrize("expression", ["port", "tcp and", "nonsense words", "host", "\0", "-w /tmp/x"])
def test_what_tcpdump_does_not_understand_is_said(expression):
    with pytest.raises(OxyctlError) as refused:
        compile_filter(expression, pcapng.RAW_IP, 1000)
    assert isinstance(refused.value, UsageError) or expression == "\0"
    assert "Warning" not in str(refused.value)


def test_without_tcpdump_the_way_out_is_said(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(OxyctlError, match="apt install tcpdump"):
        compile_filter("tcp", pcapng.RAW_IP, 1000)
