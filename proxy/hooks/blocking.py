"""Detects and names a hook that blocks the event loop, which stops all traffic."""

from __future__ import annotations

import logging
import sys
import threading
import time
import traceback
from collections.abc import Coroutine, Generator
from typing import Any

log = logging.getLogger(__name__)

MAX_STEP_S = 0.1  # for one step between two awaits: packets wait as long
CHECK_INTERVAL_S = 0.5  # interval of the watchdog's checks
STACK_FRAMES = 6  # innermost stack frames in the log: the hook, and what it calls


class TimedSteps:
    """Awaits a hook, and times each of its steps from one await to the next."""

    __slots__ = ("_coroutine", "_name", "_watchdog")

    def __init__(self, name: str, coroutine: Coroutine[Any, Any, Any], watchdog: Watchdog) -> None:
        self._name, self._coroutine, self._watchdog = name, coroutine, watchdog

    def __await__(self) -> Generator[Any, Any, Any]:
        coroutine, watchdog = self._coroutine, self._watchdog
        step: Any = coroutine.send
        value: Any = None
        while True:
            began = time.monotonic()
            watchdog.running = self._name, began
            try:
                awaited = step(value)
            except StopIteration as stop:
                return stop.value
            finally:
                watchdog.running = None
                if (took := time.monotonic() - began) > MAX_STEP_S:
                    log.warning("hook %s blocked the proxy for %.2f s: use await instead", self._name, took)
            try:
                value, step = (yield awaited), coroutine.send
            except BaseException as error:  # a time-out, or the proxy stops: passed to the hook
                value, step = error, coroutine.throw


class Watchdog:
    """A thread that detects a hook blocking the loop and logs its stack at once, as the hook may never return."""

    def __init__(self) -> None:
        self.running: tuple[str, float] | None = None
        self._reported: float | None = None
        self._stopped = threading.Event()
        self._loop_thread = threading.get_ident()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start watching the calling thread."""
        self._loop_thread = threading.get_ident()
        self._thread = threading.Thread(target=self._watch, name="hooks", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread."""
        self._stopped.set()
        if self._thread is not None:
            self._thread.join()

    def _watch(self) -> None:
        while not self._stopped.wait(CHECK_INTERVAL_S):
            running = self.running
            if running is None or running[1] == self._reported or time.monotonic() - running[1] < CHECK_INTERVAL_S:
                continue
            name, self._reported = running
            frame = sys._current_frames().get(self._loop_thread)
            stack = "".join(traceback.format_stack(frame)[-STACK_FRAMES:]).rstrip() if frame is not None else "?"
            log.error("hook %s is blocking the proxy: no traffic moves meanwhile. Its stack:\n%s", name, stack)
