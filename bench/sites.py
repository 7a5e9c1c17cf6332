"""Complete labs under load: throughput between a client and GRE sites, compared with a plain router."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from bench.series import Sample
from bench.topology import BenchError, Topology

ROOT = Path(__file__).parent.parent
SITES, ROUTER = "sites, the whole lab", "the same hosts behind a router"
DATAGRAM = 1200  # bytes of payload, not fragmented in any tunnel
OFFERED = "2G"  # more than any tunnel carries: what arrives is counted
TUNNELS = """
networks:
  internet: {subnets: [10.50.0.0/24, "fd00:50::/64"]}
nodes:
  edge: {kind: proxy, networks: [internet], tenants: {acme: {}}}
  laptop: {kind: warp, proxy: edge, tenant: acme, offload: true}
  berlin: {kind: gre-site, tenant: acme, key: 42, tunnel: TUNNEL, hosts: {web: {services: [iperf3]}}}
  tokyo: {kind: gre-site, tenant: acme, key: 43, tunnel: TUNNEL, hosts: {web: {services: [iperf3]}}}
"""
ROUTED = """
networks:
  a: {subnets: [10.1.0.0/24]}
  b: {subnets: [10.2.0.0/24]}
  c: {subnets: [10.3.0.0/24]}
nodes:
  edge: {kind: router, networks: [a, b, c]}
  laptop: {kind: process, networks: [c], command: [sleep, infinity]}
  berlin-web: {kind: upstream, networks: [a], services: {iperf3: 5201}}
  tokyo-web: {kind: upstream, networks: [b], services: {iperf3: 5201}}
"""
WAYS = {"client -> site": ("laptop", "berlin-web"), "site -> site": ("tokyo-web", "berlin-web")}


def contestants(topology: Topology, seconds: float) -> list[tuple[str, Callable[[], Sample]]]:
    """The contestants. Each is a lab that exists only for its turn; all run on the bench's core."""
    return [
        (ROUTER, lambda: _measure(topology, ROUTED, seconds)),
        (SITES, lambda: _measure(topology, TUNNELS.replace("TUNNEL", "userspace"), seconds)),
    ]


def _measure(topology: Topology, text: str, seconds: float) -> Sample:
    sample: Sample = {}
    with _lab(topology, text) as inside:
        for way, (source, target) in WAYS.items():
            stream = inside(source, "iperf3", "-4", "-J", "-c", target, "-t", str(seconds))
            sample[f"{way}, TCP Mbit/s"] = stream["end"]["sum_received"]["bits_per_second"] / 1e6
            size = ("-u", "-l", str(DATAGRAM), "-b", OFFERED)
            burst = inside(source, "iperf3", "-4", "-J", "-c", target, "-t", str(seconds), *size)["end"]["sum"]
            sample[f"{way}, UDP packets/s"] = (burst["packets"] - burst["lost_packets"]) / burst["seconds"]
    return sample


@contextlib.contextmanager
def _lab(topology: Topology, text: str) -> Iterator[Callable[..., dict[str, dict[str, dict[str, float]]]]]:
    """Run the lab, and return a function that runs a command in a node and returns its JSON output."""
    file = topology.directory / "sites.yaml"
    file.write_text(text)
    environment = os.environ | {"OXYCTL_RUN_DIR": str(topology.directory / "run")}

    def oxyctl(*arguments: str) -> str:
        command = ["taskset", "-c", str(topology.cpu), sys.executable, "-m", "oxyctl", "lab", *arguments]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)
        if done.returncode:
            raise BenchError(f"oxyctl lab {arguments[0]}: {(done.stderr or done.stdout).strip()[-500:]}")
        return done.stdout

    oxyctl("up", str(file), "--name", "sites")
    try:
        yield lambda node, *command: json.loads(oxyctl("exec", "--lab", "sites", node, "--", *command))
    finally:
        oxyctl("down", "sites")
