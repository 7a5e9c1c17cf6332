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
from proxy.telemetry.words import Words

log = logging.getLogger(__name__)

VERSION = 1  # rows with the whole record as JSON, 1,480 bytes with its five indexes
CHUNK = 5_000
_decode = msgspec.json.Decoder(FlowRecord).decode


def take_over(old_path: str, new: sqlite3.Connection) -> None:
    """Copy the records of a file of VERSION, and delete it. It is kept if some of it cannot be read."""
    log.warning("the flow log is of an earlier version: its records are taken over from %s", old_path)
    taken = left = 0
    try:
        with contextlib.closing(sqlite3.connect(Path(old_path).absolute().as_uri() + "?mode=rw", uri=True)) as old:
            new.executemany("INSERT INTO losses VALUES (?, ?, ?)", old.execute("SELECT * FROM losses"))
            if old.execute("SELECT 1 FROM sqlite_schema WHERE name = 'live'").fetchone():
                new.executemany("INSERT INTO live VALUES (?, ?)", old.execute("SELECT * FROM live"))
            found = old.execute("SELECT record FROM flows ORDER BY ended")
            while texts := found.fetchmany(CHUNK):
                pairs = _pairs([text for (text,) in texts], Words(new))
                new.execute("BEGIN IMMEDIATE")
                rows.insert(new, pairs)
                new.execute("COMMIT")
                taken, left = taken + len(pairs), left + len(texts) - len(pairs)
    except sqlite3.Error as error:
        if new.in_transaction:
            new.execute("ROLLBACK")
        log.error("%d records are taken over, the others stay in %s: %s", taken, old_path, error)
        return
    if left:
        log.error("%d records are taken over; %d cannot be read and stay in %s", taken, left, old_path)
        return
    log.warning("%d records are taken over", taken)
    for suffix in ("", "-wal", "-shm"):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(old_path + suffix)


def _pairs(texts: list[bytes], words: Words) -> list[rows.Pair]:
    pairs = []
    words.refresh()
    for text in texts:
        with contextlib.suppress(msgspec.DecodeError, ValueError, OverflowError):
            pairs.append(rows.rows_of(_decode(text), words))
    return pairs
