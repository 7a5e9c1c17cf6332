"""Schedules of rules: times of day by weekday, in a time zone (the format of Gateway's schedules)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta, tzinfo
from functools import lru_cache
from zoneinfo import ZoneInfo

from proxy.policy.fields import WEEKDAYS
from proxy.settings import suggest

_SPAN = re.compile(r"([01]\d|2[0-4]):([0-5]\d)-([01]\d|2[0-4]):([0-5]\d)")
DAY = 24 * 60
QUARTER_S = 15 * 60


class Schedule:
    """`mon: "08:00-12:30,13:30-17:00"` and so on; a rule is off on days that are not named."""

    def __init__(self, days: Mapping[str, str]) -> None:
        """Parse the schedule. ValueError: the fault, and its key."""
        self.zone: tzinfo = UTC
        self._spans: dict[int, list[tuple[int, int]]] = {}  # minutes of the day, by weekday from Monday
        for key, text in days.items():
            if key == "time_zone":
                self.zone = _zone(text)
            elif key not in WEEKDAYS:
                raise ValueError(f"unknown day '{key}'{suggest(key, (*WEEKDAYS, 'time_zone'))}", key)
            else:
                self._spans[WEEKDAYS.index(key)] = [_span(part.strip(), key) for part in text.split(",")]

    def holds(self, unix: float) -> bool:
        """Whether the time `unix`, in seconds, is within the schedule."""
        return self._holds(int(unix // 60))

    def next_change(self, unix: float) -> float | None:
        """Unix seconds of the next change of `holds`, within eight days; None: there is none."""
        start = int(unix // 60)
        now = self.holds(unix)
        local = datetime.fromtimestamp(start * 60, self.zone)
        edges: set[float] = set()
        for day in range(9):
            date = (local + timedelta(days=day)).date()
            midnight = datetime(date.year, date.month, date.day, tzinfo=self.zone)
            for minute in {minute for span in self._spans.get(date.weekday(), ()) for minute in span} | {0}:
                moment = midnight + timedelta(minutes=minute)
                edges.update(moment.replace(fold=fold).timestamp() for fold in (0, 1))  # it may come twice
            if midnight.utcoffset() != (midnight + timedelta(days=1)).utcoffset():
                first = int(midnight.timestamp()) // QUARTER_S * QUARTER_S
                edges.update(range(first, first + 25 * 3600, QUARTER_S))  # clocks are changed at one of these
        return next((edge for edge in sorted(edges) if edge > unix and self.holds(edge) != now), None)

    @lru_cache(maxsize=64)  # noqa: B019 -- a few minutes of one schedule, which lives as long as its rules
    def _holds(self, minute: int) -> bool:
        local = datetime.fromtimestamp(minute * 60, self.zone)
        minute_of_day = local.hour * 60 + local.minute
        return any(first <= minute_of_day < last for first, last in self._spans.get(local.weekday(), ()))


def _zone(name: str) -> tzinfo:
    try:
        return ZoneInfo(name)
    except (OSError, ValueError, LookupError):
        raise ValueError(f"unknown time zone '{name}'", "time_zone") from None


def _span(text: str, key: str) -> tuple[int, int]:
    match = _SPAN.fullmatch(text)
    if match is None:
        raise ValueError(f'expected times such as "08:00-17:30" (found {text!r})', key)
    hour, minute, until, until_minute = (int(each) for each in match.groups())
    first, last = hour * 60 + minute, until * 60 + until_minute
    if not first < last <= DAY:
        raise ValueError(f"the end is not after the start: {text}", key)
    return first, last
