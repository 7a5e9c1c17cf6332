"""Stores ended flows in SQLite, written by a separate thread. Answers say what they cover and how much was lost."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import logging
import os
import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeVar

import msgspec

from proxy.control.schema import RecordsStatus
from proxy.errors import ProxyError
from proxy.flow.child import Child, ChildFilters, ChildKind, ChildPage, ChildQuery
from proxy.flow.groups import GroupsPage, GroupsQuery, Key, Sums
from proxy.flow.query import FlowQuery, Page
from proxy.flow.record import FlowRecord
from proxy.settings import Records
from proxy.telemetry import childsql, flowdb
from proxy.telemetry.childrows import Row as ChildRow
from proxy.telemetry.childrows import insert_children, row_of
from proxy.telemetry.flowgroups import read_groups
from proxy.telemetry.flowread import read_page
from proxy.telemetry.lost_records import MINUTE_NS, LostRecords
from proxy.telemetry.rows import Pair, insert, rows_of
from proxy.telemetry.strings import StringIds, delete_unused_strings

log = logging.getLogger(__name__)

QUEUE_RECORDS = 20_000  # some seconds of the busiest proxy, tens of megabytes
BATCH_RECORDS = 2_000
LINGER_S = 0.25  # one transaction for records within this time: a commit costs as much as a hundred rows
MAINTENANCE_S = 10.0  # how often the age limit is enforced
PRUNE_CHUNK = 5_000

T = TypeVar("T")
Submitted = FlowRecord | Child
_Flushed = concurrent.futures.Future[None]


class _Stop:
    """The last item in the queue."""


class FlowLog:
    """The store of ended flows. `submit` belongs to the event loop's thread. `close` writes what was submitted last."""

    def __init__(self, settings: Records, *, queue_records: int = QUEUE_RECORDS) -> None:
        """Open or create the file. Raises ProxyError if it is not a flow log, or cannot be opened."""
        self._settings = settings
        self._path = settings.path
        self._capacity = queue_records
        self._queue: queue.SimpleQueue[Submitted | _Flushed | _Stop] = queue.SimpleQueue()
        self._urgent = threading.Event()  # a caller waits: do not linger
        self._closed = False
        self._failing = False
        self._damaged = ""  # the damage that the reader found in the file
        self._connection: sqlite3.Connection | None = flowdb.open_writer(self._path)
        self._string_ids = StringIds(self._connection)
        self._inode = _inode(self._path)
        self._lost = LostRecords(flowdb.load_lost_counts(self._connection))
        self._stored, self._oldest = flowdb.count_and_oldest(self._connection)
        self._children = flowdb.count_children(self._connection)
        self.left_over = flowdb.load_live(self._connection)  # flows of a proxy that was killed: `submit` their ends
        self._live = {record.flow_id for record in self.left_over}
        self._reader = concurrent.futures.ThreadPoolExecutor(1, "flowlog-reader")
        self._writer = threading.Thread(target=self._run, name="flowlog-writer", daemon=True)
        self._writer.start()

    # Called on the event loop

    def submit(self, record: FlowRecord) -> None:
        """Take the last record of a flow, or one by which a successor recognises it. Never blocks. The record must not
        change any more."""
        if self._closed or self._queue.qsize() >= self._capacity:
            self._lost.add(record.tenant, time.time_ns())
        else:
            self._queue.put(record)

    def submit_child(self, child: Child) -> None:
        """Take the record of a child that has ended. Never blocks. Half of the queue is reserved for flow records."""
        if self._closed or self._queue.qsize() >= self._capacity // 2:
            self._lost.add(child.tenant, time.time_ns())
        else:
            self._queue.put(child)

    async def flush(self) -> None:
        """Return once everything submitted so far is written, or counted as lost."""
        if self._closed:
            return
        flushed: _Flushed = concurrent.futures.Future()
        self._queue.put(flushed)
        self._urgent.set()
        await asyncio.wrap_future(flushed)

    async def query(self, query: FlowQuery) -> Page:
        """The stored flows that match, including those just submitted. Raises ProxyError if the file cannot be read."""
        return await self._run_query(lambda connection: read_page(connection, query, self._lost))

    async def groups(self, query: GroupsQuery, live: dict[Key, Sums], counted: Mapping[str, int]) -> GroupsPage:
        """The stored flows that match, aggregated together with the sums of `live` flows.

        `counted`: when flows among them have ended since (Unix ns); the caller may add to it meanwhile.
        """
        return await self._run_query(lambda connection: read_groups(connection, query, live, self._lost, counted))

    async def children(self, query: ChildQuery) -> ChildPage:
        """The stored children that match."""
        return await self._run_query(lambda connection: childsql.read_children(connection, query, self._lost))

    async def flows_with(self, filters: ChildFilters, kind: ChildKind, flow_ids: Sequence[str]) -> set[str]:
        """The subset of `flow_ids` whose flows have a child that matches."""
        return await self._run_query(lambda connection: childsql.flows_with(connection, filters, kind, flow_ids))

    async def tenants(self) -> list[str]:
        """The tenants that have records."""
        return await self._run_query(flowdb.tenants)

    async def _run_query(self, query_function: Callable[[sqlite3.Connection], T]) -> T:
        if self._closed:
            raise ProxyError("the flow log is closed")
        await self.flush()
        return await asyncio.get_running_loop().run_in_executor(self._reader, self._read, query_function)

    def status(self) -> RecordsStatus:
        """The counts of stored and lost records, as of the last write."""
        return RecordsStatus(stored=self._stored, lost=self._lost.total, oldest=self._oldest)

    async def close(self) -> None:
        """Write everything that was submitted, and end both threads."""
        if not self._closed:
            self._closed = True
            self._queue.put(_Stop())
            self._urgent.set()
        await asyncio.to_thread(self._writer.join)
        await asyncio.to_thread(self._reader.shutdown)

    # Run on the reader's thread

    def _read(self, query_function: Callable[[sqlite3.Connection], T]) -> T:
        try:
            with contextlib.closing(flowdb.open_reader(self._path)) as connection:
                return query_function(connection)
        except sqlite3.Error as error:
            if flowdb.is_damaged(error):
                self._damaged = str(error)
            raise ProxyError(f"cannot read the flow log {self._path}: {error}", retryable=True) from error

    # Run on the writer's thread

    def _run(self) -> None:
        maintenance_at = 0.0
        running = True
        while running:
            records, waiting, running = self._next_batch()
            self._guard(self._write, records)
            if time.monotonic() >= maintenance_at:
                self._guard(self._enforce_age, [])
                maintenance_at = time.monotonic() + MAINTENANCE_S
            for flushed in waiting:
                flushed.set_result(None)
        self._disconnect()

    def _next_batch(self) -> tuple[list[Submitted], list[_Flushed], bool]:
        """The records to write, the futures to resolve afterwards, and whether more may come."""
        records: list[Submitted] = []
        waiting: list[_Flushed] = []
        for item in self._next_items():
            if isinstance(item, _Stop):
                return records, waiting, False
            if not isinstance(item, concurrent.futures.Future):
                records.append(item)
            elif item.set_running_or_notify_cancel():
                waiting.append(item)
        return records, waiting, True

    def _next_items(self) -> Iterator[Submitted | _Flushed | _Stop]:
        with contextlib.suppress(queue.Empty):
            yield self._queue.get(timeout=MAINTENANCE_S)
            if self._queue.empty():
                self._urgent.wait(LINGER_S)
            self._urgent.clear()
            for _ in range(BATCH_RECORDS):
                yield self._queue.get_nowait()

    def _guard(self, work: Callable[[sqlite3.Connection, list[Submitted]], None], records: list[Submitted]) -> None:
        """Do `work`. If it fails, its records are counted as lost, and the thread continues."""
        try:
            try:
                work(self._ensure_connected(), records)
            except sqlite3.DatabaseError as error:
                if not flowdb.is_damaged(error):
                    raise
                self._damaged = str(error)
                work(self._ensure_connected(), records)
        except Exception as error:
            self._disconnect()
            self._count_lost(records)
            if not self._failing:  # a full disk fails twenty times a second
                expected = isinstance(error, sqlite3.Error | ProxyError | OSError)
                log.error("the flow log cannot be written: %s", error, exc_info=not expected)
            self._failing = True
        else:
            if self._failing:
                log.warning("the flow log is written again; records lost so far: %d", self._lost.total)
            self._failing = False

    def _count_lost(self, records: Sequence[Submitted]) -> None:
        for record in records:
            self._lost.add(record.tenant, time.time_ns())

    def _write(self, connection: sqlite3.Connection, submitted: list[Submitted]) -> None:
        lost = self._lost.unsaved()
        if not submitted and not lost:
            return
        records = [each for each in submitted if isinstance(each, FlowRecord)]
        ended = {record.flow_id for record in records if record.final}
        live = [record for record in records if not record.final and record.flow_id not in ended]
        connection.execute("BEGIN IMMEDIATE")
        self._string_ids.refresh()
        rows = self._rows([record for record in records if record.final])
        children = self._child_rows([each for each in submitted if not isinstance(each, FlowRecord)])
        flowdb.save_live(connection, live)
        flowdb.delete_live(connection, ended & self._live)
        self._live = (self._live | {record.flow_id for record in live}) - ended
        inserted = insert(connection, rows)
        insert_children(connection, children)
        excess = self._stored + inserted - self._settings.max_rows
        deleted = flowdb.delete_oldest(connection, excess) if excess > 0 else 0
        remaining = self._trim_children(connection, len(children), is_shorter=deleted > 0)
        flowdb.save_lost_counts(connection, lost)
        connection.execute("COMMIT")
        self._lost.saved(lost)
        self._stored += inserted - deleted
        self._children = remaining
        self._oldest = flowdb.oldest_end(connection)
        if inserted < len(rows):
            log.error("flow log: %d records carry the id of a stored flow and were ignored", len(rows) - inserted)

    def _trim_children(self, connection: sqlite3.Connection, added: int, *, is_shorter: bool) -> int:
        """Delete the oldest children over the limit. Returns how many are left. `is_shorter`: some went with flows."""
        count = self._children + added
        if count > self._settings.max_children and is_shorter:
            count = flowdb.count_children(connection)
        if (excess := count - self._settings.max_children) > 0:
            flowdb.delete_oldest_children(connection, excess)
        return min(count, self._settings.max_children)

    def _rows(self, records: list[FlowRecord]) -> list[Pair]:
        rows = []
        for record in records:
            try:
                rows.append(rows_of(record, self._string_ids))
            except (ValueError, OverflowError, msgspec.EncodeError) as error:
                log.error("flow log: the record of flow %s cannot be stored: %s", record.flow_id, error)
                self._count_lost([record])
        return rows

    def _child_rows(self, children: list[Child]) -> list[ChildRow]:
        rows = []
        for child in children:
            try:
                rows.append(row_of(child, self._string_ids))
            except (ValueError, OverflowError, msgspec.EncodeError) as error:
                log.error("flow log: a child record of flow %s cannot be stored: %s", child.flow_id, error)
                self._count_lost([child])
        return rows

    def _enforce_age(self, connection: sqlite3.Connection, _: list[Submitted]) -> None:
        cutoff = time.time_ns() - int(self._settings.max_age_s * 1e9)
        while deleted := flowdb.delete_before(connection, cutoff, PRUNE_CHUNK):
            self._stored -= deleted
        while flowdb.delete_children_before(connection, cutoff, PRUNE_CHUNK):
            pass
        self._children = flowdb.count_children(connection)
        self._lost.forget(cutoff)
        flowdb.delete_lost_counts(connection, cutoff // MINUTE_NS)
        self._oldest = flowdb.oldest_end(connection)
        oldest_ends = [end for end in (self._oldest, flowdb.oldest_child(connection)) if end is not None]
        delete_unused_strings(connection, min(oldest_ends, default=cutoff))

    def _ensure_connected(self) -> sqlite3.Connection:
        """The connection to the file now at our path, also after it was damaged, removed or replaced."""
        if self._damaged:
            self._disconnect()
            flowdb.move_aside(self._path, self._damaged)
            self._damaged = ""
        elif self._connection is not None and self._inode != _inode(self._path):
            log.error("the flow log %s was removed or replaced: a new one begins", self._path)
            self._disconnect()
        if self._connection is None:
            self._connection = flowdb.open_writer(self._path)
            self._string_ids = StringIds(self._connection)
            self._inode = _inode(self._path)
            self._stored, self._oldest = flowdb.count_and_oldest(self._connection)
            self._children = flowdb.count_children(self._connection)
        return self._connection

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()  # rolls back an open transaction
            self._connection = None


def _inode(path: str) -> int:
    try:
        return os.stat(path).st_ino
    except FileNotFoundError:
        return 0
