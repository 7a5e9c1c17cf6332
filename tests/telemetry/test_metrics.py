"""Metrics: Prometheus' text format, and no label that grows with traffic."""

from __future__ import annotations

import re

from proxy.control.schema import KernelOffRampStatus, RecordsStatus, Status, TenantStatus
from proxy.telemetry.metrics import render

SAMPLE = re.compile(r'([a-z_]+)(?:\{((?:[a-z]+="(?:[^"\\\n]|\\["\\n])*",?)+)\})? ([0-9.e+-]+)')


def status() -> Status:
    acme = TenantStatus(
        tunnels=2,
        flows={"tcp": 3},
        flows_started={"tcp": 9, "udp": 1},
        flows_ended={"client_closed": 6},
        client_packets=10,
        client_bytes=2**60 + 1,
        drops={"spoofed_source": 4},
    )
    return Status(
        node="edge",
        version="0.1.0",
        pid=1,
        started=1_750_000_000_500_000_000,
        uptime_s=1.0,
        tenants={"acme": acme, 'odd"\\\nname': TenantStatus()},
        drops={"spoofed_source": 4, "bad_control": 7},
        records=RecordsStatus(stored=5, lost=6),
        kernel={"ip_in_hdr_errors": 8},
        kernel_offramp=KernelOffRampStatus(
            state="kernel", conntrack_entries=12, conntrack_max=262_144, repairs=2, lost=3
        ),
    )


def test_every_line_is_of_the_format_and_every_family_is_declared_once():
    lines = render(status()).splitlines()
    declared = [line.split()[2] for line in lines if line.startswith("# TYPE")]
    assert len(declared) == len(set(declared))
    names = set()
    for line in lines:
        if not line.startswith("#"):
            match = SAMPLE.fullmatch(line)
            assert match, line
            names.add(match[1])
    assert names <= set(declared)


def test_labels_are_tenant_protocol_and_reason():
    assert set(re.findall(r'([a-z_]+)="', render(status()))) == {"tenant", "protocol", "reason"}


def test_values():
    lines = render(status()).splitlines()
    assert 'oxy_flows{tenant="acme",protocol="tcp"} 3' in lines
    assert 'oxy_flows_ended_total{tenant="acme",reason="client_closed"} 6' in lines
    assert 'oxy_drops_total{tenant="acme",reason="spoofed_source"} 4' in lines
    assert 'oxy_drops_total{tenant="",reason="bad_control"} 7' in lines
    assert 'oxy_drops_total{tenant="",reason="spoofed_source"} 0' not in lines
    assert 'oxy_kernel_total{reason="ip_in_hdr_errors"} 8' in lines
    assert "oxy_records_lost_total 6" in lines
    assert "oxy_conntrack_entries 12" in lines
    assert "oxy_conntrack_max 262144" in lines
    assert "oxy_kernel_table_repairs_total 2" in lines
    assert "oxy_kernel_lost_total 3" in lines
    assert "oxy_start_time_seconds 1750000000.5" in lines
    assert f'oxy_client_bytes_total{{tenant="acme"}} {2**60 + 1}' in lines


def test_no_table_no_room_of_it():
    assert "conntrack" not in render(Status(node="edge", version="0.1.0", pid=1, started=0, uptime_s=1.0))


def test_a_tenant_cannot_break_the_format():
    assert 'oxy_tunnels{tenant="odd\\"\\\\\\nname"} 0' in render(status()).splitlines()
