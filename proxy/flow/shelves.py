"""The flows of a tenant in short lists, so that somebody can look at all of them while others begin and end.

To copy a table of a million flows takes a tenth of a second, in which no packet moves; a table itself must not change
while somebody reads it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

ROOM = 250  # items of one list: positions below 257 are integers that Python keeps, and cost no memory


class Shelved(Protocol):
    """An item with room for the list that it stands in, and where."""

    shelf: list[Any] | None
    place: int


class Shelves:
    """Items in lists of at most ROOM; to put and to take one costs the same however many there are."""

    def __init__(self) -> None:
        self._shelves: dict[int, list[Any]] = {}  # by the identity of each, those that hold something
        self._open: list[Any] = []

    def put(self, item: Shelved) -> None:
        """Add an item that stands nowhere yet."""
        shelf = self._open
        if len(shelf) >= ROOM:
            shelf = self._open = []
        if not shelf:
            self._shelves[id(shelf)] = shelf
        item.shelf, item.place = shelf, len(shelf)
        shelf.append(item)

    def take(self, item: Shelved) -> None:
        """Take an item out; the last of its list has its place then."""
        shelf = item.shelf
        assert shelf is not None
        last = shelf.pop()
        if last is not item:
            shelf[item.place] = last
            last.place = item.place
        item.shelf = None
        if not shelf:
            del self._shelves[id(shelf)]
        if len(shelf) < len(self._open):  # room is used again before new lists are begun
            self._open = shelf

    def __iter__(self) -> Iterator[list[Any]]:
        """Each list as it is when it is asked for: what is there all the time comes once."""
        for shelf in list(self._shelves.values()):
            yield shelf.copy()
