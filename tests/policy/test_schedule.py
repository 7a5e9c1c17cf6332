"""Schedules: times of day in a time zone, and when they change next."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from proxy.policy.schedule import Schedule


def unix(text):
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


BERLIN = Schedule({"mon": "08:00-12:30,13:30-17:00", "sun": "00:00-24:00", "time_zone": "Europe/Berlin"})


@pytest.mark.parametrize(
    ("moment", "holds"),
    [
        ("2026-11-30T06:59", False),
        ("2026-11-30T07:00", True),
        ("2026-11-30T11:30", False),
        ("2026-11-30T15:59", True),
        ("2026-06-01T06:00", True),  # summer time
        ("2026-11-28T23:00", True),  # Sunday in Berlin
        ("2026-11-29T23:00", False),
        ("2026-12-01T09:00", False),
    ],
)
def test_it_holds_by_the_clocks_of_the_place(moment, holds):
    assert BERLIN.holds(unix(moment)) is holds


def test_the_next_change():
    assert BERLIN.next_change(unix("2026-11-30T05:00")) == unix("2026-11-30T07:00")
    assert BERLIN.next_change(unix("2026-11-30T07:00")) == unix("2026-11-30T11:30")
    assert BERLIN.next_change(unix("2026-12-01T07:00")) == unix("2026-12-05T23:00")
    assert Schedule({"time_zone": "UTC"}).next_change(unix("2026-12-01T07:00")) is None
