"""Counts exchanges, failures by kind and bytes, and keeps the distribution of latencies."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import msgspec

from oxyctl.traffic.config import Traffic

_GROWTH = math.log(1.01)  # adjacent buckets differ by 1 %, the error of a percentile; memory is bounded
_MIN_MS = 1e-4


class Latency(msgspec.Struct, kw_only=True):
    """A distribution of latencies in milliseconds."""

    min: float
    mean: float
    p50: float
    p90: float
    p99: float
    max: float


class Distribution:
    """Milliseconds in buckets that grow by 1 %: any number of values in about 2,500 counters."""

    def __init__(self) -> None:
        self._buckets: Counter[int] = Counter()
        self.count, self._sum, self._min, self._max = 0, 0.0, math.inf, 0.0

    def add(self, ms: float) -> None:
        """Add a value."""
        self._buckets[math.ceil(math.log(max(ms, _MIN_MS) / _MIN_MS) / _GROWTH)] += 1
        self.count += 1
        self._sum += ms
        self._min, self._max = min(self._min, ms), max(self._max, ms)

    def percentile(self, percent: float) -> float:
        """The smallest value that `percent` of all do not exceed (nearest rank), at most 1 % too high."""
        rank, seen = math.ceil(self.count * percent / 100), 0
        for bucket in sorted(self._buckets):
            seen += self._buckets[bucket]
            if seen >= rank:
                return min(max(_MIN_MS * math.exp(bucket * _GROWTH), self._min), self._max)
        return math.nan

    def summary(self) -> Latency | None:
        """The distribution's summary; None if it is empty."""
        if not self.count:
            return None
        p50, p90, p99 = (round(self.percentile(percent), 4) for percent in (50, 90, 99))
        mean, minimum, maximum = (round(value, 4) for value in (self._sum / self.count, self._min, self._max))
        return Latency(min=minimum, mean=mean, p50=p50, p90=p90, p99=p99, max=maximum)


class Progress(msgspec.Struct, kw_only=True):
    """Progress of a run: totals, and the increase in the last second."""

    elapsed_s: float
    succeeded: int
    failed: int
    rate: float
    sent_bps: float
    received_bps: float


class Report(msgspec.Struct, kw_only=True):
    """The result of one request. Exchanges in `sent` have `succeeded`, `failed`, or were `unfinished` at the end.

    `unsent` were due but never sent, while others were awaiting answers. Latencies are those of answered exchanges,
    measured from the time they were due (open loop) or sent (closed loop), as in `latency_from`.
    """

    kind: str
    target: str
    address: str | None = None
    node: str | None = None
    duration_s: float
    sent: int = 0
    succeeded: int = 0
    failed: int = 0
    unfinished: int = 0
    unsent: int = 0
    errors: dict[str, int] = {}
    statuses: dict[str, int] = {}
    asked_rate: float | None = None
    rate: float = 0.0  # succeeded per second
    bytes_sent: int = 0
    bytes_received: int = 0
    sent_bps: float = 0.0
    received_bps: float = 0.0
    loss: float | None = None  # 0 to 1, of exchanges sent, without unfinished ones
    reordered: int | None = None
    duplicates: int | None = None
    jitter_ms: float | None = None  # of round trips, smoothed as in RFC 3550 6.4.1
    connections: int | None = None
    latency_ms: Latency | None = None
    latency_from: str = "sent"
    interrupted: bool = False
    explanation: str | None = None  # the last failure, as a sentence
    detail: dict[str, Any] | None = None


class Tally:
    """The counters of one request."""

    def __init__(self, traffic: Traffic, start: float) -> None:
        self.traffic, self.start = traffic, start
        self.sent = self.succeeded = self.failed = self.unsent = 0
        self.bytes_sent = self.bytes_received = 0
        self.errors: Counter[str] = Counter()
        self.statuses: Counter[str] = Counter()
        self.latency = Distribution()
        self.extra: dict[str, Any] = {}  # fields of the report that only some kinds have
        self.explanation: str | None = None
        self.detail: dict[str, Any] | None = None
        self._before = (start, 0, 0, 0)

    def succeed(self, latency_ms: float) -> None:
        """Count an exchange that was answered correctly."""
        self.succeeded += 1
        self.latency.add(latency_ms)

    def fail(self, kind: str, text: str) -> None:
        """Count a failed exchange."""
        self.failed += 1
        self.errors[kind] += 1
        self.explanation = text

    def progress(self, now: float) -> Progress:
        """The current state, and what was added since the last call."""
        then, succeeded, sent, received = self._before
        self._before = (now, self.succeeded, self.bytes_sent, self.bytes_received)
        elapsed_s = max(now - then, 1e-6)
        return Progress(
            elapsed_s=now - self.start,
            succeeded=self.succeeded,
            failed=self.failed,
            rate=(self.succeeded - succeeded) / elapsed_s,
            sent_bps=(self.bytes_sent - sent) * 8 / elapsed_s,
            received_bps=(self.bytes_received - received) * 8 / elapsed_s,
        )

    def report(self, now: float, *, address: str, interrupted: bool) -> Report:
        """The final report."""
        elapsed_s = max(now - self.start, 1e-6)
        finished = self.succeeded + self.failed
        return Report(
            kind=self.traffic.kind,
            target=self.traffic.target,
            address=address,
            duration_s=round(elapsed_s, 6),
            sent=self.sent,
            succeeded=self.succeeded,
            failed=self.failed,
            unfinished=self.sent - finished,
            unsent=self.unsent,
            errors=dict(self.errors.most_common()),
            statuses=dict(self.statuses.most_common()),
            asked_rate=self.traffic.rate,
            rate=round(self.succeeded / elapsed_s, 3),
            bytes_sent=self.bytes_sent,
            bytes_received=self.bytes_received,
            sent_bps=round(self.bytes_sent * 8 / elapsed_s),
            received_bps=round(self.bytes_received * 8 / elapsed_s),
            loss=self.failed / finished if finished else None,
            latency_ms=self.latency.summary(),
            latency_from="due" if self.traffic.rate else "sent",
            interrupted=interrupted,
            explanation=self.explanation,
            detail=self.detail,
            **self.extra,
        )
