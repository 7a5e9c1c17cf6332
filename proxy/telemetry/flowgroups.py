"""Sums over the flow log and the live flows, by group; only the first groups in order are kept."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from typing import Any

from proxy.errors import ProxyError
from proxy.flow.flow import address_text
from proxy.flow.groups import Counting, GroupsPage, GroupsQuery, Key, Ranking, Sums
from proxy.flow.query import FlowQuery, Window
from proxy.telemetry import flowdb, flowsql
from proxy.telemetry.flowread import SCANNED, deadline
from proxy.telemetry.losses import Losses
from proxy.telemetry.rows import WORDS, of_row
from proxy.telemetry.words import Texts

MOST_GROUPS = 200_000  # that are counted one by one, in memory

Live = dict[Key, Sums]


def read_groups(connection: sqlite3.Connection, query: GroupsQuery, live: Live, losses: Losses) -> GroupsPage:
    """The first groups of the stored flows, with the `live` ones added to them. ProxyError, sqlite3.Error."""
    flows, texts = query.flows, Texts(connection)
    ranking = Ranking(query, told)
    oldest = None
    with deadline(connection):
        if flows.scope != "live":
            for key, sums in _past(connection, query, texts):
                if (more := live.pop(key, None)) is not None:
                    sums.add(more)
                ranking.add(key, sums)
            oldest = flowdb.oldest_end(connection, flows.tenant)
    for key, sums in live.items():
        ranking.add(key, sums)
    until = time.time_ns() if flows.until is None else flows.until
    lost = losses.count(flows.tenant, flows.since, flows.until)
    return ranking.page(Window(flows.since, until, oldest), lost)


def told(field: str, value: Any) -> str | int | None:
    """A value of a key as people write it."""
    if field in ("src", "dst"):
        return address_text(bytes(value[1:]))
    found: str | int | None = value
    return found


def _past(connection: sqlite3.Connection, query: GroupsQuery, texts: Texts) -> Iterator[tuple[Key, Sums]]:
    by = query.by
    if query.flows.where:
        yield from _counted(connection, query.flows, by, texts)
        return
    for *key, flows, up, down, lasted, first, last in connection.execute(*flowsql.groups(query.flows, by)):
        values = [texts.text(part) if name in WORDS else part for name, part in zip(by, key, strict=True)]
        yield tuple(values), Sums(flows, 0, up, down, lasted / 1e6, first, last)


def _counted(
    connection: sqlite3.Connection, query: FlowQuery, by: tuple[str, ...], texts: Texts
) -> Iterator[tuple[Key, Sums]]:
    from proxy.flow.where import condition  # 0.2 s to import: only for those who ask so

    of = of_row(texts)
    test, counting = condition(query.where, of), Counting(by, of)
    for number, row in enumerate(connection.execute(*flowsql.narrow(query))):
        if number % SCANNED == 0:
            time.sleep(0)
            if len(counting.sums) > MOST_GROUPS:
                raise ProxyError(f"more than {MOST_GROUPS} groups: narrow the window or the filters")
        if test(row):
            counting.add(row)
    yield from counting.sums.items()
