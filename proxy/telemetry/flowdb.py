"""The SQLite file of ended flows: opened safely, with its tables; and how records are written and deleted."""

from __future__ import annotations

import logging
import os
import sqlite3
import time
from collections.abc import Iterable
from pathlib import Path

import msgspec

from proxy.errors import ProxyError
from proxy.flow.record import FlowRecord
from proxy.telemetry import childrows, flowimport, strings

log = logging.getLogger(__name__)

APPLICATION_ID = 0x4F58464C  # "OXFL" in the header, so that our files are recognised even when damaged
VERSION = 2
_MAGIC = b"SQLite format 3\0"
_DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
_SUFFIXES = ("", "-wal", "-shm")

# Filters read `flows` in the order of its key: 100 bytes per row, so a million rows take a fifth of a second.
# `bodies` holds what only answers need. SQLite works on both without our locks and without the GIL.
_TABLES = f"""
BEGIN;
{strings.TABLE}
CREATE TABLE flows (
    tenant INTEGER NOT NULL, started INTEGER NOT NULL, flow_id BLOB NOT NULL, ended INTEGER NOT NULL,
    up INTEGER NOT NULL, down INTEGER NOT NULL, src_port INTEGER NOT NULL, dst_port INTEGER NOT NULL,
    protocol INTEGER NOT NULL, src BLOB NOT NULL, dst BLOB NOT NULL, state INTEGER NOT NULL, close_reason INTEGER,
    verdict INTEGER NOT NULL, level INTEGER NOT NULL, onramp INTEGER NOT NULL, offramp INTEGER, decisions INTEGER,
    dscp INTEGER, user INTEGER, device INTEGER, dst_host INTEGER, community INTEGER,
    tls_action INTEGER,
    PRIMARY KEY (tenant, started, flow_id)
) WITHOUT ROWID;
CREATE INDEX flows_by_end ON flows (ended);
CREATE TABLE bodies (
    flow_id BLOB PRIMARY KEY, tenant INTEGER NOT NULL, started INTEGER NOT NULL, body BLOB NOT NULL
) WITHOUT ROWID;
CREATE TABLE losses (
    tenant TEXT, minute INTEGER, count INTEGER NOT NULL, PRIMARY KEY (tenant, minute)
) WITHOUT ROWID;
PRAGMA application_id = {APPLICATION_ID};
PRAGMA user_version = {VERSION};
COMMIT;
"""
# Flows that may outlive the proxy, as the kernel carries them. Also added to older files.
_LIVE = "CREATE TABLE IF NOT EXISTS live (flow_id TEXT PRIMARY KEY, record BLOB NOT NULL) WITHOUT ROWID"
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(FlowRecord).decode


def open_writer(path: str) -> sqlite3.Connection:
    """A connection for writing. A missing file is created (0600), a damaged one is moved aside.

    Raises ProxyError if the file is not a flow log, or cannot be opened: it is never overwritten.
    """
    try:
        if _is_zeroed(path):
            move_aside(path, "its header is all zeros")
        if _prepare_file(path) == flowimport.VERSION:
            old = _rename(path, f"version-{flowimport.VERSION}")
            _prepare_file(path)
            connection = _connect(path)
            flowimport.import_records(old, connection)
            return connection
        try:
            return _connect(path)
        except sqlite3.DatabaseError as error:
            if not is_damaged(error):
                raise
            move_aside(path, str(error))
            _prepare_file(path)
            return _connect(path)
    except (OSError, sqlite3.Error) as error:
        raise ProxyError(f"cannot open the flow log {path}: {error}") from error


def open_reader(path: str) -> sqlite3.Connection:
    """A read-only connection."""
    connection = sqlite3.connect(Path(path).absolute().as_uri() + "?mode=rw", uri=True, isolation_level=None)
    connection.execute("PRAGMA query_only = 1")
    return connection


def open_offline(path: str) -> sqlite3.Connection:
    """A connection to the file of a proxy that has ended. It neither changes nor locks the file, in case the proxy
    restarts.

    Records that a killed proxy left in the WAL are read there; normally SQLite would checkpoint it, which changes both.
    """
    mode = "readonly_shm=1" if os.path.exists(f"{path}-wal") else "immutable=1"
    connection = sqlite3.connect(f"{Path(path).absolute().as_uri()}?mode=ro&{mode}", uri=True, isolation_level=None)
    try:
        (version,) = connection.execute("PRAGMA user_version").fetchone()
    except sqlite3.Error:
        connection.close()
        raise
    if version not in (0, VERSION):
        connection.close()
        raise ProxyError(f"it has version {version}, and {VERSION} is understood here")
    if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'children'").fetchone():
        connection.execute(childrows.TABLE.replace("TABLE", "TEMP TABLE", 1))  # of a version without child records
    return connection


def is_damaged(error: sqlite3.Error) -> bool:
    """Whether the file is damaged, rather than busy, full or inaccessible."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in _DAMAGED


def move_aside(path: str, reason: str) -> None:
    """Rename a damaged file and its companions, so that records can be recovered from it."""
    aside = _rename(path, "damaged")
    log.error("the flow log %s is damaged (%s): moved to %s, and a new one begins", path, reason, aside)


def _rename(path: str, why: str) -> str:
    aside = f"{path}.{why}-{time.strftime('%Y%m%dT%H%M%S')}-{time.time_ns() % 10**9:09}"
    for suffix in _SUFFIXES:
        if os.path.exists(path + suffix):
            os.rename(path + suffix, aside + suffix)
    return aside


def _is_zeroed(path: str) -> bool:
    """Whether the file begins with zeros, as after a crash of the machine; no other program's file does."""
    try:
        with open(path, "rb") as file:
            header = file.read(len(_MAGIC))
    except FileNotFoundError:
        return False
    return header != b"" and not any(header)


def _prepare_file(path: str) -> int:
    """Create the file before SQLite does, with the proxy's mode. Raises ProxyError if a file there is not a flow log.

    Returns its version, 0 for a new one.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        header = os.pread(descriptor, 72, 0)
        is_ours = header[:16] == _MAGIC and int.from_bytes(header[68:72]) == APPLICATION_ID
        if header and not is_ours:
            raise ProxyError(f"{path} is not a flow log of this proxy: name another file in records.path")
        os.fchmod(descriptor, 0o600)
        return int.from_bytes(header[60:64])
    finally:
        os.close(descriptor)


def _connect(path: str) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=5)
    try:
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version == 0:
            connection.executescript(_TABLES)  # before WAL mode, so that the application id is in the file itself
        connection.execute("PRAGMA journal_mode = WAL")
        for statement in (_LIVE, childrows.TABLE, childrows.INDEX):
            connection.execute(statement)
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute(f"PRAGMA journal_size_limit = {64 << 20}")
        if version not in (0, VERSION):
            raise ProxyError(f"the flow log {path} has version {version}, this proxy reads {VERSION}: use another file")
        count_and_oldest(connection)  # the first reads of every writer: damage shows here or later
        load_lost_counts(connection)
    except BaseException:
        connection.close()
        raise
    return connection


def save_live(connection: sqlite3.Connection, records: Iterable[FlowRecord]) -> None:
    """Store flows in their current state, in place of earlier ones."""
    values = [(record.flow_id, bytearray(_encode(record))) for record in records]
    connection.executemany("INSERT OR REPLACE INTO live VALUES (?, ?)", values)


def delete_live(connection: sqlite3.Connection, flow_ids: Iterable[str]) -> None:
    connection.executemany("DELETE FROM live WHERE flow_id = ?", [(flow_id,) for flow_id in flow_ids])


def load_live(connection: sqlite3.Connection) -> list[FlowRecord]:
    """The flows stored by a proxy that was killed. Unreadable ones are left out."""
    found = []
    for (text,) in connection.execute("SELECT record FROM live").fetchall():
        try:
            found.append(_decode(text))
        except msgspec.DecodeError as error:
            log.warning("a remembered flow cannot be read: %s", error)
    return found


def save_lost_counts(connection: sqlite3.Connection, counts: Iterable[tuple[str, int, int]]) -> None:
    """Set the counts of losses for (tenant, minute)."""
    connection.executemany("INSERT OR REPLACE INTO losses VALUES (?, ?, ?)", counts)


def load_lost_counts(connection: sqlite3.Connection) -> list[tuple[str, int, int]]:
    return connection.execute("SELECT tenant, minute, count FROM losses").fetchall()


def delete_lost_counts(connection: sqlite3.Connection, before_minute: int) -> None:
    connection.execute("DELETE FROM losses WHERE minute < ?", (before_minute,))


def delete_oldest(connection: sqlite3.Connection, count: int) -> int:
    """Delete the `count` records that ended first. Returns how many were deleted."""
    return _delete(connection, "SELECT tenant, started, flow_id FROM flows ORDER BY ended LIMIT ?", count)


def delete_before(connection: sqlite3.Connection, cutoff: int, limit: int) -> int:
    """Delete records that ended before `cutoff` (Unix ns), up to `limit`. Returns how many were deleted."""
    selection = "SELECT tenant, started, flow_id FROM flows WHERE ended < ? ORDER BY ended LIMIT ?"
    return _delete(connection, selection, cutoff, limit)


def _delete(connection: sqlite3.Connection, selection: str, *arguments: int) -> int:
    keys = connection.execute(selection, arguments).fetchall()
    connection.executemany("DELETE FROM flows WHERE tenant = ? AND started = ? AND flow_id = ?", keys)
    flow_ids = [key[2:] for key in keys]
    connection.executemany("DELETE FROM bodies WHERE flow_id = ?", flow_ids)
    connection.executemany("DELETE FROM children WHERE flow_id = ?", flow_ids)
    return len(keys)


def count_children(connection: sqlite3.Connection) -> int:
    """The number of child records."""
    return int(connection.execute("SELECT count(*) FROM children").fetchone()[0])


def delete_oldest_children(connection: sqlite3.Connection, count: int) -> None:
    """Delete the `count` child records that ended first."""
    selection = "SELECT number FROM children ORDER BY number LIMIT ?"
    connection.execute(f"DELETE FROM children WHERE number IN ({selection})", (count,))


def delete_children_before(connection: sqlite3.Connection, cutoff: int, limit: int) -> int:
    """Delete child records that ended before `cutoff` (Unix ns), among the `limit` oldest. Returns how many."""
    selection = "SELECT number FROM children ORDER BY number LIMIT ?"
    statement = f"DELETE FROM children WHERE number IN ({selection}) AND ended < ?"
    return connection.execute(statement, (limit, cutoff)).rowcount


def count_and_oldest(connection: sqlite3.Connection) -> tuple[int, int | None]:
    """The number of records, and the end of the oldest (Unix ns)."""
    count, oldest = connection.execute("SELECT count(*), min(ended) FROM flows INDEXED BY flows_by_end").fetchone()
    return count, oldest


def oldest_child(connection: sqlite3.Connection) -> int | None:
    """The end of the oldest child record (Unix ns)."""
    row = connection.execute("SELECT ended FROM children ORDER BY number LIMIT 1").fetchone()
    return None if row is None else int(row[0])


def oldest_end(connection: sqlite3.Connection, tenant: str | None = None) -> int | None:
    """The end of the oldest record (Unix ns), of one tenant or of all."""
    where, arguments = "", list[int]()
    if tenant is not None:
        number = tenant_number(connection, tenant)
        if number is None:
            return None
        where, arguments = " WHERE tenant = ?", [number]
    statement = f"SELECT ended FROM flows INDEXED BY flows_by_end{where} ORDER BY ended LIMIT 1"
    row = connection.execute(statement, arguments).fetchone()
    return None if row is None else int(row[0])


def tenant_number(connection: sqlite3.Connection, tenant: str) -> int | None:
    """The number of a tenant's name; None if the tenant has no records."""
    has_flows = "EXISTS (SELECT 1 FROM flows WHERE tenant = words.id)"
    row = connection.execute(f"SELECT id FROM words WHERE text = ? AND {has_flows}", (tenant,)).fetchone()
    return None if row is None else int(row[0])


def tenants(connection: sqlite3.Connection) -> list[str]:
    """The names of the tenants that have records."""
    has_flows = "EXISTS (SELECT 1 FROM flows WHERE tenant = words.id)"
    return [name for (name,) in connection.execute(f"SELECT text FROM words WHERE {has_flows} ORDER BY text")]
