"""Connected tunnels over Unix SEQPACKET sockets: the client's side of the handshake, and functions for both sides."""

from __future__ import annotations

import fcntl
import select
import socket
import struct
import termios

import msgspec

from proxy.context import MAX_CONTEXT_BYTES, TunnelAnswer, TunnelContext, decode_answer, encode
from proxy.errors import ProxyError

SO_SNDBUFFORCE = 32
SEND_BUFFER_BYTES = 4 << 20


def dial(path: str, context: TunnelContext, *, timeout_s: float = 10) -> tuple[socket.socket, TunnelAnswer]:
    """A connected, non-blocking tunnel that the proxy has accepted, and the proxy's answer.

    ProxyError: the proxy refused, or the peer is not a proxy. OSError: there is no answer (TimeoutError: not in time).
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
    try:
        answer = _send_context(sock, path, context, timeout_s)
        if not answer.ok:
            raise ProxyError(f"the proxy refused the tunnel: {answer.error}")
        sock.setblocking(False)
    except msgspec.DecodeError as error:
        sock.close()
        raise ProxyError(f"tunnel {path}: the answer is not one of a proxy: {error}") from error
    except BaseException:
        sock.close()
        raise
    return sock, answer


def _send_context(sock: socket.socket, path: str, context: TunnelContext, timeout_s: float) -> TunnelAnswer:
    sock.settimeout(timeout_s)
    sock.connect(path)
    enlarge_send_buffer(sock)
    sock.send(encode(context))
    raw = sock.recv(MAX_CONTEXT_BYTES)
    if not raw:
        raise ProxyError("the proxy closed the tunnel without an answer", retryable=True)
    return decode_answer(raw)


def enlarge_send_buffer(sock: socket.socket) -> None:
    """Make room for dozens of 64 KB super-packets: beyond the system's limit if permitted, otherwise up to it."""
    try:
        sock.setsockopt(socket.SOL_SOCKET, SO_SNDBUFFORCE, SEND_BUFFER_BYTES)
    except PermissionError:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)


def is_end_of_file(sock: socket.socket) -> bool:
    """Whether a read of zero bytes means that the peer has closed, and is not an empty datagram (unix(7))."""
    poller = select.poll()
    poller.register(sock, select.POLLRDHUP)
    if not any(event & (select.POLLRDHUP | select.POLLHUP) for _, event in poller.poll(0)):
        return False
    queued = fcntl.ioctl(sock, termios.FIONREAD, bytes(4))
    return struct.unpack("i", queued) == (0,)
