"""Netlink sockets to netfilter in the kernel."""

from __future__ import annotations

import contextlib
import socket

NETLINK_NETFILTER, SOL_NETLINK = 12, 270
NETLINK_ADD_MEMBERSHIP, NETLINK_CAP_ACK = 1, 10
SO_RCVBUFFORCE = 33


def open_socket(receive_bytes: int) -> socket.socket:
    """A non-blocking netlink socket of the calling thread's network namespace.

    Its receive buffer is `receive_bytes`, or net.core.rmem_max without rights over the host if that is less.
    """
    sock = socket.socket(
        socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK, NETLINK_NETFILTER
    )
    try:
        sock.bind((0, 0))
        sock.setsockopt(SOL_NETLINK, NETLINK_CAP_ACK, 1)  # errors do not repeat the request
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
            sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, receive_bytes)
    except BaseException:
        sock.close()
        raise
    return sock
