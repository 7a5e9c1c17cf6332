"""A place for keys, OpenSSH's server as the origin, and the world before it: for files that need no others."""

from __future__ import annotations

import pytest

from proxy.ca.ssh import SSHKeys
from tests.inspect.ssh.world import World, known_line, sshd


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A directory, with the authority that the origin trusts."""
    place = tmp_path_factory.mktemp("ssh")
    (place / "ca.pub").write_text(SSHKeys(place).user_ca("acme") + "\n")
    return place


@pytest.fixture(scope="module")
def origin(place):
    """The server's port."""
    with sshd(place) as port:
        yield port


@pytest.fixture
def world(place, origin):
    """An inspector in front of the origin, whose key it knows."""
    with World(place, origin, known_hosts=known_line(place, origin)) as world:
        yield world
