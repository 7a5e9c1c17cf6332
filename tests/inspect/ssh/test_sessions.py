"""Channels of all kinds, the reason of a session, and how sessions end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pty
import select
import socket
import subprocess
import threading

import asyncssh
import pytest

from proxy.inspect.ssh import bridge
from tests.inspect.ssh.world import SSHD, USER, free_port, wait_until

pytestmark = pytest.mark.skipif(SSHD is None, reason="there is no sshd")


@contextlib.contextmanager
def echo():
    """A server that says what it hears; gives its port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve():
            with contextlib.suppress(OSError):
                while True:
                    threading.Thread(target=answer, args=(listener.accept()[0],), daemon=True).start()

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(20)


def answer(sock):
    with sock:
        while data := sock.recv(65_536):
            sock.sendall(data)


def exchange(port, data):
    """What comes back of it."""

    def connected():
        with contextlib.suppress(OSError):
            return socket.create_connection(("127.0.0.1", port), 20)

    with wait_until(connected, "the forwarding") as sock:
        sender = threading.Thread(target=lambda: (sock.sendall(data), sock.shutdown(socket.SHUT_WR)))
        sender.start()
        heard = b""
        while more := sock.recv(65_536):
            heard += more
        sender.join()
    return heard


def test_ports_are_forwarded_both_ways_through_one_connection(world):
    world.change(local_forwarding=True, remote_forwarding=True)
    local, remote, data = free_port(), free_port(), os.urandom(600_000)
    with echo() as port:
        ends = ["-L", f"{local}:127.0.0.1:{port}", "-R", f"{remote}:127.0.0.1:{port}", "-o", "ExitOnForwardFailure=yes"]
        arguments = ["ssh", *world.client_options(), "-p", str(world.port), "-N", *ends, "127.0.0.1"]
        with subprocess.Popen(arguments, stderr=subprocess.DEVNULL) as ssh:
            assert exchange(local, data) == data
            assert exchange(remote, data) == data
            ssh.terminate()
    kinds = {each.kind: each for each in world.channels(3)}
    assert set(kinds) == {"tcpip-forward", "direct-tcpip", "forwarded-tcpip"}
    for kind in "direct-tcpip", "forwarded-tcpip":
        assert (kinds[kind].client_bytes, kinds[kind].origin_bytes) == (len(data), len(data))


def test_remote_ports_are_refused_unless_they_are_switched_on(world):
    done = world.ssh("true", options=["-R", "0:127.0.0.1:1", "-o", "ExitOnForwardFailure=yes"])
    assert done.returncode == 255
    assert [(each.kind, each.verdict) for each in world.channels()] == [("tcpip-forward", "denied")]


def test_keys_are_exchanged_again_in_the_midst_of_much(world):
    done = world.ssh("head -c 8000000 /dev/zero", options=["-o", "RekeyLimit=1M"], text=False)
    assert (done.stdout, done.returncode) == (bytes(8_000_000), 0)
    assert len([kind for kind, _ in world.signed if kind == "host"]) > 3


def test_a_session_without_a_terminal_gives_its_reason_in_a_variable(world):
    world.change(needs_reason=True)
    refused = world.ssh("true")
    assert (refused.returncode, "SetEnv=OXY_REASON" in refused.stderr) == (126, True)
    done = world.ssh("echo reason=$OXY_REASON", options=["-o", 'SetEnv=OXY_REASON="ticket 7"'])
    assert done.stdout == "reason=\n"
    assert [each.reason for each in world.channels(2)] == [None, "ticket 7"]
    assert world.judged[-1]["ssh.reason"] == "ticket 7"


def test_a_terminal_is_asked_for_its_reason(world):
    world.change(needs_reason=True)
    near, far = pty.openpty()
    arguments = ["ssh", *world.client_options(), "-tt", "-p", str(world.port), "127.0.0.1"]
    with subprocess.Popen(arguments, stdin=far, stdout=far, stderr=far) as ssh, open(near, "r+b", 0) as terminal:
        os.close(far)
        shown = b""

        def until(words):
            nonlocal shown
            while words not in shown:
                assert select.select([terminal], [], [], 20)[0], shown
                shown += terminal.read(1)

        until(b"Reason for this session: ")
        terminal.write(b"tickeX\x7ft 8\r")
        until(b"ticke")
        terminal.write(b"echo it''s here; exit 5\r")
        until(b"its here")
        assert ssh.wait(20) == 5
    assert world.channels()[0].reason == "ticket 8"


def test_a_command_that_is_no_text_arrives_as_it_is(world):
    arguments = ["ssh", *world.client_options(), "-p", str(world.port), "127.0.0.1", b"printf '\xff' | od -An -tx1"]
    assert subprocess.run(arguments, capture_output=True, timeout=20, check=False).stdout.split() == [b"ff"]
    assert "\\xff" in world.channels()[0].command


async def transports_closed():
    """What asyncssh has aborted, asyncio closes in the next turns of its loop."""
    for _ in range(3):
        await asyncio.sleep(0)


def test_an_empty_command_is_a_shell_for_policies_too(world):
    async def run():
        async with asyncssh.connect("127.0.0.1", world.port, username=USER, known_hosts=None, config=[],
                                    client_keys=[], agent_path=None) as conn:  # fmt: skip
            chan = asyncssh.SSHClientChannel(
                conn, asyncio.get_running_loop(), "strict", None, "strict", 1 << 20, 32_768
            )
            await chan._open(b"session")
            chan._session = asyncssh.SSHClientSession()
            assert await chan._make_request(b"exec", bytes(4))
            assert not await chan._make_request(b"subsystem", bytes(4))
        await transports_closed()

    asyncio.run(run())
    assert [facts["ssh.channel"] for facts in world.judged] == ["shell"]


class Program(asyncssh.SSHServerSession):
    """Says much, how it ended, and closes the connection at once. `crash`: it does not say how it ended."""

    def connection_made(self, chan):
        self._chan = chan

    def exec_requested(self, command):
        self._command = command
        return True

    def session_started(self):
        self._chan.write(b"x" * 300_000)
        self._chan.write(b"tail")
        if self._command != "crash":
            self._chan.exit(7)
        self._close_soon(self._chan.get_connection())

    def _close_soon(self, conn):
        """Once the kernel has all of it."""
        loop = asyncio.get_running_loop()
        if conn._transport.get_write_buffer_size():
            loop.call_later(0.01, self._close_soon, conn)
        elif self._command == "crash":
            conn._transport.write_eof()
        else:
            conn.close()


class Hasty(asyncssh.SSHServer):
    def begin_auth(self, username):
        return False

    def session_requested(self):
        return Program()


@contextlib.contextmanager
def hasty_origin(key):
    loop, ready = asyncio.new_event_loop(), threading.Event()

    async def serve():
        nonlocal port
        listener = await asyncssh.create_server(Hasty, "127.0.0.1", 0, server_host_keys=[key], encoding=None)
        port = listener.get_port()
        ready.set()
        await stopped.wait()
        listener.close()
        await listener.wait_closed()
        await transports_closed()

    port, stopped = 0, asyncio.Event()
    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),), daemon=True)
    thread.start()
    assert ready.wait(20)
    yield port
    loop.call_soon_threadsafe(stopped.set)
    thread.join(20)
    loop.close()


class Reader(asyncssh.SSHClientSession):
    def __init__(self):
        self.output, self.status, self.error, self.ended = b"", None, None, asyncio.Event()

    def data_received(self, data, datatype):
        self.output += data

    def exit_status_received(self, status):
        self.status = status

    def connection_lost(self, exc):
        self.error = exc
        self.ended.set()


@pytest.mark.parametrize(("command", "status", "words"), [
    ("exit", 7, "None"),
    ("crash", None, "the origin has closed the connection"),
])  # fmt: skip
def test_the_tail_reaches_a_slow_client_after_the_origin_has_closed_the_connection(world, command, status, words):
    async def run():
        async with asyncssh.connect("127.0.0.1", world.port, username=USER, known_hosts=None, config=[],
                                    client_keys=[], agent_path=None) as conn:  # fmt: skip
            options = {"encoding": None, "window": 16_384, "max_pktsize": 4_096}
            chan, reader = await conn.create_session(Reader, command, **options)
            chan.pause_reading()
            [bridge] = world.bridges
            async with asyncio.timeout(20):
                while not bridge.origin.is_closed():
                    await asyncio.to_thread(world.held)
                chan.resume_reading()
                await reader.ended.wait()
        await transports_closed()
        return len(reader.output), reader.output[-4:], reader.status, str(reader.error)

    key = asyncssh.generate_private_key("ssh-ed25519")
    with hasty_origin(key) as port:
        world.origin_port = port
        world.change(known_hosts="* " + key.export_public_key().decode())
        assert asyncio.run(run()) == (300_004, b"tail", status, words)
    wait_until(lambda: world.outcomes, "the end of the session")
    if command == "crash":
        assert (world.outcomes[0].reason, world.outcomes[0].by) == ("origin_closed", "origin")


def test_a_client_that_takes_nothing_is_told_too(world, monkeypatch):
    monkeypatch.setattr(bridge, "DELIVERY_S", 0.3)

    async def run():
        async with asyncssh.connect("127.0.0.1", world.port, username=USER, known_hosts=None, config=[],
                                    client_keys=[], agent_path=None) as conn:  # fmt: skip
            options = {"encoding": None, "window": 16_384, "max_pktsize": 4_096}
            chan, reader = await conn.create_session(Reader, "crash", **options)
            chan.pause_reading()
            async with asyncio.timeout(20):
                await reader.ended.wait()
        await transports_closed()
        return str(reader.error)

    key = asyncssh.generate_private_key("ssh-ed25519")
    with hasty_origin(key) as port:
        world.origin_port = port
        world.change(known_hosts="* " + key.export_public_key().decode())
        assert asyncio.run(run()) == "the origin has closed the connection"


def test_a_session_that_is_drained_ends_with_its_last_channel(world):
    arguments = ["ssh", *world.client_options(), "-M", "-S", str(world.place / "m"), "-p", str(world.port), "127.0.0.1",
                 "echo here; cat"]  # fmt: skip
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as ssh:
        assert ssh.stdout.readline() == b"here\n"
        [bridge] = world.bridges
        world.loop.call_soon_threadsafe(bridge.drain, "the proxy is about to stop")
        wait_until(lambda: bridge._is_draining)
        second = subprocess.run(
            ["ssh", "-S", str(world.place / "m"), "127.0.0.1", "true"], capture_output=True, timeout=20
        )
        assert second.returncode == 255
        ssh.stdin.write(b"still works\n")
        ssh.stdin.close()
        assert ssh.stdout.read() == b"still works\n"
        assert ssh.wait(20) == 0
    wait_until(lambda: world.outcomes)
    assert world.outcomes[0].reason in ("drain", "client_closed")


def test_a_session_that_is_ended_is_told(world):
    arguments = ["ssh", *world.client_options(), "-p", str(world.port), "127.0.0.1", "echo here; sleep 60"]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as ssh:
        assert ssh.stdout.readline() == b"here\n"
        for task in list(world._bridges):
            world.loop.call_soon_threadsafe(task.cancel)
        assert b"the session was ended" in ssh.stderr.read()
        assert ssh.wait(20) == 255
