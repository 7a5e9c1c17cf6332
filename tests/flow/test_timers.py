"""The timer wheel: beside a list of deadlines that is searched every time."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.flow.timers import Wheel

TICK = 0.25


class Item:
    def __init__(self):
        self.timer_slot = self.timer_due = 0


steps = st.one_of(
    st.tuples(st.just("arm"), st.integers(0, 5), st.integers(-40, 400).map(lambda n: n / 10)),
    st.tuples(st.just("disarm"), st.integers(0, 5), st.just(0.0)),
    st.tuples(st.just("pass"), st.just(0), st.one_of(st.integers(0, 30), st.integers(0, 3000)).map(lambda n: n / 20)),
)


@given(st.lists(steps, max_size=60), st.floats(0, 1e6))
def test_items_expire_once_and_in_time(sequence, start):
    wheel, items, deadlines, now = Wheel(TICK), [Item() for _ in range(6)], {}, start
    wheel.expired(now)
    for what, which, value in sequence:
        if what == "arm":
            wheel.arm(items[which], now + value)
            deadlines[which] = max(now + value, now - TICK)
        elif what == "disarm":
            wheel.disarm(items[which])
            deadlines.pop(which, None)
        else:
            now += value
            expired = {items.index(item) for item in wheel.expired(now)}
            assert {which for which, at in deadlines.items() if at + TICK <= now} <= expired
            assert expired <= {which for which, at in deadlines.items() if at <= now}
            assert all(items[which].timer_slot == 0 for which in expired)
            for which in expired:
                del deadlines[which]
        assert len(wheel) == len(deadlines)


def test_expired_come_in_the_order_of_their_deadlines():
    wheel, items = Wheel(TICK), [Item() for _ in range(5)]
    for number, item in enumerate(items):
        wheel.arm(item, 10.0 - number)
    assert wheel.expired(100) == items[::-1]


def test_later_deadline_replaces_an_earlier_one():
    wheel, item = Wheel(TICK), Item()
    wheel.arm(item, 1)
    wheel.arm(item, 5)
    assert wheel.expired(4.9) == []
    assert wheel.expired(5.25) == [item]


@pytest.mark.parametrize("deadline", [1.0, 1.1, 1.2499])
def test_item_never_expires_early_and_at_most_a_tick_late(deadline):
    wheel, item = Wheel(TICK), Item()
    wheel.arm(item, deadline)
    assert wheel.expired(deadline - 0.001) == []
    assert wheel.expired(deadline + TICK) == [item]


def test_deadline_in_the_past_expires_at_the_next_tick_not_never():
    wheel, item = Wheel(TICK), Item()
    wheel.expired(1000)
    wheel.arm(item, 3)
    assert wheel.expired(1000) == []
    assert wheel.expired(1000 + TICK) == [item]


def test_clock_that_stands_still_or_goes_back_expires_nothing_twice():
    wheel, item = Wheel(TICK), Item()
    wheel.arm(item, 1)
    assert wheel.expired(2) == [item]
    assert wheel.expired(2) == []
    assert wheel.expired(1) == []


@pytest.mark.parametrize("pause", [1, 1e6, 1e9])
def test_long_pause_costs_what_is_armed_not_what_passed(pause):
    wheel, near, far = Wheel(TICK), Item(), Item()
    wheel.arm(near, 1)
    wheel.arm(far, 2 * pause + 10)
    assert wheel.expired(pause + 2) == [near]
    assert len(wheel) == 1


def test_disarmed_items_leave_nothing_behind():
    wheel, items = Wheel(TICK), [Item() for _ in range(100)]
    for number, item in enumerate(items):
        wheel.arm(item, number)
    for item in items:
        wheel.disarm(item)
        wheel.disarm(item)
    assert (len(wheel), wheel._slots) == (0, {})
