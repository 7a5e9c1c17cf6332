"""Unix sockets deeper than the kernel's limit for their names."""

from __future__ import annotations

import gc
import os
import socket

import pytest

from oxyctl.net.sockets import MAX_PATH_BYTES, is_too_long, short_path, shortened


@pytest.fixture
def deep(tmp_path):
    directory = tmp_path / ("d" * 100)
    directory.mkdir()
    return directory / "control.sock"


def descriptors():
    return set(os.listdir("/proc/self/fd"))


def test_the_limit_is_the_kernels(tmp_path):
    longest = str(tmp_path / "x").ljust(MAX_PATH_BYTES, "x")
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(longest)
    assert not is_too_long(longest)
    assert is_too_long(longest + "x")
    with socket.socket(socket.AF_UNIX) as sock, pytest.raises(OSError, match="too long"):
        sock.bind(longest + "x")


def test_bind_and_connect_by_a_short_name(deep):
    before = descriptors()
    with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as client:
        with shortened(deep) as path:
            server.bind(path)
        server.listen()
        with shortened(deep) as path:
            client.connect(path)
    assert deep.is_socket()
    assert descriptors() == before


def test_a_short_name_for_life(deep):
    deep.write_text("here")
    path = short_path(deep)
    gc.collect()
    assert not is_too_long(path)
    with open(path) as file:
        assert file.read() == "here"
    os.close(int(path.split("/")[4]))


def test_what_is_short_stays_as_it_is(tmp_path):
    with shortened("/run/x.sock") as path:
        assert path == short_path("/run/x.sock") == "/run/x.sock"
