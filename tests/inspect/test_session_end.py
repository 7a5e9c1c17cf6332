"""A session that has ended waits for a far end that still takes what is queued for it, and for no other."""

from __future__ import annotations

import contextlib
import socket

import pytest

from proxy.inspect.session import FINISH_S, Session
from proxy.inspect.sockets import SocketStream
from proxy.inspect.stream import Side
from tests.inspect.http.talk import FLOW
from tests.inspect.stub_inspector import StubInspector
from tests.loops import running

QUEUED = 400_000
TAKEN = 100_000


class Quiet:
    """A handler that has ended the session, and hears what comes after it."""

    def start(self): ...
    def drained(self, side): ...


class Scene:
    """A session of two plain streams, for whose client QUEUED bytes wait."""

    def __init__(self, loop):
        self.loop = loop
        self.inspector = loop.call(lambda: StubInspector(loop.poller))
        near, self.client = socket.socketpair()
        far, self.origin = socket.socketpair()
        self.client.setblocking(False)
        self.session = Session(self.inspector, 1, FLOW, "http", near, far)
        for sock in (near, far):
            sock.setblocking(False)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4_096)
        self.loop.call(self.open)

    def open(self):
        for side, sock in ((Side.CLIENT, self.session.socket_of(Side.CLIENT)),
                           (Side.ORIGIN, self.session.socket_of(Side.ORIGIN))):  # fmt: skip
            self.session.open(
                side, SocketStream(side, sock, self.inspector.poller, self.inspector.turn, self.session.crashed)
            )
        self.session.begin(Quiet())
        self.session.client.write(b"x" * QUEUED)
        self.session.finish("origin_closed", "origin")

    def take(self, count):
        """The client reads so many bytes."""
        self.left = count

        def read():
            with contextlib.suppress(BlockingIOError):
                self.left -= len(self.client.recv(self.left))
            return not self.left

        self.loop.until(read)

    def wait(self):
        """The time for the far ends passes."""
        self.inspector.clock += FINISH_S + 1
        for due in self.inspector.wheel.expired(self.inspector.clock):
            self.loop.call(lambda due=due: due.expired(self.inspector.clock))

    @property
    def end(self):
        """How it ended: reason, and what is to be reset."""
        (said,) = [message for message in self.inspector.sent if type(message).__name__ == "Ended"]
        return said.reason, said.cut


@pytest.fixture
def scene():
    with running() as loop:
        made = Scene(loop)
        yield made
        made.client.close()
        made.origin.close()


def test_a_slow_client_gets_everything(scene):
    for _ in range(QUEUED // TAKEN - 1):
        scene.take(TAKEN)
        scene.wait()
        assert not scene.session.is_over
    scene.take(TAKEN)
    scene.loop.until(lambda: scene.session.is_over)
    assert scene.end == ("origin_closed", "")


@pytest.mark.parametrize("how", ["settled", "killed", "crashed"])
def test_what_is_to_be_done_at_the_end_is_done_once_however_it_ends(scene, how):
    done = []
    scene.session.at_end(lambda: done.append(how))
    if how == "settled":
        scene.take(TAKEN)
        assert done == []
        scene.take(QUEUED - TAKEN)
        scene.loop.until(lambda: scene.session.is_over)
    elif how == "killed":
        scene.loop.call(scene.session.killed)
    else:
        scene.loop.call(lambda: scene.session.crashed(ValueError()))
    scene.loop.call(scene.session.killed)
    assert done == [how]


def test_a_client_that_takes_nothing_is_reset_and_the_origin_is_not(scene):
    scene.loop.turns(3)
    scene.wait()
    assert scene.end == ("origin_closed", "client")
    assert scene.inspector.forgotten == [scene.session]


def test_a_client_that_takes_next_to_nothing_is_reset(scene):
    scene.take(TAKEN)
    scene.wait()
    scene.take(500)
    scene.wait()
    assert scene.end == ("origin_closed", "client")
