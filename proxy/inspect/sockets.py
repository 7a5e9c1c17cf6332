"""Streams over sockets: plain TCP, and TLS that ends here.

`ssl` wraps the socket itself: with memory BIOs between, bulk costs twice as much, and small messages a fifth more.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable

from proxy.inspect.farewell import close_notify
from proxy.inspect.stream import LOW_WATER, MID_WATER, Handler, Side
from proxy.inspect.tls import AfterRead
from proxy.poller import ERROR, HANGUP, IN, OUT, Poller
from proxy.session.facts import TLSFacts

CHUNK = 65_536
RECORD = 16_384  # the most that one TLS record holds, and one read gives
UNWATCHED = -1
TOGETHER = 4 * RECORD  # bytes read at one event and passed on in one piece: 64 KiB stay in a core's cache, 256 do not
MOST_RECORDS = 32  # of them, which may be small
LARGE_WRITES = 4  # of more than a record each, until what waits for the next read is done without it


class Turn:
    """What an event makes handlers write leaves when the event is dealt with: in one piece, as one TLS record."""

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
        """There is something to send."""
        if self._depth:
            self._dirty.append(stream)
        else:
            stream.flush()


class SocketStream:
    """One side of a session: plain TCP. Readiness is told as long as it lasts.

    Nothing is read before somebody is its `handler`, and calls `resume`.
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

    def __init__(self, side: Side, sock: socket.socket, poller: Poller, turn: Turn,
                 crashed: Callable[[BaseException], None]) -> None:  # fmt: skip
        """`crashed`: hears of a bug in a handler."""
        self.side, self.sock, self.crashed = side, sock, crashed
        self._poller, self._turn = poller, turn
        self.settled: Callable[[], None] | None = None  # called when nothing is left to be sent, after `finish`
        self._is_final = False
        self._out: list[bytes | memoryview] = []  # a few: an empty deque takes 760 bytes
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
        """`end` for good: nothing is read any more. `settled` is called when all is sent, or cannot be."""
        self.settled, self._is_final, self._is_paused = settled, True, True
        if self.is_settled:
            self._settle()
        elif self._is_ending:  # what it waited for before it closed is not read any more
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
        """Forget the socket: who handed it over closes the connection."""
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
        """Whether nothing is left to be sent."""
        return self._is_closed or (not self._out and self._is_shut)

    def ready(self, events: int) -> None:
        """The socket can be read or written again, or broke."""
        with self._turn:
            try:
                if events & self._events & OUT:
                    self.flush()
                if events & ~OUT and not self._is_closed:
                    if not self._is_paused and not self._is_eof:
                        self._read()
                    elif events & (ERROR | HANGUP):
                        self._look_for_end(events)
            except OSError as error:
                self._broke(error)

    def flush(self) -> None:
        """Send what is queued, as far as the kernel takes it."""
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

    def _look_for_end(self, events: int) -> None:
        """Tell a reset while nothing is read; the end of both directions is no news."""
        if code := self.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self._broke(OSError(code, "the connection broke"))
        else:  # both directions have ended, or that is what comes when what has arrived is read: told until then
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
        """Once."""
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
    """The same behind TLS: `sock` has shaken hands."""

    __slots__ = ("_facts", "_large", "_said_farewell", "learnt")

    sock: ssl.SSLSocket

    def __init__(self, side: Side, sock: ssl.SSLSocket, poller: Poller, turn: Turn,
                 crashed: Callable[[BaseException], None], facts: TLSFacts,
                 learnt: AfterRead | None = None) -> None:  # fmt: skip
        """`learnt` is called after the first read: by then the origin's tickets have come. What it returns is called
        after the next one, or without it: an origin that is sent a large body may say nothing before its end."""
        super().__init__(side, sock, poller, turn, crashed)
        self._facts, self._said_farewell, self.learnt, self._large = facts, False, learnt, 0

    @property
    def tls(self) -> TLSFacts | None:
        return self._facts

    def _send_all(self) -> None:
        out = self._out
        if self._said_farewell:  # what is left is a record already
            while out:
                self._sent(socket.socket.send(self.sock, out[0]))
            return
        write = self.sock.write
        while out:
            if len(out) > 1:  # one record of many small pieces
                joined = b"".join(out)
                out.clear()
                out.append(joined)
            if self.learnt is not None and len(out[0]) > RECORD:
                self._note_large()
            self._sent(write(out[0]))

    def _note_large(self) -> None:
        self._large += 1
        if self._large >= LARGE_WRITES and self.learnt is not None:
            self.learnt = self.learnt(self.sock)

    def _read(self) -> None:
        """What has come goes on in one piece: a piece for each record costs bulk half as much again (bench/http.py)."""
        parts, is_over = list[bytes](), False
        recv = (
            self.sock.recv if self._said_farewell else self.sock.read
        )  # which is what `recv` calls while there is TLS
        error: OSError | None = None
        left, least = TOGETHER, 1 if self._facts.alpn == "h2" else RECORD  # of many streams there may be more
        for _ in range(MOST_RECORDS):
            try:
                data = recv(RECORD)
            except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
                break
            except (ssl.SSLZeroReturnError, ssl.SSLEOFError):  # what `recv` says of the end, once we have said ours
                data = b""
            except OSError as broken:
                error = broken
                break
            if not data:
                is_over = True
                break
            parts.append(data)
            left -= len(data)
            if left <= 0 or len(data) < least:
                break
        if self.learnt is not None and (parts or is_over):
            self.learnt = self.learnt(self.sock)
        if parts:
            self.handler.received(self.side, parts[0] if len(parts) == 1 else b"".join(parts))
        if error is not None:
            raise error
        if is_over and not self._is_closed:
            self._ended()

    def _shut(self) -> None:
        """close_notify, then FIN."""
        if not self._said_farewell:
            self._said_farewell = True
            if alert := close_notify(self.sock):
                self._out.append(alert)
                self.queued += len(alert)
                try:
                    self._send_all()
                except BlockingIOError:
                    pass
                except OSError:  # nobody is there to hear it
                    self._out.clear()
                    self.queued = 0
        if not self._out:
            self._is_shut = True
            try:
                socket.socket.shutdown(self.sock, socket.SHUT_WR)
            except OSError:
                pass
