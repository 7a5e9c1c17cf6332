"""`oxyctl flows sql`: DuckDB over the flows of a proxy."""

from __future__ import annotations

import json
import sys

import pytest

from proxy.flow.record import Totals
from tests.records import ALLOWED, live_record, make_record

ACME = ("--tenant", "acme")


@pytest.fixture(autouse=True)
def some(proxy):
    proxy.past = [
        make_record(n, user="ann" if n else "bob", total=Totals(1, 2, n), decisions=[ALLOWED]) for n in range(3)
    ]
    proxy.live = [live_record(5, user=None)]


def test_sums_by_user(flows):
    statement = (
        "select user, count(*) n, sum(client_payload_bytes) up from flows where user is not null group by 1 order by 1"
    )
    code, out, _ = flows("sql", *ACME, "--format", "json", statement)
    assert (code, json.loads(out)["items"]) == (0, [{"user": "ann", "n": 2, "up": 3}, {"user": "bob", "n": 1, "up": 0}])


def test_times_are_timestamps_and_decisions_json(flows):
    statement = (
        """select "end" - "start" as lasted, decisions->0->>'policy' as policy from flows where flow_id = 'f00000001'"""
    )
    lines = flows("sql", *ACME, statement).lines
    assert lines[0].split() == ["lasted", "policy"]
    assert lines[1].split() == ["0:00:02", "default"]


def test_filters_choose_what_is_in_the_table(flows):
    assert flows("sql", *ACME, "--past", "--not", "--user", "bob", "select count(*) from flows").lines[1].split() == [
        "2"
    ]


@pytest.mark.parametrize("statement", ["selct 1", "select nothing from flows"])
def test_a_mistake_is_told(flows, statement):
    code, out, err = flows("sql", *ACME, statement)
    assert (code, out) == (2, "")
    assert err.startswith("error: sql: ")


def test_without_duckdb_it_says_what_to_install(flows, monkeypatch):
    monkeypatch.setitem(sys.modules, "duckdb", None)
    code, _, err = flows("sql", *ACME, "select 1")
    assert (code, err) == (1, "error: `oxyctl flows sql` needs DuckDB: pip install 'oxyctl[analysis]'\n")
