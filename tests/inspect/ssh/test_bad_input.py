"""What strangers may send to an SSH session that is read: it ends that session, with a reason, and no other."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct
import threading

import asyncssh
import pytest
from asyncssh.constants import MSG_CHANNEL_OPEN, MSG_CHANNEL_REQUEST, MSG_GLOBAL_REQUEST
from asyncssh.packet import Boolean, String, UInt32

from proxy.inspect.ssh import connections
from tests.inspect.ssh.misdeeds import a_wrong_mac, beyond_the_window, to_no_channel
from tests.inspect.ssh.world import SSHD, USER, World, known_line, wait_until

pytestmark = pytest.mark.skipif(SSHD is None, reason="there is no sshd")

CHANNELS = 2_000  # ten thousand take 8 s of a core
BANNER = b"SSH-2.0-test\r\n"
NO_PACKET = "it does not speak SSH (PacketDecodeError)"
STRICT = b"kex-strict-c-v00@openssh.com"


@pytest.fixture(scope="module")
def shared(place, origin):
    with World(place, origin, known_hosts=known_line(place, origin)) as world:
        yield world


@pytest.fixture
def world(shared):
    """With a session that is there all the time, and is asked at the end."""
    shared.rules, before = shared.rules, shared.rules
    with contextlib.closing(Witness(shared)) as witness:
        shared.outcomes = []  # sessions of earlier tests may still have to end
        yield shared
        shared.rules = before
        witness.still_there()


class Witness:
    """Somebody else's session."""

    def __init__(self, world):
        self.loop = asyncio.new_event_loop()
        self.conn = self.loop.run_until_complete(connect(world))

    def still_there(self):
        assert self.loop.run_until_complete(self.conn.run("echo still")).stdout == "still\n"

    def close(self):
        self.conn.abort()
        self.loop.run_until_complete(self.conn.wait_closed())
        self.loop.run_until_complete(asyncio.sleep(0))
        self.loop.close()


def connect(world, **options):
    return asyncssh.connect("127.0.0.1", world.port, username=USER, known_hosts=None, config=[], client_keys=[],
                            agent_path=None, **options)  # fmt: skip


def say(world, *parts):
    """Say it, and hear what is answered until the end."""
    with socket.create_connection(("127.0.0.1", world.port), 20) as sock:
        with contextlib.suppress(OSError):
            for part in parts:
                sock.sendall(part)
        heard = b""
        with contextlib.suppress(OSError):
            while more := sock.recv(65_536):
                heard += more
    return heard


def packet(payload, padding=None):
    """A packet before there are keys (RFC 4253 6)."""
    padding = 8 - (len(payload) + 5) % 8 + (8 if (len(payload) + 5) % 8 > 4 else 0) if padding is None else padding
    return struct.pack("!IB", 1 + len(payload) + padding, padding) + payload + bytes(padding)


def kexinit(*algorithms):
    cipher, mac = b"aes128-gcm@openssh.com", b"hmac-sha2-256-etm@openssh.com"
    names = [b",".join(algorithms), b"ssh-ed25519", cipher, cipher, mac, mac, b"none", b"none", b"", b""]
    return b"\x14" + bytes(16) + b"".join(map(String, names)) + b"\0" + bytes(4)


def outcome(world):
    wait_until(lambda: world.outcomes, "the end of the session")
    return world.outcomes[-1]


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        pytest.param([b"SSH-2.0-" + b"x" * (1 << 20)], "too long", id="banner-of-1-MB"),
        pytest.param([b"SSH-2.0-" + b"x" * 4_000 + b"\r\n"], "too long", id="long-version"),
        pytest.param([b"GET / HTTP/1.1\r\n\r\n"], "Unsupported SSH version", id="no-SSH"),
        pytest.param([b"SSH-1.5-old\r\n"], "Unsupported SSH version", id="SSH-1"),
        pytest.param([b"SSH-2.0-\xff\xfe\r\n"], "it does not speak SSH", id="banner-of-no-ASCII"),
        pytest.param([BANNER, b"\xff" * 64], "Max packet size exceeded", id="packet-of-4-GB"),
        pytest.param([BANNER, struct.pack("!I", 0) + bytes(60)], NO_PACKET, id="packet-of-0"),
        pytest.param([BANNER, struct.pack("!IB", 1, 0) + bytes(59)], NO_PACKET, id="packet-of-1"),
        pytest.param([BANNER, struct.pack("!IB", 13, 4) + bytes(3_000)], NO_PACKET, id="packet-of-odd-length"),
        pytest.param([BANNER, packet(b"\x14" + bytes(16), 200)], NO_PACKET, id="more-padding-than-needed"),
        pytest.param([BANNER, struct.pack("!IB", 12, 255) + bytes(20)], NO_PACKET, id="padding-beyond-the-packet"),
        pytest.param([BANNER, packet(kexinit(b"none-of-ours"))], "No matching key exchange", id="no-common-algorithm"),
        pytest.param([BANNER, packet(b"\x15")], "New keys not negotiated", id="NEWKEYS-first"),
        pytest.param([BANNER, packet(b"\x02" + String(b"x")), packet(kexinit(b"curve25519-sha256", STRICT))],
                     "Strict key exchange violation", id="Terrapin"),
    ],
)  # fmt: skip
def test_what_is_no_ssh_ends_with_a_reason(world, parts, words):
    heard = say(world, *parts)
    assert heard.startswith(b"SSH-2.0-oxy\r\n")
    ended = outcome(world)
    assert (ended.reason, ended.by) == ("client_protocol_error", "client")
    assert words in ended.detail


@pytest.mark.parametrize("parts", [[], [b"SSH-2.0-slow"], [BANNER], [BANNER, packet(kexinit(b"curve25519-sha256"))]])
def test_a_banner_or_key_exchange_that_does_not_come_is_not_waited_for(world, parts):
    world.change(login_s=0.3)
    say(world, *parts)
    ended = outcome(world)
    assert (ended.reason, ended.detail) == ("client_idle_timeout", "it did not log in within the time limit")


@pytest.mark.parametrize("name", ["a\nb", "a\x00", "../../etc/passwd", "a b", "-oProxyCommand=x", "x" * 300, "\x1b[2J"])
def test_what_is_no_user_name_lets_nobody_in(world, name, monkeypatch):
    monkeypatch.setattr(asyncssh.connection, "saslprep", str)  # asyncssh's client would not send it

    async def log_in():
        with pytest.raises((asyncssh.PermissionDenied, asyncssh.ConnectionLost)):
            await asyncssh.connect("127.0.0.1", world.port, username=name, known_hosts=None, config=[],
                                   client_keys=[], agent_path=None)  # fmt: skip

    asyncio.run(log_in())
    ended = outcome(world)
    assert (ended.reason, ended.detail) == ("denied", "not a valid user name")


@pytest.mark.parametrize("count", [CHANNELS, pytest.param(10_000, marks=pytest.mark.slow)])
def test_thousands_of_channels_are_refused_but_for_the_first(world, count):
    async def run():
        async with connect(world) as conn:
            for number in range(count):
                opened = String(b"session"), UInt32(10_000 + number), UInt32(1 << 20), UInt32(32_768)
                conn.send_packet(MSG_CHANNEL_OPEN, *opened)
            answers, done = {91: 0, 92: 0}, asyncio.Event()

            def counting(kind):
                def counted(self, *_):
                    answers[kind] += 1
                    if sum(answers.values()) == count:
                        done.set()

                return counted

            conn._packet_handlers = {**conn._packet_handlers, 91: counting(91), 92: counting(92)}
            async with asyncio.timeout(60):
                await done.wait()
            return answers

    answers = asyncio.run(run())
    assert answers == {91: 256, 92: count - 256}


@pytest.mark.parametrize("kind", ["channel", "global"])
def test_a_flood_of_requests_ends_the_session(world, kind):
    async def run():
        conn = await connect(world)
        process = await conn.create_process("cat")
        # asyncssh's client disconnects at answers that it does not expect
        for sender, answers in (conn, (81, 82)), (process.channel, (99, 100)):
            sender._packet_handlers = {**sender._packet_handlers, **dict.fromkeys(answers, lambda *_: None)}
        for _ in range(400):
            if kind == "channel":
                conn.send_packet(MSG_CHANNEL_REQUEST, UInt32(process.channel._send_chan), String(b"x11-req"),
                                 Boolean(True), Boolean(False), String(b"p"), String(b"00"), UInt32(0))  # fmt: skip
            else:
                conn.send_packet(MSG_GLOBAL_REQUEST, String(b"tcpip-forward"), Boolean(True), String(b""), UInt32(0))
        await conn.wait_closed()

    asyncio.run(run())
    ended = outcome(world)
    assert ended.detail == "too many requests at once"


@pytest.mark.parametrize(
    ("deed", "words"),
    [
        (a_wrong_mac, "a packet with a wrong MAC"),
        (beyond_the_window, "Window exceeded"),
        (to_no_channel, "Invalid channel number"),
    ],
)
def test_who_is_in_and_breaks_the_protocol_is_named(world, deed, words):
    async def run():
        conn = await connect(world)
        await conn.create_process("exec sleep 20")  # reads nothing
        deed(conn)
        await conn.wait_closed()

    asyncio.run(run())
    ended = outcome(world)
    assert (ended.reason, ended.by) == ("client_protocol_error", "client")
    assert words in ended.detail


def test_an_exchange_of_keys_that_never_ends_ends_the_session(world, monkeypatch):
    monkeypatch.setattr(connections.BoundedConnection, "exchange_s", 0.3)

    async def run():
        conn = await connect(world)
        conn._send_kexinit()
        conn._kexinit_sent = True
        conn._packet_handlers = {**conn._packet_handlers, 20: lambda self, *_: True}  # it does not answer
        await conn.wait_closed()

    asyncio.run(run())
    assert outcome(world).detail == "the key exchange takes too long"


@pytest.mark.parametrize("window", [0, (1 << 32) - 1])
def test_who_reads_nothing_makes_nobody_hold_what_the_origin_says(world, window):
    async def run():
        conn = await connect(world)
        more = {"encoding": None, "window": window, "max_pktsize": 32_768}
        await conn.create_session(asyncssh.SSHClientSession, "cat /dev/zero", **more)
        conn._transport.pause_reading()
        held = []

        def is_steady():
            held.append(world.held())
            return len(held) > 20 and held[-1] and len(set(held[-20:])) == 1

        wait_until(is_steady, "a steady state")
        conn.abort()
        return held[-1]

    assert asyncio.run(run()) < 16 << 20


def test_many_small_pieces_are_held_as_one(world):
    """A channel whose request the origin has not answered yet: a window of single bytes."""

    async def run():
        async with connect(world) as conn:
            process = await conn.create_process("wc -c", encoding=None)
            for _ in range(1_000):
                process.stdin.write(b"x")
            process.stdin.write_eof()
            return (await process.wait()).stdout

    assert asyncio.run(run()).strip() == b"1000"


class Cutter:
    """Relays to the origin, until the origin has said something for the `most`-th time: then it closes."""

    def __init__(self, origin_port, most):
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self._origin_port, self._most = origin_port, most
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self):
        with self.listener, self.listener.accept()[0] as near:
            if not self._most:
                return
            with socket.create_connection(("127.0.0.1", self._origin_port)) as far:
                threading.Thread(target=self._copy, args=(near, far), daemon=True).start()
                self._copy(far, near, self._most)
                near.shutdown(socket.SHUT_RDWR)  # the other thread is in recv()

    def _copy(self, source, target, most=None):
        with contextlib.suppress(OSError):
            while (most is None or most > 0) and (data := source.recv(65_536)):
                target.sendall(data)
                most = None if most is None else most - 1


@pytest.mark.parametrize("most", range(12))
def test_an_origin_that_closes_between_any_two_messages_is_named(world, origin, most):
    world.change(known_hosts=f"* {known_line(world.place, origin).split(' ', 1)[1]}")
    cutter = Cutter(origin, most)
    usual, world.origin_port = world.origin_port, cutter.port
    try:
        done = world.ssh("echo out; sleep 0.1; echo more; exec cat", input="")
    finally:
        world.origin_port = usual
    ended = outcome(world)
    assert ended.reason in ("origin_closed", "origin_protocol_error", "origin_reset", "client_closed")
    if done.returncode == 0:  # its exit status was among what it said
        assert done.stdout == "out\nmore\n"
    else:
        assert done.returncode == 255
        assert "origin" in done.stderr or "127.0.0.1 port" in done.stderr


def test_noise_after_the_banner_never_escapes(world):
    random = os.urandom
    for size in (1, 7, 64, 1_000, 40_000):
        say(world, BANNER, struct.pack("!I", size) + random(size + 8))
    wait_until(lambda: len(world.outcomes) == 5)
    assert {each.reason for each in world.outcomes} <= {"client_protocol_error", "client_closed", "client_idle_timeout"}
