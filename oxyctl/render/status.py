"""The status of a proxy as text: its tenants, its tunnels, and drops by reason."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

from oxyctl.render.tables import Column, Table
from oxyctl.render.units import bytes_text, count_text, duration_text, safe_text, time_text
from proxy.control.schema import InspectorStatus, Status, TunnelInfo

_TENANTS = [
    Column("TENANT"),
    Column("TUNNELS", right=True),
    Column("TCP", right=True),
    Column("UDP", right=True),
    Column("ICMP", right=True),
    Column("STARTED", right=True, rank=2),
    Column("ENDED", right=True, rank=3),
    Column("FROM CLIENTS", right=True),
    Column("PACKETS", right=True, rank=4),
    Column("TO CLIENTS", right=True),
    Column("PACKETS", right=True, rank=4),
    Column("DROPS", right=True),
]
_INSPECTORS = [
    Column("INSPECTOR"),
    Column("PID", right=True),
    Column("SESSIONS", right=True),
    Column("SERVED", right=True, rank=1),
    Column("MEMORY", right=True),
    Column("SHORTFALLS", right=True),
]
_TUNNELS = [
    Column("TUNNEL"),
    Column("TENANT"),
    Column("ADDRESSES", rank=1),
    Column("MTU", right=True, rank=5),
    Column("OFFLOAD", rank=4),
    Column("FLOWS", right=True, rank=2),
    Column("IN", right=True),
    Column("OUT", right=True),
    Column("QUEUED", right=True, rank=3),
    Column("OPEN", right=True, rank=6),
    Column("HEALTH", rank=1),
    Column("USER", rank=7),
    Column("DEVICE", rank=8),
]


def print_status(status: Status, tunnels: Sequence[TunnelInfo]) -> None:
    """Print everything, table after table, without empty ones."""
    print(safe_text(_summary(status)))
    print(safe_text(_off_ramp(status)))
    print(safe_text(_records(status)))
    _section(_INSPECTORS, [_inspector_row(each) for each in status.inspectors])
    for shortfall in sorted({text for each in status.inspectors for text in each.shortfalls}):
        print(safe_text(f"shortfall: {shortfall}"))
    for tenant, path in sorted(status.key_logs.items()):
        print(safe_text(f"TLS session secrets of tenant '{tenant}' are written to {path}"))
    _section(_TENANTS, sorted(_tenant_rows(status)))
    _section(_TUNNELS, [_tunnel_row(tunnel) for tunnel in tunnels])
    _section([Column("TENANT"), Column("DROP REASON"), Column("PACKETS", right=True)], _drop_rows(status))
    kernel = [[name, str(count)] for name, count in sorted(status.kernel.items()) if count]
    _section([Column("KERNEL"), Column("COUNT", right=True)], kernel)


def _section(columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> None:
    if rows:
        print()
        Table(columns).write(rows)


def _summary(status: Status) -> str:
    flows = ", ".join(f"{count} {name}" for name, count in status.flows.items() if count) or "no flows"
    up = duration_text(status.uptime_s * 1000)
    tunnels = count_text(status.tunnels, "tunnel")
    return f"{status.node}: {status.state} for {up}, PID {status.pid}, version {status.version}; {tunnels}, {flows}"


def _off_ramp(status: Status) -> str:
    own = status.kernel_offramp
    if own.state != "kernel":
        return "off-ramp: sockets" + (f" (no kernel off-ramp: {own.reason})" if own.reason else "")
    text = f"off-ramp: kernel, table {own.table}, {own.conntrack_entries:,} of {own.conntrack_max:,} connections"
    text += f"; repairs of the table after others changed it: {own.repairs}" if own.repairs else ""
    return text + (f"; lost kernel events: {own.lost}" if own.lost else "")


def _records(status: Status) -> str:
    records = status.records
    since = f", the oldest from {time_text(records.oldest, date=True)}" if records.oldest else ""
    spans = f"; {count_text(records.spans_lost, 'span')} lost" if records.spans_lost else ""
    return f"flow log: {count_text(records.stored, 'record')}{since}; {records.lost} lost{spans}"


def _inspector_row(inspector: InspectorStatus) -> list[str]:
    return [
        str(inspector.number),
        str(inspector.pid),
        str(inspector.sessions),
        str(inspector.served),
        bytes_text(inspector.memory_bytes),
        str(len(inspector.shortfalls)) if inspector.is_ready else "starting",
    ]


def _tenant_rows(status: Status) -> Iterator[list[str]]:
    for name, tenant in status.tenants.items():
        icmp = tenant.flows.get("icmp", 0) + tenant.flows.get("icmpv6", 0)
        counts = [tenant.tunnels, tenant.flows.get("tcp", 0), tenant.flows.get("udp", 0), icmp]
        counts += [sum(tenant.flows_started.values()), sum(tenant.flows_ended.values())]
        yield [
            name,
            *map(str, counts),
            bytes_text(tenant.client_bytes),
            str(tenant.client_packets),
            bytes_text(tenant.origin_bytes),
            str(tenant.origin_packets),
            str(sum(tenant.drops.values())),
        ]


def _tunnel_row(tunnel: TunnelInfo) -> list[str]:
    return [
        tunnel.id,
        tunnel.tenant,
        " ".join(tunnel.addresses),
        str(tunnel.mtu),
        tunnel.offload or "-",
        str(tunnel.flows),
        bytes_text(tunnel.bytes_in),
        bytes_text(tunnel.bytes_out),
        bytes_text(tunnel.queued_bytes),
        duration_text(max(0.0, (time.time_ns() - tunnel.opened) / 1e6)),
        "refused" if tunnel.refused else tunnel.health or "-",
        tunnel.user or "-",
        tunnel.device or "-",
    ]


def _drop_rows(status: Status) -> list[list[str]]:
    """The most frequent first; `-` is the tenant of drops without one."""
    rows = [(name, reason, count) for name, of in status.tenants.items() for reason, count in of.drops.items()]
    for reason, total in status.drops.items():
        rows.append(("-", reason, total - sum(of.drops.get(reason, 0) for of in status.tenants.values())))
    rows.sort(key=lambda row: (-row[2], row))
    return [[name, reason, str(count)] for name, reason, count in rows if count > 0]
