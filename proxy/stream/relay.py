"""Moves bytes between two sockets, unread: by recv and send while they are few, by splice and a pooled pipe when many.

Each side reads from its socket and writes to its peer's. A side that cannot write stops reading: TCP's own window then
slows the sender down. An idle relay holds its two sockets and nothing else. Sockets are watched for edges: what a side
does not read, or could not write, needs no word to the kernel (strace -c: 3 epoll_ctl a connection instead of 8).
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
from proxy.stream.greeting import greeting_with, look_at
from proxy.stream.queues import is_at_mark, unread_bytes

CHUNK = 65_536  # a read that fills this much means bulk: splice takes over
PIPE_BYTES = 1 << 20
SPLICE_FLAGS = 3  # SPLICE_F_MOVE | SPLICE_F_NONBLOCK
ROUNDS = 16  # reads per readiness event, so that one bulk flow cannot starve the others
POOLED_PIPES = 64
MOST_PIPES = 400  # their descriptors are none of the tenants': a blocked bulk flow beyond these copies
READING = IN | RDHUP | URGENT | EDGE
SPECIAL = RDHUP | URGENT | ERROR | HANGUP  # what a read may meet besides bytes
ANYTHING = IN | SPECIAL  # no event said what is to be met
LINGER_RESET = struct.pack("ii", 1, 0)  # close(2) then sends RST

_chunk = bytearray(CHUNK)
_view = memoryview(_chunk)
_pipes: list[tuple[int, int]] = []  # empty and unused
_open_pipes = 0


class Relay:
    """The two sides of one stream. `finished(reason, is_cut)` is called once, when nothing is left to move.

    The sockets are then unwatched, and the owner's to close; kernel buffers may still hold bytes, unless it was cut.
    When one side broke, `broke(reason, survivor)` is called before: what it had delivered goes on to the other, and the
    owner resets that one when it has all, or takes nothing for too long.
    """

    __slots__ = ("broke", "cause", "client", "details", "finished", "flow", "greeting", "is_over", "origin", "poller")

    def __init__(
        self,
        poller: Poller,
        flow: Flow,
        client: socket.socket,
        origin: socket.socket,
        broke: Callable[[CloseReason, socket.socket], None],
        finished: Callable[[CloseReason, bool], None],
    ) -> None:
        """`origin` may be watched already: bytes that arrived from it meanwhile are read now."""
        self.poller, self.flow, self.details, self.is_over = poller, flow, own_details(flow), False
        self.broke, self.finished = broke, finished
        self.greeting = b""  # what a client of TLS says before the origin answers: its hello
        self.cause: CloseReason | None = None  # one side is gone, and this is why
        self.client = Side(self, client, True)
        self.origin = Side(self, origin, False)
        self.client.peer, self.origin.peer = self.origin, self.client
        poller.watch(self.client.fd, READING, self.client.ready, self.crashed)
        poller.watch(self.origin.fd, READING, self.origin.ready, self.crashed)

    def crashed(self, error: BaseException) -> None:
        """A bug in this flow ends this flow only."""
        self.abort("proxy_error")

    def client_gone(self) -> None:
        """The client was reset: end the flow without waiting for the poller."""
        self.broken(self.client, errno.ECONNRESET)

    def abort(self, reason: CloseReason) -> None:
        """End both sides with RST."""
        if self.is_over:
            return
        for side in (self.client, self.origin):
            side.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_RESET)
        self._finish(reason, True)

    def broken(self, side: Side, error: int) -> None:
        """`side` was reset or timed out: the other one gets an RST, after everything that `side` had delivered."""
        if self.is_over:
            return
        if self.cause is not None:  # the other one is gone too
            if not side.is_gone:
                self.abort(self.cause)
            return
        self.cause = side.reason(error)
        side.is_gone, side.peer.is_deaf = True, True
        side.peer.forget()
        self.broke(self.cause, side.peer.sock)
        if side.is_eof:  # its end of file was read before
            self.drained()
        elif not side.is_blocked:
            side.read(ANYTHING)  # the kernel keeps what had arrived before a reset

    def drained(self) -> None:
        """Everything that the broken side had delivered was passed on."""
        assert self.cause is not None
        self._finish(self.cause, False)

    def done(self) -> None:
        """Both sides have sent everything: the stream is over."""
        history = self.flow.history
        self._finish("client_closed" if history.find("F") < history.find("f") else "origin_closed", False)

    def first_bytes(self, chunk: memoryview) -> None:
        """The origin has begun to answer, by these."""
        flow = self.flow
        if flow.connected_at is not None:
            flow.ttfb_ms = (time.monotonic() - flow.connected_at) * 1000
        self.greeting = look_at(flow, self.greeting, chunk)

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
    """One socket of a relay, and what was read from it and could not be written to the other yet."""

    __slots__ = ("events", "fd", "held", "is_blocked", "is_client", "is_deaf", "is_eof", "is_gone", "is_shut",
                 "is_urgent", "peer", "pending", "pipe", "relay", "sock")  # fmt: skip

    peer: Side

    def __init__(self, relay: Relay, sock: socket.socket, is_client: bool) -> None:
        self.relay, self.sock, self.fd, self.is_client = relay, sock, sock.fileno(), is_client
        self.events = READING
        self.pipe: tuple[int, int] | None = None
        self.held = 0  # bytes in the pipe
        self.pending = b""  # bytes read by recv
        self.is_urgent = False  # it is one, and urgent
        self.is_blocked = False  # some of these wait for the peer
        self.is_eof = False  # the far end sent FIN
        self.is_gone = False  # the far end was reset, or is not there any more
        self.is_deaf = False  # the peer's is: nobody takes what comes here
        self.is_shut = False  # we sent FIN

    def ready(self, events: int) -> None:
        """Something has happened to the socket: it can be read, can be written again, or broke."""
        if events & OUT and self.peer.is_blocked:
            self.peer.flush()
            if self.relay.is_over:
                return
        if self.is_blocked or self.is_eof or self.is_deaf:
            if events & (ERROR | HANGUP) and not self.is_gone:
                self._look_for_error()
        elif events & ~OUT:
            self.read(events)

    def flush(self) -> None:
        """The peer can be written again: first what is held, then read on."""
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
        if not self.is_deaf:
            self.read(ANYTHING)

    def release(self) -> None:
        """Give back the pipe and stop watching."""
        self.relay.poller.leave(self.fd)
        self.forget()

    def forget(self) -> None:
        """Discard what was read and not yet written."""
        if self.pipe is not None:
            if self.held:
                _close_pipe(self.pipe)
            else:
                _return(self.pipe)
            self.pipe = None
        self.pending, self.held, self.is_blocked, self.is_urgent = b"", 0, False, False

    def reason(self, error: int) -> CloseReason:
        """The reason with which the flow ends when this side breaks."""
        if self.is_client:
            return "client_reset"
        if error == errno.ETIMEDOUT:
            return "origin_timeout"
        return "origin_unreachable" if error in (errno.EHOSTUNREACH, errno.ENETUNREACH) else "origin_reset"

    def _give_pipe_back(self) -> None:
        """Let another flow have the pipe; it is empty."""
        if self.pipe is not None:
            _return(self.pipe)
            self.pipe = None

    def _give_idle_pipe_back(self) -> None:
        """The same if there is nothing to read; otherwise epoll calls again, and the pipe is needed."""
        if self.pipe is not None and not unread_bytes(self.sock):
            self._give_pipe_back()

    def read(self, events: int) -> None:
        """Read until there is nothing more, as what is left is not told again. `events`: why we look."""
        try:
            for _ in range(ROUNDS):
                n = self._splice() if self.pipe is not None else self._copy(events)
                if n <= 0:
                    if n == 0:
                        self._end()
                    return
            self._give_idle_pipe_back()
            self.relay.poller.change(self.fd, self.events)  # the others' turn; if there is more, it is told again
        except BlockingIOError:  # nothing more to read
            self._give_pipe_back()
        except _WriteError as error:
            self.relay.broken(self.peer, error.errno or 0)
        except OSError as error:
            if self.is_gone:
                self.relay.drained()
            else:
                self.relay.broken(self, error.errno or 0)

    def _copy(self, events: int) -> int:
        """Move bytes through user space. Returns how many; 0 at the end, -1 to stop reading for now."""
        if is_at_mark(self.sock):
            return self._copy_urgent()
        n = self.sock.recv_into(_chunk)
        if n == 0:
            return 0
        self._count(n)
        # A short read has emptied the socket (epoll(7), Q9): there is more only if it came later, or behind a mark.
        special = events & SPECIAL if n < CHUNK else ANYTHING
        try:  # the FIN that has arrived goes into the last segment: a packet and a read less
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
                pass  # no descriptors left: copying is slower, and works
        return n

    def _copy_urgent(self) -> int:
        """The same for one urgent byte, in its place in the stream (SO_OOBINLINE): it stays urgent."""
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
        """The same by splice, without copying them to user space."""
        assert self.pipe is not None
        try:
            n = os.splice(self.fd, self.pipe[1], PIPE_BYTES, flags=SPLICE_FLAGS)
        except BlockingIOError:
            if is_at_mark(self.sock):  # it does not pass that
                return self._copy_urgent()
            raise
        if n == 0:
            return 0
        self.held += n
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
        """Empty the pipe into the peer. Returns whether it is empty now."""
        while self.held:
            assert self.pipe is not None
            try:
                self.held -= os.splice(self.pipe[0], self.peer.fd, self.held, flags=SPLICE_FLAGS)
            except BlockingIOError:
                return False
        return True

    def _count(self, n: int) -> None:
        details = self.relay.details
        if self.is_client:
            if not details.origin_payload or not details.client_payload:
                self.relay.greeting = greeting_with(self.relay.flow, self.relay.greeting, _view[:n])
            details.client_payload += n
        else:
            if not details.origin_payload:
                self.relay.first_bytes(_view[:n])
            details.origin_payload += n

    def _block(self) -> None:
        """Read on when the peer can be written again."""
        self.is_blocked = True
        peer = self.peer
        if not peer.events & OUT:
            peer.events |= OUT
            self.relay.poller.change(peer.fd, peer.events)

    def _end(self) -> None:
        """Everything was passed on: pass the FIN on too."""
        relay, peer = self.relay, self.peer
        if self.is_gone:  # its error was told before
            relay.drained()
            return
        self.is_eof = peer.is_shut = True
        relay.flow.history += "F" if self.is_client else "f"
        self._give_pipe_back()
        is_last = self.is_client and self.is_shut and relay.flow.egress is None
        if not is_last:  # else the origin's socket is closed next, which sends the same FIN
            try:
                peer.sock.shutdown(socket.SHUT_WR)
            except OSError as error:
                relay.broken(peer, error.errno or 0)
                return
        if self.is_shut:
            relay.done()

    def _look_for_error(self) -> None:
        """Tell a reset from the end of both directions, while bytes still wait for the peer."""
        error = self.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if error:
            self.relay.broken(self, error)


class _WriteError(OSError):
    """Writing to the peer failed: its fault, not the reader's."""


def _take_pipe() -> tuple[int, int]:
    global _open_pipes
    if _pipes:
        return _pipes.pop()
    if _open_pipes >= MOST_PIPES:
        raise OSError(errno.EMFILE, "other relays have all pipes")
    read, write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    _open_pipes += 1
    try:
        fcntl.fcntl(read, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    except PermissionError:
        pass  # beyond pipe-user-pages-soft the default size must do
    return read, write


def _return(pipe: tuple[int, int]) -> None:
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
