"""`oxyctl status`: the proxy, its tenants, tunnels and drops, for people and for programs."""

from __future__ import annotations

import json

import pytest

from oxyctl.cli.status import app
from oxyctl.errors import OxyctlError
from oxyctl.render.units import bytes_text, duration_text, safe_text
from proxy.control.schema import InspectorStatus, KernelOffRampStatus, RecordsStatus, TenantStatus


@pytest.fixture
def status(server, path, capsys):
    """Print the status of the made-up proxy."""

    def run(*arguments):
        app(["--control", path, *arguments], standalone_mode=False)
        return capsys.readouterr().out

    return run


def test_for_people(status, proxy):
    full = proxy.status()
    full.tenants["acme"] = TenantStatus(
        tunnels=1, flows={"tcp": 2, "icmpv6": 1}, client_bytes=2100, drops={"denied": 3}
    )
    full.drops, full.kernel = {"denied": 3, "bad_control": 7}, {"Tcp.InErrs": 0, "Ip.InHdrErrors": 5}
    full.records = RecordsStatus(stored=9, lost=1, oldest=10**18)
    lost = "inspectors stay root: no other user ID is available"
    full.inspectors = [
        InspectorStatus(number=2, pid=77, sessions=5, served=9, memory_bytes=31_000_000, shortfalls=[lost])
    ]
    proxy.status = lambda: full
    lines = [" ".join(line.split()) for line in status().splitlines()]
    assert lines[0] == "edge: running for 1m01s, PID 7, version 0.1.0; 1 tunnel, no flows"
    assert lines[1] == "off-ramp: sockets"
    assert lines[2].startswith("flow log: 9 records, the oldest from 2001-09-0")
    assert "acme 1 2 0 1 0 0 2.1 kB 0 0 B 0 3" in lines
    assert "2 77 5 9 31 MB 1" in lines
    assert f"shortfall: {lost}" in lines
    assert any(line.startswith("t1 acme 100.96.0.2 1280 - 0 0 B 0 B 0 B") for line in lines)
    assert lines.index("- bad_control 7") < lines.index("acme denied 3")
    assert "Ip.InHdrErrors 5" in lines
    assert not any("InErrs" in line for line in lines)


@pytest.mark.parametrize(
    ("offramp", "line"),
    [
        (KernelOffRampStatus(), "off-ramp: sockets"),
        (
            KernelOffRampStatus(state="unavailable", reason="nft is not installed"),
            "off-ramp: sockets (no kernel off-ramp: nft is not installed)",
        ),
        (
            KernelOffRampStatus(state="kernel", table="oxy_proxy", conntrack_entries=12, conntrack_max=262_144),
            "off-ramp: kernel, table oxy_proxy, 12 of 262,144 connections",
        ),
        (
            KernelOffRampStatus(state="kernel", table="oxy_a", conntrack_max=9, repairs=2, lost=3),
            "off-ramp: kernel, table oxy_a, 0 of 9 connections; repairs of the table after others changed it: 2; "
            "lost kernel events: 3",
        ),
    ],
)
def test_how_unread_flows_leave(status, proxy, offramp, line):
    full = proxy.status()
    full.kernel_offramp = offramp
    proxy.status = lambda: full
    assert status().splitlines()[1] == line


def test_for_programs(status):
    answer = json.loads(status("--format", "json"))
    (item,) = answer["items"]
    assert (answer["kind"], item["node"], item["open_tunnels"][0]["id"]) == ("status", "edge", "t1")
    assert set(item["tenants"]) == {"acme", "globex"}
    assert (item["kernel_offramp"]["state"], item["kernel_offramp"]["reason"]) == ("sockets", None)


def test_for_prometheus(status):
    assert "# TYPE oxy_tunnels gauge" in status("--metrics")


def test_no_proxy(path):
    with pytest.raises(OxyctlError, match="no proxy is running here"):
        app(["--control", path], standalone_mode=False)


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (2140, "2.1 kB"), (9990, "10 kB"), (999_600, "1.0 MB"),
     (5 * 10**18, "5000 PB")],
)  # fmt: skip
def test_bytes(count, text):
    assert bytes_text(count) == text


@pytest.mark.parametrize(
    ("milliseconds", "text"),
    [(0, "0.0 ms"), (9.94, "9.9 ms"), (12.4, "12 ms"), (999.6, "1.0 s"), (59_940, "59.9 s"), (59_960, "1m00s"),
     (200_000, "3m20s"), (7_500_000, "2h05m"), (273_600_000, "3d04h")],
)  # fmt: skip
def test_durations(milliseconds, text):
    assert duration_text(milliseconds) == text


def test_names_of_strangers_are_made_safe():
    assert safe_text("zoë 日本") == "zoë 日本"
    assert safe_text("a\x1b[2J\nb\u202ec") == "a\ufffd[2J\ufffdb\ufffdc"
