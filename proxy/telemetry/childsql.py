"""Queries for child records as SQL: the same filters as in `proxy.flow.child`, run by SQLite."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterable, Sequence
from typing import Any

from proxy.flow.child import NOTHING, ChildFilters, ChildKind, ChildPage, ChildQuery, StoredChild
from proxy.flow.query import Window
from proxy.telemetry.childrows import COLUMNS, KIND_NUMBERS, child_of
from proxy.telemetry.lost_records import LostRecords
from proxy.telemetry.rows import packed_id
from proxy.telemetry.strings import Strings

Condition = tuple[str, list[Any]]
_STRING_IN = "{} IN (SELECT id FROM words WHERE {})"
_URL = "lower(coalesce((SELECT text FROM words WHERE id = url_prefix), '') || coalesce(path, ''))"


def read_children(connection: sqlite3.Connection, query: ChildQuery, lost_records: LostRecords) -> ChildPage:
    """The stored children that match, newest end first. Raises sqlite3.Error."""
    strings = Strings(connection)
    statement, arguments = _select(query)
    rows = connection.execute(statement, arguments).fetchall()
    oldest = connection.execute("SELECT ended FROM children ORDER BY number LIMIT 1").fetchone()
    children = [StoredChild(number, child_of(row, strings)) for number, *row in rows[: query.limit]]
    until = time.time_ns() if query.until is None else query.until
    lost = lost_records.count(query.tenant, query.since, query.until)
    window = Window(query.since, until, None if oldest is None else oldest[0])
    return ChildPage(children, window, lost, truncated=len(rows) > query.limit)


def flows_with(
    connection: sqlite3.Connection, filters: ChildFilters, kind: ChildKind, flow_ids: Sequence[str]
) -> set[str]:
    """The subset of `flow_ids` whose flows have a child that matches."""
    conditions = list(_filters(filters))
    where = " AND ".join(f"({condition})" for condition, _ in conditions) or "1"
    arguments = [argument for _, each in conditions for argument in each]
    statement = f"SELECT 1 FROM children WHERE flow_id = ? AND kind = {KIND_NUMBERS[kind]} AND {where} LIMIT 1"
    return {
        flow_id
        for flow_id in flow_ids
        if connection.execute(statement, [packed_id(flow_id), *arguments]).fetchone() is not None
    }


def has_child(filters: ChildFilters, kind: ChildKind, tenant: str | None) -> Condition:
    """A condition over `flows`: the flow has a child that matches."""
    conditions = [*_tenant(tenant), *_filters(filters)]
    where = " AND ".join(f"({condition})" for condition, _ in conditions) or "1"
    arguments = [argument for _, each in conditions for argument in each]
    return f"flow_id IN (SELECT flow_id FROM children WHERE kind = {KIND_NUMBERS[kind]} AND {where})", arguments


def _select(query: ChildQuery) -> Condition:
    conditions = [(f"kind = {KIND_NUMBERS[query.kind]}", []), *_tenant(query.tenant), *_filters(query)]
    bounds = {"ended >= ?": query.since, "started <= ?": query.until, "number < ?": query.before}
    conditions += [(condition, [bound]) for condition, bound in bounds.items() if bound is not None]
    if query.excluded != NOTHING:
        conditions += [(f"({test}) IS NOT TRUE", arguments) for test, arguments in _filters(query.excluded)]
    where = " AND ".join(f"({condition})" for condition, _ in conditions)
    arguments = [argument for _, each in conditions for argument in each]
    table = "children" if query.flow_id else "children NOT INDEXED"
    selection = f"SELECT number, {', '.join(COLUMNS)} FROM {table} WHERE {where}"
    return f"{selection} ORDER BY number DESC LIMIT ?", [*arguments, query.limit + 1]


def _tenant(tenant: str | None) -> Iterable[Condition]:
    if tenant is not None:
        yield "tenant = (SELECT id FROM words WHERE text = ?)", [tenant]


def _filters(filters: ChildFilters) -> Iterable[Condition]:
    if statuses := filters.status:
        yield " OR ".join("status BETWEEN ? AND ?" for _ in statuses), [end for pair in statuses for end in pair]
    if methods := filters.method:
        yield _STRING_IN.format("method", f"upper(text) IN ({_placeholders(methods)})"), list(methods)
    for column, texts in (("fault", filters.fault), ("user", filters.user), ("verdict", filters.verdict)):
        if texts:
            yield _STRING_IN.format(column, f"text IN ({_placeholders(texts)})"), list(texts)
    if hosts := filters.host:
        globs = " OR ".join("lower(text) GLOB ?" for _ in hosts)
        yield _STRING_IN.format("host", globs), [_glob(host) for host in hosts]
    if urls := filters.url:
        yield " OR ".join(f"{_URL} GLOB ?" for _ in urls), [_glob(url.lower()) for url in urls]
    if flow_ids := filters.flow_id:
        yield f"flow_id IN ({_placeholders(flow_ids)})", [packed_id(flow_id) for flow_id in flow_ids]


def _placeholders(values: Sequence[Any]) -> str:
    return ",".join("?" * len(values))


def _glob(pattern: str) -> str:
    """The pattern for SQLite, where an unescaped bracket begins a set."""
    return pattern.replace("[", "[[]")
