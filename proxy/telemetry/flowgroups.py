"""Sums over the flow log and the live flows, by group. Only the first groups in order are kept."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator, Mapping
from typing import Any

from proxy.flow.flow import address_text
from proxy.flow.groups import GroupsPage, GroupsQuery, Key, Ranking, Sums
from proxy.flow.query import Window
from proxy.telemetry import flowdb, flowsql
from proxy.telemetry.flowread import deadline
from proxy.telemetry.lost_records import LostRecords
from proxy.telemetry.rows import STRING_COLUMNS, flow_id_text
from proxy.telemetry.strings import Strings

Live = dict[Key, Sums]


def read_groups(
    connection: sqlite3.Connection,
    query: GroupsQuery,
    live: Live,
    lost_records: LostRecords,
    counted: Mapping[str, int] = {},
) -> GroupsPage:
    """The first groups of the stored flows together with the `live` ones. Raises ProxyError or sqlite3.Error.

    `counted`: when flows among the `live` ones have ended since (Unix ns).
    """
    flows, strings = query.flows, Strings(connection)
    ranking = Ranking(query, display_value)
    oldest = None
    with deadline(connection):
        if flows.scope != "live":
            for key, sums in _past(connection, query, strings, counted):
                if (more := live.pop(key, None)) is not None:
                    sums.add(more)
                ranking.add(key, sums)
            oldest = flowdb.oldest_end(connection, flows.tenant)
    for key, sums in live.items():
        ranking.add(key, sums)
    until = time.time_ns() if flows.until is None else flows.until
    lost = lost_records.count(flows.tenant, flows.since, flows.until)
    return ranking.page(Window(flows.since, until, oldest), lost)


def display_value(field: str, value: Any) -> str | int | None:
    """A key's value as it is displayed."""
    if field in ("src", "dst"):
        return address_text(bytes(value[1:]))
    found: str | int | None = value
    return found


def _past(
    connection: sqlite3.Connection, query: GroupsQuery, strings: Strings, counted: Mapping[str, int]
) -> Iterator[tuple[Key, Sums]]:
    flowsql.prepare(connection, query.flows)
    connection.execute("BEGIN")
    connection.execute("SELECT 1 FROM flows LIMIT 1").fetchone()  # what is written from here on is not seen
    ended_at = dict(counted)
    connection.create_function("is_counted", 1, lambda stored: flow_id_text(stored) in ended_at)
    statement = flowsql.groups(query.flows, query.by, min(ended_at.values(), default=None))
    for *key, flows, up, down, lasted, first, last in connection.execute(*statement):
        values = [
            strings.text(part) if name in STRING_COLUMNS else part for name, part in zip(query.by, key, strict=True)
        ]
        yield tuple(values), Sums(flows, 0, up, down, lasted / 1e6, first, last)
    connection.execute("COMMIT")
