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
STEP = 64  # flows between two readings of the clock

Count = Callable[[Sequence[Flow]], None]


async def scan(
    owners: Iterable[Tenant], query: FlowQuery, count: Count, look: Callable[[Flow], FlowRecord]
) -> list[FlowRecord]:
    """The first flows that match, one more than the query's limit, in its order.

    `count` updates the totals of flows, `look` makes the record of one.
    """
    getters = flow_getters(time.time_ns())
    wanted, key = predicate(query, getters), sort_key(query.sort, getters)
    top: TopN[Flow] = TopN(query.limit + 1, query.descending)
    counts_all = needs_totals(query)
    pause = Pause()
    for step in steps(owners):
        if counts_all:
            count(step)
        for flow in step:
            if not flow.is_recorded and wanted(flow):
                top.add(key(flow), flow.id, flow)
        await pause()
    records: list[FlowRecord] = []
    found = top.items()
    for at in range(0, len(found), STEP):
        step = [flow for flow in found[at : at + STEP] if not flow.is_recorded]
        if not counts_all:
            count(step)
        for flow in step:
            records.append(look(flow))
            await pause()
    return records


async def count_groups(
    owners: Iterable[Tenant], query: FlowQuery, by: Sequence[str], count: Count, counted: set[str]
) -> dict[Key, Sums]:
    """The sums of the live flows that match, grouped by these fields. Adds their IDs to `counted`."""
    getters = flow_getters(time.time_ns())
    wanted, counting, pause = predicate(query, getters), GroupCounter(by, getters), Pause()
    for step in steps(owners):
        count(step)
        for flow in step:
            if not flow.is_recorded and wanted(flow):
                counting.add(flow)
                counted.add(flow.id)
        await pause()
    return counting.sums


async def stream(
    owners: Iterable[Tenant], query: FlowQuery, count: Count, look: Callable[[Flow], FlowRecord]
) -> AsyncGenerator[FlowRecord, None]:
    """The record of each live flow that matches, in no order."""
    getters = flow_getters(time.time_ns())
    wanted, pause = predicate(query, getters), Pause()
    for step in steps(owners):
        alive = [flow for flow in step if not flow.is_recorded]
        count(alive)
        for flow in alive:
            if wanted(flow):
                yield look(flow)
        await pause()


class Pause:
    """Await it often: it lets other tasks run when a slice of time is over."""

    def __init__(self) -> None:
        self._until = time.monotonic() + SLICE_S

    async def __call__(self) -> None:
        if time.monotonic() >= self._until:
            await asyncio.sleep(0)
            self._until = time.monotonic() + SLICE_S


def steps(owners: Iterable[Tenant]) -> Iterator[list[Flow]]:
    """All flows, a few at a time. One that begins or ends meanwhile may be missing."""
    for owner in owners:
        for flows in owner.slices():
            for at in range(0, len(flows), STEP):
                yield flows[at : at + STEP]


async def find_flow(owners: Iterable[Tenant], flow_id: str) -> Flow | None:
    """The live flow with this id, or None."""
    pause = Pause()
    for step in steps(owners):
        for flow in step:
            if flow.id == flow_id and not flow.is_ended:
                return flow
        await pause()
    return None


async def count_routes(owner: Tenant) -> Counter[tuple[str, str]]:
    """The number of live flows that took each route, by network and route."""
    taken: Counter[tuple[str, str]] = Counter()
    pause = Pause()
    for step in steps([owner]):
        routed = (flow for flow in step if flow.route is not None and not flow.is_ended)
        taken.update((flow.carrier.network.name, flow.route or "") for flow in routed)
        await pause()
    return taken
