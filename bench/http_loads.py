"""HTTP load generators in common use, and their reports. Requests refused, lost or cut off count as failed."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from bench.http_origin import BULK_BYTES, TLS_URL, Origin
from bench.idle_connections import held
from bench.topology import CLIENT, BenchError, Topology

CONNECTIONS, STREAMS = 10, 10
BATCH = 100  # new connections
BULK_S = 300.0  # for 100 MB, by the slowest contestant
_REPORT = """
done = function(summary, latency, requests)
  local e = summary.errors
  print(string.format('{"done": %d, "seconds": %f, "failed": %d, "p99_us": %d}', summary.requests,
        summary.duration / 1e6, e.connect + e.read + e.write + e.status + e.timeout, latency:percentile(99)))
end
"""
_DONE = re.compile(r"(\d+) succeeded, (\d+) failed, (\d+) errored, (\d+) timeout")
_FINISHED = re.compile(r"finished in ([0-9.]+)(us|ms|s),")
_SECONDS = {"us": 1e-6, "ms": 1e-3, "s": 1.0}


def require() -> None:
    """Raise BenchError if a load generator is not installed."""
    for program in ("wrk", "h2load", "curl"):
        if not shutil.which(program):
            raise BenchError(f"{program} is not installed: HTTP over TLS cannot be measured")


def wrk(topology: Topology, url: str, seconds: float, *, fresh: bool = False) -> dict[str, float]:
    """Requests one after another on each of 10 connections, or each on a new connection: `done`, `failed`, ...

    wrk spins during a handshake: on a shared core, its own cost of a new connection grows with the time that the others
    take. Measure rates of new connections by `fresh`.
    """
    script = topology.directory / "report.lua"
    script.write_text(_REPORT)
    duration = max(1, round(seconds))
    command = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{duration}s", "--timeout", "10s", "-s", str(script)]
    if fresh:
        command += ["-H", "Connection: close"]
    output = topology.run(CLIENT, [*command, url], timeout_s=duration + 30)
    report: dict[str, float] = json.loads(output.strip().splitlines()[-1])
    return report


def fresh(topology: Topology, path: str, seconds: float) -> dict[str, float]:
    """HTTP/1.1 over TLS, each request on a new connection, 10 at a time, in batches until the time is over."""
    command = ["h2load", "--h1", "-t1", f"-c{CONNECTIONS}", f"-n{BATCH}", "-H", "Connection: close"]
    total = {"done": 0.0, "failed": 0.0, "seconds": 0.0}
    while total["seconds"] < seconds:
        report = _h2load_report(topology.run(CLIENT, [*command, f"{TLS_URL}{path}"], timeout_s=60))
        total = {name: value + report[name] for name, value in total.items()}
    return total


def h2load(topology: Topology, path: str, seconds: float) -> dict[str, float]:
    """HTTP/2 over TLS: 10 streams at once on each of 10 connections."""
    command = ["h2load", "-t1", f"-c{CONNECTIONS}", f"-m{STREAMS}", f"--duration={max(1, round(seconds))}"]
    output = topology.run(CLIENT, [*command, f"{TLS_URL}{path}"], timeout_s=seconds + 60)
    return _h2load_report(output)


def paced(topology: Topology, path: str, per_s: float, seconds: float) -> dict[str, float]:
    """HTTP/1.1 over TLS at a rate: `p99_us` of each request's time."""
    log = topology.directory / "paced.log"
    log.unlink(missing_ok=True)
    each = max(1, round(per_s / CONNECTIONS))
    count = max(CONNECTIONS, round(each * CONNECTIONS * seconds))
    command = ["h2load", "--h1", "-t1", f"-c{CONNECTIONS}", f"--rps={each}", f"-n{count}", f"--log-file={log}"]
    output = topology.run(CLIENT, [*command, f"{TLS_URL}{path}"], timeout_s=seconds * 5 + 60)
    taken = sorted(int(line.split("\t")[2]) for line in log.read_text().splitlines())
    if not taken:
        raise BenchError("h2load: no request was answered")
    return _h2load_report(output) | {"p99_us": float(taken[int(len(taken) * 0.99)])}


def _h2load_report(output: str) -> dict[str, float]:
    found, finished = _DONE.search(output), _FINISHED.search(output)
    if found is None or finished is None:
        raise BenchError(f"h2load: {output.strip()[-300:]}")
    done, *failed = map(int, found.groups())
    return {
        "done": done, "failed": max(failed[0], failed[1]) + failed[2],
        "seconds": float(finished[1]) * _SECONDS[finished[2]],
    }  # fmt: skip


def download(topology: Topology, origin: Origin, version: str) -> float:
    """Mbit/s of 100 MB to the client by HTTP `version`. BenchError: not all of it arrived."""
    return _curl(topology, origin, [f"--http{version}", "-o", "/dev/null", f"{TLS_URL}/100m"])


def upload(topology: Topology, origin: Origin, version: str) -> float:
    """Mbit/s of 100 MB to the origin, whose hash is compared with that of the stored file."""
    file = str(origin.bulk_file)
    rate = _curl(topology, origin, [f"--http{version}", "-T", file, "-o", "/dev/null", f"{TLS_URL}/up/100m"])
    if origin.uploaded_sha256() != origin.bulk_sha256:
        raise BenchError("what was uploaded is not what arrived")
    return rate


def check_download(topology: Topology, origin: Origin) -> None:
    """Raise BenchError if the download differs from the origin's file."""
    copy = topology.directory / "copy"
    _curl(topology, origin, ["-o", str(copy), f"{TLS_URL}/100m"])
    same = subprocess.run(["cmp", "-s", str(copy), str(origin.bulk_file)]).returncode == 0
    copy.unlink()
    if not same:
        raise BenchError("what was downloaded is not what the origin has")


def _curl(topology: Topology, origin: Origin, arguments: list[str]) -> float:
    form = "%{http_code} %{size_download} %{size_upload} %{time_total}"
    command = ["curl", "-sS", "--cacert", str(origin.trust), "-w", form, *arguments]
    status, down, up, seconds = topology.run(CLIENT, command, timeout_s=BULK_S).split()
    if status not in ("200", "201", "204") or max(int(down), int(up)) != BULK_BYTES:
        raise BenchError(f"100 MB: status {status}, {down} bytes down, {up} bytes up")
    return BULK_BYTES * 8 / float(seconds) / 1e6


def idle(
    topology: Topology, origin: Origin, count: int, patience_s: float
) -> contextlib.AbstractContextManager[dict[str, Any]]:
    """`count` TLS connections, as `held` describes them."""
    command = [sys.executable, "-m", "bench.http_holder", str(origin.trust), str(count), f"{patience_s:g}"]
    return held(topology, command, Path(__file__).parent.parent)


def resident_kib(process: subprocess.Popen[str]) -> float:
    """Memory of a process and its descendants in KiB; shared pages count once (PSS), kernel memory does not count."""
    total, waiting = 0.0, [process.pid]
    while waiting:
        pid = waiting.pop()
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    total += float(line.split()[1])
            for task in Path(f"/proc/{pid}/task").iterdir():
                waiting += map(int, (task / "children").read_text().split())
    if not total:
        raise BenchError("it has no resident memory: it ended")
    return total
