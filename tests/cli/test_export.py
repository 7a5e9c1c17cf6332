"""`oxyctl flows export`: every flow once, in the formats of other tools, and what it covers at the end."""

from __future__ import annotations

import csv
import io
import ipaddress
import json
from datetime import datetime

import duckdb
import msgspec
import pytest

from oxyctl.render.sql import write_parquet
from proxy.control import exporting
from proxy.flow.record import FlowRecord, Totals
from tests.records import live_record, make_record

ACME = ("--tenant", "acme")
TOTALS = Totals(5, 500, 300, 4, 4000, 3800, 0)


@pytest.fixture(autouse=True)
def small_pages(monkeypatch):
    monkeypatch.setattr(exporting, "PAGE", 3)


@pytest.fixture
def many(proxy):
    """Past and live flows of two tenants; one is both, for it ends while it is asked for."""
    proxy.past = [make_record(n, tenant="acme" if n % 2 else "globex", total=TOTALS) for n in range(20)]
    proxy.live = [live_record(30), live_record(31, tenant="globex"), live_record(1)]


def test_every_flow_comes_once(flows, many):
    code, out, err = flows("export", *ACME)
    found = [json.loads(line)["flow_id"] for line in out.splitlines()]
    assert (code, sorted(found)) == (0, [f"f{n:08d}" for n in (*range(1, 20, 2), 30)])
    assert "11 flows: all records" in err
    assert "no records lost" in err


def test_of_every_tenant_and_by_filters(flows, many):
    assert len(flows("export", "--all-tenants").lines) == 22
    assert len(flows("export", "--all-tenants", "--past").lines) == 20
    assert len(flows("export", "--all-tenants", "--live").lines) == 3
    assert flows("export", *ACME, "--not", "--port", "80").out == ""


def test_csv_with_chosen_fields(flows, many):
    rows = list(csv.reader(io.StringIO(flows("export", *ACME, "--format", "csv", "--fields", "flow_id,bytes").out)))
    assert rows[0] == ["flow_id", "bytes"]
    assert ["f00000003", "4100"] in rows


# https://docs.suricata.io/en/latest/output/eve/eve-json-format.html#event-type-flow
EVE_FLOW = {
    "pkts_toserver", "pkts_toclient", "bytes_toserver", "bytes_toclient", "start", "end", "age", "state", "reason",
    "alerted",
}  # fmt: skip


def test_eve_is_suricatas(flows, proxy):
    proxy.past = [make_record(3, flow_id="0006a1b2c3d4e5f601", total=TOTALS, src="fd00::2", dst="fd00::1")]
    (event,) = (json.loads(line) for line in flows("export", *ACME, "--format", "eve").lines)
    assert event["event_type"] == "flow"
    assert event["flow"].keys() == EVE_FLOW
    assert 0 < event["flow_id"] < 1 << 53
    assert (event["src_ip"], event["dest_port"], event["proto"], event["ip_v"]) == ("fd00::2", 80, "TCP", 6)
    begin, end = (datetime.strptime(event["flow"][each], "%Y-%m-%dT%H:%M:%S.%f%z") for each in ("start", "end"))
    assert (end - begin).total_seconds() == 2.0
    assert (event["flow"]["age"], event["flow"]["bytes_toclient"], event["flow"]["state"]) == (2, 4000, "closed")


# https://docs.zeek.org/en/master/scripts/base/protocols/conn/main.zeek.html#type-Conn::Info
ZEEK_TYPES = {
    "ts": float, "id.orig_h": ipaddress.ip_address, "id.orig_p": int, "id.resp_h": ipaddress.ip_address,
    "id.resp_p": int, "duration": float, "orig_bytes": int, "resp_bytes": int, "missed_bytes": int, "orig_pkts": int,
    "orig_ip_bytes": int, "resp_pkts": int, "resp_ip_bytes": int,
}  # fmt: skip
ZEEK_FIELDS = [
    "ts",
    "uid",
    "id.orig_h",
    "id.orig_p",
    "id.resp_h",
    "id.resp_p",
    "proto",
    "service",
    "duration",
    "orig_bytes",
    "resp_bytes",
    "conn_state",
    "local_orig",
    "local_resp",
    "missed_bytes",
    "history",
    "orig_pkts",
    "orig_ip_bytes",
    "resp_pkts",
    "resp_ip_bytes",
    "tunnel_parents",
    "community_id",
]


def test_zeek_is_a_conn_log(flows, proxy):
    odd = "a\tb"
    proxy.past = [make_record(3, total=TOTALS, conn_state="SF", history="ShADadFf", detected_protocol=odd)]
    lines = flows("export", *ACME, "--format", "zeek").lines
    header = dict(line.lstrip("#").split("\t", 1) for line in lines[1:] if line.startswith("#"))
    assert lines[0] == "#separator \\x09"
    assert (header["fields"].split("\t"), header["path"]) == (ZEEK_FIELDS, "conn")
    assert len(header["types"].split("\t")) == len(ZEEK_FIELDS)
    (row,) = (dict(zip(ZEEK_FIELDS, line.split("\t"), strict=True)) for line in lines if not line.startswith("#"))
    assert {name: read(row[name]) for name, read in ZEEK_TYPES.items()}["resp_bytes"] == 3800
    assert (row["service"], row["local_orig"], row["conn_state"], row["history"]) == ("a\\x09b", "-", "SF", "ShADadFf")


def test_fields_are_the_other_tools(flows):
    code, _, err = flows("export", *ACME, "--format", "zeek", "--fields", "src")
    assert (code, err) == (2, "error: --fields does not apply to zeek: its fields are fixed\n")


def test_a_record_of_an_export_is_whole(flows, proxy):
    proxy.past = [make_record(1)]
    assert msgspec.json.decode(flows("export", *ACME).out, type=FlowRecord) == make_record(1)


def test_parquet_is_read_by_duckdb(proxy, tmp_path):
    path = tmp_path / "flows.parquet"
    with path.open("wb") as file:
        write_parquet([make_record(1), make_record(2, user=None)], file)
    found = duckdb.sql(f"select flow_id, \"user\", origin_payload_bytes from '{path}' order by 1").fetchall()
    assert found == [("f00000001", "user@acme.example", 2000), ("f00000002", None, 2000)]
