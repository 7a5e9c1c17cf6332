"""Connections to further origins, opened at a handler's request."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable, Sequence

from proxy.errors import ProxyError
from proxy.inspect import handshakes
from proxy.inspect.handshakes import Failure, Handshake
from proxy.inspect.sockets import SocketStream, TLSStream, Turn
from proxy.inspect.stream import Receiver, Side, Stream
from proxy.inspect.tls import TenantTLS, facts_of
from proxy.poller import Watcher
from proxy.session.messages import DialAnswer

CAUSES = {  # the proxy reports a failed dial as strerror(3) text: back to exceptions, which records distinguish
    os.strerror(errno.ECONNREFUSED): ConnectionRefusedError(errno.ECONNREFUSED, os.strerror(errno.ECONNREFUSED)),
    os.strerror(errno.ETIMEDOUT): TimeoutError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT)),
}


class Dial:
    """One such connection: dialling, then in its TLS handshake, then a stream, whose `Handler` it is."""

    __slots__ = ("_crashed", "_handshake", "_is_closed", "_poller", "_receiver", "_sock", "_stream", "_then", "_tls",
                 "_turn", "request")  # fmt: skip

    def __init__(self, tls: TenantTLS, poller: Watcher, turn: Turn, crashed: Callable[[BaseException], None],
                 receiver: Receiver, then: Callable[[Stream | ProxyError], None]) -> None:  # fmt: skip
        self._tls, self._poller, self._turn, self._crashed = tls, poller, turn, crashed
        self._receiver, self._then = receiver, then
        self._handshake: Handshake | None = None
        self._sock: socket.socket | None = None
        self._stream: SocketStream | None = None
        self._is_closed = False
        self.request = 0  # the number of the request to the proxy

    @property
    def is_over(self) -> bool:
        """Whether it has ended, or failed to connect."""
        return self._is_closed or (self._stream is not None and self._stream.is_over)

    @property
    def queued(self) -> int:
        """Bytes that the kernel has not taken yet."""
        return 0 if self._stream is None else self._stream.queued

    @property
    def is_settled(self) -> bool:
        """Whether nothing is left to be sent after `finish`."""
        return self._stream is None or self._stream.is_settled

    def answered(
        self, answer: DialAnswer, descriptors: list[int], host: str, port: int, server_name: str | None,
        alpn: Sequence[str],
    ) -> None:  # fmt: skip
        """Take the proxy's answer: a connected socket, or an error."""
        if not descriptors:
            if not self._is_closed:
                self._is_closed = True
                why = answer.error or "it cannot be dialled"
                self._then(ProxyError(why, side="origin", retryable=True).because(CAUSES.get(why)))
            return
        sock = socket.socket(fileno=descriptors.pop())
        sock.setblocking(False)
        if self._is_closed:
            sock.close()
            return
        if server_name is None:
            self._opened(SocketStream(Side.ORIGIN, sock, self._poller, self._turn, self._crashed))
            return
        try:
            tls_sock = handshakes.wrap_origin(self._tls, sock, server_name, (host, port), alpn, True)
        except (OSError, ValueError) as error:
            sock.close()
            self._is_closed = True
            self._then(ProxyError(f"TLS: {error}", side="origin").because(error))
            return
        self._sock = tls_sock

        def handshake_done(failure: Failure | None) -> None:
            self._handshake = None
            with self._turn:
                if failure is not None:
                    self.close()
                    self._then(ProxyError(failure.reason, side="origin").because(failure.error))
                    return
                facts = facts_of(tls_sock, server_name)
                issuer = self._tls.issuer(tls_sock, server_name, host, port, True)
                after_read = self._tls.session_saver(server_name, host, port, True, issuer)
                self._sock = None
                stream = TLSStream(Side.ORIGIN, tls_sock, self._poller, self._turn, self._crashed, facts, after_read)
                self._opened(stream)

        self._handshake = Handshake(tls_sock, alpn, self._poller, handshake_done)
        self._handshake.start()

    def finish(self, settled: Callable[[], None]) -> None:
        """Close it as soon as what is queued is sent, since its session ends. `settled`: see `SocketStream.finish`."""
        if self._stream is None or not self._stream.queued:
            self.close()
        else:
            self._is_closed = True
            self._stream.finish(settled)

    def close(self) -> None:
        """Close it in whatever state it is, since its session ends."""
        self._is_closed = True
        if self._handshake is not None:
            self._handshake.stop()
        if self._sock is not None:
            self._sock.close()
        if self._stream is not None:
            self._stream.end()
            self._stream.flush()
            self._stream.close()

    def start(self) -> None:
        """Nothing to do: `then` has been called."""

    def received(self, side: Side, data: bytes) -> None:
        self._receiver.received(data)

    def ended(self, side: Side) -> None:
        self._receiver.ended()

    def broken(self, side: Side, error: OSError) -> None:
        self._receiver.broken(error)

    def drained(self, side: Side) -> None:
        self._receiver.drained()

    def expired(self, now: float) -> None:
        """Never called: it sets no timer."""

    def drain(self) -> None:
        """Nothing to do: the session's handler drains."""

    def _opened(self, stream: SocketStream) -> None:
        self._stream = stream
        stream.handler = self
        self._then(stream)
        stream.resume()
