"""A SYN flood of one tenant, and its effect on another tenant's ping.

The flooder opens connections and never completes one: the proxy dials the origin for each that the tenant's limits
allow, and counts the others. The proxy and the origin share the bench's core; the two clients run on other cores, as
if on separate machines.
"""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.series import Figure, Sample
from bench.topology import CLIENT, ORIGIN, ORIGIN_ADDRESS, PROXY, BenchError, Topology, wait_for
from proxy.control.client import ControlClient, ControlError

RATE, PINGS_PER_S = 50_000, 100
QUIET, FLOODED = "quiet", "flood, default limits"
CAPPED = "flood, 500 new flows/s allowed"
FLOODERS = {FLOODED: "flooder", CAPPED: "capped"}  # tenants
P50, P99, LOST = "ping p50 us", "ping p99 us", "lost"
MOST = 3.0  # ratio to the p99 without a flood
LISTENER = """
import socket, time
listener = socket.create_server(("", 81), backlog=65535)
while True: time.sleep(60)
"""


def measure(topology: Topology, *, quick: bool) -> Figure:
    figure = Figure("flood", f"A SYN flood of {RATE:,}/s from one tenant, another tenant's ping", (QUIET,))
    seconds, rounds = (2.0, 2) if quick else (6.0, 5)
    with serving(topology, "flood", _settings(topology), LISTENER) as (_, control):
        for _ in range(rounds):
            figure.add(QUIET, ping(topology, seconds))
            for name in FLOODERS:
                _flooded(topology, control, figure, name, seconds)
    for name in FLOODERS:
        figure.aim(f"{name}: the ping's p99, times its quiet p99", figure.ratio(name, QUIET, P99), MOST, at_most=True)
    figure.aim_at_none("pings lost", sum(sample[LOST] for samples in figure.runs.values() for sample in samples))
    return figure


@contextlib.contextmanager
def serving(
    topology: Topology, name: str, settings: dict[str, Any], listener: str
) -> Iterator[tuple[subprocess.Popen[str], ControlClient]]:
    """A proxy with these settings, whose control socket is `name`.sock, and an origin that runs `listener`."""
    file = topology.directory / f"{name}.yaml"
    file.write_text(json.dumps(settings))
    origin = topology.running(ORIGIN, [sys.executable, "-c", listener])
    with origin, topology.running(PROXY, [sys.executable, "-m", "proxy", str(file)]) as proxy:
        control = ControlClient(str(topology.directory / f"{name}.sock"))
        wait_for("the proxy", lambda: _answers(control, proxy), 30)
        yield proxy, control


def _flooded(topology: Topology, control: ControlClient, figure: Figure, name: str, seconds: float) -> None:
    """One round during the flood, with the packets sent, and those dropped by reason."""
    tenant = FLOODERS[name]
    before = control.status().tenants[tenant].drops
    reports: list[dict[str, Any]] = []

    def run() -> None:
        reports.append(_client(topology, "flood", tenant, RATE, seconds + 1.5))

    flooding = threading.Thread(target=run)
    flooding.start()
    wait_for("the flood", lambda: control.status().tenants[tenant].drops != before, 10)
    sample = ping(topology, seconds)
    flooding.join()
    if not reports:
        raise BenchError("the flooder failed")
    report, after = reports[0], control.status().tenants[tenant]
    figure.add(name, sample)
    drops = {why: more for why, count in after.drops.items() if (more := count - before.get(why, 0))}
    unheard = control.status().tenants["pinger"].drops
    counted = ", ".join(f"{count:,} {why}" for why, count in sorted(drops.items(), key=lambda item: -item[1]))
    offered = (report["sent"] + report["lost"]) / report["seconds"]
    figure.notes.append(
        f"{name}: offered {offered:,.0f} SYNs/s, {report['sent']:,} into the tunnel, {report['lost']:,} lost at its "
        f"full buffer; dropped: {counted}; of the pinger's so far: {unheard or 'none'}"
    )


def ping(topology: Topology, seconds: float, name: str = "flood") -> Sample:
    """Round trips of the tenant `pinger` at the on-ramp `name`."""
    report = json.loads(topology.run(CLIENT, client(topology, name, "ping", "pinger", PINGS_PER_S, seconds)))
    trips = sorted(report["trips_us"])
    if len(trips) < 50:
        raise BenchError(f"only {len(trips)} pings came back")
    return {P50: statistics.median(trips), P99: trips[len(trips) * 99 // 100], LOST: float(report["lost"][0])}


def _client(topology: Topology, role: str, tenant: str, rate: float, seconds: float) -> dict[str, Any]:
    report: dict[str, Any] = json.loads(topology.run(CLIENT, client(topology, "flood", role, tenant, rate, seconds)))
    return report


def client(topology: Topology, name: str, role: str, tenant: str, rate: float, seconds: float) -> list[str]:
    """The command of flooder.py at the on-ramp `name`, on a core other than the bench's if there is one."""
    others = os.sched_getaffinity(os.getppid()) - {topology.cpu} or {topology.cpu}
    cpus = ",".join(map(str, sorted(others)))
    words = ["taskset", "--cpu-list", cpus, sys.executable, str(Path(__file__).with_name("flooder.py")), role]
    return [*words, str(topology.directory / f"{name}.ramp"), tenant, ORIGIN_ADDRESS, str(rate), str(seconds)]


def _settings(topology: Topology) -> dict[str, Any]:
    """The flooder and the pinger have default limits."""
    flooder = {"prefixes": ["100.96.0.0/16"]}
    tenants = {"flooder": flooder, "pinger": {"prefixes": ["100.97.0.0/16"]}}
    tenants |= {"capped": flooder | {"limits": {"new_flows_per_s": 500}}}
    return {
        "control": str(topology.directory / "flood.sock"),
        "tenants": tenants,
        "onramps": [{"kind": "connected", "path": str(topology.directory / "flood.ramp")}],
        "records": {"path": str(topology.directory / "flood.db")},
    }


def _answers(control: ControlClient, proxy: subprocess.Popen[str]) -> bool:
    if proxy.poll() is not None:
        raise BenchError(f"the proxy ended at once, with exit code {proxy.returncode}")
    try:
        return control.status().pid == proxy.pid
    except ControlError:
        return False
