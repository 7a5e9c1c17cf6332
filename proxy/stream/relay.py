"""Moves bytes between two sockets, unread: by recv and send while they are few, by splice and a pooled pipe in bulk.

Each side reads from its socket and writes to its peer's. A side that cannot write stops reading: TCP's own window then
slows the sender down. An idle relay holds its two sockets and nothing else. Sockets are watched edge-triggered, so that
pausing a read costs no system call (strace -c: 3 epoll_ctl per connection instead of 8).
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import struct
import time
from collections.abc import Callable

from proxy.flow.details import own_details
from proxy.flow.flow import Flow
from proxy.flow.record import CloseReason
from proxy.poller import EDGE, ERROR, HANGUP, IN, OUT, RDHUP, URGENT, Poller
from proxy.stream.first_bytes import record_first_bytes, with_client_bytes
from proxy.stream.queues import is_at_mark, unread_bytes

CHUNK = 65_536  # a read that fills this means bulk: splice takes over
PIPE_BYTES = 1 << 20
SPLICE_FLAGS = 3  # SPLICE_F_MOVE | SPLICE_F_NONBLOCK
MAX_READS = 16  # reads per readiness event, so that one bulk flow cannot starve the others
POOLED_PIPES = 64
MAX_PIPES = 400  # not counted against tenants; when all are in use, further bulk flows are copied
READING = IN | RDHUP | URGENT | EDGE
SPECIAL = RDHUP | URGENT | ERROR | HANGUP  # what a read may meet besides data
ANYTHING = IN | SPECIAL  # no event says what a read may meet
LINGER_RESET = struct.pack("ii", 1, 0)  # makes close(2) send an RST

_chunk = bytearray(CHUNK)
_view = memoryview(_chunk)
_pipes: list[tuple[int, int]] = []  # empty and unused
_open_pipes = 0


class Relay:
    """The two sides of one stream. `finished(reason, is_cut)` is called once, when nothing is left to move.

    The sockets are then unwatched, and the owner closes them; the kernel may still hold bytes, unless it was cut. If
    one side breaks, `broke(reason, intact_sock)` is called first. The intact side still gets what the broken side had
    delivered; then, or if it accepts nothing for too long, the owner resets it.
    """

    __slots__ = ("broke", "cause", "client", "details", "finished", "flow", "hello", "is_over", "origin", "poller")

    def __init__(
        self,
        poller: Poller,
        flow: Flow,
        client: socket.socket,
        origin: socket.socket,
        broke: Callable[[CloseReason, socket.socket], None],
        finished: Callable[[CloseReason, bool], None],
    ) -> None:
        """`origin` may be watched already. Bytes that have arrived from it are read now."""
        self.poller, self.flow, self.details, self.is_over = poller, flow, own_details(flow), False
        self.broke, self.finished = broke, finished
        self.hello = b""  # the bytes that a TLS client sends before the origin answers
        self.cause: CloseReason | None = None  # why the flow ends, once one side has broken
        self.client = Side(self, client, True)
        self.origin = Side(self, origin, False)
        self.client.peer, self.origin.peer = self.origin, self.client
        poller.watch(self.client.fd, READING, self.client.ready, self.crashed)
        poller.watch(self.origin.fd, READING, self.origin.ready, self.crashed)

    def crashed(self, error: BaseException) -> None:
        """End this flow, and no other, after a bug in it."""
        self.abort("proxy_error")

    def client_reset(self) -> None:
        """End the flow after a reset by the client, without waiting for the poller."""
        self.broken(self.client, errno.ECONNRESET)

    def abort(self, reason: CloseReason) -> None:
        """End both sides with RST."""
        if self.is_over:
            return
        for side in (self.client, self.origin):
            side.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_RESET)
        self._finish(reason, True)

    def broken(self, side: Side, error: int) -> None:
        """Handle a reset or timeout of `side`: the other one gets an RST, after everything that `side` delivered."""
        if self.is_over:
            return
        if self.cause is not None:  # the other side has broken too
            if not side.is_broken:
                self.abort(self.cause)
            return
        self.cause = side.reason(error)
        side.is_broken, side.peer.is_peer_broken = True, True
        side.peer.discard()
        self.broke(self.cause, side.peer.sock)
        if side.is_eof:  # its FIN was read before
            self.drained()
        elif not side.is_blocked:
            side.read(ANYTHING)  # the kernel keeps data that arrived before a reset

    def drained(self) -> None:
        """Everything that the broken side had delivered has been passed on: finish."""
        assert self.cause is not None
        self._finish(self.cause, False)

    def done(self) -> None:
        """Finish: both sides have sent FIN, and all data is passed on."""
        history = self.flow.history
        self._finish("client_closed" if history.find("F") < history.find("f") else "origin_closed", False)

    def first_bytes(self, chunk: memoryview) -> None:
        """Handle the first bytes of the origin, `chunk`."""
        flow = self.flow
        if flow.connected_at is not None:
            flow.ttfb_ms = (time.monotonic() - flow.connected_at) * 1000
        self.hello = record_first_bytes(flow, self.hello, chunk)

    def _finish(self, reason: CloseReason, is_cut: bool) -> None:
        if self.is_over:
            return
        self.is_over = True
        client, origin = self.client, self.origin
        client.release()
        origin.release()
        finished = self.finished
        del self.client, self.origin, client.peer, self.broke, self.finished  # no cycle is left for the collector
        finished(reason, is_cut)


class Side:
    """One socket of a relay, and data read from it but not yet written to the other."""

    __slots__ = ("events", "fd", "is_blocked", "is_broken", "is_client", "is_eof", "is_peer_broken", "is_shut",
                 "is_urgent", "peer", "pending", "pipe", "piped_bytes", "relay", "sock")  # fmt: skip

    peer: Side

    def __init__(self, relay: Relay, sock: socket.socket, is_client: bool) -> None:
        self.relay, self.sock, self.fd, self.is_client = relay, sock, sock.fileno(), is_client
        self.events = READING
        self.pipe: tuple[int, int] | None = None
        self.piped_bytes = 0  # bytes in the pipe
        self.pending = b""  # bytes read by recv
        self.is_urgent = False  # whether `pending` is one urgent byte
        self.is_blocked = False  # whether data waits until the peer can be written
        self.is_eof = False  # the far end sent FIN
        self.is_broken = False  # the connection was reset or has timed out
        self.is_peer_broken = False  # the peer's connection has broken: what is read here has no receiver
        self.is_shut = False  # we sent FIN

    def ready(self, events: int) -> None:
        """Handle readiness, or an error, of the socket."""
        if events & OUT and self.peer.is_blocked:
            self.peer.flush()
            if self.relay.is_over:
                return
        if self.is_blocked or self.is_eof or self.is_peer_broken:
            if events & (ERROR | HANGUP) and not self.is_broken:
                self._check_for_error()
        elif events & ~OUT:
            self.read(events)

    def flush(self) -> None:
        """Write what is held, as the peer can be written again; then resume reading."""
        try:
            if self.pending:
                flags = socket.MSG_OOB if self.is_urgent else 0
                self.pending = self.pending[self.peer.sock.send(self.pending, flags) :]
                self.is_urgent = False
            if self.pending or not self._drain():
                return
        except BlockingIOError:
            return
        except OSError as error:
            self.relay.broken(self.peer, error.errno or 0)
            return
        self.is_blocked = False
        if not self.is_peer_broken:
            self.read(ANYTHING)

    def release(self) -> None:
        """Give back the pipe and stop watching."""
        self.relay.poller.forget_closing(self.fd)
        self.discard()

    def discard(self) -> None:
        """Discard data that was read but not yet written."""
        if self.pipe is not None:
            if self.piped_bytes:
                _close_pipe(self.pipe)
            else:
                _pool_pipe(self.pipe)
            self.pipe = None
        self.pending, self.piped_bytes, self.is_blocked, self.is_urgent = b"", 0, False, False

    def reason(self, error: int) -> CloseReason:
        """The flow's close reason if this side breaks."""
        if self.is_client:
            return "client_reset"
        if error == errno.ETIMEDOUT:
            return "origin_timeout"
        return "origin_unreachable" if error in (errno.EHOSTUNREACH, errno.ENETUNREACH) else "origin_reset"

    def _return_pipe(self) -> None:
        """Return the pipe, which is empty, to the pool."""
        if self.pipe is not None:
            _pool_pipe(self.pipe)
            self.pipe = None

    def _return_idle_pipe(self) -> None:
        """Return the pipe to the pool if nothing is left to read. Otherwise epoll reports again, and it is needed."""
        if self.pipe is not None and not unread_bytes(self.sock):
            self._return_pipe()

    def read(self, events: int) -> None:
        """Read until the socket is empty, as epoll does not report the rest again. `events`: the reason to read."""
        try:
            for _ in range(MAX_READS):
                n = self._splice() if self.pipe is not None else self._copy(events)
                if n <= 0:
                    if n == 0:
                        self._end()
                    return
            self._return_idle_pipe()
            self.relay.poller.change(self.fd, self.events)  # let other flows run; epoll reports what is left again
        except BlockingIOError:  # the socket is empty
            self._return_pipe()
        except _WriteError as error:
            self.relay.broken(self.peer, error.errno or 0)
        except OSError as error:
            if self.is_broken:
                self.relay.drained()
            else:
                self.relay.broken(self, error.errno or 0)

    def _copy(self, events: int) -> int:
        """Move bytes through user space. Returns how many, 0 at EOF, or -1 to stop reading for now."""
        if is_at_mark(self.sock):
            return self._copy_urgent()
        n = self.sock.recv_into(_chunk)
        if n == 0:
            return 0
        self._count(n)
        # A short read has emptied the socket (epoll(7), Q9), unless more came later or is behind the urgent mark.
        special = events & SPECIAL if n < CHUNK else ANYTHING
        try:  # a FIN that has arrived goes into the last segment: saves a packet and a read
            sent = self.peer.sock.send(_view[:n], socket.MSG_MORE if special == RDHUP else 0)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            raise _WriteError(error.errno, error.strerror) from None
        if sent < n:
            self.pending = bytes(_view[sent:n])
            self._block()
            return -1
        if special == 0:
            return -1
        if special == RDHUP:
            return 0
        if n == CHUNK:
            try:
                self.pipe = _take_pipe()
            except OSError:
                pass  # no descriptors left: copying is slower, but works
        return n

    def _copy_urgent(self) -> int:
        """As `_copy`, for one urgent byte (SO_OOBINLINE): it stays urgent, at its place in the stream."""
        byte = self.sock.recv(1)
        if not byte:
            return 0
        self._count(1)
        try:
            self.peer.sock.send(byte, socket.MSG_OOB)
        except BlockingIOError:
            self.pending, self.is_urgent = byte, True
            self._block()
            return -1
        except OSError as error:
            raise _WriteError(error.errno, error.strerror) from None
        return 1

    def _splice(self) -> int:
        """As `_copy`, by splice, without copying to user space."""
        assert self.pipe is not None
        try:
            n = os.splice(self.fd, self.pipe[1], PIPE_BYTES, flags=SPLICE_FLAGS)
        except BlockingIOError:
            if is_at_mark(self.sock):  # splice stops at the mark
                return self._copy_urgent()
            raise
        if n == 0:
            return 0
        self.piped_bytes += n
        self._count(n)
        self.relay.details.spliced += n
        try:
            if self._drain():
                return n
        except OSError as error:
            raise _WriteError(error.errno, error.strerror) from None
        self._block()
        return -1

    def _drain(self) -> bool:
        """Write the pipe's content to the peer. Returns whether the pipe is empty."""
        while self.piped_bytes:
            assert self.pipe is not None
            try:
                self.piped_bytes -= os.splice(self.pipe[0], self.peer.fd, self.piped_bytes, flags=SPLICE_FLAGS)
            except BlockingIOError:
                return False
        return True

    def _count(self, n: int) -> None:
        details = self.relay.details
        if self.is_client:
            if not details.origin_payload or not details.client_payload:
                self.relay.hello = with_client_bytes(self.relay.flow, self.relay.hello, _view[:n])
            details.client_payload += n
        else:
            if not details.origin_payload:
                self.relay.first_bytes(_view[:n])
            details.origin_payload += n

    def _block(self) -> None:
        """Resume reading when the peer can be written again."""
        self.is_blocked = True
        peer = self.peer
        if not peer.events & OUT:
            peer.events |= OUT
            self.relay.poller.change(peer.fd, peer.events)

    def _end(self) -> None:
        """Pass on FIN, as all data has been passed on."""
        relay, peer = self.relay, self.peer
        if self.is_broken:  # its error was handled before
            relay.drained()
            return
        self.is_eof = peer.is_shut = True
        relay.flow.history += "F" if self.is_client else "f"
        self._return_pipe()
        is_last = self.is_client and self.is_shut and relay.flow.egress is None
        if not is_last:  # otherwise the origin's socket is closed next, which sends the FIN
            try:
                peer.sock.shutdown(socket.SHUT_WR)
            except OSError as error:
                relay.broken(peer, error.errno or 0)
                return
        if self.is_shut:
            relay.done()

    def _check_for_error(self) -> None:
        """Distinguish a reset from the end of both directions, while data waits for the peer."""
        error = self.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if error:
            self.relay.broken(self, error)


class _WriteError(OSError):
    """Writing to the peer failed: the peer has broken, not the reader."""


def _take_pipe() -> tuple[int, int]:
    global _open_pipes
    if _pipes:
        return _pipes.pop()
    if _open_pipes >= MAX_PIPES:
        raise OSError(errno.EMFILE, "all pipes are in use")
    read, write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    _open_pipes += 1
    try:
        fcntl.fcntl(read, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    except PermissionError:
        pass  # beyond pipe-user-pages-soft only the default size is allowed
    return read, write


def _pool_pipe(pipe: tuple[int, int]) -> None:
    if len(_pipes) < POOLED_PIPES:
        _pipes.append(pipe)
    else:
        _close_pipe(pipe)


def _close_pipe(pipe: tuple[int, int]) -> None:
    global _open_pipes
    _open_pipes -= 1
    for fd in pipe:
        os.close(fd)


def close_pool() -> None:
    """Close the pooled pipes."""
    while _pipes:
        _close_pipe(_pipes.pop())
