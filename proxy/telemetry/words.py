"""Stores strings that many records share once: `words` numbers them, and unused ones are deleted."""

from __future__ import annotations

import sqlite3
import time

HOUR_S = 3600
MOST_CACHED = 50_000
TABLE = """
CREATE TABLE words (id INTEGER PRIMARY KEY AUTOINCREMENT, text TEXT NOT NULL UNIQUE, used INTEGER NOT NULL);
"""  # `used`: the hour of Unix time in which a record last needed it. Numbers are never reused.


class Words:
    """Numbers of texts for one writing connection. Recreated with the connection, as a rollback may undo some."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._numbers: dict[str, int] = {}
        self._hour = 0

    def refresh(self) -> None:
        """Begin a batch. Once an hour every word in use is marked again."""
        hour = int(time.time()) // HOUR_S
        if hour != self._hour or len(self._numbers) > MOST_CACHED:
            self._hour = hour
            self._numbers.clear()

    def number(self, text: str | None) -> int | None:
        """The number of `text`, created if needed; None for None."""
        if text is None:
            return None
        return self._numbers.get(text) or self._find(text)

    def _find(self, text: str) -> int:
        statement = """INSERT INTO words (text, used) VALUES (?, ?)
            ON CONFLICT (text) DO UPDATE SET used = max(used, excluded.used) RETURNING id"""
        number: int = self._connection.execute(statement, (text, self._hour)).fetchone()[0]
        self._numbers[text] = number
        return number


class Texts:
    """The reverse, for one reading connection."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._texts: dict[int, str] = {}

    def text(self, number: int | None) -> str | None:
        """The text of that number; None for None. Raises LookupError if the file does not have it."""
        if number is None:
            return None
        found = self._texts.get(number)
        if found is None:
            row = self._connection.execute("SELECT text FROM words WHERE id = ?", (number,)).fetchone()
            if row is None:
                raise LookupError(f"the flow log has no word {number}")
            found = self._texts[number] = row[0]
        return found


def forget_words(connection: sqlite3.Connection, before: int) -> None:
    """Delete words that no record which ended at or after Unix ns `before` can use."""
    hour = before // (HOUR_S * 10**9) - 1
    connection.execute("DELETE FROM words WHERE used < ?", (hour,))
