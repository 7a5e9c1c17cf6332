"""Child records: who may say what of whom, what is open, and what the store answers about them."""

from __future__ import annotations

import sqlite3
from contextlib import closing

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from proxy.flow.child import ChildQuery, child_predicate, end_of
from proxy.flow.query import Filters, FlowQuery
from proxy.telemetry.children import MAX_OPEN, Children
from tests.children import FLOW, child_queries, children, make_channel, make_request
from tests.records import make_record


def told(children_, record, flow_id=FLOW, tenant="acme"):
    children_.add(flow_id, tenant, type(record).__name__, msgspec.json.encode(record))


@pytest.fixture
def ended():
    return []


@pytest.fixture
def taking(ended):
    return Children(ended.append)


def test_a_child_that_has_ended_goes_to_the_store_and_to_sinks(taking, ended):
    lines = []
    taking.subscribe(lambda child, data: lines.append(data))
    record = make_request()
    told(taking, record)
    assert ended == [record]
    assert lines == [msgspec.json.encode(record)]


@pytest.mark.parametrize("changes", [{"tenant": "globex"}, {"flow_id": "other"}, {"request_id": "other.1"}])
def test_an_inspector_that_speaks_of_another_flow_is_not_heard(taking, ended, changes):
    told(taking, msgspec.structs.replace(make_request(), **changes))
    assert (ended, taking.rejected) == ([], 1)


@pytest.mark.parametrize(("name", "data"), [("RequestRecord", b"{}"), ("Other", b"{}"), ("RequestRecord", b"\xff")])
def test_what_is_no_record_is_counted(taking, ended, name, data):
    taking.add(FLOW, "acme", name, data)
    assert (ended, taking.rejected) == ([], 1)


def test_an_open_child_is_kept_until_its_end_is_told(taking, ended):
    query = ChildQuery(tenant="acme", method=("GET",))
    told(taking, make_request(is_open=True, status=None))
    assert [child.request_id for child in taking.open(query)] == [f"{FLOW}.1"]
    assert list(taking.flows_with_children("acme")) == [FLOW]
    assert ended == []
    told(taking, make_request())
    assert taking.open(query) == []
    assert [child.is_open for child in ended] == [False]


def test_what_is_open_when_its_flow_ends_ends_with_it(taking, ended):
    told(taking, make_channel(is_open=True, exit_status=None))
    flow = make_record(flow_id=FLOW)
    taking.flow_ended(flow)
    (child,) = ended
    assert not child.is_open
    assert end_of(child) == flow.end
    assert list(taking.flows_with_children(None)) == []


def test_a_child_that_ends_while_children_are_listed_comes_once_as_it_ended(run):
    async def work(log):
        taking = Children(log.submit_child)
        told(taking, make_request(1, is_open=True, status=None))
        told(taking, make_request(2, is_open=True, status=None))

        async def stored(query):
            told(taking, make_request(1))
            return await log.children(query)

        return await taking.list_children(ChildQuery(tenant="acme"), stored)

    page = run(work)
    assert [(each.record.request_id[-1], each.record.is_open) for each in page.children] == [("2", True), ("1", False)]


def test_open_children_of_one_flow_are_bounded(taking):
    for number in range(1, MAX_OPEN + 3):
        told(taking, make_request(number, is_open=True))
    assert len(taking.open(ChildQuery(tenant=None))) == MAX_OPEN


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), kept=st.lists(children(), max_size=12))
def test_the_store_finds_what_the_filters_mean(data, kept, run, path):
    asked = [data.draw(child_queries()) for _ in range(4)]

    async def work(log):
        for child in kept:
            log.submit_child(child)
        return [await log.children(query) for query in asked]

    for query, page in zip(asked, run(work), strict=True):
        assert [each.record for each in page.children] == list(filter(child_predicate(query), reversed(kept)))
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("DELETE FROM children")


def test_pages_follow_each_other(run):
    async def work(log):
        for number in range(1, 6):
            log.submit_child(make_request(number))
        first = await log.children(ChildQuery(tenant="acme", limit=2))
        then = await log.children(ChildQuery(tenant="acme", limit=10, before=first.children[-1].number))
        return first, then

    first, then = run(work)
    assert [child.record.request_id[-1] for child in (*first.children, *then.children)] == ["5", "4", "3", "2", "1"]
    assert (first.truncated, then.truncated) == (True, False)


def test_the_oldest_go_when_there_are_too_many_and_with_their_flow(run, path):
    async def work(log):
        for number in range(1, 8):
            log.submit_child(make_request(number))
        return await log.children(ChildQuery(tenant=None))

    assert len(run(work, max_children=5).children) == 5

    async def replace_flow(log):
        log.submit(make_record(1, flow_id=FLOW))
        await log.flush()
        log.submit(make_record(2))
        return await log.children(ChildQuery(tenant=None))

    assert run(replace_flow, max_rows=1).children == []


def test_a_full_queue_loses_children_before_the_ends_of_flows(run):
    async def work(log):
        for number in range(20):
            log.submit_child(make_request(number))
        for number in range(5):
            log.submit(make_record(number))
        flows = await log.query(FlowQuery(tenant="acme"))
        return flows, await log.children(ChildQuery(tenant="acme"))

    flows, requests = run(work, queue_records=10)
    assert len(flows.flows) == 5
    assert 0 < len(requests.children) < 20
    assert requests.lost == 20 - len(requests.children)


REQUESTS = [
    make_request(1, flow_id="f00000001", status=404, host="wiki.lab"),
    make_request(2, flow_id="f00000001", status=200, host="git.lab", method="POST"),
    make_request(3, flow_id="f00000002", status=200, path="/admin"),
]
FLOWS_WITH = [
    ({"http_status": ((400, 499),)}, ["f00000001"]),
    ({"http_status": ((400, 499),), "host": ("git.lab",)}, []),  # both of one request
    ({"http_method": ("POST",), "host": ("git.*",)}, ["f00000001"]),
    ({"url": ("*/admin",)}, ["f00000002"]),
    ({"http_method": ("PUT",)}, []),
]


@pytest.mark.parametrize(("filters", "expected"), FLOWS_WITH)
def test_flows_are_found_by_their_requests(run, filters, expected):
    async def work(log):
        for number in (1, 2, 3):
            log.submit(make_record(number))
        for child in REQUESTS:
            log.submit_child(child)
        wanted = await log.query(FlowQuery(tenant="acme", **filters))
        others = await log.query(FlowQuery(tenant="acme", excluded=Filters(**filters)))
        return wanted, others

    wanted, others = run(work)
    assert [flow.flow_id for flow in wanted.flows] == expected
    if "host" not in filters:
        assert sorted(flow.flow_id for flow in others.flows) == sorted(
            {"f00000001", "f00000002", "f00000003"} - {*expected}
        )
