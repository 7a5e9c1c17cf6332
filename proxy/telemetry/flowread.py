"""What a query finds in the file of ended flows, within a time."""

from __future__ import annotations

import sqlite3
import time

from proxy.errors import ProxyError
from proxy.flow.query import FlowQuery, Page, StoredFlow, Window
from proxy.telemetry import flowdb, flowsql
from proxy.telemetry.losses import Losses

QUERY_TIMEOUT_S = 10.0


def read_page(connection: sqlite3.Connection, query: FlowQuery, losses: Losses) -> Page:
    """The stored flows that match, and how complete that is. ProxyError: it takes too long; sqlite3.Error."""
    deadline = time.monotonic() + QUERY_TIMEOUT_S
    connection.set_progress_handler(lambda: time.monotonic() > deadline, 100_000)
    try:
        rows = connection.execute(*flowsql.select(query)).fetchall()
        oldest = flowdb.oldest_end(connection, query.tenant)
    except sqlite3.Error as error:
        if getattr(error, "sqlite_errorcode", 0) != sqlite3.SQLITE_INTERRUPT:
            raise
        text = f"the query took longer than {QUERY_TIMEOUT_S:g} s: narrow its window (since, until)"
        raise ProxyError(text, retryable=True) from None
    flows = [StoredFlow(*row) for row in rows[: query.limit]]
    until = time.time_ns() if query.until is None else query.until
    lost = losses.count(query.tenant, query.since, query.until)
    return Page(flows, Window(query.since, until, oldest), lost, truncated=len(rows) > query.limit)
