"""What an origin may say to a session that is read: it ends that session, its user reads why, and no other one ends."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading

import asyncssh
import pytest
from asyncssh.constants import MSG_CHANNEL_SUCCESS, MSG_NEWKEYS
from asyncssh.packet import String, UInt32

from proxy.ca.ssh import SSHKeys
from proxy.inspect.ssh import bridge
from tests.inspect.ssh.misdeeds import a_wrong_mac, beyond_the_window, to_no_channel
from tests.inspect.ssh.test_bad_input import BANNER, kexinit, outcome, packet
from tests.inspect.ssh.world import USER, World, wait_until

MOST_HELD = 16 << 20


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    place = tmp_path_factory.mktemp("bad-origin")
    key = asyncssh.generate_private_key("ssh-ed25519")
    key.write_private_key(str(place / "origin_key"))
    (place / "known").write_text("* " + key.export_public_key().decode())
    SSHKeys(place).user_ca("acme")
    return place


@pytest.fixture
def world(place):
    with World(place, 0, known_hosts=(place / "known").read_text()) as world:
        yield world


@contextlib.contextmanager
def says(*parts):
    """An origin that says just that, and hears on until it is left; gives its port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve():
            with contextlib.suppress(OSError), listener.accept()[0] as sock:
                for part in parts:
                    sock.sendall(part)
                while sock.recv(65_536):
                    pass

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(20)
        assert not thread.is_alive()


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        pytest.param([b"x" * (1 << 20)], "too long", id="banner-of-1-MB"),
        pytest.param([b"hello\r\n" * 150_000], "Too many", id="banner-of-lines"),
        pytest.param([b"SSH-1.5-old\r\n"], "Unsupported SSH version", id="SSH-1"),
        pytest.param([BANNER, b"\xff" * 64], "Max packet size exceeded", id="packet-of-4-GB"),
        pytest.param([BANNER, struct.pack("!I", 0) + bytes(60)], "it does not speak SSH", id="packet-of-0"),
        pytest.param([BANNER, struct.pack("!IB", 13, 4) + bytes(3_000)], "it does not speak SSH", id="odd-length"),
        pytest.param([BANNER, packet(kexinit(b"none-of-ours"))], "no algorithms in common", id="no-common-algorithm"),
        pytest.param([BANNER, packet(b"\x15")], "New keys not negotiated", id="NEWKEYS-first"),
        pytest.param([BANNER, packet(b"\x02" + String(b"x")),
                      packet(kexinit(b"curve25519-sha256", b"kex-strict-s-v00@openssh.com"))],
                     "Strict key exchange violation", id="Terrapin"),
    ],
)  # fmt: skip
def test_what_is_no_ssh_ends_the_session_and_its_user_reads_so(world, parts, words):
    with says(*parts) as world.origin_port:
        done = world.ssh("true")
        ended = outcome(world)
    assert (ended.reason, ended.by) == ("origin_protocol_error", "origin")
    assert words in ended.detail
    assert done.returncode == 255
    assert words in done.stderr


@pytest.mark.parametrize("parts", [[], [b"SSH-2.0-slow"], [BANNER], [BANNER, packet(kexinit(b"curve25519-sha256"))]])
def test_an_origin_that_does_not_go_on_is_not_waited_for(world, parts):
    world.change(login_s=0.5)
    with says(*parts) as world.origin_port:
        done = world.ssh("true")
        ended = outcome(world)
    assert (ended.reason, ended.by) == ("origin_protocol_error", "origin")
    assert "Login timeout expired" in done.stderr


class Peer(asyncssh.SSHServer):
    """An origin that lets everybody in, and does with each connection and channel what a test says."""

    def __init__(self, met):
        self._met = met

    def connection_made(self, conn):
        self._met(conn)

    def begin_auth(self, username):
        return False

    def session_requested(self):
        return Session()


class Session(asyncssh.SSHServerSession):
    def exec_requested(self, command):
        return True

    def data_received(self, data, datatype):
        pass


@contextlib.contextmanager
def peer(place, **options):
    """It runs in a thread of its own; gives its port, and its connection once there is one."""
    ready, loop, conns, ports = threading.Event(), asyncio.new_event_loop(), [], []
    stop = asyncio.Event()

    async def serve():
        server = await asyncssh.listen("127.0.0.1", 0, server_factory=lambda: Peer(conns.append), encoding=None,
                                       server_host_keys=[str(place / "origin_key")], **options)  # fmt: skip
        ports.append(server.get_port())
        ready.set()
        await stop.wait()
        server.close()
        for conn in conns:
            conn.abort()
        await asyncio.gather(*(conn.wait_closed() for conn in conns))
        await asyncio.sleep(0)

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()), daemon=True)
    thread.start()

    def do(function):
        """In the origin's own thread."""
        asyncio.run_coroutine_threadsafe(_do(function, conns[0]), loop).result(20)

    async def _do(function, conn):
        function(conn)

    try:
        assert ready.wait(20)
        yield ports[0], do
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(20)
        loop.close()


def an_answer_to_nothing(conn):
    conn.send_packet(MSG_CHANNEL_SUCCESS, UInt32(9))


def a_keyless_exchange(conn):
    conn.send_packet(MSG_NEWKEYS)


@pytest.mark.parametrize(
    ("deed", "words"),
    [
        (beyond_the_window, "Window exceeded"),
        (to_no_channel, "Invalid channel number"),
        (a_wrong_mac, "a packet with a wrong MAC"),
        (an_answer_to_nothing, "Invalid channel number"),
        (a_keyless_exchange, "New keys not negotiated"),
    ],
)
def test_an_origin_that_breaks_the_protocol_later_is_named(world, place, deed, words, monkeypatch):
    monkeypatch.setattr(bridge, "DELIVERY_S", 0.2)  # for a client that takes nothing
    with peer(place) as (world.origin_port, do), connected(world) as client:
        client.start("sleep", window=0)  # of the client: what the origin says is held
        do(deed)
        client.wait()
        ended = outcome(world)
    assert (ended.reason, ended.by) == ("origin_protocol_error", "origin")
    assert words in ended.detail


@pytest.mark.parametrize("window", [0, (1 << 32) - 1])
def test_an_origin_that_takes_nothing_makes_nobody_hold_what_its_client_says(world, place, window):
    with peer(place, window=window, max_pktsize=32_768) as (world.origin_port, do), connected(world) as client:
        client.start("sink")
        do(lambda conn: conn._transport.pause_reading())
        client.write(40_000_000)
        held = []

        def is_steady():
            held.append(world.held())
            client.turn()
            return len(held) > 30 and len(set(held[-20:])) == 1

        wait_until(is_steady, "a steady state")
    assert 0 < held[-1] < MOST_HELD


class Client:
    """asyncssh's, step by step."""

    def __init__(self, world):
        self._world, self._loop = world, asyncio.new_event_loop()

    def start(self, command, **options):
        async def begin():
            self._conn = await asyncssh.connect(
                "127.0.0.1", self._world.port, username=USER, known_hosts=None, config=[], client_keys=[],
                agent_path=None,
            )  # fmt: skip
            self._chan, _ = await self._conn.create_session(
                asyncssh.SSHClientSession, command, encoding=None, **options
            )

        self._loop.run_until_complete(begin())

    def write(self, size):
        for _ in range(size >> 20):
            self._chan.write(bytes(1 << 20))

    def turn(self):
        self._loop.run_until_complete(asyncio.sleep(0))

    def wait(self):
        self._loop.run_until_complete(asyncio.wait_for(self._conn.wait_closed(), 20))

    def close(self):
        async def end():
            self._conn.abort()
            await self._conn.wait_closed()
            await asyncio.sleep(0)

        self._loop.run_until_complete(end())
        self._loop.close()


@contextlib.contextmanager
def connected(world):
    client = Client(world)
    try:
        yield client
    finally:
        client.close()
