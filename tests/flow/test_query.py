"""Queries: what text means, what it matches, and that nonsense is named."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.flow.parameters import (
    LIST_PARAMETERS,
    MAX_ALTERNATIVES,
    WATCH_PARAMETERS,
    QueryError,
    parse_duration,
    parse_query,
    parse_size,
    parse_time,
)
from proxy.flow.query import MAX_LIMIT, SORT_KEYS, FlowQuery, StoredFlow, matches, packed, sort_flows
from proxy.flow.record import Totals
from tests.records import BASE, SECOND, live_record, make_record, records

NOW = datetime(2025, 6, 15, 15, 0, tzinfo=timezone(timedelta(hours=2)))
NOW_NS = int(NOW.timestamp()) * SECOND


def query(**parameters: str | list[str]) -> FlowQuery:
    pairs = [("tenant", "acme")]
    for name, value in parameters.items():
        pairs += [(name, text) for text in ([value] if isinstance(value, str) else value)]
    return parse_query(pairs, NOW)


def test_tenant_is_required():
    with pytest.raises(QueryError, match="tenant is required"):
        parse_query([("protocol", "tcp")], NOW)


def test_every_tenant_must_be_asked_for():
    assert parse_query([("all_tenants", "true")], NOW).tenant is None
    with pytest.raises(QueryError, match="tenant is required"):
        parse_query([("all_tenants", "false")], NOW)
    with pytest.raises(QueryError, match="contradict"):
        parse_query([("all_tenants", "true"), ("tenant", "acme")], NOW)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("protocl", "tcp", "unknown parameter 'protocl'; did you mean 'protocol'?"),
        ("protocol", "tpc", "protocol: unknown value 'tpc'; did you mean 'tcp'?"),
        ("offramp", "kernal", "offramp: unknown value 'kernal'; did you mean 'kernel'?"),
        ("close_reason", "client_close", "close_reason: unknown value 'client_close'; did you mean 'client_closed'?"),
        ("sort", "byte", "sort: unknown field 'byte'; did you mean 'bytes'?"),
        ("sort", "bytes:up", "sort: unknown direction 'up'; write bytes:asc or bytes:desc"),
        ("src", "10.0.0.0/33", "src: not an address or prefix: '10.0.0.0/33'"),
        ("port", "80-70", "port: not a port: '80-70' (write 443 or 8000-8099)"),
        ("port", "65536", "port: not a port: '65536' (write 443 or 8000-8099)"),
        ("limit", "0", f"limit: not a number from 1 to {MAX_LIMIT}: '0'"),
        ("limit", "²", f"limit: not a number from 1 to {MAX_LIMIT}: '²'"),
        ("min_bytes", "many", "min_bytes: not a size: 'many' (write 1500, 10k, 1.5M or 2GiB)"),
        ("tenant", "globex", "tenant: given twice"),
        ("user", "", "user: must not be empty"),
        ("not_port", "80-70", "not_port: not a port: '80-70' (write 443 or 8000-8099)"),
        ("dscp", "64", "dscp: not a DSCP: '64' (0 to 63)"),
        ("version", "5", "version: not a version of IP: '5' (4 or 6)"),
        ("community_id", "LQU9", "community_id: not a community id: 'LQU9' (write 1: and 28 characters)"),
        ("where", "net.dst.prt == 443", "where: 1:1: unknown field 'net.dst.prt'; did you mean 'net.dst.port'?"),
        ("all_tenants", "yes", "all_tenants: expected true or false (found 'yes')"),
    ],
)
def test_a_mistake_is_named(name, text, message):
    with pytest.raises(QueryError) as caught:
        query(**{name: text}) if name != "tenant" else parse_query([("tenant", "acme"), (name, text)], NOW)
    assert str(caught.value) == message


def test_alternatives_are_bounded():
    with pytest.raises(QueryError, match="more than"):
        query(port=["80"] * (MAX_ALTERNATIVES + 1))


def test_until_before_since_is_refused():
    with pytest.raises(QueryError, match="before since"):
        query(since="5m", until="10m")


def test_watch_takes_no_window_and_no_order():
    for name, text in (("since", "5m"), ("sort", "bytes"), ("limit", "5"), ("scope", "live")):
        with pytest.raises(QueryError, match=f"unknown parameter '{name}'"):
            parse_query([("tenant", "acme"), (name, text)], NOW, WATCH_PARAMETERS)


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("5m", 300), ("1h30m", 5400), ("250ms", 0.25), ("7d", 604_800), ("1.5h", 5400)]
)
def test_durations(text, seconds):
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "5", "m", "5 m", "-5m", "5mm3", "٣m", "1e3s"])
def test_not_a_duration(text):
    with pytest.raises(ValueError, match="not a duration"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("5m", NOW_NS - 300 * SECOND),
        ("2025-06-15T12:00:00Z", NOW_NS - 3600 * SECOND),
        ("2025-06-15T15:00:00", NOW_NS),  # without a zone: ours
        ("2025-06-15", NOW_NS - 15 * 3600 * SECOND),
        ("14:30", NOW_NS - 1800 * SECOND),
        (str(NOW_NS), NOW_NS),  # as records carry it
    ],
)
def test_times(text, moment):
    assert parse_time(text, NOW) == moment


@pytest.mark.parametrize(
    "text", ["", "yesterday", "300", "2025-13-01", "25:00", "99999999999999999999", "9" * 400 + "d"]
)
def test_not_a_time(text):
    with pytest.raises(ValueError, match="not a time"):
        parse_time(text, NOW)


@pytest.mark.parametrize(
    ("text", "count"), [("1500", 1500), ("10k", 10_000), ("1.5M", 1_500_000), ("2GiB", 2 << 30), ("3 KB", 3000)]
)
def test_sizes(text, count):
    assert parse_size(text) == count


@given(st.lists(st.tuples(st.sampled_from([*LIST_PARAMETERS, "x", ""]), st.text(max_size=30))))
def test_any_text_is_a_query_or_a_query_error(pairs):
    try:
        result = parse_query([("tenant", "acme"), *pairs], NOW)
    except QueryError:
        return
    assert result.tenant == "acme"
    assert 1 <= result.limit <= MAX_LIMIT


@pytest.mark.parametrize(
    ("filters", "hits"),
    [
        ({"src": "100.96.0.0/16"}, True),
        ({"src": "10.50.0.0/16"}, False),
        ({"src": "100.96.0.77/16"}, True),  # bits beyond the prefix are ignored
        ({"ip": "10.50.0.10"}, True),
        ({"ip": "100.96.0.2"}, True),
        ({"ip": "::/0"}, False),  # families do not mix
        ({"ip": "0.0.0.0/0"}, True),
        ({"dst": ["fd00::/8", "10.50.0.10"]}, True),  # alternatives
        ({"dst": "[10.50.0.10]"}, True),  # as beside a port
        ({"dst": "10.50.0.10", "src": "10.0.0.1"}, False),  # narrowing
        ({"port": "80"}, True),
        ({"port": "40000"}, True),
        ({"src_port": "80"}, False),
        ({"dst_port": "1-1023"}, True),
        ({"protocol": ["udp", "tcp"]}, True),
        ({"protocol": "icmp"}, False),
        ({"state": "established"}, False),
        ({"close_reason": "client_closed"}, True),
        ({"user": "someone"}, False),
        ({"min_bytes": "2100"}, True),
        ({"min_bytes": "2101"}, False),
        ({"min_duration": "2s"}, True),
        ({"min_duration": "2001ms"}, False),
        ({"id": "f00000000"}, True),
        ({"id": "f00000001"}, False),
    ],
)
def test_filters(filters, hits):
    assert matches(query(**filters), make_record()) is hits


def test_another_tenants_flow_never_matches():
    assert not matches(query(), make_record(tenant="globex"))
    assert matches(parse_query([("all_tenants", "true")], NOW), make_record(tenant="globex"))


@pytest.mark.parametrize(
    ("since", "until", "hits"),
    [(0, 1, False), (0, 5, True), (6, 6, True), (7, 9, True), (8, 9, False), (5, None, True)],
)
def test_a_window_selects_what_was_alive_in_it(since, until, hits):
    record = make_record(5)  # alive from second 5 to 7
    window = FlowQuery(
        tenant="acme", since=BASE + since * SECOND, until=None if until is None else BASE + until * SECOND
    )
    assert matches(window, record) is hits


def test_a_live_flow_is_in_every_window_after_its_start():
    assert matches(FlowQuery(tenant="acme", since=BASE + 10**6 * SECOND), live_record())
    assert not matches(FlowQuery(tenant="acme", until=BASE - 1), live_record())


def test_addresses_sort_by_number():
    shuffled = ["::1", "100.0.0.1", "fe80::1%eth0", "9.0.0.1", "10.0.0.1"]
    assert sorted(shuffled, key=packed) == ["9.0.0.1", "10.0.0.1", "100.0.0.1", "::1", "fe80::1%eth0"]


@given(st.lists(records(), max_size=20), st.sampled_from(sorted(SORT_KEYS)), st.booleans())
def test_sorting_has_one_answer(flows, field, descending):
    asked = FlowQuery(tenant=None, sort=field, descending=descending)
    stored = [StoredFlow(SORT_KEYS[field](record), record.flow_id, b"") for record in flows]
    keys = [flow[:2] for flow in sort_flows(stored, asked)]
    assert keys == sorted(keys, reverse=descending)
    assert keys == [flow[:2] for flow in sort_flows(reversed(stored), asked)]


def test_a_flow_that_lives_ends_last():
    assert SORT_KEYS["end"](live_record()) > SORT_KEYS["end"](make_record(10**6))


def test_payload_is_what_counts():
    loud = make_record(total=Totals(client_bytes=10**6, origin_bytes=10**6))
    assert not matches(query(min_bytes="1"), loud)


def test_a_query_does_not_change():
    with pytest.raises(AttributeError):
        query().tenant = "globex"  # type: ignore[misc]
    assert msgspec.structs.replace(query(), limit=1).limit == 1
