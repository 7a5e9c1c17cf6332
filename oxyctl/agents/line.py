"""One direction of an impaired link: frames come out later, or never. Pure: `now` (seconds) is an argument.

A frame may be lost at random; otherwise it waits for the rate limit (a token bucket, like tbf), then for the delay
(like netem). Order is kept: jitter delays frames, but none overtakes another.
"""

from __future__ import annotations

import random
from collections import deque

from oxyctl.net.impairment import Impairment

BURST_S, MIN_BURST_BYTES = 0.005, 10_000  # the larger of the two may pass at once after a pause
QUEUE_S, MIN_QUEUE_BYTES = 0.1, 150_000  # the larger of the two may wait for the rate limit; more is dropped
MAX_HELD_BYTES = 64 << 20  # of frames that wait for their delay


class Line:
    """Counts frames: `passed`; `lost` at random or while the link was down; `dropped` because a queue was full."""

    def __init__(self, impairment: Impairment, seed: int) -> None:
        self._random = random.Random(seed)
        self._held: deque[tuple[float, bytes]] = deque()
        self._held_bytes = 0
        self._free = self._last = float("-inf")  # when the rate limit has room again; when the last frame is due
        self.passed = self.lost = self.dropped = 0
        self.change(impairment)

    def change(self, impairment: Impairment) -> None:
        """Apply this impairment to frames from now on; frames already held keep their times."""
        self.impairment = impairment
        rate = impairment.rate_bits
        self._byte_s = 8 / rate if rate else 0.0
        self._burst_s = max(BURST_S, MIN_BURST_BYTES * self._byte_s) if rate else 0.0
        self._queue_s = max(QUEUE_S, MIN_QUEUE_BYTES * self._byte_s) if rate else 0.0

    @property
    def next_due(self) -> float | None:
        """When the next frame is due; None if none is held."""
        return self._held[0][0] if self._held else None

    def push(self, frame: bytes, now: float) -> None:
        """Take one frame that has arrived at `now`."""
        impairment = self.impairment
        if impairment.down or (impairment.loss and self._random.random() < impairment.loss):
            self.lost += 1
            return
        departure = self._departure(len(frame), now)
        if departure is None or self._held_bytes + len(frame) > MAX_HELD_BYTES:
            self.dropped += 1
            return
        jitter = self._random.uniform(-impairment.jitter_s, impairment.jitter_s) if impairment.jitter_s else 0.0
        self._last = max(self._last, departure + impairment.delay_s + jitter)
        self._held.append((self._last, frame))
        self._held_bytes += len(frame)

    def _departure(self, size: int, now: float) -> float | None:
        """When the rate limit lets a frame of `size` bytes pass; None if the queue is full."""
        if not self._byte_s:
            return now
        free = max(self._free, now - self._burst_s) + size * self._byte_s
        if free - now > self._queue_s:
            return None
        self._free = free
        return max(now, free)

    def due(self, now: float) -> list[bytes]:
        """Remove and return the frames that are due, in order."""
        frames = []
        held = self._held
        while held and held[0][0] <= now:
            frame = held.popleft()[1]
            self._held_bytes -= len(frame)
            frames.append(frame)
        self.passed += len(frames)
        return frames
