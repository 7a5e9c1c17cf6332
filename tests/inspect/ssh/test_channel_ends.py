"""How channels begin and end in bad moments: a client that leaves early, an origin that is full, an end that waits."""

import asyncio
import os

import msgspec
import pytest

from tests.inspect.ssh.test_channels_by_chance import BLOB, Listening, Plan, Talk, held, until
from tests.inspect.ssh.world import View

BULK = BLOB * 6  # three windows
WINDOW = 2 << 20


def plan(kind="exec", windows=(WINDOW, WINDOW)):
    return Plan(kind, 0, 0, 0, windows, 0, (True, True))


def test_an_eof_that_waits_for_a_window_goes_before_the_close(tmp_path):
    async def run():
        async with Talk(tmp_path, [plan(windows=(1_000, WINDOW))], 1) as talk:
            await talk.open(0)
            [front], [back] = talk.fronts, talk.backs
            front.turn()
            back.chan.write(BLOB[:50_000])
            back.chan.write_eof()
            assert back.chan._send_state == "eof"
            back.chan.exit(3)
            await until(lambda: talk.bridge.origin._channels == {} or held(talk.bridge))
            front.turn()
            await until(front.lost.is_set)
            assert bytes(front.heard[None]) == BLOB[:50_000]
            assert [each for each in front.events if each != "data"] == [3, "eof", "lost"]

    asyncio.run(run())


def test_an_eof_that_waits_for_the_origin_goes_before_the_clients_close(tmp_path):
    async def run():
        async with Talk(tmp_path, [plan("direct-tcpip", windows=(WINDOW, 1_000))], 1) as talk:
            await talk.open(0)
            [front], [back] = talk.fronts, talk.backs
            back.turn()
            front.chan.write(BLOB[:200_000])
            front.chan.write_eof()
            assert front.chan._send_state == "eof"
            front.chan.close()
            await until(lambda: held(talk.bridge))
            back.turn()
            await until(back.lost.is_set)
            assert bytes(back.heard[None]) == BLOB[:200_000]
            assert [each for each in back.events if each != "data"] == ["eof", "lost"]

    asyncio.run(run())


def test_what_is_sent_to_an_origin_that_is_full_when_it_answers_stays_within_a_window(tmp_path, monkeypatch):
    async def run():
        async with Talk(tmp_path, [plan()], 1) as talk:
            [front], [back] = talk.fronts, talk.backs
            monkeypatch.setattr(back, "exec_requested", lambda command: talk.bridge.origin._hold("test") or True)
            front.said, front.at = {None: BULK}, {None: 0}
            await talk.open(0)
            front.chan.write(BULK)
            await until(lambda: front.chan._send_window == 0 or not front.chan._send_buf)
            await until(lambda: held(talk.bridge) >= WINDOW)
            assert held(talk.bridge) == WINDOW
            talk.bridge.origin._release("test")
            await until(lambda: len(back.heard[None]) == len(BULK))
            assert bytes(back.heard[None]) == BULK

    asyncio.run(run())


@pytest.mark.parametrize(("typed", "heard"), [(b"why\nls", b"ls"), (b"why\n", b"")])
def test_an_eof_behind_the_reason_reaches_the_origin(tmp_path, typed, heard):
    async def run():
        async with Talk(tmp_path, [plan("shell")], 1) as talk:
            talk.bridge.view.rules = msgspec.structs.replace(talk.world.rules, needs_reason=True)
            [front], [back] = talk.fronts, talk.backs
            talk.opening = 0
            await talk.client.create_session(lambda: front, term_type="xterm", encoding=None)
            front.chan.write(typed)
            front.chan.write_eof()
            await until(lambda: "eof" in back.events)
            assert bytes(back.heard[None]) == heard

    asyncio.run(run())


def test_an_eof_at_the_question_for_a_reason_gives_up(tmp_path):
    async def run():
        async with Talk(tmp_path, [plan("shell")], 1) as talk:
            talk.bridge.view.rules = msgspec.structs.replace(talk.world.rules, needs_reason=True)
            [front], _ = talk.fronts, talk.backs
            await talk.client.create_session(lambda: front, term_type="xterm", encoding=None)
            front.chan.write_eof()
            await until(front.lost.is_set)
            assert b"say why" in front.heard[1]
            assert 126 in front.events

    asyncio.run(run())


def test_a_client_that_leaves_before_its_recording_has_begun_leaves_nothing_open(tmp_path, monkeypatch):
    async def run():
        asked, may_go_on, descriptors = asyncio.Event(), asyncio.Event(), []

        async def recording(view, name):
            asked.set()
            await may_go_on.wait()
            descriptors.append(os.open(tmp_path / name, os.O_WRONLY | os.O_CREAT, 0o600))
            return descriptors[0]

        monkeypatch.setattr(View, "recording", recording)
        async with Talk(tmp_path, [plan()], 1) as talk:
            talk.bridge.view.rules = msgspec.structs.replace(talk.world.rules, record_commands=True)
            [front], [back] = talk.fronts, talk.backs
            opening = asyncio.ensure_future(talk.client.create_session(lambda: front, "0", encoding=None))
            await asked.wait()
            front.chan.close()
            await until(lambda: talk.world.records)
            may_go_on.set()
            await until(lambda: descriptors)
            await until(lambda: not any(is_open(each) for each in descriptors))
            await asyncio.gather(opening, return_exceptions=True)
            assert (talk.world.begun, talk.world.opened, back.chan) == ([], [], None)

    asyncio.run(run())


def is_open(descriptor):
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


@pytest.mark.parametrize("kind", ["tcp", "unix"])
def test_a_connection_right_behind_the_answer_to_the_wish_to_listen_is_not_refused(tmp_path, monkeypatch, kind):
    async def run():
        async with Talk(tmp_path, [plan("forwarded-tcpip")], 1) as talk:
            [front], [back] = talk.fronts, talk.backs
            comes = []

            def listens(*at):
                made = {"tcp": talk.origin.create_connection, "unix": talk.origin.create_unix_connection}[kind]
                more = (*at, "192.0.2.1", 9) if kind == "tcp" else at
                comes.append(asyncio.ensure_future(made(lambda: back, *more, encoding=None)))
                return Listening()

            def opened(packet):
                packet.get_remaining_payload()
                make = talk.client.create_tcp_channel if kind == "tcp" else talk.client.create_unix_channel
                return make(encoding=None), front

            owner = talk.origin.get_owner()
            monkeypatch.setattr(owner, "server_requested", listens)
            monkeypatch.setattr(owner, "unix_server_requested", listens, raising=False)
            monkeypatch.setattr(talk.client, "_process_forwarded_tcpip_open", opened)
            monkeypatch.setattr(talk.client, "_process_forwarded_streamlocal_at_openssh_dot_com_open", opened)
            if kind == "tcp":
                await talk.client.create_server(lambda *_: front, "here", 1_000, encoding=None)
            else:
                await talk.client.create_unix_server(lambda: front, "/here", encoding=None)
            await comes[0]
            back.chan.write(b"hello")
            await until(lambda: front.heard[None] == b"hello")

    asyncio.run(run())


class Greedy:
    """A socket that takes all that it is given."""

    def __init__(self, sock):
        self._sock = sock

    def send(self, data):
        return len(data)

    def sendmsg(self, pieces):
        return sum(map(len, pieces))

    def __getattr__(self, name):
        return getattr(self._sock, name)


def test_a_client_that_ends_while_it_takes_the_last_bytes_causes_no_error(tmp_path):
    async def run():
        errors = []
        async with Talk(tmp_path, [plan()], 1) as talk:
            asyncio.get_running_loop().set_exception_handler(lambda _, context: errors.append(context))
            talk.client._transport.pause_reading()
            transport = talk.bridge.client._transport
            transport.write(bytes(8 << 20))
            assert transport.get_write_buffer_size()
            transport._sock = Greedy(transport._sock)
            transport._read_ready__on_eof()
            transport._write_ready()
            await until(talk.running.done)
        assert errors == []

    asyncio.run(run())
