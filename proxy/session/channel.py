"""The channel between the proxy and an inspector: messages with descriptors, in one process or between two."""

from __future__ import annotations

import errno
import logging
import os
import socket
from array import array
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Generic, Protocol, TypeVar

import msgspec

from proxy.poller import ERROR, HANGUP, IN, OUT, Poller
from proxy.session.messages import encode

log = logging.getLogger(__name__)

MAX_MESSAGE = 160 << 10  # the largest are policies and chains; a datagram must fit into the socket's send buffer
BUFFER_BYTES = 1 << 20
MAX_DESCRIPTORS = 2
BUDGET = 64  # messages per readiness event
_ANCILLARY_BYTES = socket.CMSG_SPACE(MAX_DESCRIPTORS * array("i").itemsize)

Message = TypeVar("Message", covariant=True)
Receive = Callable[[Any, list[int]], None]


class Channel(Protocol):
    """One end. `send` never blocks and never raises: when the other end is gone, `closed` is called once."""

    @property
    def is_closed(self) -> bool:
        """Whether either end is closed: messages sent now are lost."""
        ...

    @property
    def is_full(self) -> bool:
        """Whether messages are queued because the other end is slower."""
        ...

    def send(self, message: msgspec.Struct, descriptors: Sequence[int] = ()) -> bool:
        """Send a message, with copies of the descriptors. False: it was not sent, since no descriptors are left."""
        ...

    def close(self) -> None: ...


class LocalChannel:
    """Both ends are in this process: a message is a deferred call."""

    def __init__(self, later: Callable[[Callable[[], None]], object], receive: Receive) -> None:
        """`later(function)` calls it soon; `receive(message, descriptors)`, the other end's, takes the descriptors."""
        self._later, self._receive, self._queued = later, receive, deque[tuple[msgspec.Struct, list[int]]]()
        self.is_closed = False

    @property
    def is_full(self) -> bool:
        return False

    def send(self, message: msgspec.Struct, descriptors: Sequence[int] = ()) -> bool:
        if self.is_closed:
            return True
        copies = _copies(descriptors)
        if copies is None:
            return False
        if not self._queued:
            self._later(self._deliver)
        self._queued.append((message, copies))
        return True

    def close(self) -> None:
        self.is_closed = True
        while self._queued:
            for descriptor in self._queued.popleft()[1]:
                os.close(descriptor)

    def _deliver(self) -> None:
        while self._queued:
            message, descriptors = self._queued.popleft()
            try:
                self._receive(message, descriptors)
            except Exception:
                log.exception("unexpected error in %s", type(message).__name__)


class SocketChannel(Generic[Message]):
    """A Unix SEQPACKET socket: each datagram is a message; descriptors are passed by SCM_RIGHTS."""

    def __init__(
        self,
        sock: socket.socket,
        poller: Poller,
        decode: Callable[[bytes], Message],
        receive: Receive,
        closed: Callable[[], None],
    ) -> None:
        """`decode` may raise msgspec.DecodeError; such a message is logged, and the channel closes."""
        self._sock, self._poller, self._decode, self._receive, self._closed = sock, poller, decode, receive, closed
        self._queued: deque[tuple[bytes, list[int]]] = deque()  # messages, and copies of their descriptors
        self.is_closed = False
        sock.setblocking(False)
        for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
            sock.setsockopt(socket.SOL_SOCKET, option, BUFFER_BYTES)
        poller.watch(sock.fileno(), IN, self._ready, self._crashed)

    @property
    def is_full(self) -> bool:
        return bool(self._queued)

    def send(self, message: msgspec.Struct, descriptors: Sequence[int] = ()) -> bool:
        if self.is_closed:
            return True
        data = encode(message)
        if self._queued or not self._try_send(data, descriptors):
            copies = _copies(descriptors)
            if copies is None:
                return False
            if not self._queued:
                self._poller.change(self._sock.fileno(), IN | OUT)
            self._queued.append((data, copies))
        return True

    def close(self) -> None:
        if self.is_closed:
            return
        self.is_closed = True
        self._poller.forget(self._sock.fileno())
        self._sock.close()
        while self._queued:
            for descriptor in self._queued.popleft()[1]:
                os.close(descriptor)

    def _try_send(self, data: bytes, descriptors: Sequence[int]) -> bool:
        """Try to send. False: the message must wait."""
        try:
            if descriptors:
                socket.send_fds(self._sock, [data], list(descriptors))
            else:
                self._sock.send(data)
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno == errno.ETOOMANYREFS:  # too many descriptors in flight
                return False
            self._close_broken()
        return True

    def _ready(self, events: int) -> None:
        if events & OUT:
            self._flush()
        if events & (IN | HANGUP | ERROR) and not self.is_closed:
            for _ in range(BUDGET):
                if not self._receive_one():
                    return

    def _flush(self) -> None:
        while self._queued:
            data, descriptors = self._queued[0]
            if not self._try_send(data, descriptors):
                return
            if self.is_closed:
                return
            self._queued.popleft()
            for descriptor in descriptors:
                os.close(descriptor)
        self._poller.change(self._sock.fileno(), IN)

    def _receive_one(self) -> bool:
        """Receive a message. Returns whether there may be more."""
        try:
            data, ancillary, _, _ = self._sock.recvmsg(MAX_MESSAGE, _ANCILLARY_BYTES, socket.MSG_CMSG_CLOEXEC)
        except BlockingIOError:
            return False
        except OSError:
            self._close_broken()
            return False
        descriptors = _descriptors(ancillary)
        if not data and not descriptors:
            self._close_broken()
            return False
        try:
            message = self._decode(data)
        except msgspec.MsgspecError as error:
            log.error("a message of the inspectors' channel cannot be read: %s", error)
            for descriptor in descriptors:
                os.close(descriptor)
            self._close_broken()
            return False
        try:
            self._receive(message, descriptors)
        except Exception:
            log.exception("unexpected error in %s", type(message).__name__)
        return not self.is_closed

    def _close_broken(self) -> None:
        if not self.is_closed:
            self.close()
            self._closed()

    def _crashed(self, error: BaseException) -> None:
        self._close_broken()


def _copies(descriptors: Sequence[int]) -> list[int] | None:
    """Copies of the descriptors; None: none are left."""
    copies: list[int] = []
    try:
        for each in descriptors:
            copies.append(os.dup(each))
    except OSError:
        for each in copies:
            os.close(each)
        return None
    return copies


def _descriptors(ancillary: list[tuple[int, int, bytes]]) -> list[int]:
    found = array("i")
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            found.frombytes(data[: len(data) - len(data) % found.itemsize])
    return list(found)
