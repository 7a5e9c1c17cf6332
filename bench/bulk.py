"""Bulk TCP: one iperf3 stream up, then down; client, proxy and origin share one core, MTU 1500."""

from __future__ import annotations

from collections.abc import Callable

from bench.contestants import KERNEL, OFFLOAD, PLAIN, Contestant, everybody, started, steered
from bench.programs import http_origin, iperf3, iperf3_origin
from bench.series import Figure, Sample, alternate
from bench.topology import BenchError, Topology

UP, DOWN = "up Mbit/s", "down Mbit/s"
LEAST_UP, LEAST_DOWN, LEAST_LEAD = 0.45, 0.40, 2.0
MAX_MISSING = 0.10  # of the bytes sent: those in flight when iperf3 stops counting


def measure(topology: Topology, *, quick: bool) -> Figure:
    figure = Figure("bulk", "Bulk TCP through one core, MTU 1500 (ratio to the kernel in brackets)", (KERNEL,))
    seconds, rounds = (2, 2) if quick else (4, 5)
    with (
        http_origin(topology),
        iperf3_origin(topology),
        started(topology, everybody(), figure.skipped) as contestants,
    ):
        alternate(figure, rounds, [(one.name, _both_ways(topology, one, seconds, figure)) for one in contestants])
    peers = [one.name for one in contestants if one.name not in (KERNEL, OFFLOAD, PLAIN)]
    for way, metric, least in (("up", UP, LEAST_UP), ("down", DOWN, LEAST_DOWN)):
        figure.aim(f"with offload, of kernel forwarding, {way}", figure.ratio(OFFLOAD, KERNEL, metric), least)
        if peers:
            best = max(peers, key=lambda name: figure.median(name, metric))
            figure.aim(f"times the best peer ({best}), {way}", figure.ratio(OFFLOAD, best, metric), LEAST_LEAD)
    return figure


def _both_ways(topology: Topology, contestant: Contestant, seconds: float, figure: Figure) -> Callable[[], Sample]:
    def run() -> Sample:
        with steered(topology, contestant):
            return {
                UP: _transfer(topology, seconds, figure, contestant),
                DOWN: _transfer(topology, seconds, figure, contestant, "-R"),
            }

    return run


def _transfer(topology: Topology, seconds: float, figure: Figure, contestant: Contestant, *options: str) -> float:
    """Mbit/s as received. Data that was sent but did not arrive is not counted; too much of it is an error."""
    end = iperf3(topology, seconds, *options)
    sent, received = end["sum_sent"]["bytes"], end["sum_received"]["bytes"]
    missing = 1 - received / sent if sent else 1.0
    if not received:
        raise BenchError(f"{contestant.name}: nothing arrived")
    if missing > MAX_MISSING:
        text = f"{contestant.name}{' down' if options else ' up'}: of what was sent, not received in time"
        figure.aim(text, missing, MAX_MISSING, at_most=True)
    return float(end["sum_received"]["bits_per_second"]) / 1e6
