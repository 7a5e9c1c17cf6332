"""One epoll set for every packet and stream descriptor, which asyncio watches as a single descriptor."""

from __future__ import annotations

import asyncio
import logging
import select
import time
from collections.abc import Callable

log = logging.getLogger(__name__)

IN, OUT, RDHUP, URGENT = select.EPOLLIN, select.EPOLLOUT, select.EPOLLRDHUP, select.EPOLLPRI
ERROR, HANGUP = select.EPOLLERR, select.EPOLLHUP
EDGE, ONCE = select.EPOLLET, select.EPOLLONESHOT

TURN_S = 0.005  # asyncio's timers and sockets wait at most this long, and one batch more
WAIT_S = 0.001  # for the next event, before asyncio runs: a turn of asyncio costs 10 us (bench/connections.py)
BATCH = 256


Ready = Callable[[int], None]
Crashed = Callable[[BaseException], None]


class Poller:
    """Readiness, dispatched by direct calls: a task per connection costs a third of the connection rate
    (bench/connections.py). Level-triggered; with `EDGE`, edge-triggered; with `ONCE`, one-shot (epoll_ctl(2)).
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._must_yield = False
        self._epoll = select.epoll()
        self._watched: dict[int, tuple[Ready, Crashed]] = {}
        self._forgotten: set[int] = set()  # since the start of the last batch
        self._reused: dict[int, tuple[Ready, Crashed]] = {}  # new descriptors with the number of a forgotten one
        self._before_turn: list[Callable[[], None]] = []
        loop.add_reader(self._epoll.fileno(), self._run)

    def watch(self, fd: int, events: int, ready: Ready, crashed: Crashed) -> None:
        """Call `ready(events)` whenever `fd` is ready for one of `events`, and `crashed(error)` when that raises.

        A descriptor that is already watched gets a new owner, which is called for all current readiness.
        """
        if fd in self._watched or fd in self._reused:
            self._epoll.modify(fd, events)
        else:
            self._epoll.register(fd, events)
        # Events in the current batch for a reused number belong to the descriptor that had it before.
        (self._reused if fd in self._forgotten else self._watched)[fd] = (ready, crashed)

    def change(self, fd: int, events: int) -> None:
        self._epoll.modify(fd, events)

    def forget(self, fd: int) -> None:
        """Stop watching `fd`; call it before the descriptor is closed."""
        if self._watched.pop(fd, None) is not None or self._reused.pop(fd, None) is not None:
            self._epoll.unregister(fd)
            self._forgotten.add(fd)

    def forget_closing(self, fd: int) -> None:
        """As `forget`, for a descriptor with `EDGE` that is about to be closed, which ends watching (epoll(7))."""
        if self._watched.pop(fd, None) is not None or self._reused.pop(fd, None) is not None:
            self._forgotten.add(fd)

    def later(self, seconds: float, function: Callable[[], None]) -> None:
        """Call `function` after this many seconds: for waits too short for the flow table's timer wheel."""
        self._loop.call_later(seconds, function)

    def yield_to_asyncio(self) -> None:
        """Let asyncio run next: something was scheduled there that should not wait."""
        self._must_yield = True

    def before_turn(self, function: Callable[[], None]) -> None:
        """Call `function` whenever asyncio is about to run, to do the work deferred while packets were handled, so that
        no coroutine finds it undone."""
        self._before_turn.append(function)

    def no_more_before_turn(self, function: Callable[[], None]) -> None:
        self._before_turn.remove(function)

    def close(self) -> None:
        self._loop.remove_reader(self._epoll.fileno())
        self._epoll.close()

    def _run(self) -> None:
        try:
            self._dispatch()
        finally:
            for function in self._before_turn:
                function()

    def _dispatch(self) -> None:
        poll, find, clock = self._epoll.poll, self._watched.get, time.monotonic
        turn_ends, wait_s = clock() + TURN_S, 0.0
        self._must_yield = False
        while True:
            if self._forgotten:
                self._forgotten.clear()
                self._watched.update(self._reused)
                self._reused.clear()
            events = poll(wait_s, BATCH)
            for fd, event in events:
                entry = find(fd)
                if entry is None:  # forgotten earlier in this batch
                    continue
                try:
                    entry[0](event)
                except Exception as error:
                    log.exception("unexpected error in %r", entry[0])
                    entry[1](error)
            if not events or self._must_yield or clock() >= turn_ends:
                return
            wait_s = WAIT_S
