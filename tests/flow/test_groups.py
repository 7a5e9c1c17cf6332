"""Flows counted together: the sums add up, and the first groups are the first."""

from __future__ import annotations

import asyncio
import contextlib
from datetime import UTC, datetime

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from proxy.flow.groups import GROUP_FIELDS, GROUP_SORTS, GroupCounter, GroupsQuery, Ranking
from proxy.flow.parameters import QueryError, parse_groups
from proxy.flow.query import RECORD_GETTERS, Window, predicate
from proxy.telemetry import flowdb
from proxy.telemetry.flowgroups import display_value, read_groups
from proxy.telemetry.livescan import count_groups
from proxy.telemetry.lost_records import LostRecords
from proxy.telemetry.rows import insert, rows_of
from proxy.telemetry.strings import StringIds
from tests.flows import make_flow, make_tenant
from tests.queries import queries
from tests.records import make_record, records

NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        ([], "by is required"),
        ([("by", "usr")], "by: unknown field 'usr'; did you mean 'user'?"),
        ([("by", "user,user")], "by: at most 6 fields, each once"),
        ([("by", "user"), ("by", "src")], "by: given twice"),
        ([("by", "user"), ("sort", "flow")], "sort: groups have no 'flow'; did you mean 'flows'?"),
        ([("by", "user"), ("sort", "flows:up")], "sort: unknown direction 'up'"),
        ([("by", "user"), ("protocol", "tpc")], "protocol: unknown value 'tpc'"),
    ],
)
def test_a_mistake_is_named(pairs, message):
    with pytest.raises(QueryError) as caught:
        parse_groups([("tenant", "acme"), *pairs], NOW)
    assert message in str(caught.value)


by_fields = st.lists(st.sampled_from(GROUP_FIELDS), min_size=1, max_size=3, unique=True).map(tuple)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(flows=st.lists(records(), max_size=15, unique_by=lambda record: record.flow_id), data=st.data())
def test_sql_and_python_agree_on_every_sum(tmp_path, flows, data):
    sort = data.draw(st.sampled_from(GROUP_SORTS))
    query = GroupsQuery(
        flows=data.draw(queries()), by=data.draw(by_fields), sort=sort, descending=data.draw(st.booleans())
    )
    counting, ranking = GroupCounter(query.by, RECORD_GETTERS), Ranking(query, display_value)
    for record in filter(predicate(query.flows), flows):
        counting.add(record)
    for key, sums in counting.sums.items():
        ranking.add(key, sums)
    with contextlib.closing(flowdb.open_writer(str(tmp_path / "flows.db"))) as connection:
        connection.execute("DELETE FROM flows")
        connection.execute("DELETE FROM bodies")
        string_ids = StringIds(connection)
        insert(connection, [rows_of(record, string_ids) for record in flows])
        found = read_groups(connection, query, {}, LostRecords())
        doubled = read_groups(connection, query, dict(counting.sums), LostRecords())
    expected = ranking.page(Window(None, 0, None), 0)
    assert (found.groups, found.truncated) == (expected.groups, expected.truncated)
    assert sum(group.sums.flows for group in doubled.groups) == 2 * sum(group.sums.flows for group in found.groups)


def test_live_flows_are_counted():
    tenant = make_tenant()
    for number in range(3):
        flow = make_flow(tenant, source_port=40_000 + number, destination_port=80 if number else 443)
        flow.client_payload = 10
        tenant.add(6, flow)
    query = parse_groups([("tenant", "acme"), ("by", "dst_port")], NOW)
    sums = asyncio.run(count_groups([tenant], query.flows, query.by, lambda flows: None, set()))
    assert {key: (each.flows, each.live, each.up, each.last) for key, each in sums.items()} == {
        (80,): (2, 2, 20, None),
        (443,): (1, 1, 10, None),
    }


def test_a_flow_that_ends_after_it_was_counted_is_counted_once(tmp_path):
    query = parse_groups([("tenant", "acme"), ("by", "user")], NOW)
    flows = [make_record(number, user="ann") for number in range(5)]
    seen = flows[:3]
    counting = GroupCounter(query.by, RECORD_GETTERS)
    for record in seen:
        counting.add(record)
    with contextlib.closing(flowdb.open_writer(str(tmp_path / "flows.db"))) as connection:
        insert(connection, [rows_of(record, StringIds(connection)) for record in flows])
        ended = {record.flow_id: record.end for record in seen}
        (group,) = read_groups(connection, query, counting.sums, LostRecords(), ended).groups
    assert (group.sums.flows, group.sums.up) == (5, 500)
