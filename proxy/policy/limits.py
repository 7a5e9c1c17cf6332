"""Limits of a rule on flows: concurrent, and new ones per second; counted by tenant, user, device or source.

Limits on bytes are only described here; `proxy.stream.pacing` enforces them.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Protocol

from proxy.policy.model import Per

PRUNE_S = 0.05  # ended flows are counted for at most this long
MAX_KEYS = 100_000  # beyond this many, buckets that are full again are forgotten

FIELD_OF_PER: dict[Per, str | None] = {
    "rule": None, "tenant": "tenant", "user": "identity.user", "device": "device.name", "source": "net.src.ip",
}  # fmt: skip


class Countable(Protocol):
    """The part of a flow that limits use."""

    @property
    def is_ended(self) -> bool: ...


class Limiter:
    """Token buckets and counts of one rule. Its state survives a reload of the policy."""

    def __init__(
        self, flows: int | None, flows_per_s: float | None, per: Per, bytes_per_s: float | None = None
    ) -> None:
        self.flows, self.flows_per_s, self.per, self.bytes_per_s = flows, flows_per_s, per, bytes_per_s
        self.field = FIELD_OF_PER[per]
        self._burst = max(1.0, flows_per_s or 0.0)
        self._buckets: dict[Hashable, tuple[float, float]] = {}  # tokens, and the time of that count
        self._live: dict[Hashable, set[Countable]] = {}
        self._pruned: dict[Hashable, float] = {}

    @property
    def description(self) -> str:
        """Its limits as text, for records."""
        parts = [
            f"{limit:,g} {unit}"
            for limit, unit in (
                (self.flows, "concurrent flows"),
                (self.flows_per_s, "new flows per second"),
                (self.bytes_per_s, "bytes per second"),
            )
            if limit is not None
        ]
        return f"at most {', '.join(parts)} {'for all together' if self.per == 'rule' else f'for each {self.per}'}"

    def inherit(self, earlier: Limiter) -> None:
        """Continue with the state of the same rule in the version before."""
        if earlier.per == self.per:
            self._buckets, self._live, self._pruned = earlier._buckets, earlier._live, earlier._pruned

    def count(self, key: Hashable, flow: Countable) -> None:
        """Count a flow that was allowed before."""
        if self.flows is not None:
            self._live.setdefault(key, set()).add(flow)

    def refusal(self, key: Hashable, flow: Countable | None, now: float) -> str | None:
        """The reason why this flow may not start at `now` (seconds); None: it is counted, once for each flow."""
        live = self._live.get(key) if self.flows is not None else None
        if live is not None and flow in live:
            return None
        if self.flows is not None and live is not None and len(live) >= self.flows and not self._prune(key, live, now):
            return f"more than {self.flows} concurrent flows"
        if self.flows_per_s is not None and not self._take_token(key, now):
            return f"more than {self.flows_per_s:g} new flows per second"
        if self.flows is not None and flow is not None:
            if live is None:
                live = self._live[key] = set()
            live.add(flow)
        return None

    def _prune(self, key: Hashable, live: set[Countable], now: float) -> bool:
        """Forget ended flows. Returns whether there is room."""
        if now - self._pruned.get(key, -1.0) >= PRUNE_S:
            self._pruned[key] = now
            live -= {flow for flow in live if flow.is_ended}
        return len(live) < (self.flows or 0)

    def _take_token(self, key: Hashable, now: float) -> bool:
        rate = self.flows_per_s or 0.0
        tokens, counted_at = self._buckets.get(key, (self._burst, now))
        tokens = min(self._burst, tokens + (now - counted_at) * rate)
        if len(self._buckets) > MAX_KEYS:
            full = [each for each, (left, then) in self._buckets.items() if left + (now - then) * rate >= self._burst]
            for each in full:
                del self._buckets[each]
        self._buckets[key] = (tokens - 1, now) if tokens >= 1 else (tokens, now)
        return tokens >= 1
