"""A child record comes back from its row as it was, whichever kind it is."""

from __future__ import annotations

import sqlite3
from contextlib import closing

import pytest
from hypothesis import given, settings

from proxy.telemetry import childrows, strings
from proxy.telemetry.childrows import COLUMNS, LAYOUTS, MAX_PATH_CHARACTERS, child_of, insert_children, row_of
from proxy.telemetry.strings import StringIds, Strings
from tests.children import children, make_request


def store(*records):
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.executescript(f"{strings.TABLE};{childrows.TABLE}")
        insert_children(connection, [row_of(record, StringIds(connection)) for record in records])
        rows = connection.execute(f"SELECT {', '.join(COLUMNS)} FROM children ORDER BY number").fetchall()
        return [child_of(row, Strings(connection)) for row in rows]


@settings(max_examples=60, deadline=None)
@given(children())
def test_a_child_comes_back_as_it_was(child):
    assert store(child) == [child]


@pytest.mark.parametrize("type_", LAYOUTS)
def test_every_field_of_a_child_has_a_place(type_):
    layout = LAYOUTS[type_]
    placed = {
        *COLUMNS,
        *layout[:-2],
        *layout.strings,
        *layout.others,
        "schema",
        "start",
        "duration_ms",
        "time",
        "is_open",
    }
    assert set(type_.__struct_fields__) <= placed


def test_a_path_is_cut_where_it_would_fill_the_disk():
    (found,) = store(make_request(path="/" + "a" * 60_000))
    assert len(found.path) == MAX_PATH_CHARACTERS


def test_a_request_takes_less_than_150_bytes():
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.executescript(f"{strings.TABLE};{childrows.TABLE};{childrows.INDEX}")
        numbers, count = StringIds(connection), 2_000
        requests = [make_request(number, path=f"/p/{number}") for number in range(count)]
        insert_children(connection, [row_of(request, numbers) for request in requests])
        (pages,) = connection.execute("PRAGMA page_count").fetchone()
    assert pages * 4096 / count < 150
