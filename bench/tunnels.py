"""Between tunnels: the forward path, compared with a C program with the same system calls, and with the kernel."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from bench import sites
from bench.contestants import KERNEL
from bench.packets import LOSS_FREE, PAYLOAD, SESSIONS, search, whole_rate
from bench.programs import compiled
from bench.series import Figure, Sample, alternate
from bench.topology import PROXY, Topology

FLOWS, ROUNDS, SIZE = 1000, 100, 1280
OURS, FORWARDER = "forward path, Python", "forward path, C"
SOURCES = {"client": "client -> site", "site": "site -> site"}
LEAST_SPEED = 0.65


def measure(topology: Topology, *, quick: bool) -> Figure:
    figure = Figure("tunnels", "Packets from tunnel to tunnel, one core", (FORWARDER, KERNEL, sites.ROUTER))
    rounds, seconds = (2, 0.3) if quick else (5, 1.0)
    forwarder = str(compiled("forwarder", topology.directory))
    alternate(
        figure, rounds, [(name, _forward(topology, kind)) for name, kind in ((FORWARDER, forwarder), (OURS, "ours"))]
    )
    for text in SOURCES.values():
        figure.aim(f"{text}, {FLOWS:,} flows, of C", figure.ratio(OURS, FORWARDER, _metric(text)), LEAST_SPEED)
    alternate(figure, rounds, [(KERNEL, _routed(topology, seconds))])
    alternate(figure, rounds, sites.contestants(topology, 2 if quick else 5))
    figure.notes.append(f"{SIZE} bytes a packet: {SIZE * 8 / 1000:.2f} Gbit/s for each million packets/s")
    figure.notes.append(
        f"kernel: plain routing, the highest rate at which {SESSIONS} flows of {PAYLOAD} bytes arrive whole"
    )
    return figure


def _forward(topology: Topology, kind: str) -> Callable[[], Sample]:
    def run() -> Sample:
        sample = {}
        for source, text in SOURCES.items():
            command = [sys.executable, "-m", "bench.forwarding", source, kind, *map(str, (FLOWS, ROUNDS, SIZE))]
            ns = float(topology.run(PROXY, command, directory=Path(__file__).parent.parent))
            sample[_metric(text)] = 1e9 / ns
        return sample

    return run


def _routed(topology: Topology, seconds: float) -> Callable[[], Sample]:
    return lambda: {LOSS_FREE: search(lambda rate: whole_rate(topology, rate, seconds))}


def _metric(text: str) -> str:
    return f"{text}, packets/s"
