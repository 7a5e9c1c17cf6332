"""Sessions whose recording fails on the way: policy says whether they go on, and users are told either way."""

from __future__ import annotations

import os
import subprocess

import pytest

from proxy.ca.ssh import SSHKeys
from tests.inspect.ssh.world import SSHD, View, World, known_line, sshd

pytestmark = pytest.mark.skipif(SSHD is None, reason="there is no sshd")
FULL = "the recording cannot be written: No space left on device"


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    place = tmp_path_factory.mktemp("recorded")
    (place / "ca.pub").write_text(SSHKeys(place).user_ca("acme") + "\n")
    with sshd(place) as origin, World(place, origin, known_hosts=known_line(place, origin), record=True) as world:
        yield world


@pytest.fixture
def full_disk(monkeypatch):
    async def recording(self, name):
        return os.open("/dev/full", os.O_WRONLY)

    monkeypatch.setattr(View, "recording", recording)


def on_a_terminal(world, command):
    arguments = ["ssh", *world.client_options(), "-tt", "-p", str(world.port), "127.0.0.1", command]
    return subprocess.run(arguments, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=30)


def test_a_disk_that_is_full_ends_the_session_where_it_has_to_be_recorded(world, full_disk):
    world.change(needs_recording=True)
    done = on_a_terminal(world, "sleep 20; echo still here")
    assert done.returncode == 126
    assert f"ended: {FULL}" in done.stdout + done.stderr
    assert "still here" not in done.stdout
    assert world.channel("sleep 20; echo still here").error == FULL


def test_where_it_need_not_be_it_goes_on_and_its_user_knows(world, full_disk):
    world.change(needs_recording=False)
    done = on_a_terminal(world, "echo still here; exit 3")
    assert done.returncode == 3
    assert f"not recorded any more: {FULL}" in done.stdout
    assert "still here" in done.stdout


def test_without_a_place_for_it_nothing_begins_or_it_is_said(world):
    place, world.recordings = world.recordings, None
    try:
        world.change(needs_recording=True)
        assert on_a_terminal(world, "echo here").returncode != 0
        world.change(needs_recording=False)
        done = on_a_terminal(world, "echo here")
        assert (done.returncode, "not recorded: no place" in done.stdout, "here" in done.stdout) == (0, True, True)
    finally:
        world.recordings = place
