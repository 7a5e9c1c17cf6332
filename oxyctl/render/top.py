"""A proxy at a glance: tenants, tunnels, flows and drop reasons, with rates and their recent history."""

from __future__ import annotations

import io
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from oxyctl.render.tables import Column, Table
from oxyctl.render.units import bytes_text, count_text, duration_text, endpoint_text, safe_text
from proxy.control.schema import FlowRecord, Status, TunnelInfo, payload_bytes

HISTORY = 30  # samples in a sparkline
SHOWN = 10  # tunnels, and flows
_BARS = "▁▂▃▄▅▆▇█"
_TENANTS = [
    Column("TENANT"), Column("TUNNELS", True, rank=3), Column("FLOWS", True), Column("NEW/s", True),
    Column("LATELY", rank=4), Column("UP", True), Column("LATELY", rank=4), Column("DOWN", True),
    Column("LATELY", rank=4), Column("DROPS/s", True, rank=1),
]  # fmt: skip
_TUNNELS = [
    Column("TUNNEL"), Column("TENANT", rank=3), Column("USER", rank=4), Column("FLOWS", True, rank=2),
    Column("IN", True), Column("OUT", True), Column("HEALTH", rank=5),
]  # fmt: skip
_FLOWS = [
    Column("FLOW"), Column("TENANT", rank=4), Column("PROTO"), Column("SOURCE"), Column("DESTINATION"),
    Column("BYTES", True), Column("AGE", True, rank=2), Column("USER", rank=5),
]  # fmt: skip
_DROPS = [
    Column("DROP REASON"),
    Column("TENANT"),
    Column("PACKETS", True),
    Column("/s", True),
    Column("LATELY", rank=1),
]


class Sample(NamedTuple):
    """A proxy's state at one moment (seconds of any steady clock)."""

    at: float
    status: Status
    tunnels: Sequence[TunnelInfo]
    flows: Sequence[FlowRecord]


class Top:
    """Rates between samples, with their history."""

    def __init__(self) -> None:
        self._last: Sample | None = None
        self._history: dict[tuple[str, ...], deque[float]] = {}

    def update(self, sample: Sample) -> dict[str, Any]:
        """Add a sample and return the view of it. Rates are 0 in the first."""
        before, self._last = self._last, sample
        seconds = max(1e-6, sample.at - before.at) if before else 0.0
        view = {
            "node": sample.status.node,
            "uptime_s": sample.status.uptime_s,
            "state": sample.status.state,
            "interval_s": seconds,
            "records": sample.status.records,
            "tenants": self._tenants(sample, before, seconds),
            "tunnels": self._tunnels(sample, before, seconds),
            "flows": sample.flows,
            "drops": self._drops(sample, before, seconds),
        }
        self._forget(view)
        return view

    def _rate(self, key: tuple[str, ...], now: float, before: float, seconds: float) -> tuple[float, list[float]]:
        rate = max(0.0, now - before) / seconds if seconds else 0.0
        history = self._history.setdefault(key, deque(maxlen=HISTORY))
        if seconds:
            history.append(rate)
        return rate, list(history)

    def _tenants(self, sample: Sample, before: Sample | None, seconds: float) -> list[dict[str, Any]]:
        rows = []
        for name, tenant in sample.status.tenants.items():
            earlier = before.status.tenants.get(name, tenant) if before else tenant
            row: dict[str, Any] = {"tenant": name, "tunnels": tenant.tunnels, "flows": sum(tenant.flows.values())}
            for field, now, then in (
                ("new", sum(tenant.flows_started.values()), sum(earlier.flows_started.values())),
                ("up", tenant.client_bytes, earlier.client_bytes),
                ("down", tenant.origin_bytes, earlier.origin_bytes),
                ("drops", sum(tenant.drops.values()), sum(earlier.drops.values())),
            ):
                row[f"{field}_per_s"], row[f"{field}_history"] = self._rate((name, field), now, then, seconds)
            rows.append(row)
        return sorted(rows, key=lambda row: (-row["up_per_s"] - row["down_per_s"], -row["flows"], row["tenant"]))

    def _tunnels(self, sample: Sample, before: Sample | None, seconds: float) -> list[dict[str, Any]]:
        earlier = {(t.tenant, t.id): t for t in before.tunnels} if before else {}
        rows: list[dict[str, Any]] = []
        for tunnel in sample.tunnels:
            then = earlier.get((tunnel.tenant, tunnel.id), tunnel)
            rows.append({
                "tunnel": tunnel.id, "tenant": tunnel.tenant, "user": tunnel.user, "flows": tunnel.flows,
                "in_per_s": max(0, tunnel.bytes_in - then.bytes_in) / seconds if seconds else 0.0,
                "out_per_s": max(0, tunnel.bytes_out - then.bytes_out) / seconds if seconds else 0.0,
                "health": "refused" if tunnel.refused else tunnel.health,
            })  # fmt: skip
        rows.sort(key=lambda row: (-row["in_per_s"] - row["out_per_s"], -row["flows"], row["tunnel"]))
        return rows[:SHOWN]

    def _drops(self, sample: Sample, before: Sample | None, seconds: float) -> list[dict[str, Any]]:
        earlier = dict(_drop_counts(before.status)) if before else {}
        rows = []
        for (tenant, reason), count in _drop_counts(sample.status):
            then = earlier.get((tenant, reason), 0) if before else count
            rate, history = self._rate(("drop", tenant, reason), count, then, seconds)
            rows.append({
                "reason": reason, "tenant": tenant, "packets": count, "per_s": rate, "history": history,
            })  # fmt: skip
        return sorted(rows, key=lambda row: (-row["per_s"], -row["packets"], row["reason"]))

    def _forget(self, view: dict[str, Any]) -> None:
        """Forget the history of tenants and reasons that are no longer shown."""
        known: set[tuple[str, ...]] = {
            (row["tenant"], field) for row in view["tenants"] for field in ("new", "up", "down", "drops")
        }
        known |= {("drop", row["tenant"], row["reason"]) for row in view["drops"]}
        self._history = {key: history for key, history in self._history.items() if key in known}


def _drop_counts(status: Status) -> Iterable[tuple[tuple[str, str], int]]:
    for name, tenant in status.tenants.items():
        for reason, count in tenant.drops.items():
            yield (name, reason), count
    for reason, total in status.drops.items():
        if rest := total - sum(tenant.drops.get(reason, 0) for tenant in status.tenants.values()):
            yield ("-", reason), rest


def sparkline(values: Sequence[float]) -> str:
    """A bar for each value; the highest fills the line."""
    most = max(values, default=0.0)
    if not most:
        return _BARS[0] * len(values)
    return "".join(_BARS[min(7, int(value / most * 7.999))] for value in values)


def text(view: dict[str, Any], width: int) -> str:
    """The sample as tables that fit `width`."""
    records = view["records"]
    lost = f", {records.lost} lost" if records.lost else ""
    out = io.StringIO()
    up = duration_text(view["uptime_s"] * 1000)
    out.write(
        safe_text(f"{view['node']}: {view['state']} for {up}, {count_text(records.stored, 'record')}{lost}") + "\n"
    )
    for columns, rows in (
        (_TENANTS, [_tenant(row) for row in view["tenants"]]),
        (_TUNNELS, [_tunnel(row) for row in view["tunnels"]]),
        (_FLOWS, [_flow(record) for record in view["flows"]]),
        (_DROPS, [_drop(row) for row in view["drops"]]),
    ):
        if rows:
            out.write("\n")
            Table(columns, out, width).write(rows)
    return out.getvalue()


def _tenant(row: dict[str, Any]) -> list[str]:
    cells = [row["tenant"], str(row["tunnels"]), str(row["flows"]), f"{row['new_per_s']:.0f}"]
    cells.append(sparkline(row["new_history"]))
    for field in ("up", "down"):
        cells += [f"{bytes_text(round(row[f'{field}_per_s']))}/s", sparkline(row[f"{field}_history"])]
    return [*cells, f"{row['drops_per_s']:.0f}"]


def _tunnel(row: dict[str, Any]) -> list[str]:
    rates = [f"{bytes_text(round(row[name]))}/s" for name in ("in_per_s", "out_per_s")]
    return [row["tunnel"], row["tenant"], row["user"] or "-", str(row["flows"]), *rates, row["health"] or "-"]


def _flow(record: FlowRecord) -> list[str]:
    ends = [endpoint_text(record.src, record.src_port), endpoint_text(record.dst, record.dst_port)]
    size, age = bytes_text(payload_bytes(record)), duration_text(record.duration_ms)
    return [record.flow_id, record.tenant, record.protocol, *ends, size, age, record.user or "-"]


def _drop(row: dict[str, Any]) -> list[str]:
    return [row["reason"], row["tenant"], str(row["packets"]), f"{row['per_s']:.0f}", sparkline(row["history"])]
