"""Running the event loop in tests until something is so: nobody sleeps."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import time
from collections.abc import Callable, Iterator
from typing import Any

from proxy.poller import Poller

PATIENCE_S = 20.0


class Loop:
    """An event loop with a poller, run step by step. `crashes` are errors that escaped a handler."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.loop.set_exception_handler(lambda _, context: self.errors.append(context))
        self.errors: list[dict[str, Any]] = []
        self.crashes: list[BaseException] = []
        self.poller = self.call(lambda: Poller(self.loop))

    def call(self, function: Callable[[], Any]) -> Any:
        """What `function` returns, called while the loop runs."""

        async def run() -> Any:
            return function()

        return self.loop.run_until_complete(run())

    def run(self, work: Any) -> Any:
        return self.loop.run_until_complete(work)

    def until(self, condition: Callable[[], Any], patience_s: float = PATIENCE_S) -> Any:
        """Run until `condition()` is true, and return what it said; AssertionError when that takes too long."""

        async def wait() -> Any:
            deadline = time.monotonic() + patience_s
            while not (answer := condition()):
                assert time.monotonic() < deadline, f"still not so after {patience_s} s"
                await asyncio.sleep(0)
            return answer

        return self.loop.run_until_complete(wait())

    def turns(self, count: int) -> None:
        """Let the loop look `count` times for what is ready."""

        async def wait() -> None:
            for _ in range(count):
                await asyncio.sleep(0)

        self.loop.run_until_complete(wait())

    def close(self) -> None:
        self.call(self.poller.close)
        self.loop.close()
        assert not self.errors, self.errors


@contextlib.contextmanager
def running() -> Iterator[Loop]:
    """A loop whose handlers must not have failed by the end, and that leaves no descriptor behind."""
    gc.collect()  # what an earlier test has left may not be closed meanwhile
    before = open_descriptors()
    loop = Loop()
    try:
        yield loop
    finally:
        loop.close()
    assert open_descriptors() == before


def open_descriptors() -> set[str]:
    """The numbers that are open now, but for that of the directory which lists them."""
    return {fd for fd in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{fd}")}
