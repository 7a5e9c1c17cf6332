"""What conditions become: SQL wherever SQLite can answer; a look at a text once for each text."""

from __future__ import annotations

import pytest

from proxy.flow.query import FlowQuery
from proxy.telemetry import flowdb
from proxy.telemetry.flowread import read_page
from proxy.telemetry.lost_records import LostRecords
from proxy.telemetry.rows import insert, rows_of
from proxy.telemetry.strings import StringIds
from proxy.telemetry.wheresql import where_sql
from tests.records import make_record


@pytest.mark.parametrize(
    ("text", "condition"),
    [
        ("net.dst.port == 443", "((dst_port == ?) IS TRUE)"),
        ("flow.dscp != 46 and not flow.bytes > 5", "((dscp IS NOT ?) AND (NOT (((up + down) > ?) IS TRUE)))"),
        ("net.src.ip in {10.0.0.0/8}", "((src BETWEEN ? AND ?) IS TRUE)"),
        ('flow.state == "new"', "((state IN (SELECT id FROM words WHERE text IN (?))) IS TRUE)"),
        ("net.src.port >= net.dst.port", "((src_port >= dst_port) IS TRUE)"),
        ('net.dst.host contains "wiki"', "(((dst_host IN (SELECT id FROM words WHERE where_0(text))) IS TRUE))"),
    ],
)
def test_what_sqlite_can_answer_is_left_to_it(text, condition):
    assert where_sql(text).condition == condition


@pytest.fixture
def connection(tmp_path):
    connection = flowdb.open_writer(str(tmp_path / "flows.db"))
    records = [make_record(n, user=f"user{n % 2}", src_port=1000 + n, dst_port=1000 + n % 3) for n in range(60)]
    string_ids = StringIds(connection)
    insert(connection, [rows_of(record, string_ids) for record in records])
    yield connection
    connection.close()


def test_a_text_is_looked_at_once_however_many_flows_have_it(connection, monkeypatch):
    asked = []
    written = where_sql('identity.email contains "1"')
    ((name, count, holds),) = written.functions
    noted = written._replace(functions=((name, count, lambda text: asked.append(text) or holds(text)),))
    monkeypatch.setattr("proxy.telemetry.wheresql.where_sql", lambda text: noted)
    page = read_page(connection, FlowQuery(tenant="acme", where='identity.email contains "1"'), LostRecords())
    assert len(page.flows) == 30
    assert sorted(set(asked)) == sorted(asked)
    assert {"user0", "user1"} <= set(asked)


@pytest.mark.parametrize("where", ["net.src.port == net.dst.port", 'to_string(net.src.port) ~ "^100[012]$"'])
def test_columns_are_compared_in_each_row(connection, where):
    found = read_page(connection, FlowQuery(tenant="acme", where=where), LostRecords())
    assert [flow.flow_id for flow in found.flows] == [f"f{n:08d}" for n in (2, 1, 0)]
