"""The time until a lab is up and ready, compared with `ip -batch` creating the same namespaces and links.

The total is the time of `oxyctl lab up`, including interpreters. The time for links is from the first step to the
start of the first program, the part that `ip` does as well. The remainder is the start of programs.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from bench.series import Figure, Sample, alternate
from bench.topology import BenchError, Topology
from oxyctl.plan.steps import Plan
from oxyctl.supervise.state import LabDirectory

ROOT = Path(__file__).parent.parent
QUICKSTART, FIFTY, CLIENTS = "quickstart", "50 nodes", "200 clients"
IP, MININET = "ip -batch, the 50 nodes' links", "Mininet, 50 hosts"
WHOLE, LINKS, REST, MEMORY = "seconds", "links s", "programs s", "PSS MiB"
MOST_QUICKSTART_S, MOST_TO_IP, MOST_CLIENTS_S, MOST_CLIENTS_MIB = 2.0, 3.0, 10.0, 1024.0
MININET_CODE = """
import time
from mininet.net import Mininet
from mininet.nodelib import LinuxBridge  # the same bridge as a lab's, and no daemon
from mininet.topo import SingleSwitchTopo
net = Mininet(SingleSwitchTopo(50), switch=LinuxBridge, controller=None, build=False)
start = time.monotonic()
net.build()
net.start()
print(time.monotonic() - start)
net.stop()
"""
# prints each event of `up`, the function that the command line calls, with its time
UP = """
import json, sys, time
start = float(sys.argv[2])
from oxyctl.operate.up import up
from oxyctl.topology.file import load
seen = []
up(load(sys.argv[1]), 120, lambda event: seen.append((time.monotonic() - start, event)))
print(json.dumps(seen))
"""


def measure(topology: Topology, *, quick: bool) -> Figure:
    figure = Figure("lab_up", "Time until a lab is up and every node is ready", (IP,))
    labs = {
        QUICKSTART: (ROOT / "labs" / "quickstart.yaml").read_text(),
        FIFTY: _fifty_nodes(),
        CLIENTS: _two_hundred_clients(),
    }
    measures = [(name, _lab(topology, name, text)) for name, text in labs.items()]
    measures.insert(2, (IP, lambda: _ip_batch(topology, labs[FIFTY])))
    if shutil.which("mn") and shutil.which("brctl"):
        measures.append((MININET, lambda: {WHOLE: float(_python("/usr/bin/python3", MININET_CODE))}))
    else:
        figure.skipped[MININET] = "not installed (apt install mininet bridge-utils)"
    alternate(figure, 2 if quick else 5, measures)
    _aim(figure)
    return figure


def _aim(figure: Figure) -> None:
    figure.aim("seconds to the quickstart, ready", figure.median(QUICKSTART, WHOLE), MOST_QUICKSTART_S, at_most=True)
    figure.aim("50 nodes' links, to ip -batch", figure.ratio(FIFTY, IP, LINKS), MOST_TO_IP, at_most=True)
    figure.aim("seconds to 200 clients, ready", figure.median(CLIENTS, WHOLE), MOST_CLIENTS_S, at_most=True)
    figure.aim("MiB in all of 200 clients", figure.median(CLIENTS, MEMORY), MOST_CLIENTS_MIB, at_most=True)
    rest = figure.median(FIFTY, REST)
    figure.notes.append(f"50 nodes: interpreters, 50 programs and until they are ready take {rest:.2f} s beside links")


def _fifty_nodes() -> str:
    nodes = "".join(
        f'  n{number}: {{kind: process, networks: [lan], command: [sleep, "600"]}}\n' for number in range(50)
    )
    return f'networks:\n  lan: {{subnets: [10.0.0.0/24, "fd00::/64"]}}\nnodes:\n{nodes}'


def _two_hundred_clients() -> str:
    clients = "".join(f"  c{number}: {{kind: warp, proxy: edge, tenant: acme}}\n" for number in range(200))
    return (
        'networks:\n  lan: {subnets: [10.0.0.0/24, "fd00::/64"]}\nnodes:\n'
        "  edge: {kind: proxy, networks: [lan], tenants: {acme: {}}}\n"
        "  web: {kind: upstream, networks: [lan], services: {http: 80}}\n" + clients
    )


def _lab(topology: Topology, name: str, text: str) -> Callable[[], Sample]:
    file = topology.directory / f"{name.replace(' ', '-')}.yaml"
    file.write_text(text)
    run = topology.directory / "run"

    def bring_up() -> Sample:
        environment = os.environ | {"OXYCTL_RUN_DIR": str(run)}
        start = time.monotonic()
        try:
            answer = _python(sys.executable, UP, str(file), str(start), environment=environment)
            return _sample(msgspec.json.decode(answer), run)
        finally:
            subprocess.run(
                [sys.executable, "-m", "oxyctl", "lab", "down", "--all"],
                env=environment, cwd=ROOT, check=True, capture_output=True,
            )  # fmt: skip

    return bring_up


def _sample(events: list[tuple[float, dict[str, str]]], run: Path) -> Sample:
    begun = next(when for when, event in events if event.get("text", "").endswith(" namespaces"))
    made = next(when for when, event in events if event.get("text", "").startswith("start of "))
    whole = events[-1][0]
    return {WHOLE: whole, LINKS: made - begun, REST: whole - (made - begun), MEMORY: _pss_mib(run)}


def _pss_mib(run: Path) -> float:
    """Memory of all processes of labs in `run`, with the supervisor; shared pages count once."""
    needle, total = f"OXYCTL_RUN_DIR={run}".encode(), 0
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if int(process.name) != os.getpid() and needle in (process / "environ").read_bytes().split(b"\0"):
                lines = (process / "smaps_rollup").read_text().splitlines()
                total += next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total / 1024


def _ip_batch(topology: Topology, text: str) -> Sample:
    """ip(8) creates the namespaces, the bridge, the pairs and their addresses, with one process per namespace."""
    outside, inside = _batches(text)
    start = time.monotonic()
    try:
        _ip("-batch", "-", batch=outside)
        for node, batch in inside.items():
            _ip("-n", node, "-batch", "-", batch=batch)
        elapsed = time.monotonic() - start
    finally:
        _ip("-force", "-batch", "-", batch="".join(f"netns del {node}\n" for node in inside) + "link del br0\n")
    return {WHOLE: elapsed, LINKS: elapsed}


def _batches(text: str) -> tuple[str, dict[str, str]]:
    """Commands for outside and inside of each namespace, from the lab's plan."""
    plan = _plan(text)
    outside = [f"netns add {namespace.node}" for namespace in plan.namespaces]
    outside += [f"link add {bridge.name} type bridge\nlink set {bridge.name} up" for bridge in plan.bridges]
    inside: dict[str, list[str]] = {namespace.node: ["link set lo up"] for namespace in plan.namespaces}
    bridges = {bridge.index: bridge.name for bridge in plan.bridges}
    for link in plan.links:
        pair = f"type veth peer name {link.interface} address {link.mac} netns {link.node}"
        outside.append(f"link add {link.port} master {bridges[link.bridge_index]} up {pair}")
        inside[link.node].append(f"link set {link.interface} up")
        inside[link.node] += [
            f"addr add {address} dev {link.interface}{' nodad' * (':' in address)}" for address in link.addresses
        ]
    return "\n".join(outside) + "\n", {node: "\n".join(lines) + "\n" for node, lines in inside.items()}


def _plan(text: str) -> Plan:
    from oxyctl.plan.make import make_plan
    from oxyctl.topology.file import loads

    return make_plan(loads(text, "bench"), LabDirectory(Path("/nowhere")).path)


def _ip(*arguments: str, batch: str) -> None:
    done = subprocess.run(["ip", *arguments], input=batch, capture_output=True, text=True)
    if done.returncode and "-force" not in arguments:
        raise BenchError(f"ip: {done.stderr.strip()[-300:]}")


def _python(python: str, code: str, *arguments: str, environment: dict[str, str] | None = None) -> str:
    done = subprocess.run(
        [python, "-c", code, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120
    )
    if done.returncode:
        raise BenchError(done.stderr.strip()[-500:])
    return done.stdout
