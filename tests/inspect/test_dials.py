"""Origins beside the session's own: why one cannot be reached, and what becomes of those that are over."""

import contextlib
import errno
import os
import socket

import pytest

from proxy.errors import ProxyError
from proxy.inspect.dials import Dial
from proxy.inspect.http.origins import fault_of
from proxy.inspect.session import Session
from proxy.session.messages import DialAnswer, DialClosed
from tests.inspect.http.talk import FLOW
from tests.inspect.stub_inspector import StubInspector
from tests.loops import open_descriptors, running


@pytest.mark.parametrize(
    ("code", "fault"),
    [
        (errno.ECONNREFUSED, "origin_refused"),
        (errno.ETIMEDOUT, "origin_timeout"),
        (errno.EHOSTUNREACH, "origin_unreachable"),
    ],
)
def test_what_the_kernel_said_of_a_connection(code, fault):
    told = []
    dial = Dial(None, None, None, None, None, told.append)
    dial.answered(DialAnswer(1, error=os.strerror(code)), [], "192.0.2.1", 80, None, ())
    (error,) = told
    assert isinstance(error, ProxyError)
    assert (fault_of(error), str(error)) == (fault, os.strerror(code))


class Receiver:
    """Hears nothing."""

    def received(self, data): ...
    def ended(self): ...
    def broken(self, error): ...
    def drained(self): ...


class DiallingHome(StubInspector):
    """Each connection that is wanted is there at once; `origins` are the far ends."""

    def __init__(self, poller):
        super().__init__(poller)
        self.origins = []

    def tls_of(self, tenant):
        return None

    def ask_proxy(self, wanted, then):
        request = len(self.origins) + 1
        wanted(request)
        near, far = socket.socketpair()
        self.origins.append(far)
        then(DialAnswer(request), [near.detach()])


def test_a_long_session_keeps_no_connection_that_is_over():
    before = open_descriptors()
    with running() as loop:
        inspector = loop.call(lambda: DiallingHome(loop.poller))
        client, origin = socket.socketpair()
        session = Session(inspector, 1, FLOW, "http", client, origin)
        streams = []

        def dial():
            session.dial("192.0.2.1", 80, server_name=None, alpn=(), receiver=Receiver(), then=streams.append)

        for count in range(1, 6):
            loop.call(dial)
            assert len(streams) == count
            inspector.origins[-1].close()
            loop.until(lambda: streams[-1]._is_eof)
            loop.call(streams[-1].end)
        loop.call(dial)
        said = [(each.session, each.request) for each in inspector.sent if isinstance(each, DialClosed)]
        assert said == [(1, number) for number in range(1, 6)]
        own = 3 + 2  # the loop's epoll and its pair, and the session's two sockets
        assert len(open_descriptors() - before) <= own + 2 + 1
        loop.call(session.killed)
        inspector.origins[-1].close()
        for far in inspector.origins:
            far.close()


def test_what_is_queued_for_another_origin_is_sent_before_a_session_ends():
    with running() as loop:
        inspector = loop.call(lambda: DiallingHome(loop.poller))
        (client, _client), (origin, _origin) = socket.socketpair(), socket.socketpair()
        session = Session(inspector, 1, FLOW, "http", client, origin)
        streams, heard, size = [], bytearray(), 4 << 20  # more than the kernel holds

        def dial():
            session.dial("192.0.2.1", 80, server_name=None, alpn=(), receiver=Receiver(), then=streams.append)

        for _ in range(2):
            loop.call(dial)
        loop.call(lambda: streams[0].write(b"x" * size))
        loop.call(lambda: session.finish("client_closed", "client"))
        far, idle = inspector.origins
        assert idle.recv(1) == b""
        far.setblocking(False)

        def has_ended():
            with contextlib.suppress(BlockingIOError):
                while data := far.recv(65_536):
                    heard.extend(data)
                return True

        loop.until(has_ended)
        loop.until(lambda: session.is_over)
        assert len(heard) == size
        for sock in (far, idle, _client, _origin):
            sock.close()
