"""Imports the flow log of an earlier version of the proxy into the new file."""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
from pathlib import Path

import msgspec

from proxy.flow.record import FlowRecord
from proxy.telemetry import rows
from proxy.telemetry.strings import StringIds

log = logging.getLogger(__name__)

VERSION = 1  # rows with the whole record as JSON, 1,480 bytes with its five indexes
CHUNK = 5_000
_decode = msgspec.json.Decoder(FlowRecord).decode


def import_records(old_path: str, new: sqlite3.Connection) -> None:
    """Copy the records of a file of VERSION, and delete it. It is kept if some of it cannot be read."""
    log.warning("the flow log has the format of an earlier version: importing its records from %s", old_path)
    imported = unreadable = 0
    try:
        with contextlib.closing(sqlite3.connect(Path(old_path).absolute().as_uri() + "?mode=rw", uri=True)) as old:
            new.executemany("INSERT INTO losses VALUES (?, ?, ?)", old.execute("SELECT * FROM losses"))
            if old.execute("SELECT 1 FROM sqlite_schema WHERE name = 'live'").fetchone():
                new.executemany("INSERT INTO live VALUES (?, ?)", old.execute("SELECT * FROM live"))
            cursor = old.execute("SELECT record FROM flows ORDER BY ended")
            while encoded := cursor.fetchmany(CHUNK):
                pairs = _rows([record for (record,) in encoded], StringIds(new))
                new.execute("BEGIN IMMEDIATE")
                rows.insert(new, pairs)
                new.execute("COMMIT")
                imported, unreadable = imported + len(pairs), unreadable + len(encoded) - len(pairs)
    except sqlite3.Error as error:
        if new.in_transaction:
            new.execute("ROLLBACK")
        log.error("%d records were imported, the others stay in %s: %s", imported, old_path, error)
        return
    if unreadable:
        log.error("%d records were imported; %d cannot be read and stay in %s", imported, unreadable, old_path)
        return
    log.warning("%d records were imported", imported)
    for suffix in ("", "-wal", "-shm"):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(old_path + suffix)


def _rows(encoded: list[bytes], string_ids: StringIds) -> list[rows.Pair]:
    pairs = []
    string_ids.refresh()
    for record in encoded:
        with contextlib.suppress(msgspec.DecodeError, ValueError, OverflowError):
            pairs.append(rows.rows_of(_decode(record), string_ids))
    return pairs
