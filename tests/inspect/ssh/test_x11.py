"""X11 forwarding by OpenSSH: a program at the origin opens a window at its user's display, or may not."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import struct
import subprocess
import threading

import pytest

from proxy.ca.ssh import SSHKeys
from tests.inspect.ssh.world import SSHD, World, known_line, sshd

XAUTH = shutil.which("xauth")
pytestmark = pytest.mark.skipif(SSHD is None or XAUTH is None, reason="there is no sshd, or no xauth")

NAME = b"MIT-MAGIC-COOKIE-1"
COOKIE = "00112233445566778899aabbccddeeff"
SETUP = 12 + 20 + 16  # bytes: a head, the name padded to a multiple of 4, the cookie
FIRST = 6000  # the port of display 0
# What an X client does first (X11 protocol, 8: connection setup), with the cookie that sshd has given it.
PROGRAM = r"""
import os, socket, struct, subprocess, sys
display = os.environ["DISPLAY"]
host, _, number = display.partition(":")
found = subprocess.run(["xauth", "list", display], capture_output=True, text=True, check=True).stdout.split()
name, cookie = found[1].encode(), bytes.fromhex(found[2])
with socket.create_connection((host or "localhost", 6000 + int(number.partition(".")[0])), 20) as sock:
    pad = lambda text: text + bytes(-len(text) % 4)
    sock.sendall(struct.pack("<BxHHHHxx", 0x6C, 11, 0, len(name), len(cookie)) + pad(name) + pad(cookie))
    while data := sock.recv(1000):
        sys.stdout.buffer.write(data)
"""


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    place = tmp_path_factory.mktemp("x11")
    (place / "ca.pub").write_text(SSHKeys(place).user_ca("acme") + "\n")
    (place / "program.py").write_text(PROGRAM)
    lines = ["X11Forwarding yes", f"SetEnv XAUTHORITY={place / 'authority-there'}"]
    with sshd(place, *lines) as origin, World(place, origin, known_hosts=known_line(place, origin)) as world:
        yield world


@contextlib.contextmanager
def display(place):
    """A display that greets whoever has its cookie; gives its name, and what was shown to it."""
    shown = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve():
            with contextlib.suppress(OSError):
                while True:
                    with listener.accept()[0] as sock:
                        shown.append(sock.recv(SETUP, socket.MSG_WAITALL))
                        sock.sendall(b"a window")

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        name = f"127.0.0.1:{listener.getsockname()[1] - FIRST}"
        authority = str(place / "authority-here")
        subprocess.run(
            ["xauth", "-q", "-f", authority, "add", name, ".", COOKIE], check=True, stderr=subprocess.DEVNULL
        )
        yield {"DISPLAY": name, "XAUTHORITY": authority}, shown
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(20)


def open_window(world, environment):
    command = f"/usr/bin/env python3 {world.place / 'program.py'}"
    return world.ssh(command, options=["-Y"], env={**os.environ, **environment})


def test_a_program_opens_a_window_at_the_users_display_with_the_users_own_cookie(world):
    world.change(x11_forwarding=True)
    world.records.clear()
    with display(world.place) as (environment, shown):
        done = open_window(world, environment)
    assert (done.stdout, done.returncode) == ("a window", 0), done.stderr
    [setup] = shown
    assert setup.startswith(struct.pack("<BxH", 0x6C, 11))
    assert NAME in setup
    assert setup.endswith(bytes.fromhex(COOKIE))  # the origin knows another one
    kinds = [each.kind for each in world.channels(2)]
    assert sorted(kinds) == ["exec", "x11"]
    window = next(each for each in world.channels(2) if each.kind == "x11")
    assert (window.verdict, window.origin_bytes, window.client_bytes) == ("allowed", len(setup), len(b"a window"))


def test_without_the_setting_there_is_no_display_and_it_is_on_record(world):
    world.change(x11_forwarding=False)
    world.records.clear()
    with display(world.place) as (environment, shown):
        done = open_window(world, environment)
    assert "X11 forwarding request failed" in done.stderr
    assert "KeyError: 'DISPLAY'" in done.stderr
    assert shown == []
    refused = next(each for each in world.channels(2) if each.kind == "x11")
    assert (refused.verdict, refused.error) == ("denied", "X11 forwarding is off")
