"""Programs besides the contestants: origin servers, load generators, and C programs compiled when needed."""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.topology import CLIENT, ORIGIN, ORIGIN_ADDRESS, BenchError, Topology, wait_for

BODY_BYTES = 1024
HTTP_PORT, IPERF_PORT = 80, 5201
HERE = Path(__file__).parent

_NGINX = """
worker_processes 1; daemon off; pid nginx.pid; error_log nginx.err; user root;
events { worker_connections 30000; }
worker_rlimit_nofile 65536;
http {
  access_log off; keepalive_requests 1000000000; keepalive_timeout 3600; sendfile on; tcp_nopush on;
  client_body_temp_path cb; proxy_temp_path pt; fastcgi_temp_path ft; uwsgi_temp_path ut; scgi_temp_path st;
  server { listen 80 backlog=4096; root www; }
}
"""


def compiled(source: str, directory: Path) -> Path:
    """Compile bench/SOURCE.c. Returns the path of the program."""
    program = directory / source
    if not program.exists():
        compiler = shutil.which("cc")
        if compiler is None:
            raise BenchError("a C compiler (cc) is needed for the load generators")
        command = [compiler, "-O2", "-Wall", "-o", str(program), str(HERE / f"{source}.c")]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise BenchError(f"{source}.c does not compile: {done.stderr.strip()[-500:]}")
    return program


@contextlib.contextmanager
def http_origin(topology: Topology) -> Iterator[str]:
    """An HTTP server with 1 KiB at /1k, and its name: nginx, or a small one of ours."""
    program = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")
    if program:
        directory = topology.directory / "nginx"
        (directory / "www").mkdir(parents=True, exist_ok=True)
        (directory / "www/1k").write_bytes(b"x" * BODY_BYTES)
        (directory / "nginx.conf").write_text(_NGINX)
        command = [program, "-p", str(directory), "-c", "nginx.conf", "-e", "nginx.err"]
    else:
        command = [str(compiled("origin", topology.directory)), str(HTTP_PORT)]
    with topology.running(ORIGIN, command):
        _wait_for_port(topology, HTTP_PORT)
        yield Path(command[0]).name


@contextlib.contextmanager
def iperf3_origin(topology: Topology) -> Iterator[None]:
    if not shutil.which("iperf3"):
        raise BenchError("iperf3 is not installed: bulk TCP cannot be measured")
    with topology.running(ORIGIN, ["iperf3", "-s", "-p", str(IPERF_PORT)]):
        _wait_for_port(topology, IPERF_PORT)
        yield


def iperf3(topology: Topology, seconds: float, *arguments: str) -> dict[str, Any]:
    """The `end` part of a client's report."""
    command = ["iperf3", "-c", ORIGIN_ADDRESS, "-p", str(IPERF_PORT), "-t", f"{seconds:g}", "-J", *arguments]
    report = json.loads(topology.run(CLIENT, command, timeout_s=seconds + 30))
    if "error" in report:
        raise BenchError(f"iperf3: {report['error']}")
    end: dict[str, Any] = report["end"]
    return end


def http_load(topology: Topology, mode: str, parallel: int, seconds: float) -> dict[str, float]:
    """The report of load.c about `fresh` connections or `keepalive` requests."""
    program = compiled("load", topology.directory)
    command = [str(program), mode, ORIGIN_ADDRESS, str(HTTP_PORT), str(parallel), f"{seconds:g}"]
    report: dict[str, float] = json.loads(topology.run(CLIENT, command, timeout_s=seconds + 30))
    return report


def _wait_for_port(topology: Topology, port: int) -> None:
    def listens() -> bool:
        try:
            socket.create_connection((ORIGIN_ADDRESS, port), 1).close()
        except OSError:
            return False
        return True

    wait_for(f"port {port} of the origin", lambda: topology.inside(CLIENT, listens))
