"""Strings that many records share are stored once, in the table `words`, and deleted when no record uses them."""

from __future__ import annotations

import sqlite3
import time

HOUR_S = 3600
MAX_CACHED = 50_000
TABLE = """
CREATE TABLE words (id INTEGER PRIMARY KEY AUTOINCREMENT, text TEXT NOT NULL UNIQUE, used INTEGER NOT NULL);
"""  # `used`: the hour of Unix time in which a record last needed it. Ids are never reused.


class StringIds:
    """Ids of strings for one writing connection. Recreated with the connection, as a rollback may undo some."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._ids: dict[str, int] = {}
        self._hour = 0

    def refresh(self) -> None:
        """Begin a batch. Once an hour every string in use is marked as used again."""
        hour = int(time.time()) // HOUR_S
        if hour != self._hour or len(self._ids) > MAX_CACHED:
            self._hour = hour
            self._ids.clear()

    def id_of(self, text: str | None) -> int | None:
        """The id of `text`, created if needed; None for None."""
        if text is None:
            return None
        return self._ids.get(text) or self._insert(text)

    def _insert(self, text: str) -> int:
        statement = """INSERT INTO words (text, used) VALUES (?, ?)
            ON CONFLICT (text) DO UPDATE SET used = max(used, excluded.used) RETURNING id"""
        string_id: int = self._connection.execute(statement, (text, self._hour)).fetchone()[0]
        self._ids[text] = string_id
        return string_id


class Strings:
    """Strings by id, for one reading connection."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._texts: dict[int, str] = {}

    def text(self, string_id: int | None) -> str | None:
        """The string with this id; None for None. Raises LookupError if the file does not have it."""
        if string_id is None:
            return None
        found = self._texts.get(string_id)
        if found is None:
            row = self._connection.execute("SELECT text FROM words WHERE id = ?", (string_id,)).fetchone()
            if row is None:
                raise LookupError(f"the flow log has no string {string_id}")
            found = self._texts[string_id] = row[0]
        return found


def delete_unused_strings(connection: sqlite3.Connection, before: int) -> None:
    """Delete strings that no record which ended at or after Unix ns `before` can use."""
    hour = before // (HOUR_S * 10**9) - 1
    connection.execute("DELETE FROM words WHERE used < ?", (hour,))
