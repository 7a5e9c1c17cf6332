"""A relay between two real TCP connections over loopback, and what stands at their far ends."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import random
import socket
import struct
from collections import Counter
from collections.abc import Iterator
from typing import Any

from proxy.poller import Poller
from proxy.stream.queues import is_delivered
from proxy.stream.relay import LINGER_RESET, Relay, close_pool
from tests.flows import make_flow
from tests.loops import Loop, running

BLOCK = random.Random(1).randbytes(1 << 20)


def tcp_pair(
    *, family: int = socket.AF_INET, buffers: dict[str, int] | None = None
) -> tuple[socket.socket, socket.socket]:
    """Two ends of one connection, the accepted one first; `buffers` by `near_rcv`, `near_snd`, `far_rcv`, `far_snd`."""
    wanted = {} if buffers is None else buffers
    options = {"rcv": socket.SO_RCVBUF, "snd": socket.SO_SNDBUF}
    with socket.socket(family, socket.SOCK_STREAM) as listener:
        far = socket.socket(family, socket.SOCK_STREAM)
        for name, size in wanted.items():
            end, _, direction = name.partition("_")
            (listener if end == "near" else far).setsockopt(socket.SOL_SOCKET, options[direction], size)
        listener.bind(("127.0.0.1" if family == socket.AF_INET else "::1", 0))
        listener.listen(1)
        far.connect(listener.getsockname())
        near, _ = listener.accept()
    for sock in (near, far):
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    near.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)
    return near, far


class Peer:
    """The far end of one connection: sends what it is told to, and reads while `is_reading`."""

    def __init__(self, loop: asyncio.AbstractEventLoop, sock: socket.socket) -> None:
        self._loop, self.sock = loop, sock
        self.digest, self.sent_digest = hashlib.sha256(), hashlib.sha256()
        self.received = self.sent = 0
        self.head = b""  # the first bytes that came
        self.is_eof = False
        self.error: OSError | None = None
        self._left, self._then_shut = 0, False
        self._data = b""
        self._is_reading = False
        self.read()

    def read(self) -> None:
        self._is_reading = True
        self._loop.add_reader(self.sock.fileno(), self._readable)

    def pause(self) -> None:
        self._is_reading = False
        self._loop.remove_reader(self.sock.fileno())

    def send(self, data: bytes, *, then_shut: bool = False) -> None:
        self._data, self._left, self._then_shut = data, len(data), then_shut
        self._begin()

    def send_many(self, size: int, *, then_shut: bool = False) -> None:
        """Send `size` bytes of `BLOCK`, over and over."""
        self._data, self._left, self._then_shut = b"", size, then_shut
        self._begin()

    def shut(self) -> None:
        self.sock.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        """Vanish with RST."""
        self.pause()
        self._loop.remove_writer(self.sock.fileno())
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    def close(self) -> None:
        if self.sock.fileno() >= 0:
            self.pause()
            self._loop.remove_writer(self.sock.fileno())
            self.sock.close()

    def _begin(self) -> None:
        self._loop.add_writer(self.sock.fileno(), self._writable)

    def _writable(self) -> None:
        try:
            while self._left:
                at = self.sent % len(BLOCK)
                piece = self._data[-self._left :] if self._data else BLOCK[at : at + self._left]
                n = self.sock.send(piece)
                self.sent_digest.update(piece[:n])
                self.sent += n
                self._left -= n
        except BlockingIOError:
            return
        except OSError as error:
            self.error = error
        self._loop.remove_writer(self.sock.fileno())
        if self._then_shut and self.error is None:
            self.shut()

    def _readable(self) -> None:
        try:
            data = self.sock.recv(1 << 18)
        except BlockingIOError:
            return
        except OSError as error:
            self.error = error
            self.pause()
            return
        if not data:
            self.is_eof = True
            self.pause()
        self.received += len(data)
        self.head += data[: 64 - len(self.head)] if len(self.head) < 64 else b""
        self.digest.update(data)


class CountingPoller(Poller):
    """Counts how often each descriptor's handler was called."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self.calls: Counter[int] = Counter()

    def watch(self, fd: int, events: int, ready: Any, crashed: Any) -> None:
        def counted(what: int) -> None:
            self.calls[fd] += 1
            ready(what)

        super().watch(fd, events, counted, crashed)


class Scene:
    """`client` and `origin` are the far ends; `reasons` is what the relay finished with."""

    def __init__(self, loop: Loop, **buffers: dict[str, int]) -> None:
        self.loop = loop
        loop.call(loop.poller.close)
        self.poller = loop.poller = loop.call(lambda: CountingPoller(loop.loop))
        self.near_client, far_client = tcp_pair(buffers=buffers.get("client"))
        self.near_origin, far_origin = tcp_pair(buffers=buffers.get("origin"))
        self.client, self.origin = Peer(loop.loop, far_client), Peer(loop.loop, far_origin)
        self.flow = make_flow()
        self.flow.connected_at = 0.0
        self.reasons: list[str] = []
        self.intact_sock: socket.socket | None = None
        self.is_cut = False
        self.relay = Relay(self.poller, self.flow, self.near_client, self.near_origin, self._broke, self._finished)

    def _broke(self, reason: str, intact_sock: socket.socket) -> None:
        self.intact_sock = intact_sock

    def _finished(self, reason: str, is_cut: bool) -> None:
        self.reasons.append(reason)
        self.is_cut = is_cut
        for sock in (self.near_client, self.near_origin):
            if sock is not self.intact_sock or is_cut:
                sock.close()
        if self.intact_sock is not None and not is_cut:
            self._reset_when_delivered(self.intact_sock)

    def _reset_when_delivered(self, sock: socket.socket) -> None:
        if is_delivered(sock, is_shut=True):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_RESET)
            sock.close()
        else:
            self.loop.loop.call_soon(self._reset_when_delivered, sock)

    @property
    def calls(self) -> int:
        return sum(self.poller.calls.values())

    def close(self) -> None:
        if not self.reasons:
            self.relay.abort("drain")
        self.loop.until(lambda: self.near_client.fileno() < 0 and self.near_origin.fileno() < 0)
        for peer in (self.client, self.origin):
            peer.close()


@contextlib.contextmanager
def relaying(**buffers: dict[str, int]) -> Iterator[Scene]:
    """A relay that finishes exactly once, and leaves no descriptor and no handler's failure behind."""
    with running() as loop:
        scene = Scene(loop, **buffers)
        try:
            yield scene
        finally:
            scene.close()
            close_pool()
        assert len(scene.reasons) == 1
