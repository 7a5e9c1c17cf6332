"""Programs measured side by side: the kernel, the proxy and other tools, all running at once, in the path in turn."""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from bench import peers
from bench.topology import CLIENT, ORIGIN_ADDRESS, PROXY, BenchError, Topology, wait_for

KERNEL = "kernel forwarding"
OFFLOAD, PLAIN = "proxy, offload", "proxy, plain"
START_S = 30


class Contestant:
    """Forwards packets of the client to the origin. This base class is the kernel itself: nothing to start."""

    name = KERNEL
    process: subprocess.Popen[str] | None = None

    def start(self, topology: Topology, stack: contextlib.ExitStack) -> None:
        """Run until `stack` is closed. BenchError: it is not available, for the reason in the message."""

    def steer(self, topology: Topology) -> None:
        """Receive the client's traffic from now on."""

    def unsteer(self, topology: Topology) -> None:
        """Leave the path."""


class TunTool(Contestant):
    """A program in the proxy's namespace that opens a TUN device and reads the client's packets there."""

    device: str

    def command(self, topology: Topology) -> list[str]:
        raise NotImplementedError

    def start(self, topology: Topology, stack: contextlib.ExitStack) -> None:
        command = self.command(topology)
        self.process = stack.enter_context(topology.running(PROXY, command))
        wait_for(self.name, self._has_device, START_S)

    def steer(self, topology: Topology) -> None:
        topology.steer(self.device)

    def unsteer(self, topology: Topology) -> None:
        topology.unsteer()

    def _has_device(self) -> bool:
        if self.process is not None and self.process.poll() is not None:
            raise BenchError(f"{self.name} ended at once, with exit code {self.process.returncode}")
        return any(name == self.device for _, name in socket.if_nameindex())


class Proxy(TunTool):
    """This project's proxy with the `tun` on-ramp, flow records on."""

    def __init__(self, *, offload: bool = True, **settings: Any) -> None:
        """`settings`: in addition to the usual settings."""
        self.name = OFFLOAD if offload else PLAIN
        self.device = "oxy1" if offload else "oxy0"
        self._offload, self._settings = offload, settings

    def control(self, topology: Topology) -> Path:
        return topology.directory / f"{self.device}.sock"

    def command(self, topology: Topology) -> list[str]:
        limits = {"flows": 10**6, "new_flows_per_s": 10**6}
        ramp = {"kind": "tun", "device": self.device, "tenant": "bench", "mtu": 1500, "offload": self._offload}
        settings = {
            "control": str(self.control(topology)),
            "tenants": {"bench": {"limits": limits}},
            "onramps": [ramp],
            "records": {"path": str(topology.directory / f"{self.device}.db")},
        } | self._settings
        file = topology.directory / f"{self.device}.yaml"
        file.write_text(json.dumps(settings))  # JSON is YAML
        return [sys.executable, "-m", "proxy", str(file)]


class SingBox(TunTool):
    """sing-box: Go, with its own TCP stack (gvisor) or the kernel's (system)."""

    def __init__(self, stack: str) -> None:
        self.name = f"sing-box {stack}"
        self._stack = stack
        self.device = f"sb{stack}0"

    def command(self, topology: Topology) -> list[str]:
        net = {"system": "172.18.0.1/30", "gvisor": "172.18.0.5/30"}[self._stack]
        inbound = {"type": "tun", "tag": "in", "interface_name": self.device, "address": [net], "mtu": 1500,
                   "auto_route": False, "stack": self._stack, "udp_timeout": "30s"}  # fmt: skip
        settings = {
            "log": {"level": "warn"},
            "inbounds": [inbound],
            "outbounds": [{"type": "direct", "tag": "direct"}],
            "route": {"final": "direct"},
        }
        file = topology.directory / f"{self.device}.json"
        file.write_text(json.dumps(settings))
        return [str(peers.sing_box()), "run", "-c", str(file)]


class Mitmproxy(TunTool):
    """mitmproxy: Python over smoltcp, a user-space TCP stack in Rust."""

    name = "mitmproxy tun"
    device = "mtun0"

    def command(self, topology: Topology) -> list[str]:
        home = topology.directory / "mitmproxy"
        return [str(peers.mitmdump()), "-q", "--mode", f"tun:{self.device}", "--set", f"confdir={home}"]


class Slirp(Contestant):
    """slirp4netns: libslirp, a user-space TCP/IP stack in C, at the end of a TAP device in the client's namespace."""

    name = "slirp4netns"

    def start(self, topology: Topology, stack: contextlib.ExitStack) -> None:
        program = shutil.which("slirp4netns")
        if program is None:
            raise BenchError("not installed (apt install slirp4netns)")
        command = [program, "--mtu=1500", "--disable-host-loopback", "--netns-type=path", topology.path(CLIENT), "tap0"]
        self.process = stack.enter_context(topology.running(PROXY, command))
        wait_for(self.name, lambda: topology.inside(CLIENT, lambda: "tap0" in str(socket.if_nameindex())), START_S)
        topology.ip(CLIENT, "link set tap0 mtu 1500\naddr add 10.0.2.100/24 dev tap0\nlink set tap0 up\n")

    def steer(self, topology: Topology) -> None:
        topology.ip(CLIENT, "route replace default via 10.0.2.2 dev tap0\n")

    def unsteer(self, topology: Topology) -> None:
        topology.ip(CLIENT, "route replace default via 10.91.1.1 dev c0\n")


def everybody() -> list[Contestant]:
    """The kernel, the proxy in both modes, and the tools that are its alternatives."""
    own: list[Contestant] = [Contestant(), Proxy(), Proxy(offload=False)]
    return [*own, SingBox("gvisor"), SingBox("system"), Mitmproxy(), Slirp()]


@contextlib.contextmanager
def started(
    topology: Topology, contestants: Iterable[Contestant], skipped: dict[str, str]
) -> Iterator[list[Contestant]]:
    """Contestants that run and answer; reasons for the others go into `skipped`. Needs an origin that speaks HTTP."""
    with contextlib.ExitStack() as stack:
        running = []
        for contestant in contestants:
            try:
                contestant.start(topology, stack)
                with steered(topology, contestant):
                    wait_for(contestant.name, lambda: topology.inside(CLIENT, _answers), START_S)
            except BenchError as error:
                if isinstance(contestant, Proxy):
                    raise
                skipped[contestant.name] = str(error)
            else:
                running.append(contestant)
        yield running


@contextlib.contextmanager
def steered(topology: Topology, contestant: Contestant) -> Iterator[None]:
    """Route the client's traffic through `contestant` inside this context."""
    contestant.steer(topology)
    try:
        yield
    finally:
        contestant.unsteer(topology)


def _answers() -> bool:
    """Whether the origin's HTTP server is reachable from the calling process."""
    try:
        with socket.create_connection((ORIGIN_ADDRESS, 80), 2) as sock:
            sock.sendall(b"GET /1k HTTP/1.0\r\n\r\n")
            return bool(sock.recv(100))
    except OSError:
        return False
