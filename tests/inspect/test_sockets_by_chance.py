"""Streams over real sockets with small buffers, by chance: all bytes arrive, and each end is told exactly once."""

import asyncio
import contextlib
import random
import socket
import ssl
import struct
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.ca.authority import Authority
from proxy.inspect.close_notify import close_notify
from proxy.inspect.sockets import SocketStream, TLSStream, Turn
from proxy.inspect.stream import MID_WATER, Side
from proxy.inspect.tls import TenantTLS
from proxy.poller import Poller
from proxy.session.facts import TLSFacts
from proxy.session.messages import LeafAnswer, TenantRules

KINDS = ["tcp", ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]
SIZES = (1, 100, 16_384, 40_000, 300_000)
BLOCKED = (ssl.SSLWantReadError, ssl.SSLWantWriteError, BlockingIOError)
BLOB = random.Random(1).randbytes(1 << 16) * 64
MOST = 3 << 20  # bytes sent in one direction
PATIENCE_S = 20.0
few = settings(max_examples=settings.default.max_examples // 6)


@pytest.fixture(scope="module")
def tenant():
    """Contexts of a tenant, as towards its clients and its origins."""
    root = Authority.create("test")
    leaf = root.mint("wiki.lab")
    tls = TenantTLS(TenantRules(roots=root.certificate_pem.decode(), system_trust=False))
    tls.add_leaf("wiki.lab", False, LeafAnswer(1, leaf.chain, leaf.key))
    return tls


def connected():
    """Two ends of a TCP connection with small buffers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8_192)
        near = socket.socket()
        near.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8_192)
        near.connect(listener.getsockname())
        far, _ = listener.accept()
    for each in (near, far):
        each.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8_192)
        each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        each.setblocking(False)
    return near, far


def secured(tls, version, near, far):
    """The same behind TLS."""
    server, client = tls.client_context("wiki.lab", False), tls.origin_context(True)
    server.maximum_version = version
    far = server.wrap_socket(far, server_side=True, do_handshake_on_connect=False)
    near = client.wrap_socket(near, server_hostname="wiki.lab", do_handshake_on_connect=False)
    waiting = [near, far]
    while waiting:
        for each in list(waiting):
            with contextlib.suppress(ssl.SSLWantReadError):
                each.do_handshake()
                waiting.remove(each)
    return near, far


class Far:
    """The other end."""

    def __init__(self, sock, says_farewell):
        self.sock, self.says_farewell = sock, says_farewell
        self.heard, self.sent = bytearray(), 0
        self.size = 0  # of what could not be sent: TLS wants at least as much the next time
        self.has_heard_end = self.is_shut = self.is_gone = False

    def read(self):
        if self.is_gone or self.has_heard_end:
            return False
        try:
            data = self.sock.recv(30_000)
        except BLOCKED:
            return False
        except ssl.SSLZeroReturnError:  # what `recv` says of the end, once both have said theirs
            data = b""
        except OSError:
            self.is_gone = True
            return True
        self.heard += data
        self.has_heard_end = not data
        return True

    def send(self, size):
        if not (self.is_gone or self.is_shut) and self.sent < MOST:
            self.size = max(size, self.size)
            try:
                self.sent += self.sock.send(BLOB[self.sent : self.sent + self.size])
                self.size = 0
            except BLOCKED:
                pass
            except OSError:
                self.is_gone = True

    def shut(self):
        """close_notify where there is TLS, if nobody has forgotten it, and FIN."""
        if not (self.is_gone or self.is_shut or self.size):
            self.is_shut = True
            if isinstance(self.sock, ssl.SSLSocket) and self.says_farewell:
                with contextlib.suppress(OSError):
                    socket.socket.send(self.sock, close_notify(self.sock))
            with contextlib.suppress(OSError):
                socket.socket.shutdown(self.sock, socket.SHUT_WR)

    def reset(self):
        self.is_gone = True
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()


class Near:
    """The stream, and what its handler is told."""

    def __init__(self, stream):
        self.stream = stream
        stream.handler = self
        self.heard, self.written = bytearray(), 0
        self.told, self.settled, self.drains, self.was_high = [], 0, 0, False
        self.has_ended = self.has_finished = False

    def received(self, side, data):
        assert data
        assert not self.told
        self.heard += data

    def ended(self, side):
        self.told.append("ended")

    def broken(self, side, error):
        self.told.append("broken")

    def drained(self, side):
        self.drains += 1

    def write(self, size):
        if not (self.has_ended or self.stream.is_closed) and self.written < MOST:
            self.stream.write(BLOB[self.written : self.written + size])
            self.written += size
            self.was_high = self.was_high or self.stream.queued > MID_WATER

    def end(self):
        self.has_ended = True
        self.stream.end()

    def finish(self):
        if not self.has_finished:
            self.has_ended = self.has_finished = True
            self.stream.finish(self.settle)

    def settle(self):
        self.settled += 1


def has_all(near, far, odd):
    """Whether both ends have heard all that there is to be heard."""
    if far.is_gone or near.stream.is_closed:
        return bool(near.told) if not near.has_finished else bool(near.settled)
    to_far = len(far.heard) == near.written and far.has_heard_end == near.has_ended
    if near.has_finished:
        return to_far and bool(near.settled)
    return to_far and len(near.heard) == far.sent and bool(near.told) == ("shut" in odd)


def by_chance(tenant, kind, seed, odd):
    """A conversation in which `odd` things happen: what both ends have heard when nothing moves any more."""

    async def run():
        chance = random.Random(seed)
        ours, theirs = connected()
        if kind != "tcp":
            sides = secured(tenant, kind, ours, theirs)
            ours, theirs = sides if chance.random() < 0.5 else sides[::-1]
        poller, turn = Poller(asyncio.get_running_loop()), Turn()
        if kind == "tcp":
            stream = SocketStream(Side.CLIENT, ours, poller, turn, pytest.fail)
        else:
            facts = TLSFacts("any", "any", alpn=chance.choice(["h2", "http/1.1"]))
            stream = TLSStream(Side.CLIENT, ours, poller, turn, pytest.fail, facts)
        near, far = Near(stream), Far(theirs, chance.random() < 0.5)

        def together():
            with turn:
                near.write(chance.choice(SIZES))
                near.write(chance.choice(SIZES))

        usual = [stream.pause, stream.resume, far.read, far.read, together, lambda: near.write(chance.choice(SIZES)),
                 lambda: far.send(chance.choice(SIZES)), lambda: far.send(chance.choice(SIZES))]  # fmt: skip
        moments = {chance.randrange(120): getattr(near if hasattr(Near, name) else far, name) for name in odd}
        for moment in range(120):
            moments.get(moment, chance.choice(usual))()
            if chance.random() < 0.5:
                await asyncio.sleep(0)
        if "end" in odd and not near.has_ended:
            near.end()
        if not near.has_finished:
            stream.resume()
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline and not has_all(near, far, odd):
            far.read()
            if far.size:
                far.send(0)
            elif "shut" in odd:
                far.shut()
            await asyncio.sleep(0)
        for _ in range(10):  # nothing is told twice
            await asyncio.sleep(0)
        stream.close()
        theirs.close()
        poller.close()
        return near, far

    return asyncio.run(run())


@pytest.mark.parametrize("kind", KINDS, ids=str)
@few
@given(
    odd=st.sampled_from([(), ("end",), ("shut",), ("end", "shut"), ("shut", "finish"), ("end", "finish"), ("finish",)]),
    seed=st.integers(0, 1 << 32),
)
def test_all_arrives(tenant, kind, odd, seed):
    near, far = by_chance(tenant, kind, seed, odd)
    assert near.told == ["ended"] if "shut" in odd and not near.has_finished else near.told in ([], ["ended"])
    assert bytes(far.heard) == BLOB[: near.written]
    assert far.has_heard_end == near.has_ended
    assert BLOB.startswith(near.heard)
    assert near.has_finished or len(near.heard) == far.sent
    assert near.settled == near.has_finished
    assert near.drains or not near.was_high or near.has_finished


@pytest.mark.parametrize("kind", KINDS, ids=str)
@few
@given(
    odd=st.sampled_from(
        [("reset",), ("end", "reset"), ("finish", "reset"), ("shut", "reset"), ("end", "finish", "reset")]
    ),
    seed=st.integers(0, 1 << 32),
)
def test_a_reset_is_told_once(tenant, kind, odd, seed):
    near, far = by_chance(tenant, kind, seed, odd)
    assert near.told in (["broken"], ["ended", "broken"], ["ended"]) or near.has_finished
    assert len(near.told) == len(set(near.told))
    assert near.settled == near.has_finished
    assert (BLOB.startswith(near.heard), BLOB[: near.written].startswith(far.heard)) == (True, True)
