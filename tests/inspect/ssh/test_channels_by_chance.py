"""Channels by chance, several in one session: bytes, ends and exits pass in their order, and nothing waits for ever.

Both ends are asyncssh's, with windows of any size, ends that stop reading for a while, and new keys while bytes pass.
`HYPOTHESIS_PROFILE=long` tries more of them.
"""

import asyncio
import random
import socket

import asyncssh
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.inspect.ssh.bridge import Bridge
from proxy.session.facts import FlowFacts
from tests.inspect.ssh.world import USER, View, World

BLOB = random.Random(1).randbytes(1 << 20)
KINDS = ["exec", "subsystem", "shell", "direct-tcpip", "forwarded-tcpip"]
SIZES = st.one_of(st.just(0), st.integers(1, 5_000), st.sampled_from([32_768, 65_536]), st.integers(1, 400_000))
PIECES = (1, 100, 5_000, 32_768, 100_000)
WINDOWS = st.sampled_from([1_000, 32_768, 200_000, 2 << 20])
PATIENCE_S = 30
few = settings(max_examples=settings.default.max_examples // 3)


class Plan:
    """One channel: what either end says, and how it is over."""

    def __init__(self, kind, up, out, err, windows, exit_by, ends):
        self.kind, self.up, self.windows, self.ends = kind, up, windows, ends
        self.is_session = kind in KINDS[:3]
        self.out, self.err = out, err if self.is_session else 0
        self.exit_by = exit_by if self.is_session else None

    def __repr__(self):
        return f"{self.kind} {self.up} {self.out} {self.err} {self.windows} {self.exit_by} {self.ends}"


PLANS = st.builds(
    Plan, st.sampled_from(KINDS), SIZES, SIZES, SIZES, st.tuples(WINDOWS, WINDOWS),
    st.sampled_from([0, 3, "TERM", None]),
    st.tuples(st.booleans(), st.booleans()),
)  # fmt: skip


class End(asyncssh.SSHClientSession, asyncssh.SSHServerSession, asyncssh.SSHTCPSession):
    """Either end of a channel: what it hears, in order."""

    def __init__(self, chance, said, says_eof):
        self.chance, self.said, self.says_eof = chance, dict(said), says_eof
        self.at = dict.fromkeys(said, 0)
        self.heard = {None: bytearray(), 1: bytearray()}
        self.events = []
        self.chan = None
        self.is_full = self.has_said_all = self.has_sent_eof = self.is_paused = False
        self.lost = asyncio.Event()

    def connection_made(self, chan):
        self.chan, self.eof_waits, close_send = chan, False, chan._close_send

        def closes():
            self.eof_waits = chan._recv_state == "eof_pending"
            close_send()

        chan._close_send = closes

    def shell_requested(self):
        return True

    def exec_requested(self, command):
        return True

    def subsystem_requested(self, subsystem):
        return True

    def data_received(self, data, datatype):
        self.heard[datatype] += data
        self.events.append("data")

    def eof_received(self):
        self.events.append("eof")
        return True

    def exit_status_received(self, status):
        self.events.append(status)

    def exit_signal_received(self, signal, core_dumped, msg, lang):
        self.events.append(signal)

    def connection_lost(self, error):
        if self.eof_waits:  # which asyncssh forgets, unless it can be told before the close comes
            self.events.append("eof")
        self.events.append("lost")
        self.lost.set()

    def pause_writing(self):
        self.is_full = True

    def resume_writing(self):
        self.is_full = False

    def step(self):
        """Say something, if there is anything to say."""
        if self.chan is None or self.chan.is_closing() or self.has_said_all or self.is_full:
            return
        left = [kind for kind, data in self.said.items() if self.at[kind] < len(data)]
        if left:
            kind = self.chance.choice(left)
            part = self.said[kind][self.at[kind] :][: self.chance.choice(PIECES)]
            self.at[kind] += len(part)
            self.chan.write(part, kind)
        else:
            self.has_said_all = True
            if self.says_eof:
                self.chan.write_eof()

    @property
    def is_through(self):
        """Whether all of it is with the connection."""
        return self.has_said_all and self.chan._send_state in ("open", "eof") and not self.chan._send_buf

    def turn(self):
        """Read on, or not."""
        if self.chan is not None and not self.lost.is_set():
            self.is_paused = not self.is_paused
            (self.chan.pause_reading if self.is_paused else self.chan.resume_reading)()

    def calm(self):
        if self.is_paused:
            self.turn()


class Listening(asyncssh.SSHListener):
    """A port of the origin's that nobody listens at: connections are said to have come."""

    def close(self):
        """There is nothing to close."""

    async def wait_closed(self):
        """Nor to wait for."""


def connected():
    """Two ends of a TCP connection."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        near = socket.create_connection(listener.getsockname())
        return near, listener.accept()[0]


class Talk:
    """Client, bridge and origin in one loop."""

    def __init__(self, place, plans, seed):
        self.plans, self.chance = plans, random.Random(seed)
        self.world = World(place, 22)
        key = asyncssh.generate_private_key("ssh-ed25519")
        self.world.change(known_hosts="* " + key.export_public_key().decode(), local_forwarding=True,
                          remote_forwarding=True)  # fmt: skip
        self.key = key
        self.fronts, self.backs = [], []
        for plan in plans:
            self.fronts.append(End(self.chance, {None: BLOB[: plan.up]}, plan.ends[0]))
            said = {None: BLOB[7 : 7 + plan.out], **({1: BLOB[13 : 13 + plan.err]} if plan.err else {})}
            self.backs.append(End(self.chance, said, plan.ends[1]))
        self.origin = None

    async def __aenter__(self):
        (near, mine), (theirs, far) = connected(), connected()
        for sock in (near, mine, theirs, far):
            sock.setblocking(False)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 20_000)
        flow = FlowFacts(id="F1", tenant="acme", onramp="c", tunnel="t1", src="100.96.0.2", src_port=4,
                         dst="127.0.0.1", dst_port=22, user="alice")  # fmt: skip
        self.bridge = Bridge(View(self.world, flow))
        self.running = asyncio.ensure_future(self.bridge.run(mine, theirs))
        talk = self

        class Server(asyncssh.SSHServer):
            def connection_made(self, conn):
                talk.origin = conn

            def begin_auth(self, username):
                return False

            def session_requested(self):
                number = talk.opening
                window = talk.plans[number].windows[1]
                return talk.origin.create_server_channel(encoding=None, window=window), talk.backs[number]

            def connection_requested(self, host, port, *_):
                chan = talk.origin.create_tcp_channel(encoding=None, window=talk.plans[port].windows[1])
                return chan, talk.backs[port]

            def server_requested(self, host, port):
                return Listening()

        rekey = self.chance.choice([None, 50_000, 300_000])
        more = {} if rekey is None else {"rekey_bytes": rekey}
        self.serving = asyncio.ensure_future(
            asyncssh.run_server(far, server_factory=Server, server_host_keys=[self.key], **more)
        )
        rekey = self.chance.choice([None, 50_000, 300_000])
        more = {} if rekey is None else {"rekey_bytes": rekey}
        self.client = await asyncssh.connect(
            sock=near, username=USER, known_hosts=None, config=[], client_keys=[], agent_path=None, **more
        )
        await self.serving
        return self

    async def __aexit__(self, *_):
        self.client.abort()
        await self.client.wait_closed()
        self.outcome = await self.running
        self.origin.abort()
        await self.origin.wait_closed()
        await asyncio.sleep(0)

    async def open(self, number):
        """Whichever way this channel begins."""
        plan, front, back = self.plans[number], self.fronts[number], self.backs[number]
        more = {"encoding": None, "window": plan.windows[0]}
        if plan.is_session:
            self.opening = number
            what = {"command": f"{number}"} if plan.kind == "exec" else {}
            if plan.kind == "subsystem":
                what = {"subsystem": f"s{number}"}
            await self.client.create_session(lambda: front, **what, **more)
        elif plan.kind == "direct-tcpip":
            await self.client.create_connection(lambda: front, "there", number, **more)
        else:
            listening = await self.client.create_server(lambda *_: front, "here", 1_000 + number, **more)
            assert listening
            await self.origin.create_connection(lambda: back, "here", 1_000 + number, encoding=None,
                                                window=plan.windows[1])  # fmt: skip
            await until(lambda: front.chan is not None)

    async def some(self, steps):
        """So many things by chance."""
        ends = [*self.fronts, *self.backs]
        for _ in range(steps):
            end = self.chance.choice(ends)
            if self.chance.random() < 0.05:
                end.turn()
            else:
                end.step()
            for _ in range(self.chance.choice([0, 0, 1, 3])):
                await asyncio.sleep(0)


async def until(condition):
    async with asyncio.timeout(PATIENCE_S):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0)


def held(bridge):
    """Bytes that wait in it, in one channel at most."""
    return max((sum(len(data) for data, _ in chan._recv_buf) + chan._send_buf_len
                for conn in (bridge.client, bridge.origin) if conn is not None for chan in conn._channels.values()),
               default=0)  # fmt: skip


@few
@given(st.lists(PLANS, min_size=1, max_size=5), st.integers(0, 1 << 32))
def test_all_arrives_in_order_and_no_channel_is_left(tmp_path_factory, plans, seed):
    asyncio.run(converse(place_of(tmp_path_factory), plans, seed))


_places = []


def place_of(factory):
    if not _places:
        _places.append(factory.mktemp("chance"))
    return _places[0]


async def converse(place, plans, seed):
    async with Talk(place, plans, seed) as talk:
        for number in range(len(plans)):
            await talk.open(number)
            await talk.some(talk.chance.choice([0, 10, 100]))
        await talk.some(talk.chance.choice([0, 100, 1_000]))
        over = set()
        while len(over) < len(plans):
            await talk.some(20)
            assert held(talk.bridge) < 5 << 20
            for number, back in enumerate(talk.backs):
                if number not in over and back.has_said_all and back.is_through:
                    over.add(number)
                    back.has_sent_eof = back.chan._send_state == "eof"
                    finish(plans[number], back, talk.fronts[number], talk)
            if talk.chance.random() < 0.2:
                for end in (*talk.fronts, *talk.backs):
                    end.calm()
        for end in (*talk.fronts, *talk.backs):
            end.calm()
        await until(lambda: all(end.lost.is_set() for end in talk.fronts + talk.backs))
        await until(lambda: not talk.bridge._open)
        for plan, front, back in zip(plans, talk.fronts, talk.backs, strict=True):
            check(plan, front, back)
        conns = talk.bridge.client, talk.bridge.origin
        await until(lambda: not any(conn._channels for conn in conns))
        records = [each for each in talk.world.records if each.kind != "tcpip-forward"]
        assert len(records) == len(plans)
        assert sorted(each.origin_bytes for each in records) == sorted(plan.out for plan in plans)
    assert talk.outcome.by == "client"


def finish(plan, back, front, talk):
    """The origin is through: so it says how it ended, or closes."""
    if isinstance(plan.exit_by, int):
        back.chan.exit(plan.exit_by)
    elif plan.exit_by is not None:
        back.chan.exit_with_signal(plan.exit_by)
    else:
        back.chan.close()


def check(plan, front, back):
    assert bytes(front.heard[None]) == back.said[None], plan
    assert bytes(front.heard[1]) == back.said.get(1, b""), plan
    assert front.said[None].startswith(back.heard[None]), plan
    assert front.events[-1] == "lost", plan
    assert back.events[-1] == "lost", plan
    told = [each for each in front.events if each not in ("data", "eof", "lost")]
    assert told == ([] if plan.exit_by is None else [plan.exit_by]), plan
    assert front.events.count("eof") == back.has_sent_eof, (plan, front.events[-5:])
    if back.has_sent_eof:
        assert "data" not in front.events[front.events.index("eof") :], plan


def cut(conn):
    """The connection is gone, at once."""
    if conn._transport is not None:
        conn._transport.abort()


def leave_channel(talk):
    """The client wants no more of one."""
    talk.chance.choice(talk.fronts).chan.close()


def break_channel(talk):
    """The origin ends one, whatever it had to say."""
    talk.chance.choice(talk.backs).chan.abort()


FAULTS = [
    lambda talk: cut(talk.client), lambda talk: cut(talk.origin), lambda talk: talk.client.disconnect(11, "bye"),
    lambda talk: talk.origin.disconnect(11, "bye"), lambda talk: talk.bridge.drain("the proxy ends"),
    leave_channel, leave_channel, break_channel, break_channel,
]  # fmt: skip


@few
@given(
    st.lists(PLANS, min_size=1, max_size=4), st.lists(st.sampled_from(FAULTS), min_size=1, max_size=3),
    st.integers(0, 1 << 32),
)  # fmt: skip
def test_what_breaks_off_is_told_to_both_and_no_channel_is_left(tmp_path_factory, plans, faults, seed):
    asyncio.run(break_off(place_of(tmp_path_factory), plans, faults, seed))


async def break_off(place, plans, faults, seed):
    async with Talk(place, plans, seed) as talk:
        for number in range(len(plans)):
            await talk.open(number)
        for fault in faults:
            await talk.some(talk.chance.choice([0, 10, 100, 500]))
            fault(talk)
        await talk.some(20)
        for end in (*talk.fronts, *talk.backs):
            end.calm()
        for back in talk.backs:
            back.chan.close()
        await until(lambda: all(end.lost.is_set() for end in talk.fronts + talk.backs))
        await until(lambda: not talk.bridge._open)
        for plan, front, back in zip(plans, talk.fronts, talk.backs, strict=True):
            assert back.said[None].startswith(front.heard[None]), plan
            assert back.said.get(1, b"").startswith(front.heard[1]), plan
            assert front.said[None].startswith(back.heard[None]), plan
        records = [each for each in talk.world.records if each.kind != "tcpip-forward"]
        assert sorted(each.kind for each in records) == sorted(plan.kind for plan in plans)
    assert talk.bridge.client._channels == talk.bridge.origin._channels == {}
