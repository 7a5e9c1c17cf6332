"""The health of a tunnel from probes inside it: healthy, degraded, down, with hysteresis.

healthy  --2 failures, and 0.1 % of all in 5 min-->  degraded
any      --every probe of the last second, at least 3, failed-->  down
down     --3 successes in a row-->  degraded
degraded --fewer failures than that in 5 min-->  healthy
"""

from __future__ import annotations

import enum
from collections import deque
from dataclasses import dataclass


class Health(enum.StrEnum):
    """From best to worst."""

    HEALTHY = "healthy"
    DEGRADED = "degraded"
    DOWN = "down"


# Penalty added to the priority of routes through such a tunnel, so that others are preferred: routes are never removed.
PENALTY = {Health.HEALTHY: 0, Health.DEGRADED: 500_000, Health.DOWN: 1_000_000}


@dataclass(frozen=True, slots=True)
class Thresholds:
    """The limits at which the state changes."""

    down_samples: int = 3  # the latest so many samples,
    down_s: float = 1.0  # and all others in this time, have failed
    degraded_failures: int = 2  # at least so many samples,
    degraded_share: float = 0.001  # and this share of them,
    degraded_s: float = 300.0  # in this time, have failed
    successes: int = 3  # in a row, to leave `down`


class Monitor:
    """One tunnel's state. It is healthy at first, so that a tunnel without probes is used."""

    def __init__(self, thresholds: Thresholds = Thresholds()) -> None:
        self.state = Health.HEALTHY
        self.succeeded = self.failed = 0  # since the start
        self._thresholds = thresholds
        self._samples: deque[tuple[float, bool]] = deque()  # of the last `degraded_s`
        self._failures = 0  # number of failures among these
        self._in_a_row = 0  # latest successes without a failure

    def sample(self, ok: bool, now: float) -> bool:
        """Count an answered or failed probe. Returns whether the state changed. `now`: seconds, monotonic."""
        before = self.state
        if ok and not self.succeeded:
            self._samples.clear()
            self._failures = 0
            self.state = Health.HEALTHY
        self._samples.append((now, ok))
        if ok:
            self.succeeded += 1
            self._in_a_row += 1
        else:
            self.failed += 1
            self._failures += 1
            self._in_a_row = 0
        self._forget(now - self._thresholds.degraded_s)
        self.state = self._judge(now)
        return self.state is not before

    def _forget(self, before: float) -> None:
        while self._samples[0][0] <= before:
            _, ok = self._samples.popleft()
            self._failures -= not ok

    def _judge(self, now: float) -> Health:
        if self._is_down(now):
            return Health.DOWN
        if self.state is Health.DOWN and self._in_a_row < self._thresholds.successes:
            return Health.DOWN
        limits = self._thresholds
        lossy = max(limits.degraded_failures, limits.degraded_share * len(self._samples))
        return Health.DEGRADED if self._failures >= lossy or self.state is Health.DOWN else Health.HEALTHY

    def _is_down(self, now: float) -> bool:
        """Whether every sample of the last second has failed, and at least the latest three, however old."""
        if self._in_a_row:
            return False
        since, seen = now - self._thresholds.down_s, 0
        for when, ok in reversed(self._samples):
            if seen >= self._thresholds.down_samples and when <= since:
                break
            if ok:
                return False
            seen += 1
        return seen >= self._thresholds.down_samples


class Prober:
    """Schedules a tunnel's probes and awaits their answers: sequence numbers out, samples in."""

    def __init__(self, every_s: float, timeout_s: float, thresholds: Thresholds = Thresholds()) -> None:
        self.monitor = Monitor(thresholds)
        self.rtt_s: float | None = None  # of the last answer
        self._every_s, self._timeout_s = every_s, timeout_s
        self._pending: dict[int, float] = {}  # time sent, by sequence number, oldest first
        self._sequence = 0
        self._next = float("-inf")  # time of the next probe

    def due(self, now: float) -> tuple[int | None, bool]:
        """The sequence number of a probe to be sent now, or None; and whether timeouts have changed the state."""
        changed = False
        for sequence in [each for each, sent in self._pending.items() if now >= sent + self._timeout_s]:
            del self._pending[sequence]
            changed |= self.monitor.sample(False, now)
        if now < self._next:
            return None, changed
        on_time = self._next + self._every_s
        self._next = on_time if on_time > now else now + self._every_s  # no burst after a pause
        self._sequence = (self._sequence + 1) & 0xFFFF
        self._pending[self._sequence] = now
        return self._sequence, changed

    def answered(self, sequence: int, now: float) -> bool:
        """Count an answer. Returns whether it changed the state. Late and repeated answers are ignored."""
        sent = self._pending.pop(sequence, None)
        if sent is None:
            return False
        self.rtt_s = now - sent
        if not self.monitor.succeeded:  # probes sent before the peer was up are no evidence about the tunnel
            self._pending = {other: at for other, at in self._pending.items() if at > sent}
        return self.monitor.sample(True, now)

    def next_due(self) -> float:
        """The time of the next call to `due`."""
        return min([self._next, *(sent + self._timeout_s for sent in self._pending.values())])
