"""Live flows shown like a process monitor: the current rates, busiest first or by another key."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import NamedTuple

from oxyctl.render.tables import Column, Table
from oxyctl.render.units import bytes_text, count_text, duration_text, endpoint_text
from proxy.control.schema import FlowRecord, payload_bytes

SAMPLE_FLOWS = 500  # flows in one sample; the proxy returns the first of them by bytes moved, or by the sort key
_COLUMNS = [
    Column("FLOW", rank=6), Column("TENANT", rank=5), Column("USER", rank=3), Column("PROTO"), Column("SOURCE", rank=4),
    Column("DESTINATION"), Column("STATE", rank=2), Column("LEVEL", rank=7), Column("UP/s", True),
    Column("DOWN/s", True), Column("BYTES", True), Column("AGE", True, rank=1),
]  # fmt: skip


class Sort(NamedTuple):
    """One order: its key on the keyboard, its label, and the `sort` parameter of the query."""

    key: str
    label: str
    query: str


SORTS = (
    Sort("r", "rate", "bytes"),
    Sort("b", "bytes", "bytes"),
    Sort("n", "newest", "start"),
    Sort("a", "age", "start:asc"),
    Sort("u", "user", "user:asc"),
)


class Row(NamedTuple):
    """A flow, and its rates (payload bytes per second)."""

    record: FlowRecord
    up_per_s: float
    down_per_s: float


class Monitor:
    """Rates between consecutive samples. New flows have none."""

    def __init__(self) -> None:
        self._at = 0.0
        self._previous: dict[str, tuple[int, int]] = {}

    def update(self, at: float, records: Sequence[FlowRecord], sort: Sort) -> list[Row]:
        """Add a sample and return its flows in order. `at`: seconds of any steady clock."""
        seconds = max(at - self._at, 1e-6)
        rows = []
        for record in records:
            now = record.total.client_payload_bytes, record.total.origin_payload_bytes
            then = self._previous.get(record.flow_id, now)
            rows.append(Row(record, max(0, now[0] - then[0]) / seconds, max(0, now[1] - then[1]) / seconds))
        self._at = at
        self._previous = {
            each.flow_id: (each.total.client_payload_bytes, each.total.origin_payload_bytes) for each in records
        }
        if sort.label == "rate":
            rows.sort(key=lambda row: -row.up_per_s - row.down_per_s)
        return rows


def screen(rows: Sequence[Row], sort: Sort, *, width: int, height: int, is_truncated: bool) -> str:
    """The contents of the terminal: the number of flows, the keys, and as many flows as fit."""
    out = io.StringIO()
    total = sum(row.up_per_s for row in rows), sum(row.down_per_s for row in rows)
    count = f"more than {len(rows)} live flows" if is_truncated else count_text(len(rows), "live flow")
    out.write(f"{count}, {_rate(total[0])} up, {_rate(total[1])} down; by {sort.label}\n")
    keys = "  ".join(f"{each.key} {each.label}" for each in SORTS)
    out.write(f"{keys}  q quit\n\n")
    Table(_COLUMNS, out, width).write([_cells(row) for row in rows[: max(1, height - 5)]])
    return out.getvalue()


def _cells(row: Row) -> list[str]:
    record = row.record
    return [
        record.flow_id, record.tenant, record.user or "-", record.protocol, endpoint_text(record.src, record.src_port),
        endpoint_text(record.dst_host or record.dst, record.dst_port), record.state, record.level, _rate(row.up_per_s),
        _rate(row.down_per_s), bytes_text(payload_bytes(record)), duration_text(record.duration_ms),
    ]  # fmt: skip


def _rate(per_s: float) -> str:
    return f"{bytes_text(round(per_s))}/s"
