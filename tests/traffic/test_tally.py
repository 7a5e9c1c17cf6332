"""Percentiles against sorting, and what a report adds up to."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from oxyctl.traffic.tally import Distribution, Tally
from tests.traffic.conftest import traffic

MS = st.floats(min_value=0.0005, max_value=1e6)


def nearest_rank(values, percent):
    return sorted(values)[math.ceil(len(values) * percent / 100) - 1]


@given(st.lists(MS, min_size=1, max_size=300), st.sampled_from([1, 50, 90, 99, 99.9, 100]))
def test_a_percentile_is_the_nearest_rank_or_up_to_one_percent_more(values, percent):
    distribution = Distribution()
    for value in values:
        distribution.add(value)
    exact, found = nearest_rank(values, percent), distribution.percentile(percent)
    assert exact * 0.9999 <= found <= exact * 1.0101


@given(st.lists(MS, min_size=1, max_size=50))
def test_minimum_mean_and_maximum_are_exact(values):
    distribution = Distribution()
    for value in values:
        distribution.add(value)
    summary = distribution.summary()
    assert math.isclose(summary.min, min(values), abs_tol=1e-4)
    assert math.isclose(summary.max, max(values), abs_tol=1e-4)
    assert math.isclose(summary.mean, sum(values) / len(values), rel_tol=1e-6, abs_tol=1e-4)
    assert summary.min <= summary.p50 <= summary.p90 <= summary.p99 <= summary.max


def test_nothing_has_no_distribution():
    assert Distribution().summary() is None
    assert math.isnan(Distribution().percentile(50))


def test_memory_does_not_grow_with_the_number_of_values():
    distribution = Distribution()
    for number in range(100_000):
        distribution.add(0.001 * 1.0002**number)
    assert distribution.count == 100_000
    assert len(distribution._buckets) < 2500


def test_a_report_adds_up():
    tally = Tally(traffic("udp", "web:7", rate=10), start=100.0)
    tally.sent, tally.bytes_sent, tally.unsent = 5, 1000, 3
    tally.succeed(2.0)
    tally.succeed(4.0)
    tally.fail("timeout", "no answer in time")
    tally.fail("refused", "Connection refused")
    assert tally.progress(101.0).rate == 2.0
    assert tally.progress(102.0).rate == 0.0
    report = tally.report(102.0, address="10.0.0.1", interrupted=True)
    assert (report.sent, report.succeeded, report.failed, report.unfinished, report.unsent) == (5, 2, 2, 1, 3)
    assert (report.rate, report.sent_bps, report.loss, report.latency_from) == (1.0, 4000, 0.5, "due")
    assert (report.errors, report.explanation) == ({"timeout": 1, "refused": 1}, "Connection refused")
    assert report.latency_ms.mean == 3.0
