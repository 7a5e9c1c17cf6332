"""Runs a query over the file of ended flows, within a time limit."""

from __future__ import annotations

import contextlib
import logging
import sqlite3
import time
from collections.abc import Iterator, Sequence

import msgspec

from proxy.errors import ProxyError
from proxy.flow.query import FlowQuery, Page, StoredFlow, Window
from proxy.telemetry import flowdb, flowsql
from proxy.telemetry.lost_records import LostRecords
from proxy.telemetry.rows import Row, record_of
from proxy.telemetry.strings import Strings

QUERY_TIMEOUT_S = 10.0
YIELD_EVERY = 8  # records, 0.1 ms: the interpreter by itself would switch threads after 5 ms
log = logging.getLogger(__name__)
_encode = msgspec.json.Encoder().encode


def read_page(connection: sqlite3.Connection, query: FlowQuery, lost_records: LostRecords) -> Page:
    """The stored flows that match, and how complete that is. Raises ProxyError if too slow, or sqlite3.Error."""
    with deadline(connection):
        rows = _rows(connection, query)
        oldest = flowdb.oldest_end(connection, query.tenant)
    flows = read_rows(rows[: query.limit], Strings(connection))
    until = time.time_ns() if query.until is None else query.until
    lost = lost_records.count(query.tenant, query.since, query.until)
    return Page(flows, Window(query.since, until, oldest), lost, truncated=len(rows) > query.limit)


@contextlib.contextmanager
def deadline(connection: sqlite3.Connection) -> Iterator[None]:
    """Limit the queries inside to QUERY_TIMEOUT_S. Raises ProxyError if they take longer."""
    at = time.monotonic() + QUERY_TIMEOUT_S
    connection.set_progress_handler(lambda: time.monotonic() > at, 100_000)
    try:
        yield
    except sqlite3.Error as error:
        if getattr(error, "sqlite_errorcode", 0) != sqlite3.SQLITE_INTERRUPT:
            raise
        text = f"the query took longer than {QUERY_TIMEOUT_S:g} s: narrow its window (since, until)"
        raise ProxyError(text, retryable=True) from None


def _rows(connection: sqlite3.Connection, query: FlowQuery) -> list[Row]:
    flowsql.prepare(connection, query)
    return connection.execute(*_statement(connection, query)).fetchall()


def _statement(connection: sqlite3.Connection, query: FlowQuery) -> flowsql.Condition:
    if query.flow_id:
        return flowsql.lookup(query)
    return flowsql.select(query, is_recent=query.since is not None and _is_recent(connection, query.since))


def _is_recent(connection: sqlite3.Connection, since: int) -> bool:
    """Whether few flows have ended since then. Counting them takes some milliseconds at most."""
    counted = "SELECT count(*) FROM (SELECT 1 FROM flows INDEXED BY flows_by_end WHERE ended >= ? LIMIT ?)"
    (count,) = connection.execute(counted, (since, flowsql.MAX_RECENT)).fetchone()
    return bool(count < flowsql.MAX_RECENT)


def read_rows(rows: Sequence[Row], strings: Strings) -> list[StoredFlow]:
    """The records of the rows as JSON. Yields to other threads regularly, among them that of the packets."""
    flows = []
    for number, row in enumerate(rows):
        if number % YIELD_EVERY == 0:
            time.sleep(0)
        try:
            record = record_of(row[1:-1], row[-1], strings)
        except (LookupError, ValueError) as error:
            log.error("a record of the flow log cannot be read: %s", error)
            continue
        flows.append(StoredFlow(row[0], record.flow_id, _encode(record)))
    return flows
