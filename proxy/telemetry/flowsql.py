"""A FlowQuery as SQL: the same filters and order as `proxy.flow.query`, run by SQLite."""

from __future__ import annotations

from typing import Any

from proxy.flow.query import FlowQuery

SORT_COLUMNS = {
    "start": "started",
    "end": "ended",
    "duration": "duration_ms",
    "bytes": "up + down",
    "up": "up",
    "down": "down",
    "tenant": "tenant",
    "user": "user",
    "src": "src",
    "src_port": "src_port",
    "dst": "dst",
    "dst_port": "dst_port",
    "protocol": "protocol",
    "state": "state",
    "close_reason": "close_reason",
}
_WORDS = ("flow_id", "protocol", "state", "close_reason", "user")
_RANGES = {
    "src": ("src",),
    "dst": ("dst",),
    "ip": ("dst", "src"),
    "src_port": ("src_port",),
    "dst_port": ("dst_port",),
    "port": ("dst_port", "src_port"),
}


class _Where:
    """Conditions, and the arguments of their placeholders in the same order."""

    def __init__(self) -> None:
        self.conditions: list[str] = []
        self.arguments: list[Any] = []

    def add(self, condition: str, *arguments: Any) -> None:
        self.conditions.append(condition)
        self.arguments += arguments

    def __str__(self) -> str:
        return " AND ".join(self.conditions) or "1"


def select(query: FlowQuery) -> tuple[str, list[Any]]:
    """A statement for (sort key, flow id, record) of one row more than the limit, and its arguments."""
    where = _where(query)
    key = SORT_COLUMNS[query.sort]
    direction = "DESC" if query.descending else "ASC"
    # `+` keeps the start index out of a window's way: what ended in it is few, what started before it is everything.
    hint = "+" if query.since is not None else ""
    order = f"ORDER BY {hint}({key}) {direction}, flow_id {direction}"
    # Rows are chosen first and read after: a sort that carries their records is four times as slow.
    chosen = f"SELECT rowid FROM flows WHERE {where} {order} LIMIT ?"
    statement = f"SELECT {key}, flow_id, record FROM flows WHERE rowid IN ({chosen}) {order}"
    return statement, [*where.arguments, query.limit + 1]


def _where(query: FlowQuery) -> _Where:
    where = _Where()
    if query.tenant is not None:
        where.add("tenant = ?", query.tenant)
    if query.since is not None:
        where.add("ended >= ?", query.since)
    if query.until is not None:
        where.add("started <= ?", query.until)
    for name in _WORDS:
        if values := getattr(query, name):
            where.add(f"{name} IN ({','.join('?' * len(values))})", *values)
    for name, columns in _RANGES.items():
        if ranges := getattr(query, name):
            tests = [f"{column} BETWEEN ? AND ?" for column in columns for _ in ranges]
            where.add(f"({' OR '.join(tests)})", *(end for pair in ranges * len(columns) for end in pair))
    if query.min_bytes > 0:
        where.add("up + down >= ?", query.min_bytes)
    if query.min_duration_ms > 0:
        where.add("duration_ms >= ?", query.min_duration_ms)
    return where
