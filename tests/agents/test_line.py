"""One direction of an impaired link, with a clock of the test's own: delay, order, loss, rate, and what is held."""

from __future__ import annotations

from itertools import pairwise

import pytest

from oxyctl.agents.line import MAX_HELD_BYTES, Line
from oxyctl.net.impairment import Impairment

FRAME = bytes(1000)


def arrivals(line, count, *, every=0.0, size=1000):
    """When each of `count` frames leaves, pushed one `every` so many seconds: pairs of its number and the time."""
    for number in range(count):
        line.push(number.to_bytes(4) + bytes(size - 4), number * every)
    found = []
    while (when := line.next_due) is not None:
        found += [(int.from_bytes(frame[:4]), when) for frame in line.due(when)]
    return found


def test_without_an_impairment_a_frame_is_due_at_once():
    assert arrivals(Line(Impairment(), 1), 3, every=1) == [(0, 0), (1, 1), (2, 2)]


def test_a_frame_stays_for_its_delay_and_not_less():
    line = Line(Impairment(delay_s=0.05), 1)
    line.push(FRAME, 10.0)
    assert line.due(10.049) == []
    assert line.next_due == pytest.approx(10.05)
    assert line.due(10.051) == [FRAME]
    assert line.next_due is None


def test_jitter_spreads_the_delay_and_keeps_the_order():
    found = arrivals(Line(Impairment(delay_s=0.05, jitter_s=0.04), 7), 500, every=0.001)
    assert [number for number, _ in found] == list(range(500))
    delays = [when - number * 0.001 for number, when in found]
    assert 0.01 <= min(delays) < 0.05
    assert 0.06 < max(delays) <= 0.09 + 1e-9


def test_jitter_of_frames_far_apart_is_even():
    delays = [
        when - number for number, when in arrivals(Line(Impairment(delay_s=0.05, jitter_s=0.04), 7), 2000, every=1)
    ]
    assert sum(delays) / len(delays) == pytest.approx(0.05, abs=0.002)
    assert sum(delay < 0.03 for delay in delays) == pytest.approx(500, abs=100)


@pytest.mark.parametrize("loss", [0.01, 0.2, 0.9])
def test_loss_is_what_was_asked_for(loss):
    line = Line(Impairment(loss=loss), 42)
    passed = len(arrivals(line, 20_000))
    assert line.lost + passed == 20_000
    assert line.passed == passed
    assert line.lost == pytest.approx(20_000 * loss, abs=5 * (20_000 * loss * (1 - loss)) ** 0.5)


def test_the_same_seed_loses_the_same_frames():
    survivors = [[n for n, _ in arrivals(Line(Impairment(loss=0.3), seed), 200)] for seed in (5, 5, 6)]
    assert survivors[0] == survivors[1] != survivors[2]


def test_everything_is_lost_and_nothing_is():
    assert arrivals(Line(Impairment(loss=1.0), 1), 100) == []
    assert len(arrivals(Line(Impairment(loss=0.0), 1), 100)) == 100
    assert arrivals(Line(Impairment(down=True), 1), 100) == []


@pytest.mark.parametrize("rate_bits", [100_000, 8_000_000, 1_000_000_000])
def test_the_rate_over_time_is_what_was_asked_for(rate_bits):
    line = Line(Impairment(rate_bits=rate_bits), 1)
    every = 1000 * 8 / rate_bits / 1.05  # five percent too fast
    found = arrivals(line, 2000, every=every)
    last = found[-1][1]
    assert len(found) * 8000 / last == pytest.approx(rate_bits, rel=0.1)
    assert [number for number, _ in found] == sorted(number for number, _ in found)


def test_a_short_burst_passes_at_once_after_a_pause():
    found = arrivals(Line(Impairment(rate_bits=1_000_000), 1), 12)
    assert [when for _, when in found][:10] == [0.0] * 10
    assert found[-1][1] > 0.01


def test_what_does_not_fit_the_queue_of_the_rate_is_dropped_and_counted():
    line = Line(Impairment(rate_bits=1_000_000), 1)
    found = arrivals(line, 1000)
    assert 0 < len(found) < 200
    assert line.dropped == 1000 - len(found)
    assert found[-1][1] <= 1.3  # nothing waits longer than its queue


def test_what_is_held_for_a_delay_is_bounded():
    line = Line(Impairment(delay_s=10), 1)
    for _ in range(2000):
        line.push(bytes(60_000), 0.0)
    held = line.due(10.0)
    assert sum(map(len, held)) <= MAX_HELD_BYTES
    assert line.dropped == 2000 - len(held) > 0


def test_a_super_packet_pays_for_all_of_its_bytes():
    line = Line(Impairment(rate_bits=8_000_000), 1)
    found = arrivals(line, 3, size=64_000)
    gaps = [later - earlier for (_, earlier), (_, later) in pairwise(found)]
    assert gaps[-1] == pytest.approx(0.064)


def test_a_change_holds_for_what_comes_and_not_for_what_is_under_way():
    line = Line(Impairment(delay_s=0.1), 1)
    line.push(b"early", 0.0)
    line.change(Impairment(loss=1.0))
    line.push(b"lost", 0.01)
    line.change(Impairment())
    line.push(b"late", 0.02)
    assert line.next_due == pytest.approx(0.1)
    assert line.due(0.1) == [b"early", b"late"]  # none overtakes another
