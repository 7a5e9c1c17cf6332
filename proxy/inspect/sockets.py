"""Streams over sockets: plain TCP, and terminated TLS.

`ssl` works on the socket itself: with memory BIOs, bulk costs twice as much, and small messages a fifth more.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable

from proxy.inspect.close_notify import close_notify
from proxy.inspect.stream import LOW_WATER, MID_WATER, Handler, Side
from proxy.inspect.tls import AfterRead
from proxy.poller import ERROR, HANGUP, IN, OUT, Watcher
from proxy.session.facts import TLSFacts

CHUNK = 65_536
RECORD = 16_384  # maximum bytes in a TLS record, and of one read
UNWATCHED = -1
MAX_READ = 12 * RECORD  # bytes read per event and passed on in one piece: a sixth cheaper than 64 KiB (bench/http.py)
MAX_RECORDS = 32  # read per event, as they may be small
LARGE_WRITES = 4  # of more than a record each, after which the next `after_read` is called without a read


class Turn:
    """Collects what handlers write during one event and sends it at its end: in one piece, as one TLS record."""

    __slots__ = ("_depth", "_dirty")

    def __init__(self) -> None:
        self._depth, self._dirty = 0, list[SocketStream]()

    def __enter__(self) -> None:
        self._depth += 1

    def __exit__(self, *_: object) -> None:
        self._depth -= 1
        if not self._depth:
            while self._dirty:
                self._dirty.pop().flush()

    def wrote(self, stream: SocketStream) -> None:
        """Note that `stream` has something to send."""
        if self._depth:
            self._dirty.append(stream)
        else:
            stream.flush()


class SocketStream:
    """One side of a session over plain TCP. Its events are level-triggered.

    Nothing is read until it has a `handler`, and `resume` is called.
    """

    __slots__ = (
        "_events",
        "_is_closed",
        "_is_ending",
        "_is_eof",
        "_is_final",
        "_is_high",
        "_is_paused",
        "_is_shut",
        "_out",
        "_poller",
        "_turn",
        "crashed",
        "handler",
        "queued",
        "settled",
        "side",
        "sock",
    )  # fmt: skip

    handler: Handler

    def __init__(self, side: Side, sock: socket.socket, poller: Watcher, turn: Turn,
                 crashed: Callable[[BaseException], None]) -> None:  # fmt: skip
        """`crashed` gets an exception that a handler raised."""
        self.side, self.sock, self.crashed = side, sock, crashed
        self._poller, self._turn = poller, turn
        self.settled: Callable[[], None] | None = None  # called once everything is sent, after `finish`
        self._is_final = False
        self._out: list[bytes | memoryview] = []  # a list as it is short: an empty deque takes 760 bytes
        self.queued = 0
        self._events = 0
        self._is_paused, self._is_high = True, False
        self._is_eof = self._is_ending = self._is_shut = self._is_closed = False
        poller.watch(sock.fileno(), 0, self.ready, crashed)

    @property
    def tls(self) -> TLSFacts | None:
        return None

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if self._is_ending or self._is_closed or not data:
            return
        self._out.append(data if type(data) is bytes else bytes(data))
        self.queued += len(data)
        if self.queued > MID_WATER:
            self._is_high = True
        if len(self._out) == 1 and (self._events == UNWATCHED or not self._events & OUT):
            self._turn.wrote(self)

    def end(self) -> None:
        if not self._is_ending and not self._is_closed:
            self._is_ending = True
            if not self._out:
                self._turn.wrote(self)

    def finish(self, settled: Callable[[], None]) -> None:
        """As `end`, and nothing is read any more. `settled` is called when everything is sent, or cannot be."""
        self.settled, self._is_final, self._is_paused = settled, True, True
        if self.is_settled:
            self._settle()
        elif self._is_ending:  # it was waiting to read before closing; nothing is read any more
            self._turn.wrote(self)
        else:
            self.end()

    def abort(self) -> None:
        self.close()

    def pause(self) -> None:
        self._is_paused = True
        self._watch()

    def resume(self) -> None:
        self._is_paused = False
        self._watch()

    def close(self) -> None:
        """Release the socket. The proxy, which has a duplicate, closes the connection."""
        if not self._is_closed:
            self._is_closed = True
            self._out.clear()
            self.queued = 0
            self._poller.forget(self.sock.fileno())
            self.sock.close()

    @property
    def is_closed(self) -> bool:
        """Whether it broke, or was aborted."""
        return self._is_closed

    @property
    def is_over(self) -> bool:
        """Whether both halves are closed, or it broke."""
        return self._is_closed or (self._is_eof and self._is_shut)

    @property
    def is_settled(self) -> bool:
        """Whether everything is sent."""
        return self._is_closed or (not self._out and self._is_shut)

    def ready(self, events: int) -> None:
        """Handle readiness, or an error, of the socket."""
        with self._turn:
            try:
                if events & self._events & OUT:
                    self.flush()
                if events & ~OUT and not self._is_closed:
                    if not self._is_paused and not self._is_eof:
                        self._read()
                    elif events & (ERROR | HANGUP):
                        self._check_for_reset(events)
            except OSError as error:
                self._broke(error)

    def flush(self) -> None:
        """Send as much of the queue as the kernel takes."""
        if self._is_closed:
            return
        try:
            self._send_all()
        except (BlockingIOError, ssl.SSLWantWriteError, ssl.SSLWantReadError):
            pass
        except OSError as error:
            self._broke(error)
            return
        if self._is_ending and not self._out and not self._is_shut:
            self._shut()
        self._watch()
        if self.settled is not None and self.is_settled:
            self._settle()
            return
        if self._is_high and self.queued < LOW_WATER:
            self._is_high = False
            with self._turn:
                self.handler.drained(self.side)

    def _send_all(self) -> None:
        out = self._out
        while out:
            self._sent(self.sock.sendmsg(out[:64] if len(out) > 64 else out))

    def _sent(self, count: int) -> None:
        out = self._out
        self.queued -= count
        while count:
            first = out[0]
            if count < len(first):
                out[0] = memoryview(first)[count:]
                return
            count -= len(first)
            del out[0]

    def _read(self) -> None:
        try:
            data = self.sock.recv(CHUNK)
        except BlockingIOError:
            return
        if data:
            self.handler.received(self.side, data)
        else:
            self._ended()

    def _ended(self) -> None:
        self._is_eof = True
        self._watch()
        self.handler.ended(self.side)

    def _shut(self) -> None:
        self._is_shut = True
        try:
            self.sock.shutdown(socket.SHUT_WR)
        except OSError as error:
            self._broke(error)

    def _check_for_reset(self, events: int) -> None:
        """Detect a reset while reading is paused; the end of both directions is known already."""
        if code := self.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self._broke(OSError(code, "the connection broke"))
        else:  # the peer has sent FIN, perhaps behind data not yet read: the event is repeated until that is read
            self._poller.forget(self.sock.fileno())
            self._events = UNWATCHED

    def _broke(self, error: OSError) -> None:
        if not self._is_closed:
            self.close()
            if self._is_final:
                self._settle()
                return
            with self._turn:
                self.handler.broken(self.side, error)

    def _settle(self) -> None:
        """Call `settled`, once."""
        settled, self.settled = self.settled, None
        if settled is not None:
            settled()

    def _watch(self) -> None:
        if self._is_closed:
            return
        wanted = (0 if self._is_paused or self._is_eof else IN) | (OUT if self._out else 0)
        if self._events == UNWATCHED:
            if wanted:
                self._events = wanted
                self._poller.watch(self.sock.fileno(), wanted, self.ready, self.crashed)
        elif wanted != self._events:
            self._events = wanted
            self._poller.change(self.sock.fileno(), wanted)


class TLSStream(SocketStream):
    """One side of a session over TLS. `sock` has completed its handshake."""

    __slots__ = ("_facts", "_large", "_sent_close_notify", "after_read")

    sock: ssl.SSLSocket

    def __init__(self, side: Side, sock: ssl.SSLSocket, poller: Watcher, turn: Turn,
                 crashed: Callable[[BaseException], None], facts: TLSFacts,
                 after_read: AfterRead | None = None) -> None:  # fmt: skip
        """`after_read` is called after the first read, when the origin's tickets have arrived.

        The function it returns is called after the next read, or during a large upload, in which an origin may send
        nothing until the end.
        """
        super().__init__(side, sock, poller, turn, crashed)
        self._facts, self._sent_close_notify, self.after_read, self._large = facts, False, after_read, 0

    @property
    def tls(self) -> TLSFacts | None:
        return self._facts

    def _send_all(self) -> None:
        out = self._out
        if self._sent_close_notify:  # the queue holds an encrypted record
            while out:
                self._sent(socket.socket.send(self.sock, out[0]))
            return
        write = self.sock.write
        while out:
            if len(out) > 1:  # many small pieces become one record
                joined = b"".join(out)
                out.clear()
                out.append(joined)
            if self.after_read is not None and len(out[0]) > RECORD:
                self._note_large()
            self._sent(write(out[0]))

    def _note_large(self) -> None:
        self._large += 1
        if self._large >= LARGE_WRITES and self.after_read is not None:
            self.after_read = self.after_read(self.sock)

    def _read(self) -> None:
        """Read what has arrived, and pass it on in one piece: a piece per record makes bulk half as slow again
        (bench/http.py)."""
        parts, is_over = list[bytes](), False
        recv = self.sock.recv if self._sent_close_notify else self.sock.read  # what `recv` would call
        error: OSError | None = None
        # with many streams, short records follow each other
        budget, full_record = MAX_READ, 1 if self._facts.alpn == "h2" else RECORD
        for _ in range(MAX_RECORDS):
            try:
                data = recv(RECORD)
            except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
                break
            except (ssl.SSLZeroReturnError, ssl.SSLEOFError):  # `recv` would return b"" for these
                data = b""
            except OSError as broken:
                error = broken
                break
            if not data:
                is_over = True
                break
            parts.append(data)
            budget -= len(data)
            if budget <= 0 or len(data) < full_record:
                break
        if self.after_read is not None and (parts or is_over):
            self.after_read = self.after_read(self.sock)
        if parts:
            self.handler.received(self.side, parts[0] if len(parts) == 1 else b"".join(parts))
        if error is not None:
            raise error
        if is_over and not self._is_closed:
            self._ended()

    def _shut(self) -> None:
        """Send close_notify, then FIN."""
        if not self._sent_close_notify:
            self._sent_close_notify = True
            if alert := close_notify(self.sock):
                self._out.append(alert)
                self.queued += len(alert)
                try:
                    self._send_all()
                except BlockingIOError:
                    pass
                except OSError:  # the peer is gone
                    self._out.clear()
                    self.queued = 0
        if not self._out:
            self._is_shut = True
            try:
                socket.socket.shutdown(self.sock, socket.SHUT_WR)
            except OSError:
                pass
