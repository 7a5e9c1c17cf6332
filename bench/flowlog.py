"""The flow log at scale: bytes per record, and filters over 100,000 live and 1,000,000 past flows."""

from __future__ import annotations

import asyncio
import os
import random
import statistics
import struct
import time
from datetime import datetime
from typing import Any

import msgspec

from bench.series import Figure, Sample
from bench.topology import Topology
from proxy.device.memory import MemoryTunnel
from proxy.flow.flow import Flow, KernelPath, new_flow_id
from proxy.flow.parameters import parse_query
from proxy.flow.record import FlowRecord
from proxy.flow.tenant import Tenant
from proxy.settings.model import Limits, Records, TenantSettings
from proxy.telemetry.flowlog import FlowLog
from proxy.telemetry.livescan import scan

LIVE, PAST = 100_000, 1_000_000
QUICK = 10
MOST_BYTES, MOST_S = 400, 0.3
LOG, ALL, FILTER, NONE = "flow log", "newest 100", "by prefix and port", "a filter that matches nothing"
WHERE = "--where that matches nothing"
QUERIES = {
    ALL: {},
    FILTER: {"dst": "10.50.7.0/24", "dst_port": "22"},
    NONE: {"dst": "192.0.2.1"},
    WHERE: {"where": 'net.dst.ip in {192.0.2.0/24} and identity.email contains "user7" and flow.bytes > 5'},
}


def measure(topology: Topology, *, quick: bool) -> Figure:
    figure = Figure("flowlog", "The flow tool: storage, and filters over live and past flows")
    path = str(topology.directory / "bench-flows.db")
    live, past = (count // QUICK if quick else count for count in (LIVE, PAST))
    asyncio.run(_measure(figure, path, live, past))
    figure.notes.append(f"{live:,} flows live, {past:,} past; one tenant has nine of ten")
    figure.aim("bytes of a past flow", figure.median(LOG, "bytes"), MOST_BYTES, at_most=True)
    for name in QUERIES:
        figure.aim(f"seconds: {name}", figure.median(name, "seconds"), MOST_S, at_most=True)
    return figure


async def _measure(figure: Figure, path: str, live: int, past: int) -> None:
    tenant = Tenant("acme", TenantSettings(limits=Limits(flows=live + 1)))
    records = populate(tenant, live)
    log = FlowLog(Records(path=path, max_rows=past + 1), queue_records=past + 1)
    try:
        began = time.perf_counter()
        for number in range(past):
            log.submit(_past(records[number % len(records)], number, past))
            if number % 10_000 == 9_999:
                await log.flush()
        written = time.perf_counter() - began
        figure.add(LOG, {"records/s": past / written, "bytes": _size(path) / past})
        for _round in range(5):
            for name, parameters in QUERIES.items():
                figure.add(name, await _ask(tenant, log, parameters))
    finally:
        await log.close()
        os.unlink(path)


async def _ask(tenant: Tenant, log: FlowLog, parameters: dict[str, str]) -> Sample:
    query = parse_query([("tenant", "acme"), *parameters.items()], datetime.now().astimezone())
    gaps: list[float] = []
    beat = asyncio.create_task(_beat(gaps))
    began = time.perf_counter()
    past = asyncio.create_task(log.query(query))  # as the control API does
    await scan([tenant], query, lambda flows: None, lambda flow: flow.snapshot("bench", time.time_ns()))
    await past
    seconds = time.perf_counter() - began
    beat.cancel()
    return {"seconds": seconds, "p99 wait ms": statistics.quantiles(gaps, n=100)[-1] * 1000 if len(gaps) > 2 else 0.0}


async def _beat(gaps: list[float]) -> None:
    """Record how long the loop takes between turns, which is how long an arriving packet would wait."""
    last = time.perf_counter()
    while True:
        await asyncio.sleep(0)
        now = time.perf_counter()
        gaps.append(now - last)
        last = now


def populate(tenant: Tenant, count: int) -> list[FlowRecord]:
    """Create `count` live flows from 200 clients to servers. Returns the records of one in twenty."""
    chance = random.Random(1)
    sample = []
    for number in range(count):
        host = number % 200
        if number < 200:
            tunnel = MemoryTunnel(tenant, [f"100.96.{host}.2"], tunnel_id=f"tunnel-{host:06d}")
            tunnel.user, tunnel.device = f"user{host}@acme.example", f"device-{host}"
        carrier: Any = tenant.carriers[f"tunnel-{host:06d}"]
        source, target = bytes((100, 96, host, 2)), struct.pack("!I", 0x0A32_0000 + chance.randrange(65_536))
        ports = 1024 + number // 200, chance.choice([22, 53, 80, 443, 443])
        key = source + target + struct.pack("!HH", *ports)
        now_ns = time.time_ns()
        flow = Flow(
            new_flow_id(now_ns),
            tenant,
            carrier,
            "udp",
            key,
            source,
            ports[0],
            target,
            ports[1],
            0.0,
            now_ns,
            KernelPath,
        )
        flow.state = "established"
        tenant.add(17, flow)
        if number % 20 == 0:
            sample.append(flow.snapshot("bench", now_ns))
    return sample


def _past(record: FlowRecord, number: int, count: int) -> FlowRecord:
    end = time.time_ns() - (count - number) * 50_000
    start = end - 2_000_000_000 - number % 1000 * 1_000_000
    return msgspec.structs.replace(
        record, event="end", final=True, flow_id=new_flow_id(start), start=start, end=end,
        duration_ms=(end - start) / 1e6, tenant="acme" if number % 10 else "globex", state="closed",
        closed_by="client", close_reason="client_closed",
    )  # fmt: skip


def _size(path: str) -> int:
    return os.path.getsize(path)
