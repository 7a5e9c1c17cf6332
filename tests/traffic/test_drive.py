"""Exchanges in time: how many at once, when each is due, and what a stall does to latencies."""

from __future__ import annotations

import asyncio

import pytest

from oxyctl.traffic.drive import drive
from oxyctl.traffic.tally import Tally
from oxyctl.traffic.timer import Timer
from tests.traffic.conftest import traffic

STALL_S = 0.1


def run(exchange, **options):
    """The tally of `exchange` driven so."""

    async def main():
        tally = Tally(traffic("udp", "web:7", **options), asyncio.get_running_loop().time())
        await drive(tally.traffic, exchange, tally)
        return tally

    return asyncio.run(main())


async def stall_once(number):
    if number == 0:
        await asyncio.sleep(STALL_S)


def test_a_closed_loop_keeps_so_many_under_way():
    together, most = asyncio.Barrier(4), []

    async def exchange(number):
        most.append(together.n_waiting)
        await together.wait()  # nobody passes before there are four

    tally = run(exchange, count=48, concurrency=4)
    assert (tally.sent, tally.succeeded, max(most)) == (48, 48, 3)


def test_without_an_end_there_are_ten():
    assert run(stall_once).sent == 10


def test_exchanges_begin_when_they_are_due_and_not_before():
    begun = []

    async def exchange(number):
        begun.append(asyncio.get_running_loop().time())

    tally = run(exchange, rate=400, count=40)
    assert [number for number, at in enumerate(begun) if at < tally.start + number / 400] == []


def test_a_stall_is_seen_by_all_that_were_due_meanwhile():
    """One slot, and the first exchange takes 100 ms: the ten that were due meanwhile waited, and say how long."""
    tally = run(stall_once, rate=100, count=10, concurrency=1)
    latency = tally.latency.summary()
    assert latency.max >= STALL_S * 1e3
    assert latency.p50 >= STALL_S * 1e3 * 0.4  # without the correction: some microseconds
    closed = run(stall_once, count=10).latency.summary()
    assert closed.p50 < latency.p50 / 2


def test_slots_let_others_pass_a_stall():
    last = asyncio.Event()

    async def exchange(number):
        if number == 0:
            await last.wait()
        elif number == 9:
            last.set()

    assert run(exchange, rate=1000, count=10).succeeded == 10


def test_what_was_due_and_never_sent_is_counted():
    async def never(number):
        await asyncio.Event().wait()

    tally = run(never, rate=200, duration_s=0.1, concurrency=1, timeout_s=0.15)
    assert (tally.sent, tally.succeeded, tally.errors) == (1, 0, {"timeout": 1})
    assert tally.unsent >= 15


def test_the_duration_ends_a_closed_loop():
    tally = run(lambda number: asyncio.sleep(0), duration_s=0.3)
    assert tally.sent == tally.succeeded > 10


def test_each_exchange_has_its_own_time_out():
    async def exchange(number):
        if number % 2:
            await asyncio.Event().wait()

    tally = run(exchange, count=4, concurrency=4, timeout_s=0.02)
    assert (tally.succeeded, tally.errors) == (2, {"timeout": 2})


def test_a_mistake_in_a_generator_is_raised():
    async def exchange(number):
        raise KeyError(number)

    with pytest.raises(KeyError):
        run(exchange, count=3)


def test_giving_up_leaves_nothing_running():
    together, ended = asyncio.Barrier(4), []

    async def exchange(number):
        await together.wait()
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(number)

    async def main():
        tally = Tally(traffic("udp", "web:7", concurrency=3, count=9), asyncio.get_running_loop().time())
        task = asyncio.create_task(drive(tally.traffic, exchange, tally))
        await together.wait()
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return tally

    tally = asyncio.run(main())
    assert sorted(ended) == [0, 1, 2]
    assert tally.report(1.0, address="", interrupted=True).unfinished == 3


def test_the_timer_wakes_in_order_and_never_early():
    async def main():
        loop, early = asyncio.get_running_loop(), []
        with Timer() as timer:
            for step in (0.002, 0.0005, 0.0, -1.0, 0.01):
                moment = loop.time() + step
                await timer.until(moment)
                early.append(loop.time() < moment)
        return early

    assert asyncio.run(main()) == [False] * 5
