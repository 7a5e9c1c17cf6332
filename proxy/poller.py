"""One epoll set for every packet and stream descriptor, which asyncio watches as a single descriptor."""

from __future__ import annotations

import asyncio
import logging
import select
import time
from collections.abc import Callable, Hashable
from typing import Protocol

log = logging.getLogger(__name__)

IN, OUT, RDHUP, URGENT = select.EPOLLIN, select.EPOLLOUT, select.EPOLLRDHUP, select.EPOLLPRI
ERROR, HANGUP = select.EPOLLERR, select.EPOLLHUP
EDGE, ONCE = select.EPOLLET, select.EPOLLONESHOT

TURN_S = 0.005  # asyncio's timers and sockets wait at most this long, and one batch more
WAIT_S = 0.001  # for the next event, before asyncio runs: a turn of asyncio costs 10 us (bench/connections.py)
BATCH = 256
LANES_S = 0.002  # for events that wait in lanes, before those that have happened meanwhile are asked for


Ready = Callable[[int], None]
Crashed = Callable[[BaseException], None]


class Watcher(Protocol):
    """What the owner of a descriptor needs: the poller itself, or a lane of it."""

    def watch(self, fd: int, events: int, ready: Ready, crashed: Crashed) -> None: ...
    def change(self, fd: int, events: int) -> None: ...
    def forget(self, fd: int) -> None: ...


class Lane:
    """The descriptors of one client, where each event may cost a millisecond: all lanes are served in turns, one event
    each, so that a client with a thousand descriptors makes another one wait for one event, not for a thousand."""

    __slots__ = ("_key", "_poller", "change", "forget")

    def __init__(self, poller: Poller, key: Hashable) -> None:
        self._poller, self._key = poller, key
        self.change, self.forget = poller.change, poller.forget

    def watch(self, fd: int, events: int, ready: Ready, crashed: Crashed) -> None:
        self._poller.watch(fd, events, ready, crashed, self._key)


class Poller:
    """Readiness, dispatched by direct calls: a task per connection costs a third of the connection rate
    (bench/connections.py). Level-triggered; with `EDGE`, edge-triggered; with `ONCE`, one-shot (epoll_ctl(2)).
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._must_yield = False
        self._epoll = select.epoll()
        self._watched: dict[int, tuple[Ready, Crashed, Hashable]] = {}  # the last: the key of its lane, or None
        self._forgotten: set[int] = set()  # since the start of the last batch
        # new descriptors with the number of a forgotten one
        self._reused: dict[int, tuple[Ready, Crashed, Hashable]] = {}
        self._lanes: dict[Hashable, dict[int, int]] = {}  # events that wait, by descriptor; the next lane is the first
        self._before_turn: list[Callable[[], None]] = []
        self._resumed: asyncio.Handle | None = None
        loop.add_reader(self._epoll.fileno(), self._run)

    def watch(self, fd: int, events: int, ready: Ready, crashed: Crashed, lane: Hashable = None) -> None:
        """Call `ready(events)` whenever `fd` is ready for one of `events`, and `crashed(error)` when that raises.

        A descriptor that is already watched gets a new owner, which is called for all current readiness. `lane`: see
        `Lane`; what has none goes first.
        """
        if fd in self._watched or fd in self._reused:
            self._epoll.modify(fd, events)
        else:
            self._epoll.register(fd, events)
        # Events in the current batch for a reused number belong to the descriptor that had it before.
        (self._reused if fd in self._forgotten else self._watched)[fd] = (ready, crashed, lane)

    def change(self, fd: int, events: int) -> None:
        self._epoll.modify(fd, events)

    def forget(self, fd: int) -> None:
        """Stop watching `fd`; call it before the descriptor is closed."""
        if self._drop(fd):
            self._epoll.unregister(fd)

    def forget_closing(self, fd: int) -> None:
        """As `forget`, for a descriptor with `EDGE` that is about to be closed, which ends watching (epoll(7))."""
        self._drop(fd)

    def _drop(self, fd: int) -> bool:
        """Forget the owner of `fd` and what waits for it. Returns whether it had one."""
        entry = self._watched.pop(fd, None) or self._reused.pop(fd, None)
        if entry is None:
            return False
        self._forgotten.add(fd)
        if entry[2] is not None and (waiting := self._lanes.get(entry[2])) is not None:
            waiting.pop(fd, None)
        return True

    def later(self, seconds: float, function: Callable[[], None]) -> None:
        """Call `function` after this many seconds: for waits too short for the flow table's timer wheel."""
        self._loop.call_later(seconds, function)

    def yield_to_asyncio(self) -> None:
        """Let asyncio run next: something was scheduled there that should not wait."""
        self._must_yield = True

    def add_before_turn(self, function: Callable[[], None]) -> None:
        """Call `function` whenever asyncio is about to run, to do the work deferred while packets were handled, so that
        no coroutine finds it undone."""
        self._before_turn.append(function)

    def remove_before_turn(self, function: Callable[[], None]) -> None:
        self._before_turn.remove(function)

    def close(self) -> None:
        self._loop.remove_reader(self._epoll.fileno())
        self._lanes.clear()
        if self._resumed is not None:
            self._resumed.cancel()
        self._epoll.close()

    def _run(self) -> None:
        try:
            self._dispatch()
        finally:
            for function in self._before_turn:
                function()
            if self._lanes and self._resumed is None:
                self._resumed = self._loop.call_soon(self._resume)

    def _resume(self) -> None:
        self._resumed = None
        self._run()

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
                if (lane := entry[2]) is not None:
                    waiting = self._lanes.get(lane)
                    if waiting is None:
                        waiting = self._lanes[lane] = {}
                    waiting[fd] = waiting.get(fd, 0) | event
                    continue
                try:
                    entry[0](event)
                except Exception as error:
                    log.exception("unexpected error in %r", entry[0])
                    entry[1](error)
            if self._lanes:
                self._serve_lanes(clock() + LANES_S)
            if not events or self._must_yield or clock() >= turn_ends:
                return
            wait_s = 0.0 if self._lanes else WAIT_S

    def _serve_lanes(self, until: float) -> None:
        """Handle events that wait in lanes, one of each lane in turn, until this time."""
        lanes, find, clock = self._lanes, self._watched.get, time.monotonic
        while lanes:
            key = next(iter(lanes))
            waiting = lanes.pop(key)
            if not waiting:
                continue
            fd = next(iter(waiting))
            event = waiting.pop(fd)
            if waiting:
                lanes[key] = waiting
            entry = find(fd)
            if entry is None:
                continue
            try:
                entry[0](event)
            except Exception as error:
                log.exception("unexpected error in %r", entry[0])
                entry[1](error)
            if clock() >= until:
                return
