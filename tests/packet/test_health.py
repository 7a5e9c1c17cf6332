"""The health of a tunnel: samples in, states out, at the numbers of the thresholds."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.packet.health import PENALTY, Health, Monitor, Prober, Thresholds

HEALTHY, DEGRADED, DOWN = Health.HEALTHY, Health.DEGRADED, Health.DOWN


def feed(monitor, samples, start, every=0.3):
    """The states after each of `samples`, a string of '+' and '-'; time goes on from `start`."""
    states = []
    for number, sample in enumerate(samples):
        before = monitor.state
        changed = monitor.sample(sample == "+", start + number * every)
        assert changed == (monitor.state is not before)
        states.append(monitor.state)
    return states


def test_a_tunnel_that_nobody_probed_is_healthy():
    assert Monitor().state is HEALTHY


def test_one_failure_changes_nothing_two_degrade_three_bring_down():
    assert feed(Monitor(), "++++---", 0.0, every=0.4) == [HEALTHY] * 5 + [DEGRADED, DOWN]


def test_one_answer_within_the_last_second_keeps_it_up():
    assert feed(Monitor(), "----", 10.0, every=0.2)[2:] == [DOWN, DOWN]
    assert feed(Monitor(), "+----+----", 10.0, every=0.2)[:6] == [HEALTHY, HEALTHY, *[DEGRADED] * 4]
    assert feed(Monitor(), "+-----", 10.0, every=0.2)[-1] is DOWN  # the answer is a second old


def test_slow_probes_bring_down_too():
    assert feed(Monitor(), "+---", 0.0, every=10.0) == [HEALTHY, HEALTHY, DEGRADED, DOWN]


def test_the_first_answer_ever_makes_a_tunnel_healthy():
    assert feed(Monitor(), "-----+", 0.0) == [HEALTHY, DEGRADED, DOWN, DOWN, DOWN, HEALTHY]
    assert feed(Monitor(), "--+--", 0.0) == [HEALTHY, DEGRADED, HEALTHY, HEALTHY, DEGRADED]


def test_three_successes_in_a_row_lead_out_of_down_and_not_at_once_to_healthy():
    monitor = Monitor()
    assert feed(monitor, "+---", 0.0, every=0.5)[-1] is DOWN
    assert feed(monitor, "++-++-+++", 10.0) == [DOWN] * 8 + [DEGRADED]
    assert feed(monitor, "+" * 100, 20.0) == [DEGRADED] * 100


def test_degraded_becomes_healthy_when_the_failures_are_five_minutes_old():
    monitor = Monitor()
    feed(monitor, "+--+", 0.0)  # failures at 0.3 and 0.6
    assert feed(monitor, "+", 300.2) == [DEGRADED]
    assert feed(monitor, "+", 300.3) == [HEALTHY]


def test_two_failures_in_two_thousand_are_a_thousandth():
    monitor = Monitor(Thresholds(degraded_failures=2))
    assert set(feed(monitor, "+-" + "+" * 1997 + "-", 0.0, every=0.1)) == {HEALTHY, DEGRADED}
    assert monitor.state is DEGRADED
    monitor = Monitor(Thresholds(degraded_failures=2))
    assert set(feed(monitor, "+-" + "+" * 1999 + "-", 0.0, every=0.1)) == {HEALTHY}


def test_a_worse_state_is_a_worse_route():
    assert [PENALTY[state] for state in (HEALTHY, DEGRADED, DOWN)] == [0, 500_000, 1_000_000]


@given(st.text(alphabet="+-", max_size=200), st.floats(0.01, 20.0))
def test_the_state_is_what_the_samples_say(samples, every):
    """The rules, read from the whole history after each sample; it begins with an answer."""
    samples = "+" + samples
    monitor, state = Monitor(), HEALTHY
    for number, (sample, now) in enumerate(zip(samples, (n * every for n in range(len(samples))), strict=True)):
        monitor.sample(sample == "+", now)
        history = [(at * every, samples[at]) for at in range(number + 1)]
        last_second = {each for when, each in history if when > now - 1}
        window = [each for when, each in history if when > now - 300]
        enough = {each for _, each in history[-3:]} if number >= 2 else {"+"}
        stays = state is DOWN and samples[max(0, number - 2) : number + 1] != "+++"
        if stays or last_second | enough == {"-"}:
            state = DOWN
        elif state is DOWN or window.count("-") >= max(2, len(window) / 1000):
            state = DEGRADED
        else:
            state = HEALTHY
        assert monitor.state is state
    assert (monitor.succeeded, monitor.failed) == (samples.count("+"), samples.count("-"))


def test_a_prober_sends_on_time_and_counts_what_is_not_answered():
    prober = Prober(every_s=0.25, timeout_s=1.0)
    assert prober.due(100.0) == (1, False)
    assert prober.next_due() == 100.25
    assert prober.due(100.125) == (None, False)
    assert prober.due(100.25) == (2, False)
    assert not prober.answered(1, 100.5)
    assert prober.rtt_s == 0.5
    assert (prober.monitor.succeeded, prober.monitor.failed) == (1, 0)
    assert prober.due(101.25)[1] is False
    assert (prober.monitor.succeeded, prober.monitor.failed) == (1, 1)


def test_an_answer_that_is_late_or_forged_or_there_twice_counts_nothing():
    prober = Prober(every_s=0.5, timeout_s=1.0)
    first, _ = prober.due(0.0)
    prober.due(1.0)  # the first one's time is over
    for sequence in (first, 77, 65_535):
        assert not prober.answered(sequence, 1.1)
    assert not prober.answered(2, 1.1)
    assert not prober.answered(2, 1.1)
    assert (prober.monitor.succeeded, prober.monitor.failed) == (1, 1)


def test_silence_brings_a_tunnel_down_and_answers_bring_it_back():
    prober = Prober(every_s=0.3, timeout_s=1.0)
    prober.answered(prober.due(0.0)[0], 0.0)
    now, changes = 0.0, []
    while prober.monitor.state is not DOWN:
        now = prober.next_due() if prober.next_due() > now else now
        if prober.due(now)[1]:
            changes.append((round(now, 1), prober.monitor.state))
    assert changes == [(1.6, DEGRADED), (1.9, DOWN)]
    answers = 0
    while prober.monitor.state is DOWN:
        now = max(now, prober.next_due())
        sequence, _ = prober.due(now)
        if sequence is not None:
            prober.answered(sequence, now)
            answers += 1
    assert prober.monitor.state is DEGRADED
    assert answers >= 3


def test_after_a_pause_there_is_no_burst():
    prober = Prober(every_s=0.3, timeout_s=1.0)
    prober.due(0.0)
    sent = [prober.due(60.0)[0] for _ in range(5)]
    assert [each is not None for each in sent] == [True, False, False, False, False]


def test_sequence_numbers_wrap_at_what_echo_messages_hold():
    prober = Prober(every_s=1.0, timeout_s=1.0)
    numbers = [prober.due(float(at))[0] for at in range(65_538)]
    assert numbers[65_534:] == [65_535, 0, 1, 2]


@pytest.mark.parametrize("every", [0.1, 0.3, 5.0])
def test_memory_is_bounded_by_the_longest_time_looked_back(every):
    monitor = Monitor()
    for number in range(10_000):
        monitor.sample(True, number * every)
    assert len(monitor._samples) <= 300 / every + 1


def test_requests_before_the_first_answer_do_not_count_when_their_time_is_over():
    prober = Prober(every_s=0.3, timeout_s=1.0)
    early = [prober.due(now)[0] for now in (0.0, 0.3, 0.6)]
    prober.answered(early[-1], 0.61)
    assert prober.due(1.5) == (4, False)
    assert (prober.monitor.state, prober.monitor.failed) == (Health.HEALTHY, 0)
