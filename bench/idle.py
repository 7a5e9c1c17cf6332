"""A million idle UDP flows of one tenant's tunnel through the kernel off-ramp: their memory, and another tenant's ping.

Each also has a conntrack entry, so the host needs `sysctl -w net.netfilter.nf_conntrack_max=1300000`; with a lower
limit fewer flows are begun, and a remark reports it.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

from bench.flood import LOST, P99, client, ping, serving
from bench.flooder import IDLE_PORTS
from bench.memory import rss_kib
from bench.series import Figure
from bench.topology import CLIENT, PROXY, BenchError, Topology, wait_for
from proxy.control.client import ControlClient

FLOWS, QUICK_FLOWS = 1_000_000, 100_000
SHARE_OF_CONNTRACK = 0.8
MOST_BYTES, MOST_TIMES = 1_024, 2.0
BEGUN_PER_S = 1_000  # below the rate of any machine: only for time limits
QUIET, BESIDE = "quiet", "beside idle flows"
LISTENER = f"""
import socket, time
bound = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range({len(IDLE_PORTS)})]
for port, sock in zip(range({IDLE_PORTS.start}, {IDLE_PORTS.stop}), bound): sock.bind(("", port))
while True: time.sleep(60)
"""


def measure(topology: Topology, *, quick: bool) -> Figure:
    flows = _room(topology, QUICK_FLOWS if quick else FLOWS)
    seconds, rounds = (2.0, 2) if quick else (10.0, 5)
    figure = Figure("idle", f"{flows:,} idle UDP flows of one tenant, another tenant's ping", (QUIET,))
    with serving(topology, "idle", _settings(topology), LISTENER) as (proxy, control):
        for _ in range(rounds):
            figure.add(QUIET, ping(topology, seconds, "idle"))
        before = rss_kib(proxy.pid)
        words = client(topology, "idle", "idle", "sleeper", flows, 1)
        with topology.running(CLIENT, words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as sleeper:
            assert sleeper.stdout is not None
            sent = json.loads(sleeper.stdout.readline() or "{}").get("sent", 0)
            wait_for("all flows", lambda: _started(control) >= sent, flows / BEGUN_PER_S)
            status = control.status().tenants["sleeper"]
            live = status.flows.get("udp", 0)
            each = (rss_kib(proxy.pid) - before) * 1024 / max(1, live)
            for _ in range(rounds):
                figure.add(BESIDE, ping(topology, seconds, "idle") | {"bytes of RSS a flow": each})
            figure.aim_at_none("flows refused", sum(status.drops.values()))
            figure.aim_at_none("flows that ended", sent - control.status().tenants["sleeper"].flows.get("udp", 0))
    figure.aim("bytes of RSS for an idle flow", each, MOST_BYTES, at_most=True)
    figure.aim("the ping's p99, times its quiet p99", figure.ratio(BESIDE, QUIET, P99), MOST_TIMES, at_most=True)
    figure.aim_at_none("pings lost", sum(sample[LOST] for samples in figure.runs.values() for sample in samples))
    if flows < FLOWS:
        figure.notes.append(f"{flows:,} flows instead of {FLOWS:,}: quick, or conntrack has no room for more")
    return figure


def _room(topology: Topology, flows: int) -> int:
    most = topology.inside(PROXY, Path("/proc/sys/net/netfilter/nf_conntrack_max").read_text)
    if not isinstance(most, str):
        raise BenchError("conntrack is not available")
    return min(flows, int(int(most) * SHARE_OF_CONNTRACK))


def _started(control: ControlClient) -> int:
    status = control.status().tenants["sleeper"]
    return status.flows_started.get("udp", 0) + sum(status.drops.values())


def _settings(topology: Topology) -> dict[str, Any]:
    sleeper = {"prefixes": ["100.96.0.0/16"], "limits": {"flows": 2 * FLOWS, "new_flows_per_s": FLOWS}}
    return {
        "control": str(topology.directory / "idle.sock"),
        "offramp": "kernel",
        "tenants": {"sleeper": sleeper, "pinger": {"prefixes": ["100.97.0.0/16"]}},
        "onramps": [{"kind": "connected", "path": str(topology.directory / "idle.ramp")}],
        "records": {"path": str(topology.directory / "idle.db")},
        "timeouts": {"udp_unreplied_s": 3_600, "udp_idle_s": 3_600},
    }
