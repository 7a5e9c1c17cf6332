"""Flows aggregated by any of their fields, such as user or destination."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from proxy.flow.query import FlowQuery, Getters, Window
from proxy.flow.top_n import TopN

Key = tuple[Any, ...]

GROUP_FIELDS = (
    "tenant", "user", "device", "src", "src_port", "dst", "dst_port", "dst_host", "protocol", "state", "close_reason",
    "verdict", "level", "onramp", "offramp", "dscp",
)  # fmt: skip
GROUP_SORTS = ("bytes", "flows", "live", "up", "down", "duration", "first", "last")
MAX_GROUP_FIELDS = 6


class Sums(msgspec.Struct):
    """Sums over the flows of one group: counts, payload bytes, the first start and the last end."""

    flows: int = 0
    live: int = 0
    up: int = 0
    down: int = 0
    duration_ms: float = 0.0  # sum of all durations
    first: int | None = None  # Unix ns
    last: int | None = None  # None: one of them is live

    def add(self, other: Sums) -> None:
        """Add the sums of `other`."""
        self.last = None if self.live or other.live else max(self.last or 0, other.last or 0)
        self.first = other.first if self.first is None else min(self.first, other.first or self.first)
        self.flows += other.flows
        self.live += other.live
        self.up += other.up
        self.down += other.down
        self.duration_ms += other.duration_ms


class GroupsQuery(msgspec.Struct, frozen=True, kw_only=True):
    """The flows to count, the fields to group by, and the order of groups."""

    flows: FlowQuery
    by: tuple[str, ...]
    sort: str = "bytes"
    descending: bool = True

    @property
    def limit(self) -> int:
        """Maximum number of groups in the answer."""
        return self.flows.limit


class Group(msgspec.Struct, kw_only=True):
    """One line of an answer: the values that its flows share, and their sums."""

    by: dict[str, str | int | None]
    sums: Sums


class GroupsPage(msgspec.Struct, kw_only=True):
    """An answer: the first groups, the window that it covers, and how much is missing."""

    groups: list[Group]
    window: Window
    lost: int
    truncated: bool


class GroupCounter:
    """Sums by key over flows that are added one by one."""

    def __init__(self, by: Iterable[str], getters: Getters) -> None:
        self.sums: dict[Key, Sums] = {}
        self._getters = [getters[name] for name in by]
        self._start, self._end, self._up, self._down, self._duration = (
            getters[name] for name in ("start", "end", "up", "down", "duration")
        )

    def add(self, flow: Any) -> None:
        """Count a flow."""
        key = tuple([get(flow) for get in self._getters])
        end = self._end(flow)
        own = Sums(1, int(end is None), self._up(flow), self._down(flow), self._duration(flow), self._start(flow), end)
        earlier = self.sums.get(key)
        if earlier is None:
            self.sums[key] = own
        else:
            earlier.add(own)


class Ranking:
    """The first groups of many; only these are kept."""

    def __init__(self, query: GroupsQuery, text: Callable[[str, Any], str | int | None]) -> None:
        """`text(field, value)`: the text of a key's value in the answer."""
        self._query, self._text = query, text
        self._top: TopN[tuple[Key, Sums]] = TopN(query.limit + 1, query.descending)
        self._added = 0

    def add(self, key: Key, sums: Sums) -> None:
        """Add a complete group."""
        self._added += 1
        self._top.add(_sort_value(self._query.sort, sums), str(key), (key, sums))

    def page(self, window: Window, lost: int) -> GroupsPage:
        """The answer."""
        found = self._top.items()[: self._query.limit]
        by = self._query.by
        groups = [
            Group(by={name: self._text(name, value) for name, value in zip(by, key, strict=True)}, sums=sums)
            for key, sums in found
        ]
        return GroupsPage(groups=groups, window=window, lost=lost, truncated=self._added > len(groups))


def _sort_value(sort: str, sums: Sums) -> float:
    if sort == "bytes":
        return sums.up + sums.down
    if sort == "last":
        return float("inf") if sums.last is None else sums.last
    value: float | None = sums.duration_ms if sort == "duration" else getattr(sums, sort)
    return value or 0
