"""The cost of inspecting a request: processor time of all processes and threads of the inspecting program; one core.

Unlike rates, it depends little on other load on the machine, the load generator and the origin.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from functools import partial
from pathlib import Path

from bench import http_loads as loads
from bench.contestants import START_S, Contestant, steered
from bench.http_origin import BULK_BYTES, PLAIN_URL, TLS_URL, Origin, tls_origin
from bench.http_readers import MITMPROXY, READING, Mitmproxy, Reading, is_reached
from bench.series import Figure, Sample, alternate
from bench.topology import BenchError, Topology, wait_for

PLAIN, TLS, H2 = "us a plain request", "us a TLS request", "us an h2 request"
FRESH = "us a TLS connection"
MOST = {TLS: 1 / 7, H2: 1 / 4, FRESH: 1 / 4}  # maximum ratio to mitmproxy


def measure(topology: Topology, *, quick: bool) -> Figure:
    loads.require()
    figure = Figure("http_cost", "processor time of HTTP that is read, 1 KiB, 10 connections; one core", (MITMPROXY,))
    seconds, rounds = (1.0, 2) if quick else (4.0, 5)
    with tls_origin(topology) as origin, contextlib.ExitStack() as stack:
        contestants: list[Contestant] = []
        for contestant in (Reading(topology), Mitmproxy()):
            try:
                contestant.start(topology, stack)
                with steered(topology, contestant):
                    wait_for(contestant.name, partial(is_reached, topology), START_S)
            except BenchError as error:
                if isinstance(contestant, Reading):
                    raise
                figure.skipped[contestant.name] = str(error)
            else:
                contestants.append(contestant)
        alternate(figure, rounds, [(one.name, _costs(topology, one, origin, seconds)) for one in contestants])
    for metric, most in MOST.items():
        if figure.median(MITMPROXY, metric):
            figure.aim(f"{metric}, of mitmproxy's", figure.ratio(READING, MITMPROXY, metric), most, at_most=True)
    return figure


def _costs(topology: Topology, contestant: Contestant, origin: Origin, seconds: float) -> Callable[[], Sample]:
    def requests(load: Callable[[], dict[str, float]]) -> float:
        report = load()
        if report["failed"]:
            raise BenchError(f"{contestant.name}: {report['failed']:.0f} requests failed")
        return report["done"]

    def megabytes(load: Callable[[], float]) -> float:
        load()
        return BULK_BYTES / 1e6

    measured: dict[str, Callable[[], float]] = {
        PLAIN: partial(requests, partial(loads.wrk, topology, f"{PLAIN_URL}/1k", seconds)),
        TLS: partial(requests, partial(loads.wrk, topology, f"{TLS_URL}/1k", seconds)),
        H2: partial(requests, partial(loads.h2load, topology, "/1k", seconds)),
        FRESH: partial(requests, partial(loads.fresh, topology, "/1k", seconds)),
    }
    for version in ("1.1", "2"):
        measured[f"us a MB down, HTTP/{version}"] = partial(
            megabytes, partial(loads.download, topology, origin, version)
        )
        measured[f"us a MB up, HTTP/{version}"] = partial(megabytes, partial(loads.upload, topology, origin, version))

    def run() -> Sample:
        assert contestant.process is not None
        sample = {}
        with steered(topology, contestant):
            for metric, load in measured.items():
                before = _processor_us(contestant.process.pid)
                done = load()
                sample[metric] = (_processor_us(contestant.process.pid) - before) / max(1.0, done)
        return sample

    return run


def _processor_us(pid: int) -> float:
    """CPU time in microseconds so far, of a process and of all its living descendants."""
    total = 0.0
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            total += int((task / "schedstat").read_text().split()[0]) / 1e3  # the kernel's sched-stats.rst
            total += sum(map(_processor_us, map(int, (task / "children").read_text().split())))
    return total
