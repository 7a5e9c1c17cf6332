"""Memory: what an idle flow holds, that churn leaves nothing behind, and what happens when descriptors run out."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import socket
import statistics
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.contestants import Proxy, steered
from bench.idle_connections import held, settled
from bench.programs import HTTP_PORT, compiled, http_load, http_origin
from bench.series import Figure, Sample
from bench.topology import ORIGIN_ADDRESS, BenchError, Topology, wait_for

WARM_FLOWS, IDLE_FLOWS = 1_000, 4_000
DESCRIPTORS, MANY_FLOWS, TOO_MANY = 20_000, 9_000, 2_000
MOST_RSS_KIB, MOST_DESCRIPTORS, MOST_GROWTH = 6.0, 2.0, 1.05
CHURN_S, QUICK_CHURN_S = 600, 30
WARM_UP_S = 10  # until the number of lingering flows is stable
SAMPLE_S = 0.5
OURS, CHURN, FULL = "idle flows", "churn", "descriptors run out"
FAILED = "failed"


def measure(topology: Topology, *, quick: bool) -> Figure:
    figure = Figure("memory", "Memory of the proxy (with offload, records on)")
    with http_origin(topology):
        for _ in range(2 if quick else 5):
            with _proxy(topology) as proxy:
                figure.add(OURS, _idle(topology, proxy))
        with _proxy(topology) as proxy:
            figure.add(CHURN, _churn(topology, proxy, QUICK_CHURN_S if quick else CHURN_S))
        with _proxy(topology, descriptors=DESCRIPTORS) as proxy:
            figure.add(FULL, _full(topology, proxy))
    figure.aim("KiB of RSS for an idle flow", figure.median(OURS, "KiB a flow"), MOST_RSS_KIB, at_most=True)
    figure.aim(
        "descriptors for an idle flow", figure.median(OURS, "descriptors a flow"), MOST_DESCRIPTORS, at_most=True
    )
    figure.aim("RSS after churn, of that before", figure.median(CHURN, "RSS last/first"), MOST_GROWTH, at_most=True)
    figure.aim_at_none("flows that failed during churn", figure.median(CHURN, FAILED))
    figure.aim(f"live flows under a limit of {DESCRIPTORS:,} descriptors", figure.median(FULL, "live"), MANY_FLOWS)
    figure.aim("of the flows beyond, refused with a reason", figure.median(FULL, "refused and counted"), 1.0)
    figure.aim("of the live ones, still served", figure.median(FULL, "still served"), 1.0)
    return figure


@contextlib.contextmanager
def _proxy(topology: Topology, **settings: Any) -> Iterator[Proxy]:
    proxy = Proxy(**settings)
    with contextlib.ExitStack() as stack:
        proxy.start(topology, stack)
        wait_for("the control socket", proxy.control(topology).exists)
        stack.enter_context(steered(topology, proxy))
        yield proxy
    for file in topology.directory.glob("oxy1.*"):
        file.unlink()


def _idle(topology: Topology, proxy: Proxy) -> Sample:
    """Memory of an idle flow: the difference between a warm proxy with few flows and the same one with many."""
    with _held(topology, WARM_FLOWS):
        before, open_before = settled(lambda: _rss_kib(proxy)), _descriptors(proxy)
        with _held(topology, IDLE_FLOWS):
            after, open_after = settled(lambda: _rss_kib(proxy)), _descriptors(proxy)
    return {
        "KiB a flow": (after - before) / IDLE_FLOWS,
        "descriptors a flow": (open_after - open_before) / IDLE_FLOWS,
        "RSS MiB before": before / 1024,
        "RSS MiB": after / 1024,
    }


def _churn(topology: Topology, proxy: Proxy, seconds: float) -> Sample:
    samples: list[float] = []
    done = threading.Event()

    def watch() -> None:
        while not done.wait(SAMPLE_S):
            samples.append(_rss_kib(proxy))

    http_load(topology, "fresh", 50, WARM_UP_S)
    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        report = http_load(topology, "fresh", 50, seconds)
    finally:
        done.set()
        watcher.join()
    third = max(1, len(samples) // 3)
    first, last = statistics.median(samples[:third]), statistics.median(samples[-third:])
    return {
        "RSS last/first": last / first,
        "RSS MiB before": first / 1024,
        "RSS MiB": last / 1024,
        "flows": report["done"],
        FAILED: report["failed"],
    }


def _full(topology: Topology, proxy: Proxy) -> Sample:
    with _held(topology, MANY_FLOWS) as many:
        live = many["done"]
        with _held(topology, TOO_MANY, seconds=5) as more:
            drops = _status(topology, proxy)["drops"].get("no_descriptors", 0)
            served = http_load(topology, "keepalive", 1, 0.1)["done"]  # a new flow, for which no descriptor is left
            rss = _rss_kib(proxy)
            still = many["ask"]()
        live += more["done"]
    return {
        "live": live, "refused and counted": min(1.0, drops / max(1, more["failed"])) if more["failed"] else 0.0,
        "still served": still / many["done"] if not served else 0.0, "RSS MiB": rss / 1024,
    }  # fmt: skip


def _held(topology: Topology, count: int, seconds: float = 60) -> contextlib.AbstractContextManager[dict[str, Any]]:
    """`count` connections."""
    program = str(compiled("load", topology.directory))
    return held(topology, [program, "hold", ORIGIN_ADDRESS, str(HTTP_PORT), str(count), f"{seconds:g}"])


def _rss_kib(proxy: Proxy) -> float:
    assert proxy.process is not None
    return rss_kib(proxy.process.pid)


def rss_kib(pid: int) -> float:
    """Resident memory of a process."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return float(line.split()[1])
    raise BenchError("the proxy has no resident memory: it ended")


def _descriptors(proxy: Proxy) -> int:
    assert proxy.process is not None
    return len(os.listdir(f"/proc/{proxy.process.pid}/fd"))


def _status(topology: Topology, proxy: Proxy) -> dict[str, Any]:
    connection = http.client.HTTPConnection("localhost", timeout=10)
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.connect(str(proxy.control(topology)))
    connection.request("GET", "/v1/status")
    found: dict[str, Any] = json.loads(connection.getresponse().read())
    connection.close()
    return found.get("items", [found])[0] if "items" in found else found
