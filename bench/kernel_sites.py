"""From site to site, both behind GRE devices of the kernel: iperf3 through a plain router, and through the proxy.

site a == GRE == router ====== GRE == site b        both edges are up at once and take turns in the path
       == GRE == proxy  ====== GRE ==

Needs a kernel with GRE: `python -m tools.kernelvm auto -- .venv/bin/python -m bench.kernel_sites`, as root.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from bench.series import Figure, Sample, alternate

ROUTER, PROXY = "plain router", "two interface on-ramps"
UP, DOWN = "a to b, Mbit/s", "b to a, Mbit/s"
LEAST = 0.8
START_S = 300.0  # an emulated machine is slow
PORT = 5201
EDGES = {ROUTER: ("bench-router", 1), PROXY: ("bench-proxy", 2)}
SITES = {"bench-a": 9, "bench-b": 8}  # the second number of the addresses behind their tunnels
SETTINGS = {
    "offramp": "kernel",
    "tenants": {"acme": {"limits": {"flows": 10**5, "new_flows_per_s": 10**5}}},
    "onramps": [
        {"kind": "interface", "interfaces": ["gre9"], "tenant": "acme", "sources": ["10.9.2.0/24"]},
        {"kind": "interface", "interfaces": ["gre8"], "tenant": "acme", "sources": ["10.8.2.0/24"]},
    ],
}


def main(arguments: list[str]) -> int:
    """Exit code: 0 if both were measured, whatever the result."""
    parser = argparse.ArgumentParser(prog="python -m bench.kernel_sites", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each transfer")
    options = parser.parse_args(arguments)
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        _make_links(stack)
        stack.enter_context(_running("bench-b", "iperf3", "-s", "-p", PORT))
        stack.enter_context(_proxy(directory))
        figure = Figure("kernel_sites", "Between sites behind GRE devices of the kernel's", (ROUTER,))
        alternate(figure, options.rounds, [(name, _turn(name, options.seconds)) for name in EDGES])
    for metric in (UP, DOWN):
        figure.aim(f"{metric.partition(',')[0]}, of plain routing", figure.ratio(PROXY, ROUTER, metric), LEAST)
    print(figure.text())
    return 0


def _make_links(stack: contextlib.ExitStack) -> None:
    for name in [*SITES, *(edge for edge, _ in EDGES.values())]:
        _ip("netns", "add", name)
        stack.callback(_ip, "netns", "del", name)
        _ip("-n", name, "link", "set", "lo", "up")
    for edge, number in EDGES.values():
        for site, inside in SITES.items():
            other = next(each for each in SITES.values() if each != inside)
            _ip("-n", edge, "link", "add", f"to{inside}", "type", "veth", "peer", "name", f"to{number}", "netns", site)
            for namespace, device, tunnel, own, peer in (
                (edge, f"to{inside}", f"gre{inside}", 1, 2),
                (site, f"to{number}", f"gre{number}", 2, 1),
            ):
                outer = f"10.7{inside}.{number}."
                _ip("-n", namespace, "addr", "add", f"{outer}{own}/24", "dev", device)
                _ip("-n", namespace, "link", "set", device, "up")
                _ip("-n", namespace, "link", "add", tunnel, "type", "gre", "local", f"{outer}{own}", "remote",
                    f"{outer}{peer}", "key", str(inside))  # fmt: skip
                _ip("-n", namespace, "addr", "add", f"10.{inside}.{number}.{own}/24", "dev", tunnel)
                _ip("-n", namespace, "link", "set", tunnel, "up")
            _ip("-n", site, "route", "add", f"10.{other}.{number}.0/24", "dev", f"gre{number}")
    _in("bench-router", "sysctl", "-qw", "net.ipv4.ip_forward=1")


@contextlib.contextmanager
def _proxy(directory: Path) -> Iterator[None]:
    """It decides about flows on return."""
    control, file = directory / "control.sock", directory / "proxy.yaml"
    records = {"path": str(directory / "flows.db")}
    file.write_text(json.dumps(SETTINGS | {"control": str(control), "records": records}))  # JSON is YAML
    with _running("bench-proxy", sys.executable, "-m", "proxy", file) as process:
        deadline = time.monotonic() + START_S
        while not control.exists():
            if process.poll() is not None or time.monotonic() > deadline:
                sys.exit("the proxy does not start")
            time.sleep(0.2)
        yield


def _turn(name: str, seconds: float) -> Callable[[], Sample]:
    number = EDGES[name][1]

    def transfer(*options: str) -> float:
        words = ("iperf3", "-J", "-c", f"10.8.{number}.2", "-p", PORT, "-t", f"{seconds:g}", *options)
        end = json.loads(_in("bench-a", *words))["end"]
        return float(end["sum_received"]["bits_per_second"]) / 1e6

    return lambda: {UP: transfer(), DOWN: transfer("-R")}


@contextlib.contextmanager
def _running(namespace: str, *words: object) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(["ip", "netns", "exec", namespace, *map(str, words)], stdout=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.terminate()
        process.wait()


def _in(namespace: str, *words: object) -> str:
    return _run("ip", "netns", "exec", namespace, *words)


def _ip(*words: object) -> None:
    _run("ip", *words)


def _run(*words: object) -> str:
    done = subprocess.run([*map(str, words)], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, words))}: {(done.stderr or done.stdout).strip()[-500:]}")
    return done.stdout


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
