"""One capture: packets of all rings, in order of time, until something ends it."""

from __future__ import annotations

import contextlib
import enum
import os
import select
import signal
import time
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from operator import itemgetter
from typing import Protocol

from oxyctl.capture.ring import RETIRE_MS, Packet, Ring
from oxyctl.capture.sinks import ReaderGone

# A packet reaches us at most two block time-outs after it passed; one more for a busy machine.
HOLD_NS = 3 * RETIRE_MS * 1_000_000
FINISH_TIMEOUT_S = 5.0  # at the end, for packets that the kernel has counted and not handed over
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class End(enum.Enum):
    """The reason why a capture ended."""

    REQUESTED = "requested"
    COUNT = "the requested number of packets was captured"
    DURATION = "the time is up"
    LAB = "the lab has ended"
    READER = "the reader of the output is gone"


class Writer(Protocol):
    """Consumes packets."""

    def packets(self, packets: Sequence[Packet]) -> None:
        """Consume these packets, all later than earlier ones. ReaderGone, OxyctlError."""
        ...


class Session:
    """Moves packets from `rings` to `writer`; `delivered` counts those of each ring."""

    def __init__(self, rings: Sequence[Ring], writer: Writer, wake: int, lab: int) -> None:
        """`wake`: an eventfd that asks to end; `lab`: a pidfd of the lab's supervisor."""
        self.rings, self.delivered = list(rings), [0] * len(rings)
        self.bytes = [0] * len(rings)
        self._writer, self._wake, self._lab = writer, wake, lab
        self._by_fd = {ring.socket.fileno(): ring for ring in rings}
        self._pending: list[Packet] = []
        self._epoll = select.epoll()
        for fd in (wake, lab, *self._by_fd):
            self._epoll.register(fd, select.EPOLLIN)

    def add(self, ring: Ring) -> None:
        """Include packets of `ring` from now on; its number is the next one."""
        self.rings.append(ring)
        self.delivered.append(0)
        self.bytes.append(0)
        self._by_fd[ring.socket.fileno()] = ring
        self._epoll.register(ring.socket.fileno(), select.EPOLLIN)

    def watch(self, fd: int) -> None:
        """End when the reader of `fd` has gone."""
        self._epoll.register(fd, 0)  # EPOLLERR and EPOLLHUP come unasked
        self._reader = fd

    def run(self, count: int | None, duration_s: float | None, tick: Callable[[], float | None]) -> End:
        """Run until `count` packets are written, `duration_s` seconds are over, or something else ends it.

        `tick` is called after each step, and returns the seconds within which to call it again.
        OxyctlError: the writer is out of space.
        """
        with contextlib.closing(self._epoll):
            try:
                return self._run(count, duration_s, tick)
            except ReaderGone:
                return End.READER
            finally:
                for ring in self.rings:
                    with contextlib.suppress(OSError):
                        ring.count()

    def _run(self, count: int | None, duration_s: float | None, tick: Callable[[], float | None]) -> End:
        deadline = None if duration_s is None else time.monotonic() + duration_s
        end: End | None = None
        while end is None:
            self._release(time.time_ns() - HOLD_NS if len(self.rings) > 1 else None, count)
            if count is not None and sum(self.delivered) >= count:
                return End.COUNT
            timeouts = [HOLD_NS / 1e9 if self._pending else None, tick()]
            if deadline is not None:
                timeouts.append(max(0.0, deadline - time.monotonic()))
            end = self._step(min((t for t in timeouts if t is not None), default=None))
            if end is None and deadline is not None and time.monotonic() >= deadline:
                end = End.DURATION
        self._finish(time.time_ns(), count)
        return end

    def _step(self, timeout_s: float | None) -> End | None:
        for fd, events in self._epoll.poll(timeout_s):
            if fd == self._wake:
                return End.REQUESTED
            if fd == self._lab:
                return End.LAB
            ring = self._by_fd.get(fd)
            if ring is None:
                raise ReaderGone
            if events & select.EPOLLERR:
                ring.acknowledge_error()
            self._pending += ring.read()
        return None

    def _finish(self, until_ns: int, count: int | None) -> None:
        """Collect the packets that passed before `until_ns`, in blocks that the kernel may still hold back.

        On a busy machine this waits longer, until as many packets have come as the kernel has counted.
        """
        self._epoll.unregister(self._wake)
        self._epoll.unregister(self._lab)
        for ring in self.rings:
            ring.count()
        counted = [(ring, ring.received - ring.dropped) for ring in self.rings]
        while (remaining := until_ns + HOLD_NS - time.time_ns()) > 0:
            self._step(remaining / 1e9)
        deadline = time.monotonic() + FINISH_TIMEOUT_S
        while any(ring.taken < packets for ring, packets in counted) and time.monotonic() < deadline:
            self._step(RETIRE_MS / 1e3)
        for ring in self.rings:
            self._pending += ring.read()
        self._release(until_ns, count)

    def _release(self, until_ns: int | None, count: int | None) -> None:
        """Pass on, in order, the packets before `until_ns`, since no older ones will come. None: all packets."""
        self._pending.sort()
        due = len(self._pending)
        if until_ns is not None:
            due = bisect_right(self._pending, until_ns, key=itemgetter(0))
        ready, self._pending = self._pending[:due], self._pending[due:]
        if count is not None:
            ready = ready[: count - sum(self.delivered)]
        if ready:
            self._writer.packets(ready)
            for packet in ready:
                self.delivered[packet.number] += 1
                self.bytes[packet.number] += packet.length


@contextlib.contextmanager
def stop_requests(*, ignore_afterwards: bool = False) -> Iterator[int]:
    """An eventfd that becomes readable at SIGINT, SIGTERM or SIGHUP.

    Afterwards their handlers are restored; with `ignore_afterwards` they are ignored from then on.
    """
    wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
    before = {number: signal.signal(number, lambda *_: os.eventfd_write(wake, 1)) for number in SIGNALS}
    try:
        yield wake
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_IGN if ignore_afterwards else handler)
        os.close(wake)
