"""How a session logs in at its origin: in as few round trips as SSH allows, and where the origin wants no proof too."""

from __future__ import annotations

import asyncio
import contextlib
import threading

import asyncssh
import pytest
from asyncssh.constants import MSG_USERAUTH_REQUEST

from proxy.ca.ssh import SSHKeys
from tests.inspect.ssh.world import USER, World


class Origin(asyncssh.SSHServer):
    """One that tells what it was asked."""

    asked: list[str]

    def __init__(self, has_methods):
        self._has_methods = has_methods

    def connection_made(self, conn):
        usual = conn._packet_handlers[MSG_USERAUTH_REQUEST]

        def asked(self_, kind, number, packet):
            at = packet._idx
            packet.get_string(), packet.get_string()
            method = packet.get_string().decode()
            Origin.asked.append(f"{method} signed" if method == "publickey" and packet.get_boolean() else method)
            packet._idx = at
            return usual(self_, kind, number, packet)

        conn._packet_handlers = {**conn._packet_handlers, MSG_USERAUTH_REQUEST: asked}

    def begin_auth(self, username):
        return True

    def public_key_auth_supported(self):
        return self._has_methods

    def password_auth_supported(self):
        return not self._has_methods

    def validate_ca_key(self, username, key):
        return True


@contextlib.contextmanager
def origin(place, *, has_methods):
    """It runs in a thread of its own; gives its port."""
    Origin.asked = []
    ready, loop = threading.Event(), asyncio.new_event_loop()
    ports = []

    async def serve():
        async with asyncssh.listen(
            "127.0.0.1", 0, server_factory=lambda: Origin(has_methods), server_host_keys=[str(place / "origin_key")],
            process_factory=lambda process: process.exit(0),
        ) as listener:  # fmt: skip
            ports.append(listener.get_port())
            ready.set()
            await stop.wait()

    stop = asyncio.Event()
    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()), daemon=True)
    thread.start()
    try:
        assert ready.wait(20)
        yield ports[0]
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(20)
        loop.close()


@pytest.fixture
def place(tmp_path):
    key = asyncssh.generate_private_key("ssh-ed25519")
    key.write_private_key(str(tmp_path / "origin_key"))
    key.write_public_key(str(tmp_path / "origin_key.pub"))
    (tmp_path / "ca.pub").write_text(SSHKeys(tmp_path).user_ca("acme") + "\n")
    return tmp_path


async def run_true(world):
    async with asyncssh.connect("127.0.0.1", world.port, username=USER, known_hosts=None, config=[], client_keys=[],
                                agent_path=None) as conn:  # fmt: skip
        return (await conn.run("true")).exit_status


def test_the_only_request_to_be_let_in_is_the_one_that_is_signed(place):
    with (
        origin(place, has_methods=True) as port,
        World(place, port, known_hosts="* " + (place / "origin_key.pub").read_text()) as world,
    ):
        assert asyncio.run(run_true(world)) == 0
    assert Origin.asked == ["publickey signed"]


def test_an_origin_that_knows_no_keys_is_asked_whether_it_wants_any_proof_and_then_it_is_over(place):
    with (
        origin(place, has_methods=False) as port,
        World(place, port, known_hosts="* " + (place / "origin_key.pub").read_text()) as world,
        pytest.raises(asyncssh.DisconnectError, match="does not accept the proxy"),
    ):
        asyncio.run(run_true(world))
    assert Origin.asked == ["publickey signed", "none"]
