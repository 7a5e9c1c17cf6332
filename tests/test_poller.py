"""One epoll set: who is told what, and whose mistakes are whose."""

from __future__ import annotations

import itertools
import os
import socket
from types import SimpleNamespace

import pytest

from proxy import poller as poller_module
from proxy.poller import EDGE, HANGUP, IN, ONCE, OUT, Lane
from tests.loops import running


def nothing(error: BaseException) -> None:
    raise AssertionError("must not be called") from error


@pytest.fixture
def loop():
    with running() as loop:
        yield loop


@pytest.fixture
def pairs():
    made = [socket.socketpair() for _ in range(6)]
    yield made
    for pair in made:
        for sock in pair:
            sock.close()


def test_readiness_is_told_until_it_is_taken(loop, pairs):
    (near, far), seen = pairs[0], []
    loop.poller.watch(near.fileno(), IN, lambda events: seen.append(events), nothing)
    loop.turns(3)
    assert seen == []
    far.send(b"x")
    loop.until(lambda: len(seen) > 3)
    near.recv(1)
    count = len(seen)
    loop.turns(5)
    assert len(seen) == count
    assert set(seen) == {IN}
    loop.poller.forget(near.fileno())


def test_changed_interest_holds_from_the_next_look_on(loop, pairs):
    (near, _), seen = pairs[0], []
    loop.poller.watch(near.fileno(), IN, seen.append, nothing)
    loop.turns(3)
    loop.poller.change(near.fileno(), IN | OUT)
    loop.until(lambda: seen)
    loop.poller.change(near.fileno(), 0)
    seen.clear()
    loop.turns(5)
    assert seen == []


def test_hang_up_is_told_without_being_asked_for(loop, pairs):
    (near, far), seen = pairs[0], []
    loop.poller.watch(near.fileno(), 0, seen.append, nothing)
    far.close()
    loop.until(lambda: seen)
    assert seen[0] & HANGUP
    loop.poller.forget(near.fileno())


def test_forgotten_in_the_same_batch_is_not_told(loop, pairs):
    seen = []

    def ready(number):
        def run(events):
            seen.append(number)
            for near, _ in pairs:
                loop.poller.forget(near.fileno())

        return run

    for number, (near, far) in enumerate(pairs):
        loop.poller.watch(near.fileno(), IN, ready(number), nothing)
        far.send(b"x")
    loop.turns(5)
    assert len(seen) == 1


def test_event_of_a_closed_descriptor_is_not_told_to_the_one_that_has_its_number(loop, pairs):
    """A dial that took a number in the middle of a batch would think that its connection stood."""
    seen = []
    idle, _keep = socket.socketpair()

    def first_of_the_batch(events):
        for near, _ in pairs:
            number = near.fileno()
            loop.poller.forget(number)
            os.dup2(idle.fileno(), number)  # closes what had it
            loop.poller.watch(number, IN, seen.append, nothing)

    for near, far in pairs:
        loop.poller.watch(near.fileno(), IN, first_of_the_batch, nothing)
        far.send(b"x")
    loop.turns(5)
    assert seen == []
    _keep.send(b"now")
    loop.until(lambda: len(seen) >= len(pairs))
    for near, _ in pairs:
        loop.poller.forget(near.fileno())
    idle.close()
    _keep.close()


def test_number_that_was_reused_and_forgotten_again_is_told_nothing(loop, pairs):
    (near, far), seen = pairs[0], []
    far.send(b"x")
    for _ in range(3):
        loop.poller.watch(near.fileno(), IN, seen.append, nothing)
        loop.poller.forget(near.fileno())
    loop.turns(5)
    assert seen == []
    loop.poller.watch(near.fileno(), IN, seen.append, nothing)
    loop.until(lambda: seen)
    loop.poller.forget(near.fileno())


def test_forgetting_what_is_not_watched_does_nothing(loop, pairs):
    loop.poller.forget(pairs[0][0].fileno())
    loop.poller.forget(10_000)


def test_error_goes_to_its_own_handler_and_the_others_go_on(loop, pairs, caplog):
    crashes, seen = [], []

    def fail(events):
        loop.poller.forget(pairs[0][0].fileno())
        raise ValueError("a bug")

    loop.poller.watch(pairs[0][0].fileno(), IN, fail, crashes.append)
    loop.poller.watch(pairs[1][0].fileno(), IN, seen.append, nothing)
    for _, far in pairs[:2]:
        far.send(b"x")
    loop.until(lambda: seen and crashes)
    assert [str(error) for error in crashes] == ["a bug"]
    assert "unexpected error" in caplog.text
    loop.poller.forget(pairs[1][0].fileno())


def test_busy_descriptors_leave_the_loop_its_turn(loop, pairs, monkeypatch):
    """A flood is handled for a bounded time before timers run: here each look at the clock takes a millisecond."""
    milliseconds = itertools.count()
    monkeypatch.setattr(poller_module, "time", SimpleNamespace(monotonic=lambda: next(milliseconds) / 1000))
    (near, far), seen, called = pairs[0], [], []
    far.send(b"x")

    def ready(events):
        seen.append(events)
        if len(seen) == 1:
            loop.loop.call_soon(lambda: called.append(len(seen)))

    loop.poller.watch(near.fileno(), IN, ready, nothing)
    loop.until(lambda: called)
    assert 1 < called[0] <= poller_module.TURN_S * 1000 + 1
    loop.poller.forget(near.fileno())


def test_what_was_scheduled_in_the_loop_need_not_wait_for_a_flood(loop, pairs, monkeypatch):
    monkeypatch.setattr(poller_module, "TURN_S", float("inf"))
    (near, far), seen, called = pairs[0], [], []
    far.send(b"x")

    def ready(events):
        seen.append(events)
        if len(seen) == 3:
            loop.loop.call_soon(soon)
            loop.poller.yield_to_asyncio()

    def soon():
        called.append(len(seen))
        loop.poller.forget(near.fileno())

    loop.poller.watch(near.fileno(), IN, ready, nothing)
    loop.until(lambda: called)
    assert called == [3]


def test_once_is_told_once_until_somebody_else_takes_the_descriptor_over(loop, pairs):
    (near, far), first, second = pairs[0], [], []
    loop.poller.watch(near.fileno(), IN | ONCE, first.append, nothing)
    far.send(b"x")
    loop.until(lambda: first)
    loop.turns(5)
    assert first == [IN]
    loop.poller.watch(near.fileno(), IN, second.append, nothing)
    loop.until(lambda: second)  # of what came before it took over
    assert first == [IN]
    loop.poller.forget(near.fileno())


def test_edge_is_told_once_for_each_thing_that_happens(loop, pairs):
    (near, far), seen = pairs[0], []
    loop.poller.watch(near.fileno(), IN | EDGE, seen.append, nothing)
    for count in (1, 2, 3):
        far.send(b"x")
        loop.until(lambda count=count: len(seen) == count)
        loop.turns(5)
        assert len(seen) == count
    loop.poller.forget(near.fileno())


def test_nothing_is_told_of_what_was_left_nor_to_the_one_that_has_its_number(loop, pairs):
    seen = []
    idle, keep = socket.socketpair()

    def first_of_the_batch(events):
        for near, _ in pairs:
            number = near.fileno()
            loop.poller.forget_closing(number)
            os.dup2(idle.fileno(), number)  # closes what had it
            loop.poller.watch(number, IN, seen.append, nothing)

    for near, far in pairs:
        loop.poller.watch(near.fileno(), IN | EDGE, first_of_the_batch, nothing)
        far.send(b"x")
    loop.turns(5)
    assert seen == []
    keep.send(b"now")
    loop.until(lambda: len(seen) >= len(pairs))
    for near, _ in pairs:
        loop.poller.forget(near.fileno())
    idle.close()
    keep.close()


def crowd(loop, pairs, events=IN):
    """Five descriptors of one client, all ready; those that were served."""
    lane, served = Lane(loop.poller, "crowd"), []
    for near, far in pairs[:5]:
        far.send(b"x")
        lane.watch(near.fileno(), events, lambda _, sock=near: served.append(sock), nothing)
    return served


def test_a_client_waits_for_one_event_of_another_not_for_all(loop, pairs, monkeypatch):
    monkeypatch.setattr(poller_module, "LANES_S", 0)  # as if each event took long
    (near, far), other = pairs[5], []
    served = crowd(loop, pairs)
    loop.until(lambda: len(served) > 20)  # whose data nobody takes: there is always something to do for them
    Lane(loop.poller, "other").watch(near.fileno(), IN, lambda _: other.append(len(served)), nothing)
    began = len(served)
    far.send(b"x")
    loop.until(lambda: len(other) > 3)
    assert other[0] <= began + 2
    assert other[3] <= other[0] + 4
    assert len(set(served[-10:])) == 5


def test_what_waits_in_a_lane_is_served_though_nothing_else_happens(loop, pairs, monkeypatch):
    monkeypatch.setattr(poller_module, "LANES_S", 0)
    monkeypatch.setattr(poller_module, "TURN_S", 0)
    served = crowd(loop, pairs, IN | EDGE)  # each is told once
    loop.until(lambda: len(served) == 5)
    loop.turns(5)
    assert len(set(served)) == len(served) == 5


def test_what_waits_in_a_lane_is_not_told_to_a_later_owner(loop, pairs, monkeypatch):
    monkeypatch.setattr(poller_module, "LANES_S", 0)
    served, again, lane = [], [], Lane(loop.poller, "crowd")

    def ready(events):
        served.append(events)
        for near, _ in pairs:
            lane.forget(near.fileno())
            lane.watch(near.fileno(), 0, again.append, nothing)

    for near, far in pairs:
        far.send(b"x")
        lane.watch(near.fileno(), IN, ready, nothing)
    loop.until(lambda: served)
    loop.turns(5)
    assert (served, again) == ([IN], [])
    for near, _ in pairs:
        lane.forget(near.fileno())
