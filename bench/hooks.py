"""The cost of hooks: a flow from its first packet to its end record, without hooks and with those of an application.

Everything is in memory: a UDP flow from one tunnel to another, with its record in the flow log. No topology.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

from bench.flowpath import FlowPath
from bench.series import Figure, Sample, alternate
from bench.topology import Topology
from proxy.hooks import FlowContext, Hooks, Verdict

FLOWS, QUICK_FLOWS = 10_000, 2_000
MOST_US, ASKING_US = 50.0, 1.0
PER_FLOW = "us a flow"
NONE, END, START, ALL = "no hooks", "flow_end", "flow_start", "flow_start, route, level, connect, connected, flow_end"


class Ends(Hooks):
    """Receives ends only."""

    async def flow_end(self, flow: FlowContext) -> None:
        pass


class Starts(Hooks):
    """Allows each flow, without waiting for anything."""

    async def flow_start(self, flow: FlowContext) -> Verdict | None:
        return None


class Everything(Starts, Ends):
    """Receives every hook of a flow."""

    async def route(self, flow: FlowContext) -> str | None:
        return None

    async def level(self, flow: FlowContext) -> str | None:
        return None

    async def connect(self, flow: FlowContext) -> str | None:
        return None

    async def connected(self, flow: FlowContext) -> None:
        pass


CONTESTANTS: dict[str, Callable[[], Hooks[Any]]] = {NONE: Hooks, END: Ends, START: Starts, ALL: Everything}


def measure(topology: Topology, *, quick: bool) -> Figure:
    figure = Figure("hooks", "Hooks, on one core, in memory; flows are UDP, forwarded, with records", (NONE,))
    count = QUICK_FLOWS if quick else FLOWS
    paths = {name: FlowPath(kind()) for name, kind in CONTESTANTS.items()}
    try:
        alternate(figure, 2 if quick else 5, [(name, _flowing(path, count)) for name, path in paths.items()])
        figure.aim("us for a flow without hooks, all of it", figure.median(NONE, PER_FLOW), MOST_US, at_most=True)
        figure.aim("us of it for asking nobody", asking_nobody_us(paths[NONE]), ASKING_US, at_most=True)
    finally:
        for path in paths.values():
            path.__exit__()
    return figure


def asking_nobody_us(path: FlowPath) -> float:
    """Microseconds per flow, without hooks and policy, of checking whether there are any."""
    admission, flow, rounds = path.lifecycle.admission, path.flow(), 20_000
    began = time.process_time()
    for _ in range(rounds):
        admission.ask_policy(flow)
        _ = admission.stages
    return (time.process_time() - began) / rounds * 1e6


def _flowing(path: FlowPath, count: int) -> Callable[[], Sample]:
    return lambda: {PER_FLOW: asyncio.run(path.seconds_with_hooks(count)) * 1e6}
