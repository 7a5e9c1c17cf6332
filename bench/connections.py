"""Fresh connections and keep-alive requests per second, 1 KiB each, and the latency that the proxy adds; one core.

The load generator (load.c) and the origin share the core too. Kernel forwarding shows how little they need.
"""

from __future__ import annotations

from collections.abc import Callable

from bench.contestants import KERNEL, OFFLOAD, PLAIN, Contestant, everybody, started, steered
from bench.programs import http_load, http_origin
from bench.series import Figure, Sample, alternate
from bench.topology import Topology

PARALLEL = 50
FRESH, FRESH_PARALLEL, KEEPALIVE = "sequential conn/s", f"{PARALLEL} parallel conn/s", "keep-alive requests/s"
P50, P99, ADDED_P50, ADDED_P99 = "p50 us", "p99 us", "added p50 us", "added p99 us"
FAILED = "failed"
LEAST_FRESH, LEAST_KEEPALIVE = 2_500, 6_000


def measure(topology: Topology, *, quick: bool) -> Figure:
    figure = Figure(
        "connections", "Fresh connections and keep-alive requests, 1 KiB, through one core, records on", (KERNEL,)
    )
    seconds, rounds = (1.5, 2) if quick else (3, 5)
    with http_origin(topology) as server, started(topology, everybody(), figure.skipped) as contestants:
        figure.notes.append(f"the origin is {server}")
        alternate(figure, rounds, [(one.name, _loads(topology, one, seconds)) for one in contestants])
    for name in (OFFLOAD, PLAIN):
        failed = sum(sample[FAILED] for sample in figure.runs[name])
        figure.aim_at_none(f"{name}: connections and requests that failed", failed)
    for name, samples in figure.runs.items():
        for sample, reference in zip(samples, figure.runs[KERNEL], strict=True):
            if name != KERNEL:
                sample[ADDED_P50], sample[ADDED_P99] = sample[P50] - reference[P50], sample[P99] - reference[P99]
    figure.aim("with offload, fresh connections/s, one after the other", figure.median(OFFLOAD, FRESH), LEAST_FRESH)
    figure.aim(f"the same, {PARALLEL} at once", figure.median(OFFLOAD, FRESH_PARALLEL), LEAST_FRESH)
    figure.aim("with offload, keep-alive requests/s", figure.median(OFFLOAD, KEEPALIVE), LEAST_KEEPALIVE)
    return figure


def _loads(topology: Topology, contestant: Contestant, seconds: float) -> Callable[[], Sample]:
    def run() -> Sample:
        with steered(topology, contestant):
            one = http_load(topology, "fresh", 1, seconds)
            many = http_load(topology, "fresh", PARALLEL, seconds)
            kept = http_load(topology, "keepalive", 1, seconds)
        sample = {FRESH: one["done"] / one["seconds"], FRESH_PARALLEL: many["done"] / many["seconds"]}
        sample[KEEPALIVE] = kept["done"] / kept["seconds"]
        failed = sum(report["failed"] for report in (one, many, kept))
        return sample | {P50: one["p50_us"], P99: one["p99_us"], FAILED: failed}

    return run
