"""Flows in short lists: each once, whoever comes and goes, and room that was left is used again."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from proxy.flow.chunks import CHUNK_SIZE, ChunkedSet


class Item:
    def __init__(self):
        self.chunk, self.chunk_index = None, 0


def items_in(chunks):
    return [item for chunk in chunks for item in chunk]


@given(st.lists(st.integers(0, 1000), max_size=80))
def test_each_item_that_was_added_and_not_removed_is_there_once(steps):
    chunks, there = ChunkedSet(), []
    for step in steps:
        for _ in range(step % 5 * 100):
            there.append(Item())
            chunks.add(there[-1])
        for _ in range(min(len(there), step % 7 * 60)):
            chunks.remove(there.pop(step % len(there)))
        assert sorted(map(id, items_in(chunks))) == sorted(map(id, there))
    assert all(item.chunk[item.chunk_index] is item for item in there)
    assert all(0 < len(chunk) <= CHUNK_SIZE for chunk in chunks)


def test_what_comes_and_goes_meanwhile_disturbs_nobody_who_looks():
    chunks, stays, goes = ChunkedSet(), [Item() for _ in range(3 * CHUNK_SIZE)], [Item() for _ in range(3 * CHUNK_SIZE)]
    for pair in zip(stays, goes, strict=True):
        for item in pair:
            chunks.add(item)
    seen = []
    for chunk in chunks:
        seen += chunk
        for _ in range(CHUNK_SIZE // 2):
            if goes:
                chunks.remove(goes.pop())
            chunks.add(Item())
    assert all(seen.count(item) == 1 for item in stays)


def test_room_that_was_left_is_used_again():
    chunks, items = ChunkedSet(), [Item() for _ in range(10 * CHUNK_SIZE)]
    for item in items:
        chunks.add(item)
    for item in items[::2]:
        chunks.remove(item)
    for _ in range(CHUNK_SIZE // 2):
        chunks.add(Item())
    assert len(list(chunks)) == 10
