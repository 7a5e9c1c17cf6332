"""The flows of a tenant in short lists, so that all of them can be read while others begin and end.

To copy a table of a million flows takes a tenth of a second, in which no packet moves; a table itself must not change
while somebody reads it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

ROOM = 250  # items of one list: positions below 257 are integers that Python keeps, and cost no memory


class Shelved(Protocol):
    """An item with room for its list, and its position there."""

    shelf: list[Any] | None
    place: int


class Shelves:
    """Items in lists of at most ROOM; adding and removing one takes constant time."""

    def __init__(self) -> None:
        self._shelves: dict[int, list[Any]] = {}  # by the identity of each, those that hold something
        self._open: list[Any] = []

    def put(self, item: Shelved) -> None:
        """Add an item that is in no list yet."""
        shelf = self._open
        if len(shelf) >= ROOM:
            shelf = self._open = []
        if not shelf:
            self._shelves[id(shelf)] = shelf
        item.shelf, item.place = shelf, len(shelf)
        shelf.append(item)

    def take(self, item: Shelved) -> None:
        """Remove an item; the last one of its list takes its place."""
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
        """Each list as it is when it is reached: an item that stays throughout comes exactly once."""
        for shelf in list(self._shelves.values()):
            yield shelf.copy()
