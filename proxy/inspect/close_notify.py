"""Sends TLS's close_notify without losing data that is still arriving.

`SSLSocket.unwrap` sends the alert, then reads the peer's. If application data arrives instead, OpenSSL treats it as an
error (APPLICATION_DATA_AFTER_CLOSE_NOTIFY) and the connection is dead, although only one direction has ended (RFC 8446
6.1). So while `unwrap` runs, the descriptor is replaced by that of an empty socket pair: nothing can be read from it,
and what was written to it is the record to send.
"""

from __future__ import annotations

import functools
import os
import socket
import ssl

ALERT_BYTES = 1_024  # larger than any alert record


@functools.cache
def _empty_pair() -> tuple[socket.socket, socket.socket]:
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    return near, far


def prepare() -> None:
    """Create the socket pair while the sandbox still allows it."""
    _empty_pair()


def close_notify(sock: ssl.SSLSocket) -> bytes:
    """The close_notify record, to be sent as it is; empty if none can be sent any more.

    Afterwards nothing may be written to `sock`, but reading goes on. Only one thread of a process may call it.
    """
    near, far = _empty_pair()
    descriptor = sock.fileno()
    try:
        original = os.dup(descriptor)
    except OSError:  # out of descriptors: only a FIN is sent
        return b""
    try:
        os.dup2(near.fileno(), descriptor, inheritable=False)
        try:
            sock.unwrap()
        except (OSError, ValueError):  # it would wait for the peer's alert, or the peer is gone
            pass
        finally:
            os.dup2(original, descriptor, inheritable=False)
    finally:
        os.close(original)
    try:
        return far.recv(ALERT_BYTES)
    except BlockingIOError:
        return b""
