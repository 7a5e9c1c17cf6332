"""Rows of the flow log: small, complete, and those of an earlier version are taken over."""

from __future__ import annotations

import os
import sqlite3

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from proxy.flow.flow import new_flow_id
from proxy.flow.query import FlowQuery
from proxy.flow.record import Decision, FlowRecord, Totals
from proxy.telemetry import flowdb
from proxy.telemetry.flowread import read_rows
from proxy.telemetry.rows import COLUMNS, insert, record_of, rows_of
from proxy.telemetry.strings import HOUR_S, StringIds, Strings, delete_unused_strings
from tests.records import ALLOWED, BASE, DENIED, SECOND, make_record, records

ALL = FlowQuery(tenant="acme", limit=20_000)
_texts = st.none() | st.text(st.characters(codec="utf-8"), max_size=20)
_counts = st.integers(0, 2**62)
_times = st.none() | st.floats(0, 1e9)


@pytest.fixture
def connection(path):
    connection = flowdb.open_writer(path)
    yield connection
    connection.close()


def usual_record(number):
    """What a flow of the field looks like: every field that such a flow has."""
    start = BASE + number * 10_000_000
    return make_record(
        number,
        flow_id=new_flow_id(start),
        start=start,
        end=start + 1_234_567_891 + number,
        duration_ms=(1_234_567_891 + number) / 1e6,
        user=f"user{number % 200}@acme.example",
        device=f"device-{number % 200}",
        tunnel=f"tunnel-{number % 200:06d}",
        vnet="default",
        offramp="kernel",
        src=f"100.96.{number % 200}.2",
        src_port=1024 + number % 60_000,
        dst=f"10.50.{number % 256}.{number % 250}",
        dst_port=443,
        origin=f"10.50.{number % 256}.{number % 250}:443",
        egress_ip="192.0.2.1",
        dscp=0,
        client_tcp_ms=0.123456789,
        origin_tcp_ms=7.1,
        policy_ms=0.0,
        ttfb_ms=12.987654321,
        total=Totals(20, 3_000, 2_000 + number, 30, 40_000, 38_000 + number, 0),
        conn_state="SF",
        history="ShADadFf",
        decisions=[ALLOWED],
    )


def test_a_past_flow_takes_less_than_400_bytes(path, run):
    async def work(log):
        for number in range(20_000):
            log.submit(usual_record(number))
        await log.flush()

    run(work)
    assert os.path.getsize(path) / 20_000 < 300
    assert os.listdir(os.path.dirname(path)) == ["flows.db"]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(record=records(), data=st.data())
def test_every_field_comes_back(connection, record, data):
    decision = st.builds(Decision, st.text("ab"), st.just("[x"), st.text('é"'))
    changes = {
        **dict.fromkeys(("parent_id", "vnet", "route", "origin", "offramp", "host_source", "conn_state"), _texts),
        **dict.fromkeys(("policy_ms", "ttfb_ms"), _times),
        "community_id": st.sampled_from(["", "1:LQU9qZlK+B5F3KDmev6m5PMibrg=", "1:no"]),
        "flow_id": st.sampled_from(["0006a1b2c3d4e5f601", "0006A1B2C3D4E5F601", "any name"]),
        "history": st.sampled_from(["", "ShADadFf"]),
        "closed_by": st.sampled_from([None, "proxy"]),
        "close_reason": st.sampled_from([None, "unknown"]),
        "state": st.sampled_from(["closed", "established"]),
        "event": st.sampled_from(["end", "update"]),
        "final": st.booleans(),
        "seq": _counts,
        "duration_ms": st.floats(0, 1e9),
        "src": st.sampled_from(["10.0.0.1", "fe80::1%eth0", "::ffff:1.2.3.4"]),
        "end": st.none() | st.just(record.end),
        "total": st.builds(Totals, *[_counts] * 7),
        "delta": st.none() | st.builds(Totals, *[_counts] * 7),
        "decisions": st.lists(st.sampled_from([ALLOWED, DENIED]) | decision),
    }
    chosen = data.draw(st.fixed_dictionaries({}, optional=changes))
    changed = msgspec.structs.replace(record, **chosen)
    row, body = rows_of(changed, StringIds(connection))
    assert record_of(row, bytes(body[-1]), Strings(connection)) == changed


def test_a_field_that_rows_know_nothing_of_is_kept(connection):
    """Whatever is added to the record is stored under its name until it is given a place."""
    record = make_record(delta=Totals(1, 2, 3))
    row, body = rows_of(record, StringIds(connection))
    assert b"delta" in body[-1]
    assert len(row) == len(COLUMNS)
    assert record_of(row, bytes(body[-1]), Strings(connection)) == record


def test_strings_that_no_record_uses_are_deleted(connection):
    string_ids = StringIds(connection)
    string_ids.refresh()
    number = string_ids.id_of("used long ago")
    connection.execute("UPDATE words SET used = ? WHERE id = ?", (BASE // SECOND // HOUR_S, number))
    kept = string_ids.id_of("used now")
    delete_unused_strings(connection, BASE + 3 * HOUR_S * SECOND)
    assert connection.execute("SELECT id FROM words").fetchall() == [(kept,)]
    assert StringIds(connection).id_of("used long ago") > kept  # its number is not another text's


def test_a_string_in_use_is_not_deleted(run):
    async def work(log):
        log.submit(make_record(1, end=None, user="ann"))
        await log.flush()
        log._guard(log._enforce_age, [])  # as the writer does every ten seconds
        return await log.query(ALL)

    (flow,) = run(work).flows
    assert b'"user":"ann"' in flow.record


EARLIER = """
CREATE TABLE flows (
    flow_id TEXT PRIMARY KEY, tenant TEXT NOT NULL, started INTEGER NOT NULL, ended INTEGER NOT NULL,
    src BLOB NOT NULL, src_port INTEGER NOT NULL, dst BLOB NOT NULL, dst_port INTEGER NOT NULL,
    protocol TEXT NOT NULL, state TEXT NOT NULL, close_reason TEXT NOT NULL, user TEXT NOT NULL,
    up INTEGER NOT NULL, down INTEGER NOT NULL, duration_ms REAL NOT NULL, record BLOB NOT NULL
);
CREATE TABLE losses (tenant TEXT, minute INTEGER, count INTEGER NOT NULL, PRIMARY KEY (tenant, minute)) WITHOUT ROWID;
CREATE TABLE live (flow_id TEXT PRIMARY KEY, record BLOB NOT NULL) WITHOUT ROWID;
PRAGMA application_id = 0x4F58464C;
PRAGMA user_version = 1;
"""


def write_earlier(path, flows, record=msgspec.json.encode):
    connection = sqlite3.connect(path)
    connection.executescript(EARLIER)
    for flow in flows:
        row = (flow.flow_id, "acme", flow.start, flow.end, b"", 0, b"", 0, "tcp", "closed", "", "", 0, 0, 0.0)
        connection.execute(f"INSERT INTO flows VALUES ({','.join('?' * 16)})", (*row, record(flow)))
    connection.execute("INSERT INTO losses VALUES ('acme', ?, 7)", (BASE // SECOND // 60,))
    connection.commit()
    connection.close()


def test_records_of_an_earlier_version_are_taken_over(run, path, caplog):
    flows = [usual_record(number) for number in range(100)]
    write_earlier(path, flows)

    async def everything(log):
        return await log.query(ALL)

    page = run(everything)
    assert [msgspec.json.decode(flow.record, type=FlowRecord) for flow in page.flows] == flows[::-1]
    assert page.lost == 7
    assert os.listdir(os.path.dirname(path)) == ["flows.db"]
    assert "100 records were imported" in caplog.text


def test_what_cannot_be_taken_over_stays_where_it_is(run, path, caplog):
    write_earlier(path, [make_record(1)], record=lambda flow: b'{"schema":"oxy.flow/0"}')

    async def everything(log):
        return await log.query(ALL)

    assert run(everything).flows == []
    assert "1 cannot be read and stay in" in caplog.text
    assert any("version-1-" in name for name in os.listdir(os.path.dirname(path)))


def test_a_body_whose_word_is_gone_fails_alone(connection):
    rows = [rows_of(make_record(number, user=f"u{number}"), StringIds(connection)) for number in (1, 2)]
    insert(connection, rows)
    connection.execute("DELETE FROM words WHERE text = 'u1'")
    found = [(row[1], *row, bytes(body[-1])) for row, body in rows]
    assert [flow.flow_id for flow in read_rows(found, Strings(connection))] == ["f00000002"]
