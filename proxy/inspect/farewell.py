"""The close_notify of TLS, without the bytes that arrive meanwhile being lost.

`SSLSocket.unwrap` sends the alert, and then reads, to see the far end's. Should that have sent data just now, OpenSSL
takes it for an error and the session for over (APPLICATION_DATA_AFTER_CLOSE_NOTIFY): all that comes is lost, though
only one direction has ended (RFC 8446 6.1). So another socket takes the descriptor's place while `unwrap` runs: it has
nothing to read, and what was written to it is what is to be sent.
"""

from __future__ import annotations

import functools
import os
import socket
import ssl

ALERT_BYTES = 1_024  # more than an alert is ever long


@functools.cache
def _stand_in() -> tuple[socket.socket, socket.socket]:
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    return near, far


def prepare() -> None:
    """Make what is needed as long as sockets may be made."""
    _stand_in()


def close_notify(sock: ssl.SSLSocket) -> bytes:
    """The record that says that our side has ended, to be sent as it is; empty: there is none to be said any more.

    From then on nothing may be sent by `sock`; reading goes on. Of a process's threads one only may do this.
    """
    near, far = _stand_in()
    descriptor = sock.fileno()
    try:
        kept = os.dup(descriptor)
    except OSError:  # no descriptor is free: a FIN has to do
        return b""
    try:
        os.dup2(near.fileno(), descriptor, inheritable=False)
        try:
            sock.unwrap()
        except (OSError, ValueError):  # it waits for the far end's; or that is gone already
            pass
        finally:
            os.dup2(kept, descriptor, inheritable=False)
    finally:
        os.close(kept)
    try:
        return far.recv(ALERT_BYTES)
    except BlockingIOError:
        return b""
