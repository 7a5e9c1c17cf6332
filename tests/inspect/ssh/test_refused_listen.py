"""A port that the origin does not want to listen at is refused, and the session goes on."""

from __future__ import annotations

import socket

import pytest

from proxy.ca.ssh import SSHKeys
from tests.inspect.ssh.world import SSHD, World, known_line, sshd

pytestmark = pytest.mark.skipif(SSHD is None, reason="there is no sshd")


def test_a_port_that_is_taken_at_the_origin_is_refused_and_the_session_goes_on(tmp_path):
    (tmp_path / "ca.pub").write_text(SSHKeys(tmp_path).user_ca("acme") + "\n")
    with (
        sshd(tmp_path) as origin,
        World(tmp_path, origin, known_hosts=known_line(tmp_path, origin), remote_forwarding=True) as world,
        socket.create_server(("127.0.0.1", 0)) as taken,
    ):
        port = taken.getsockname()[1]
        done = world.ssh("echo still here", options=["-R", f"127.0.0.1:{port}:127.0.0.1:1"])
        assert (done.returncode, done.stdout) == (0, "still here\n")
        assert "remote port forwarding failed" in done.stderr
