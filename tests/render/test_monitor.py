"""The process monitor of flows: rates between looks, orders, and a screen that fits."""

from __future__ import annotations

import msgspec
import pytest

from oxyctl.render.monitor import SORTS, Monitor, screen
from proxy.flow.record import Totals
from tests.records import live_record

RATE, BYTES = SORTS[0], SORTS[1]


def flow(number, up=0, down=0):
    return msgspec.structs.replace(
        live_record(number), total=Totals(client_payload_bytes=up, origin_payload_bytes=down)
    )


def test_rates_are_what_moved_between_two_looks():
    monitor = Monitor()
    assert [row[1:] for row in monitor.update(10.0, [flow(1, 5000, 5000)], RATE)] == [(0.0, 0.0)]
    rows = monitor.update(12.0, [flow(1, 5200, 6000), flow(2, 9000, 0)], RATE)
    assert [(row.record.flow_id, row.up_per_s, row.down_per_s) for row in rows] == [
        ("f00000001", 100.0, 500.0), ("f00000002", 0.0, 0.0),
    ]  # fmt: skip


def test_the_busiest_come_first_or_as_the_proxy_has_sorted_them():
    for sort, order in ((RATE, ["f00000002", "f00000001"]), (BYTES, ["f00000001", "f00000002"])):
        monitor = Monitor()
        monitor.update(1.0, [flow(1, 9000), flow(2)], sort)
        rows = monitor.update(2.0, [flow(1, 9001), flow(2, 500)], sort)
        assert [row.record.flow_id for row in rows] == order


@pytest.mark.parametrize("width", [60, 100, 200])
def test_the_screen_fits(width):
    rows = Monitor().update(1.0, [flow(number, 10**6) for number in range(50)], BYTES)
    lines = screen(rows, BYTES, width=width, height=24, is_truncated=True).splitlines()
    assert lines[0] == "more than 50 live flows, 0 B/s up, 0 B/s down; by bytes"
    assert len(lines) <= 23
    assert all(len(line) <= width for line in lines[3:])
    assert "DESTINATION" in lines[3]
