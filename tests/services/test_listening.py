"""Listening sockets: what every accepted one inherits."""

from __future__ import annotations

import socket

from oxyctl.services.host import listen_tcp


def test_small_answers_do_not_wait_for_acknowledgements():
    """Nagle's algorithm and delayed acknowledgements together hold back what is written in two parts for 40 ms."""
    with listen_tcp("127.0.0.1", 0) as listening, socket.create_connection(listening.getsockname()):
        listening.settimeout(10)
        accepted, _ = listening.accept()
        with accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
