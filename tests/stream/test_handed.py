"""A session that an inspector has: what is counted of it while it is there, and when it is given back unread."""

from __future__ import annotations

import contextlib
import socket

import pytest

from proxy.stream.handed import Handed
from tests.flows import make_flow
from tests.running import until


@pytest.fixture
def pairs():
    """Two connections: each the proxy's end, and that of the client or the origin."""
    with contextlib.ExitStack() as stack:

        def connection():
            with socket.create_server(("127.0.0.1", 0)) as listener:
                far = stack.enter_context(socket.create_connection(listener.getsockname()))
                near = stack.enter_context(listener.accept()[0])
            return near, far

        yield connection(), connection()


def test_bytes_of_a_session_that_is_given_back_unread_are_left_for_the_relay_to_count(pairs):
    (client, its_far), (origin, origins_far) = pairs
    flow, passed = make_flow(), []
    handed = Handed(1, flow, client, origin, None, lambda *_: None, passed.append)
    its_far.sendall(b"hello")
    origins_far.sendall(b"banner first")

    def counted():
        handed.count()
        return flow.client_payload, flow.origin_payload

    until(lambda: counted() == (5, 12))  # seen while the inspector looks, and not read by it
    handed.give_back()
    assert passed == [origin]
    handed.count()  # by a round that had begun before
    assert (flow.client_payload, flow.origin_payload) == (0, 0)
    assert (client.recv(100), origin.recv(100)) == (b"hello", b"banner first")
