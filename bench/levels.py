"""The cost of levels: packets through the kernel off-ramp, compared with the relay of streams; one core.

    interface on-ramp   the kernel sees the client: the proxy gets first packets, the kernel forwards all others
    connected tunnel    every packet passes the client's agent and the proxy, both on the same core
    relay               terminated: two sockets and a splice

Each contestant is alone in the path, and runs only for its turn. Records are on; no policy is configured.
"""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from bench.bulk import MAX_MISSING
from bench.contestants import KERNEL, START_S, Contestant, Proxy, SingBox, _answers
from bench.packets import LOSS_FREE, search, whole_rate
from bench.programs import http_load, http_origin, iperf3, iperf3_origin
from bench.series import Figure, Sample, alternate
from bench.topology import CLIENT, ORIGIN, PROXY, BenchError, Topology, wait_for
from proxy.device.interface import set_sysctl

RAMP, TUNNEL, RELAY = "interface on-ramp", "connected tunnel", "relay"
UP, DOWN = "up Mbit/s", "down Mbit/s"
FRESH, PARALLEL, KEPT = "sequential conn/s", "50 parallel conn/s", "keep-alive requests/s"
INSIDE = "100.96.0.2"
SETTLE_S = 3.0  # the proxy records a connection 2 s after its end: requests on other connections do not wait for that
LEAST = {
    RAMP: {UP: 0.9, DOWN: 0.9, FRESH: 0.55, PARALLEL: 0.55, KEPT: 0.8, LOSS_FREE: 0.7},
    TUNNEL: {UP: 0.55, DOWN: 0.55, FRESH: 0.4, PARALLEL: 0.4},
}


class OnRamp(Contestant):
    """The proxy with an on-ramp whose clients are visible to the kernel."""

    name = RAMP

    def start(self, topology: Topology, stack: contextlib.ExitStack) -> None:
        self._run(topology, stack, {"kind": "interface", "interfaces": ["p0"], "tenant": "bench"})
        wait_for(self.name, lambda: topology.inside(CLIENT, _answers), START_S)

    def _run(self, topology: Topology, stack: contextlib.ExitStack, ramp: dict[str, object]) -> None:
        control = topology.directory / "level.sock"
        limits = {"flows": 10**6, "new_flows_per_s": 10**6}
        settings = {
            "control": str(control), "offramp": "kernel", "tenants": {"bench": {"limits": limits}}, "onramps": [ramp],
            "records": {"path": str(topology.directory / "level.db")},
        }  # fmt: skip
        file = topology.directory / "level.yaml"
        file.write_text(json.dumps(settings))  # JSON is YAML
        self.process = stack.enter_context(topology.running(PROXY, [sys.executable, "-m", "proxy", str(file)]))
        wait_for("the control socket", control.exists)


class ConnectedTunnel(OnRamp):
    """The proxy with a connected tunnel, and the client's end of it."""

    name = TUNNEL

    def start(self, topology: Topology, stack: contextlib.ExitStack) -> None:
        ramp = topology.directory / "level.ramp"
        self._run(topology, stack, {"kind": "connected", "path": str(ramp)})
        context = {"tenant": "bench", "addresses": [INSIDE], "mtu": 1500, "offload": "virtio-net"}
        client = {"node": "client", "netns": topology.path(CLIENT), "interface": "warp0", "socket": str(ramp)}
        file = topology.directory / "agents.json"
        file.write_text(json.dumps({"clients": [client | {"context": context}]}))
        topology.ip(CLIENT, "route del default\n")
        stack.callback(topology.ip, CLIENT, "route replace default via 10.91.1.1 dev c0\n")
        stack.enter_context(topology.running(PROXY, [sys.executable, "-m", "oxyctl.agents", str(file)]))
        stack.callback(topology.ip, CLIENT, "link del warp0\n", check=False)
        wait_for(self.name, lambda: topology.inside(CLIENT, _answers), START_S)


class Terminated(Proxy):
    """A relay that inspects nothing, but terminates TCP."""

    def __init__(self, topology: Topology) -> None:
        super().__init__()
        self.name = RELAY

    def start(self, topology: Topology, stack: contextlib.ExitStack) -> None:
        super().start(topology, stack)
        self.steer(topology)
        stack.callback(self.unsteer, topology)


class Peer(SingBox):
    """sing-box with the kernel's stack, the closest peer in connections."""

    def start(self, topology: Topology, stack: contextlib.ExitStack) -> None:
        super().start(topology, stack)
        self.steer(topology)
        stack.callback(self.unsteer, topology)


def measure(topology: Topology, *, quick: bool) -> Figure:
    figure = Figure("levels", "Packets, and what is terminated; one core, records on", (KERNEL,))
    seconds, rounds = (2.0, 2) if quick else (4.0, 5)
    everybody = [Contestant(), OnRamp(), ConnectedTunnel(), Terminated(topology), Peer("system")]
    # All use the same address, with different time stamps: a port in TIME_WAIT would block the SYN of another one.
    topology.inside(ORIGIN, lambda: set_sysctl("net/ipv4/tcp_max_tw_buckets", 0))
    with http_origin(topology), iperf3_origin(topology):
        alternate(figure, rounds, [(one.name, _turn(topology, one, seconds, figure)) for one in everybody])
    for name, bounds in LEAST.items():
        for metric, least in bounds.items():
            figure.aim(f"{name}, {metric}, of the kernel", figure.ratio(name, KERNEL, metric), least)
    for name in (RAMP, TUNNEL):
        failed = sum(sample[FAILED] for sample in figure.runs[name])
        figure.aim_at_none(f"{name}, connections that failed", failed)
    return figure


FAILED = "failed"


def _turn(topology: Topology, contestant: Contestant, seconds: float, figure: Figure) -> Callable[[], Sample]:
    def run() -> Sample:
        with _alone(topology, contestant):
            bulk = partial(_bulk, topology, seconds, figure, contestant.name)
            sample = {UP: bulk(), DOWN: bulk("-R")}
            loads = {
                FRESH: http_load(topology, "fresh", 1, seconds),
                PARALLEL: http_load(topology, "fresh", 50, seconds),
            }
            time.sleep(SETTLE_S)
            loads[KEPT] = http_load(topology, "keepalive", 50, seconds)
            sample |= {metric: report["done"] / report["seconds"] for metric, report in loads.items()}
            sample[LOSS_FREE] = search(lambda rate: whole_rate(topology, rate, seconds / 8))
            sample[FAILED] = sum(report["failed"] for report in loads.values())
        return sample

    return run


@contextlib.contextmanager
def _alone(topology: Topology, contestant: Contestant) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        contestant.start(topology, stack)
        yield
    for file in Path(topology.directory).glob("level.db*"):
        file.unlink()


def _bulk(topology: Topology, seconds: float, figure: Figure, who: str, *options: str) -> float:
    end = iperf3(topology, seconds, *options)
    sent, received = end["sum_sent"]["bytes"], end["sum_received"]["bytes"]
    if not received:
        raise BenchError("nothing arrived")
    if 1 - received / sent > MAX_MISSING:  # data in flight when iperf3 stops counting
        figure.notes.append(f"{who}{' down' if options else ' up'}: {1 - received / sent:.0%} was not received in time")
    return float(end["sum_received"]["bits_per_second"]) / 1e6
