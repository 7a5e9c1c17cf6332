"""`oxyctl flows requests`, and requests where flows are shown, explained, exported and asked for in SQL."""

from __future__ import annotations

import csv
import io
import json

import pytest
from haralyzer import HarParser

from oxyctl.cli import flow_query
from oxyctl.render.har import entry
from proxy.control.schema import Decision
from tests.children import make_request
from tests.records import make_record

ACME = ("--tenant", "acme")
FLOW = "f00000001"
BLOCKED = Decision("http", "web", "block", rule="no-uploads", reason="ask the help desk")


@pytest.fixture(autouse=True)
def some(proxy):
    proxy.past = [make_record(1, level="http"), make_record(2)]
    proxy.children = [
        make_request(1, flow_id=FLOW, path="/index.html?lang=en&x="),
        make_request(2, flow_id=FLOW, method="POST", status=403, verdict="denied", decisions=[BLOCKED], ttfb_ms=None,
                     request_body_bytes=5, request_type="text/plain"),
        make_request(3, flow_id=FLOW, status=502, fault="origin_refused", fault_by="origin", detail="nobody listens",
                     user_agent="curl/8"),
        make_request(4, flow_id=FLOW, host="git.lab", path="/events", is_open=True, upgrade="websocket"),
        make_request(5, flow_id="f00000009", tenant="globex"),
    ]  # fmt: skip


def numbers(result):
    return [item["request_id"].rpartition(".")[2] for item in json.loads(result.out)["items"]]


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("", "4321"),
        ("--http-status 4xx", "2"),
        ("--http-status 4xx --http-status 502", "32"),
        ("--http-method post --host wiki.*", "2"),
        ("--not --http-status 200", "32"),
        ("--url https://wiki.lab/index.html*", "321"),
        ("--fault origin_refused", "3"),
        ("--verdict denied --id f00000001", "2"),
        ("--limit 1", "4"),
    ],
)
def test_filters(flows, typed, expected):
    assert "".join(numbers(flows("requests", *ACME, "--format", "json", *typed.split()))) == expected


def test_a_table_has_what_people_look_for(flows):
    header, *lines = flows("requests", *ACME).lines
    assert header.split()[:4] == ["TIME", "METHOD", "STATUS", "URL"]
    assert "https://git.lab/events" in lines[0]
    assert "no-uploads" in lines[2]


def test_csv_with_chosen_fields(flows):
    rows = csv.reader(io.StringIO(flows("requests", *ACME, "--format", "csv", "--fields", "status,url").out))
    assert next(rows) == ["status", "url"]
    assert ["502", "https://wiki.lab/index.html?lang=en"] in rows


@pytest.mark.parametrize(
    ("typed", "problem"),
    [
        ("requests -t acme --http-status 6xx", "--http-status: not a status: '6xx'"),
        ("requests -t acme --fields nothing", "unknown field 'nothing'"),
        ("requests -t acme --verdict deny", "--verdict: unknown value 'deny'; did you mean 'denied'"),
        ("-t acme --http-status abc", "--http-status: not a status: 'abc'"),
        ("--follow -t acme --http-status 404", "--http-status does not apply to future events"),
        ("export -t acme --format har --port 443", "--port does not apply to requests"),
        ("requests", "--tenant is required"),
    ],
)
def test_mistakes_are_one_line(flows, typed, problem):
    code, out, err = flows(*typed.split())
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert problem in err


def test_a_flow_is_shown_with_its_requests(flows):
    found = json.loads(flows("get", *ACME, FLOW, "--format", "json").out)
    assert [each["request_id"][-1] for each in found["requests"]] == ["1", "2", "3", "4"]
    assert "https://git.lab/events" in flows("get", *ACME, FLOW).out


def test_the_story_goes_on_to_the_request(flows):
    text = flows("explain", *ACME, FLOW).out
    assert "GET https://wiki.lab/index.html?lang=en&x=: 200 in 12 ms, the first byte after 11 ms" in text
    assert "http: block by policy web, rule no-uploads: ask the help desk" in text
    assert "502 in 12 ms" in text
    assert "origin_refused by the origin: nobody listens" in text
    assert "GET https://git.lab/events: still open, now a websocket" in text


def test_har_is_read_by_another_program(flows, monkeypatch):
    monkeypatch.setattr(flow_query, "_PAGE", 2)
    code, out, err = flows("export", *ACME, "--format", "har")
    assert (code, err) == (0, "4 requests\n")
    pages = HarParser(json.loads(out))
    assert pages.har_data["version"] == "1.2"
    entries = pages.har_data["entries"]
    assert [entry["response"]["status"] for entry in entries] == [200, 403, 502, 200]
    first = entries[0]
    assert first["request"]["queryString"] == [{"name": "lang", "value": "en"}, {"name": "x", "value": ""}]
    assert first["time"] == sum(first["timings"].values())
    assert HarParser.match_headers(entries[2], "request", "User-Agent", "curl")


def test_har_takes_what_is_no_url():
    found = entry(make_request(path="//[x?a=b&c=%5B"))
    assert found["request"]["queryString"] == [{"name": "a", "value": "b"}, {"name": "c", "value": "["}]


def test_sql_joins_requests_and_flows(flows):
    statement = "select f.dst, count(*) n, max(r.url) from requests r join flows f using (flow_id) group by 1"
    answer = json.loads(flows("sql", *ACME, "--format", "json", statement).out)["items"]
    assert answer == [{"dst": "10.50.0.10", "n": 4, "max(r.url)": "https://wiki.lab/index.html?lang=en&x="}]


def test_when_a_request_was_is_a_timestamp(flows):
    statement = f"select start = make_timestamp({make_request(1).start // 1000}) s from requests where method = 'POST'"
    assert flows("sql", *ACME, statement).lines[1] == "False"  # it began a second later
