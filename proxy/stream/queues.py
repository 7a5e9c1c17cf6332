"""The queues of a TCP socket: bytes to be read, bytes not yet acknowledged, and the urgent mark."""

from __future__ import annotations

import array
import fcntl
import socket

SIOCOUTQ, SIOCINQ, SIOCATMARK = 0x5411, 0x541B, 0x8905  # sockios.h
TCP_CLOSE = 7  # tcp_states.h
HAS_FIN = frozenset({6, 8, 9, 11})  # TIME_WAIT, CLOSE_WAIT, LAST_ACK, CLOSING: states after the peer's FIN

_answer = array.array("i", [0])


def is_delivered(sock: socket.socket, *, is_shut: bool) -> bool:
    """Whether the peer has acknowledged everything except FIN, or never will. `is_shut`: we sent FIN (SIOCOUTQ counts
    it as a byte, tcp(7))."""
    return ask(sock, SIOCOUTQ) <= is_shut or is_dead(sock)


def is_dead(sock: socket.socket) -> bool:
    """Whether the connection was reset, or the kernel gave it up."""
    return sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == TCP_CLOSE


def acknowledged_bytes(sock: socket.socket) -> int:
    """Bytes that the peer has acknowledged so far (tcpi_bytes_acked, linux/tcp.h)."""
    return int.from_bytes(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 128)[120:], "little")


def received_bytes(sock: socket.socket, *, has_fin: bool = False) -> int:
    """Bytes that the peer has sent so far (tcpi_bytes_received, linux/tcp.h). The kernel counts a FIN as a byte.
    `has_fin`: a FIN is known to have arrived, even if the connection is closed now."""
    info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 136)
    received = int.from_bytes(info[128:136], "little")
    return received - (info[0] in HAS_FIN or (has_fin and info[0] == TCP_CLOSE)) if received else 0


def is_at_mark(sock: socket.socket) -> bool:
    """Whether the next byte is urgent (sockatmark(3)). Asked before each read, as reading passes the mark silently."""
    return ask(sock, SIOCATMARK) != 0


def unread_bytes(sock: socket.socket) -> int:
    """Bytes that have arrived and were not read yet (SIOCINQ, tcp(7))."""
    return ask(sock, SIOCINQ)


def ask(sock: socket.socket, request: int) -> int:
    fcntl.ioctl(sock.fileno(), request, _answer)
    return _answer[0]
