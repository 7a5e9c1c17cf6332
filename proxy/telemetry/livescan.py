"""Scans all live flows in slices, handling packets in between: 100,000 flows take 0.1 s."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Sequence

from proxy.flow.flow import Flow
from proxy.flow.groups import GroupCounter, Key, Sums
from proxy.flow.live import flow_getters, needs_totals
from proxy.flow.query import FlowQuery, predicate, sort_key
from proxy.flow.record import FlowRecord
from proxy.flow.tenant import Tenant
from proxy.flow.top_n import TopN

SLICE_S = 0.0005  # for which packets wait: about their usual round trip
BATCH_FLOWS = 64  # flows between two readings of the clock

Count = Callable[[Sequence[Flow]], None]


async def scan(
    tenants: Iterable[Tenant], query: FlowQuery, count: Count, snapshot: Callable[[Flow], FlowRecord]
) -> list[FlowRecord]:
    """The first flows that match, one more than the query's limit, in its order.

    `count` updates the totals of flows, `snapshot` makes the record of one.
    """
    getters = flow_getters(time.time_ns())
    matches, key = predicate(query, getters), sort_key(query.sort, getters)
    top: TopN[Flow] = TopN(query.limit + 1, query.descending)
    counts_all = needs_totals(query)
    pause = Pause()
    for batch in batches(tenants):
        if counts_all:
            count(batch)
        for flow in batch:
            if not flow.is_recorded and matches(flow):
                top.add(key(flow), flow.id, flow)
        await pause()
    records: list[FlowRecord] = []
    found = top.items()
    for at in range(0, len(found), BATCH_FLOWS):
        batch = [flow for flow in found[at : at + BATCH_FLOWS] if not flow.is_recorded]
        if not counts_all:
            count(batch)
        for flow in batch:
            records.append(snapshot(flow))
            await pause()
    return records


async def count_groups(
    tenants: Iterable[Tenant], query: FlowQuery, by: Sequence[str], count: Count, counted_ids: set[str]
) -> dict[Key, Sums]:
    """The sums of the live flows that match, grouped by these fields. Adds their IDs to `counted_ids`."""
    getters = flow_getters(time.time_ns())
    matches, counter, pause = predicate(query, getters), GroupCounter(by, getters), Pause()
    for batch in batches(tenants):
        count(batch)
        for flow in batch:
            if not flow.is_recorded and matches(flow):
                counter.add(flow)
                counted_ids.add(flow.id)
        await pause()
    return counter.sums


async def stream(
    tenants: Iterable[Tenant], query: FlowQuery, count: Count, snapshot: Callable[[Flow], FlowRecord]
) -> AsyncGenerator[FlowRecord, None]:
    """The record of each live flow that matches, in no order."""
    getters = flow_getters(time.time_ns())
    matches, pause = predicate(query, getters), Pause()
    for batch in batches(tenants):
        live = [flow for flow in batch if not flow.is_recorded]
        count(live)
        for flow in live:
            if matches(flow):
                yield snapshot(flow)
        await pause()


class Pause:
    """Await it often: it lets other tasks run when a slice of time is over."""

    def __init__(self) -> None:
        self._until = time.monotonic() + SLICE_S

    async def __call__(self) -> None:
        if time.monotonic() >= self._until:
            await asyncio.sleep(0)
            self._until = time.monotonic() + SLICE_S


def batches(tenants: Iterable[Tenant]) -> Iterator[list[Flow]]:
    """All flows, a few at a time. One that begins or ends meanwhile may be missing."""
    for tenant in tenants:
        for flows in tenant.slices():
            for at in range(0, len(flows), BATCH_FLOWS):
                yield flows[at : at + BATCH_FLOWS]


async def find_flow(tenants: Iterable[Tenant], flow_id: str) -> Flow | None:
    """The live flow with this id, or None."""
    pause = Pause()
    for batch in batches(tenants):
        for flow in batch:
            if flow.id == flow_id and not flow.is_ended:
                return flow
        await pause()
    return None


async def count_routes(tenant: Tenant) -> Counter[tuple[str, str]]:
    """The number of live flows that took each route, by network and route."""
    counts: Counter[tuple[str, str]] = Counter()
    pause = Pause()
    for batch in batches([tenant]):
        routed = (flow for flow in batch if flow.route is not None and not flow.is_ended)
        counts.update((flow.carrier.network.name, flow.route or "") for flow in routed)
        await pause()
    return counts
