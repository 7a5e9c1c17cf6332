"""Schedules: times of day in a time zone, and when they change next."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

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


CHANGES = {  # of clocks: spring and autumn; on Lord Howe by half an hour
    "Europe/Berlin": ("2026-03-29", "2026-10-25"),
    "America/New_York": ("2026-03-08", "2026-11-01"),
    "Australia/Lord_Howe": ("2026-04-05", "2026-10-04"),
}
SPANS = (
    "00:00-24:00", "02:30-05:00", "01:10-01:50", "02:10-02:50", "00:00-02:15", "01:45-02:05,02:20-03:01", "02:37-02:41",
)  # fmt: skip


@given(
    st.sampled_from([(zone, day) for zone, days in CHANGES.items() for day in days]),
    st.dictionaries(st.sampled_from(("sat", "sun")), st.sampled_from(SPANS)),
    st.integers(-20 * 60, 30 * 60),
)
@example(("Europe/Berlin", "2026-10-25"), {"sun": "02:37-02:41"}, 45)  # the hour that comes twice
def test_the_next_change_when_clocks_are_changed_is_that_of_every_minute_tried(place, spans, minute):
    zone, day = place
    schedule = Schedule({**spans, "time_zone": zone})
    start = unix(f"{day}T00:00") + minute * 60
    now = schedule.holds(start)
    minutes = (start + 60 * each for each in range(1, 36 * 60))
    expected = next((each for each in minutes if schedule.holds(each) != now), None)
    found = schedule.next_change(start)
    assert found == expected or (expected is None and (found is None or found > start + 36 * 3600 - 60))
