"""Schedules exchanges: a fixed number at once (closed loop), or at a fixed rate (open loop)."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Iterator

from oxyctl.traffic.config import Traffic
from oxyctl.traffic.failures import failed
from oxyctl.traffic.tally import Tally
from oxyctl.traffic.timer import Timer

Exchange = Callable[[int], Awaitable[None]]  # takes its number, from 0; raises errors for `failures.failed`


async def drive(traffic: Traffic, exchange: Exchange, tally: Tally) -> None:
    """Run all exchanges to their end. When cancelled, those under way are neither awaited nor counted as failed.

    At a rate, latency begins when the exchange was due, whatever delayed it: no free slot, a busy machine, a stalled
    target. A stall thus affects the latency of all exchanges due meanwhile, not only of the one under way.
    """
    driver = _Driver(traffic, exchange, tally)
    try:
        try:
            async with asyncio.timeout(traffic.duration_s):
                await driver.issue()
        except TimeoutError:
            tally.unsent = driver.overdue()
        await driver.wait()
    finally:
        await driver.cancel()


class _Driver:
    """The exchanges of one request, under way and still to come."""

    def __init__(self, traffic: Traffic, exchange: Exchange, tally: Tally) -> None:
        self._traffic, self._exchange, self._tally = traffic, exchange, tally
        self._loop = asyncio.get_running_loop()
        self._slots = asyncio.Semaphore(traffic.slots)
        self._tasks: set[asyncio.Task[None]] = set()
        self._bug: BaseException | None = None  # a bug in this program, not the failure of an exchange

    async def issue(self) -> None:
        """Start each exchange once it is due and has a slot."""
        with Timer() as timer:
            for number in self._numbers():
                due = self._due(number)
                if due is not None:
                    await timer.until(due)
                await self._slots.acquire()
                self._start(number, due)

    def overdue(self) -> int:
        """The number of exchanges that are due and have not been sent."""
        if self._traffic.rate is None:
            return 0
        due = int((self._loop.time() - self._tally.start) * self._traffic.rate)
        return max(0, min(due, self._traffic.exchanges or due) - self._tally.sent)

    async def wait(self) -> None:
        """Wait for exchanges under way, each of which has its own time-out."""
        if self._tasks:
            await asyncio.wait(self._tasks)
        if self._bug is not None:
            raise self._bug

    async def cancel(self) -> None:
        """Cancel exchanges under way."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    def _numbers(self) -> Iterator[int]:
        limit = self._traffic.exchanges
        return iter(itertools.count() if limit is None else range(limit))

    def _due(self, number: int) -> float | None:
        return None if self._traffic.rate is None else self._tally.start + number / self._traffic.rate

    def _start(self, number: int, due: float | None) -> None:
        self._tally.sent += 1
        task = self._loop.create_task(self._run(number, self._loop.time() if due is None else due))
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._slots.release()
        if not task.cancelled():
            self._bug = task.exception() or self._bug

    async def _run(self, number: int, start: float) -> None:
        try:
            async with asyncio.timeout(self._traffic.timeout_s):
                await self._exchange(number)
        except Exception as error:
            failure = failed(error)
            self._tally.fail(failure.kind, failure.text)
        else:
            self._tally.succeed((self._loop.time() - start) * 1e3)
