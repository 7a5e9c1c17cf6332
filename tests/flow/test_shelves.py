"""Flows in short lists: each once, whoever comes and goes, and room that was left is used again."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from proxy.flow.shelves import ROOM, Shelves


class Item:
    def __init__(self):
        self.shelf, self.place = None, 0


def stands(shelves):
    return [item for shelf in shelves for item in shelf]


@given(st.lists(st.integers(0, 1000), max_size=80))
def test_what_was_put_and_not_taken_stands_there_once(steps):
    shelves, there = Shelves(), []
    for step in steps:
        for _ in range(step % 5 * 100):
            there.append(Item())
            shelves.put(there[-1])
        for _ in range(min(len(there), step % 7 * 60)):
            shelves.take(there.pop(step % len(there)))
        assert sorted(map(id, stands(shelves))) == sorted(map(id, there))
    assert all(item.shelf[item.place] is item for item in there)
    assert all(0 < len(shelf) <= ROOM for shelf in shelves)


def test_what_comes_and_goes_meanwhile_disturbs_nobody_who_looks():
    shelves, stays, goes = Shelves(), [Item() for _ in range(3 * ROOM)], [Item() for _ in range(3 * ROOM)]
    for pair in zip(stays, goes, strict=True):
        for item in pair:
            shelves.put(item)
    seen = []
    for shelf in shelves:
        seen += shelf
        for _ in range(ROOM // 2):
            if goes:
                shelves.take(goes.pop())
            shelves.put(Item())
    assert all(seen.count(item) == 1 for item in stays)


def test_room_that_was_left_is_used_again():
    shelves, items = Shelves(), [Item() for _ in range(10 * ROOM)]
    for item in items:
        shelves.put(item)
    for item in items[::2]:
        shelves.take(item)
    for _ in range(ROOM // 2):
        shelves.put(Item())
    assert len(list(shelves)) == 10
