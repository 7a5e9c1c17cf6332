"""A flow's own story: closed once, for one reason, with totals that add up."""

from __future__ import annotations

from typing import get_args

import pytest

from proxy.flow.flow import endpoint
from proxy.flow.record import CloseReason, Totals
from tests.flows import make_flow, make_tenant, make_tunnel
from tests.packets import pack


def test_first_reason_is_the_true_one():
    flow = make_flow()
    assert flow.close("client_closed", 5_000_000) is True
    assert flow.close("drain", 9_000_000) is False
    assert (flow.close_reason, flow.closed_by, flow.ended_ns, flow.state) == (
        "client_closed", "client", 5_000_000, "closed",
    )  # fmt: skip


@pytest.mark.parametrize("reason", get_args(CloseReason))
def test_every_reason_names_who_closed(reason):
    flow = make_flow()
    flow.close(reason, 1)
    side = reason.split("_")[0]
    assert flow.closed_by == (side if side in ("client", "origin") else "proxy")


CONN_STATES = [
    ("S", None, "S0"),
    ("S", "denied", "S0"),
    ("S", "origin_timeout", "S0"),
    ("Sr", "origin_refused", "REJ"),
    ("SR", "client_reset", "S0"),
    ("ShA", None, "S1"),
    ("ShA", "drain", "S1"),
    ("ShAFf", "client_closed", "SF"),
    ("ShAfF", "origin_closed", "SF"),
    ("ShAF", "client_idle_timeout", "S2"),
    ("ShAf", "client_idle_timeout", "S3"),
    ("ShAR", "client_reset", "RSTO"),
    ("ShAr", "origin_reset", "RSTR"),
    ("ShAfR", "client_reset", "RSTO"),
]


@pytest.mark.parametrize(("history", "reason", "expected"), CONN_STATES)
def test_conn_state_is_zeeks_summary_of_history(history, reason, expected):
    flow = make_flow()
    flow.history = history
    if reason:
        flow.close(reason, 1)
    assert flow.conn_state() == expected


def test_conn_state_of_a_session_says_whether_it_was_answered():
    flow = make_flow(protocol="udp")
    assert flow.conn_state() == "S0"
    flow.origin_path.packets = 1
    assert flow.conn_state() == "SF"


def fill(flow, factor):
    client, origin = flow.client_path, flow.origin_path
    client.packets, client.octets, flow.client_payload = 1 * factor, 2 * factor, 3 * factor
    origin.packets, origin.octets, flow.origin_payload, flow.spliced = 4 * factor, 5 * factor, 6 * factor, 7 * factor


def test_totals_and_what_was_added_since():
    flow = make_flow()
    fill(flow, 1)
    earlier = flow.totals()
    assert earlier == Totals(1, 2, 3, 4, 5, 6, 7)
    fill(flow, 10)
    assert flow.totals().minus(earlier) == Totals(9, 18, 27, 36, 45, 54, 63)


def test_activity_grows_with_each_thing_that_moves():
    flow = make_flow()
    readings = [flow.activity()]
    for step in (
        lambda: setattr(flow.client_path, "packets", 1), lambda: setattr(flow.origin_path, "packets", 1),
        lambda: setattr(flow, "client_payload", 1), lambda: setattr(flow, "origin_payload", 1),
    ):  # fmt: skip
        step()
        readings.append(flow.activity())
    assert readings == sorted(set(readings))


def test_records_are_numbered_and_updates_say_what_is_new():
    flow = make_flow()
    start = flow.record("start", "edge", 2_000_000)
    fill(flow, 1)
    first = flow.record("update", "edge", 3_000_000)
    fill(flow, 3)
    looked = flow.snapshot("edge", 3_500_000)
    second = flow.record("update", "edge", 4_000_000)
    flow.close("client_closed", 5_000_000)
    end = flow.record("end", "edge", 9_000_000)
    assert [r.seq for r in (start, first, second, end)] == [0, 1, 2, 3]
    assert [r.final for r in (start, first, second, end)] == [False, False, False, True]
    assert (start.delta, end.delta) == (None, None)
    assert (first.delta, second.delta) == (Totals(1, 2, 3, 4, 5, 6, 7), Totals(2, 4, 6, 8, 10, 12, 14))
    assert (looked.seq, looked.delta, looked.total) == (2, None, second.total)
    assert end.total == second.total
    assert (end.start, end.end, end.duration_ms) == (1_000_000, 5_000_000, 4.0)
    assert first.duration_ms == 2.0


def test_record_says_whose_it_is_and_what_the_client_asked():
    tenant = make_tenant("globex")
    tunnel = make_tunnel(tenant, tunnel_id="t7")
    tunnel.user, tunnel.device = "ann", "laptop"
    record = make_flow(tenant, version=6, carrier=tunnel, destination_port=443).record("start", "edge", 1)
    assert (record.tenant, record.user, record.device, record.tunnel, record.onramp, record.node) == (
        "globex", "ann", "laptop", "t7", "memory", "edge",
    )  # fmt: skip
    assert (record.src, record.src_port, record.dst, record.dst_port) == ("fd00:96::2", 40_000, "fd00:50::10", 443)
    assert (record.state, record.end, record.close_reason) == ("new", None, None)


def test_endpoint_is_written_as_in_a_url():
    assert endpoint(pack("192.0.2.1"), 80) == "192.0.2.1:80"
    assert endpoint(pack("2001:db8::1"), 80) == "[2001:db8::1]:80"
    assert "100.96.0.2:40000 -> 10.50.0.10:80" in repr(make_flow())
