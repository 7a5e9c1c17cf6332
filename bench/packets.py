"""Packets: the hot loop, compared with a C program with the same system calls, and UDP end to end without loss."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from bench.contestants import KERNEL, Contestant, everybody, started, steered
from bench.programs import compiled, http_origin
from bench.series import Figure, Sample, alternate
from bench.topology import CLIENT, ORIGIN, ORIGIN_ADDRESS, PROXY, BenchError, Topology

FLOWS, ROUNDS = 1000, 200  # of the hot loop
SIZES = (1280, 100)  # bytes: the MTU of most tunnels, and small packets
OURS, FORWARDER = "hot loop, Python", "hot loop, C"
LEAST_SPEED = 0.65
PAYLOAD, SESSIONS, PORT = 1200, 32, 7000  # as QUIC sends
LOSS_FREE = "UDP packets/s"
FIRST_RATE, LEAST_RATE, PRECISION = 2_000, 50, 1.1
SETTLE_S = 0.15


def measure(topology: Topology, *, quick: bool) -> Figure:
    figure = Figure("packets", "Packets one by one, plain mode, one core", (FORWARDER, KERNEL))
    rounds, seconds = (2, 0.3) if quick else (5, 1.0)
    forwarder = str(compiled("forwarder", topology.directory))
    alternate(
        figure, rounds, [(name, _hot_loop(topology, kind)) for name, kind in ((FORWARDER, forwarder), (OURS, "ours"))]
    )
    figure.aim(f"hot loop of {FLOWS:,} flows, of C", figure.ratio(OURS, FORWARDER, _loop_metric(SIZES[0])), LEAST_SPEED)
    with http_origin(topology), started(topology, everybody(), figure.skipped) as contestants:
        alternate(figure, rounds, [(one.name, _udp(topology, one, seconds)) for one in contestants])
    figure.notes.append(
        f"UDP: the highest rate at which {SESSIONS} flows of {PAYLOAD} bytes arrive whole, within {PRECISION - 1:.0%}"
    )
    return figure


def search(is_whole: Callable[[float], float]) -> float:
    """The highest rate found without loss. `is_whole(rate)`: the rate actually sent, or 0 if anything was lost."""
    low, rate = 0.0, float(FIRST_RATE)
    while rate > LEAST_RATE and not is_whole(rate):
        rate /= 2
    while rate > LEAST_RATE and (real := is_whole(rate)):
        low = max(low, real)
        if real < rate / PRECISION:  # the sender itself is at its limit
            return low
        rate *= 2
    high = rate
    while low and high > low * PRECISION:
        middle = (low * high) ** 0.5
        if real := is_whole(middle):
            if real < middle / PRECISION:
                return max(low, real)
            low = middle
        else:
            high = middle
    return low


def _hot_loop(topology: Topology, kind: str) -> Callable[[], Sample]:
    def run() -> Sample:
        sample = {}
        for size in SIZES:
            command = [sys.executable, "-m", "bench.hotloop", kind, *map(str, (FLOWS, ROUNDS, size))]
            ns = float(topology.run(PROXY, command, directory=Path(__file__).parent.parent))
            sample[_loop_metric(size)] = 1e9 / ns
        return sample

    return run


def _loop_metric(size: int) -> str:
    return f"{size} bytes, packets/s"


def _udp(topology: Topology, contestant: Contestant, seconds: float) -> Callable[[], Sample]:
    def run() -> Sample:
        with steered(topology, contestant):
            return {LOSS_FREE: search(lambda rate: whole_rate(topology, rate, seconds))}

    return run


def whole_rate(topology: Topology, rate: float, seconds: float) -> float:
    """The rate actually sent if everything arrived, otherwise 0. Tries twice: one stray wake-up must not decide."""
    return _is_whole(topology, rate, seconds) or _is_whole(topology, rate, seconds)


def _is_whole(topology: Topology, rate: float, seconds: float) -> float:
    program = str(compiled("datagrams", topology.directory))
    receiver = [program, "receive", str(PORT)]
    with topology.running(ORIGIN, receiver, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdout.readline()
        sender = [
            program,
            "send",
            ORIGIN_ADDRESS,
            str(PORT),
            str(SESSIONS),
            f"{rate:.0f}",
            f"{seconds:g}",
            str(PAYLOAD),
        ]
        sent = json.loads(topology.run(CLIENT, sender, timeout_s=60))
        time.sleep(SETTLE_S)
        process.stdin.close()
        received = process.stdout.read().strip()
    if not received:
        raise BenchError("the receiver of datagrams did not answer")
    return sent["paced"] / sent["seconds"] if int(received) == sent["sent"] else 0.0
