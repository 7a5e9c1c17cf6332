"""What is small does not wait for what is much: channels of one session that all have something to say."""

from __future__ import annotations

import asyncio
import socket

import asyncssh
import pytest

from tests.inspect.ssh.world import SSHD, USER, World, known_line, sshd, wait_until

pytestmark = pytest.mark.skipif(SSHD is None, reason="there is no sshd")

MANY = 10  # a window of each is more than a session may hold unsent
AHEAD = 1 << 20  # bytes that a key's echo may wait for: this client's kernel buffer is a good part of them


@pytest.fixture(scope="module")
def world(place):
    with sshd(place) as port, World(place, port, known_hosts=known_line(place, port)) as world:
        yield world


async def connect(world):
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
    sock.setblocking(False)
    await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", world.port))
    return await asyncssh.connect(sock=sock, username=USER, known_hosts=None, config=[], client_keys=[],
                                  agent_path=None)  # fmt: skip


async def until(condition):
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0)


class Counting(asyncssh.SSHClientSession):
    """Counts what comes, of everybody."""

    def __init__(self, got, name):
        self._got, self._name = got, name

    def data_received(self, data, datatype):
        self._got[self._name] = self._got.get(self._name, 0) + len(data)


def is_steady(world):
    """Whether the proxy holds something, and no more than before."""
    held = []

    def steady():
        held.append(world.held())
        return len(held) > 20 and held[-1] and len(set(held[-20:])) == 1

    return steady


def has_one_byte(chan):
    """Whether the origin has said just that in the channel."""
    return chan._session.received + sum(len(data) for data, _ in chan._recv_buf) == 1


async def channels(conn, got, bulk):
    window = {"encoding": None, "window": 2 << 20, "max_pktsize": 32_768}
    for number in range(bulk):
        await conn.create_session(lambda number=number: Counting(got, number), "cat /dev/zero", **window)
    keys, _ = await conn.create_session(lambda: Counting(got, "key"), "cat", **window)
    return keys


@pytest.mark.parametrize("bulk", [1, MANY])
def test_an_echo_overtakes_what_waits_in_other_channels(world, bulk):
    async def run():
        got = {}
        conn = await connect(world)
        keys = await channels(conn, got, bulk)
        conn._transport.pause_reading()
        wait_until(is_steady(world), "a full session")
        keys.write(b"x")
        await asyncio.sleep(0)
        [bridge] = world.bridges
        wait_until(lambda: any(map(has_one_byte, list(bridge.origin._channels.values()))), "the echo")
        got.clear()
        conn._transport.resume_reading()
        await until(lambda: "key" in got)
        conn.abort()
        await conn.wait_closed()
        return sum(count for name, count in got.items() if name != "key")

    ahead = asyncio.run(run())
    wait_until(lambda: not world.bridges)
    assert ahead < AHEAD


def test_many_that_say_much_all_have_their_turn_and_the_session_goes_on(world):
    async def run():
        got = {}
        conn = await connect(world)
        await channels(conn, got, MANY)
        conn._transport.pause_reading()
        wait_until(is_steady(world), "a full session")
        got.clear()
        async with asyncio.timeout(60):
            while len(got) < MANY or min(got[each] for each in range(MANY)) < 3 << 20:
                conn._transport.resume_reading()
                await asyncio.sleep(0)
                await asyncio.sleep(0)  # after the first it is known that there is something to read
                conn._transport.pause_reading()
        conn.abort()
        await conn.wait_closed()

    asyncio.run(run())
    wait_until(lambda: not world.bridges)
    assert world.outcomes[-1].by == "client"
