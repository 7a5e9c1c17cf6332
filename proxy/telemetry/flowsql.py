"""A FlowQuery as SQL: the same filters and order as in `proxy.flow.query`, run by SQLite over the narrow table."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from proxy.flow.child import request_wanted, requests_excluded
from proxy.flow.query import Filters, FlowQuery
from proxy.telemetry.childsql import has_child
from proxy.telemetry.rows import COLUMNS, community_digest, community_number, packed_id

if TYPE_CHECKING:
    from proxy.telemetry.wheresql import WhereSql

_TEXT = "(SELECT text FROM words WHERE id = {})"
_TEXT_OR_EMPTY = "coalesce((SELECT text FROM words WHERE id = {}), '')"
SORT_COLUMNS = {
    "start": "started",
    "end": "ended",
    "duration": "(ended - started) / 1e6",
    "bytes": "up + down",
    "up": "up",
    "down": "down",
    "tenant": _TEXT.format("tenant"),
    "user": _TEXT_OR_EMPTY.format("user"),
    "src": "src",
    "src_port": "src_port",
    "dst": "dst",
    "dst_port": "dst_port",
    "protocol": _TEXT.format("protocol"),
    "state": _TEXT.format("state"),
    "close_reason": _TEXT_OR_EMPTY.format("close_reason"),
}
_STRING_FILTERS = (
    "protocol",
    "state",
    "close_reason",
    "user",
    "device",
    "onramp",
    "offramp",
    "level",
    "verdict",
    "tls_action",
)
_RANGES = {
    "src": ("src",),
    "dst": ("dst",),
    "ip": ("dst", "src"),
    "src_port": ("src_port",),
    "dst_port": ("dst_port",),
    "port": ("dst_port", "src_port"),
}
_SELECTED = ", ".join(f"flows.{name}" for name in COLUMNS)
_HAS_DECISION = """decisions IN (SELECT id FROM words WHERE CASE WHEN json_valid(text) THEN EXISTS (
    SELECT 1 FROM json_each(text) AS decision
    WHERE decision.value ->> 'policy' IN ({0}) OR decision.value ->> 'rule' IN ({0})) END)"""
# A window with more flows than this is read in the order of the key: a look-up for each costs more.
MAX_RECENT = 50_000

Condition = tuple[str, list[Any]]


class Where:
    """Conditions, and the arguments of their placeholders in the same order."""

    def __init__(self) -> None:
        self.conditions: list[str] = []
        self.arguments: list[Any] = []

    def add(self, condition: str, *arguments: Any) -> None:
        self.conditions.append(condition)
        self.arguments += arguments

    def __str__(self) -> str:
        return " AND ".join(self.conditions) or "1"


def prepare(connection: sqlite3.Connection, query: FlowQuery) -> None:
    """Register the functions that the query's condition calls."""
    if query.where:
        _where_sql(query.where).prepare(connection)


def _where_sql(text: str) -> WhereSql:
    from proxy.telemetry.wheresql import where_sql  # 0.2 s to import: only if needed

    return where_sql(text)


def select(query: FlowQuery, *, is_recent: bool = False) -> Condition:
    """A statement for one row more than the limit, and its arguments. A row: sort key, COLUMNS, body.

    `is_recent`: few flows have ended since `query.since`, so the index by end is used.
    """
    where = conditions(query)
    key = SORT_COLUMNS[query.sort]
    direction = "DESC" if query.descending else "ASC"
    # Keys are selected first, and their rows read afterwards: sorting whole rows takes four times as long.
    table = "flows INDEXED BY flows_by_end" if is_recent else "flows NOT INDEXED"
    order = f"ORDER BY {key} {direction}, flow_id {direction}"  # as in the key: the first found are the first
    keys = f"SELECT {key} AS sort_key, tenant, started, flow_id FROM {table} WHERE {where} {order} LIMIT ?"
    statement = (
        f"SELECT sort_key, {_SELECTED}, body FROM ({keys}) AS chosen "
        "CROSS JOIN flows USING (tenant, started, flow_id) CROSS JOIN bodies USING (flow_id) "
        f"ORDER BY sort_key {direction}, flows.flow_id {direction}"
    )
    return statement, [*where.arguments, query.limit + 1]


def groups(query: FlowQuery, by: Sequence[str], counted_since: int | None = None) -> Condition:
    """A statement for the sums of each group. A row: the columns `by`, flows, up, down, ns, first start, last end.

    Flows that ended since `counted_since` are left out if the SQL function `is_counted` says so of their ids.
    """
    where = conditions(query)
    if counted_since is not None:
        where.add("NOT (ended >= ? AND is_counted(flow_id))", counted_since)
    columns = ", ".join(by)
    sums = "count(*), sum(up), sum(down), sum(ended - started), min(started), max(ended)"
    return f"SELECT {columns}, {sums} FROM flows NOT INDEXED WHERE {where} GROUP BY {columns}", where.arguments


def lookup(query: FlowQuery) -> Condition:
    """As `select`, for a query that names its flows: each is found by its body."""
    where = conditions(query)
    names = [packed_id(name) for name in query.flow_id]
    bodies = f"SELECT tenant, started, flow_id, body FROM bodies WHERE flow_id IN ({','.join('?' * len(names))})"
    key, direction = SORT_COLUMNS[query.sort], "DESC" if query.descending else "ASC"
    statement = (
        f"SELECT {key} AS sort_key, {_SELECTED}, named.body FROM ({bodies}) AS named "
        f"CROSS JOIN flows USING (tenant, started, flow_id) WHERE {where} "
        f"ORDER BY sort_key {direction}, flows.flow_id {direction} LIMIT ?"
    )
    return statement, [*names, *where.arguments, query.limit + 1]


def conditions(query: FlowQuery) -> Where:
    """The conditions on a row: the tenant, the window, every filter, and no excluding filter."""
    where = Where()
    if query.tenant is not None:
        where.add("tenant = (SELECT id FROM words WHERE text = ?)", query.tenant)
    if query.since is not None:
        where.add("ended >= ?", query.since)
    if query.until is not None:
        where.add("started <= ?", query.until)
    if query.after is not None:
        start, name = query.after
        where.add("(started, flow_id) > (?, ?)", start, packed_id(name))
    if (request := request_wanted(query)) is not None:
        condition, arguments = has_child(request, "request", query.tenant)
        where.add(condition, *arguments)
    if query.where:
        where_sql = _where_sql(query.where)
        where.add(where_sql.condition, *where_sql.arguments)
    for condition, arguments in _filters(query, is_host_asked=request is None):
        where.add(f"({condition})", *arguments)
    for condition, arguments in _filters(query.excluded):
        where.add(f"({condition}) IS NOT TRUE", *arguments)  # an unknown user is not among the excluded ones
    for excluded in requests_excluded(query.excluded):
        condition, arguments = has_child(excluded, "request", query.tenant)
        where.add(f"NOT {condition}", *arguments)
    return where


def _filters(filters: Filters, *, is_host_asked: bool = True) -> list[Condition]:
    found: list[Condition] = []
    for name in _STRING_FILTERS:
        if values := getattr(filters, name):
            found.append((f"{name} IN (SELECT id FROM words WHERE text IN ({_placeholders(values)}))", list(values)))
    for name, columns in _RANGES.items():
        if ranges := getattr(filters, name):
            tests = [f"{column} BETWEEN ? AND ?" for column in columns for _ in ranges]
            found.append((" OR ".join(tests), [end for pair in ranges * len(columns) for end in pair]))
    if versions := filters.version:
        found.append((f"substr(src, 1, 1) IN ({_placeholders(versions)})", [bytes((version,)) for version in versions]))
    if (hosts := filters.host) and is_host_asked:
        globs = " OR ".join("lower(text) GLOB ?" for _ in hosts)
        found.append(
            (f"dst_host IN (SELECT id FROM words WHERE {globs})", [host.replace("[", "[[]") for host in hosts])
        )
    if names := filters.policy:
        found.append((_HAS_DECISION.format(_placeholders(names)), [*names, *names]))
    if marks := filters.dscp:
        found.append((f"dscp IN ({_placeholders(marks)})", list(marks)))
    if names := filters.flow_id:
        found.append((f"flow_id IN ({_placeholders(names)})", [packed_id(name) for name in names]))
    if names := filters.community_id:
        numbers = [community_number(community_digest(name)) for name in names]
        found.append((f"community IN ({_placeholders(names)})", numbers))
    if filters.min_bytes > 0:
        found.append(("up + down >= ?", [filters.min_bytes]))
    if filters.min_duration_ms > 0:
        found.append(("(ended - started) / 1e6 >= ?", [filters.min_duration_ms]))
    return found


def _placeholders(values: tuple[Any, ...]) -> str:
    return ",".join("?" * len(values))
