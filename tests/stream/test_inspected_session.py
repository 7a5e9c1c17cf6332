"""A session that an inspector has: what is counted of it while it is there, and when it is given back unread."""

from __future__ import annotations

import contextlib
import socket

import pytest

from proxy.stream.inspected_session import InspectedSession
from tests.flows import make_flow
from tests.running import until
from tests.stream.relays import tcp_pair


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
    session = InspectedSession(1, flow, client, origin, None, lambda *_: None, passed.append)
    its_far.sendall(b"hello")
    origins_far.sendall(b"banner first")

    def counted():
        session.count()
        return flow.client_payload, flow.origin_payload

    until(lambda: counted() == (5, 12))  # seen while the inspector looks, and not read by it
    session.give_back()
    assert passed == [origin]
    session.count()  # by a round that had begun before
    assert (flow.client_payload, flow.origin_payload) == (0, 0)
    assert (client.recv(100), origin.recv(100)) == (b"hello", b"banner first")


def test_connections_beside_its_own_are_closed_when_the_inspector_says_so_and_still_count(pairs):
    (client, _), (origin, origins_far) = pairs
    flow = make_flow()
    session = InspectedSession(1, flow, client, origin, None, lambda *_: None, None)
    near, far = tcp_pair()
    far.sendall(b"answer")
    session.add_origin(near, 7)
    origins_far.sendall(b"banner first")

    def counted():
        session.count()
        return flow.origin_payload

    until(lambda: counted() == 18)
    session.dial_closed(8)
    assert near.fileno() >= 0
    session.dial_closed(7)
    assert near.fileno() == -1
    assert counted() == 18
    other, others_far = tcp_pair()
    session.add_origin(other, None)
    assert (origin.fileno(), counted()) == (-1, 18)
    for sock in (far, other, others_far):
        sock.close()
