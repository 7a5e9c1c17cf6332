"""Three network namespaces, client - proxy - origin, invisible outside the bench, and ended with it.

    client c0 --- p0 proxy p1 --- s0 origin
    10.91.1.2     10.91.1.1
                  10.91.2.1       10.91.2.2

The bench runs itself again as PID 1 of new PID, mount and network namespaces (and a user namespace if it is not
root): everything that it starts there ends with it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from proxy.device.interface import set_sysctl
from proxy.device.namespaces import CLONE_NEWNET, current_network, setns, unshare

INSIDE = "BENCH_INSIDE"  # set in the bench that runs in its own namespaces
CLIENT, PROXY, ORIGIN = "client", "proxy", "origin"
CLIENT_ADDRESS, ORIGIN_ADDRESS = "10.91.1.2", "10.91.2.2"
MTU = 1500
STEER_TABLE = "191"
PRIORITY = -10  # takes precedence over other programs on the core, if permitted

_LINKS = f"""
link set lo up
link add c0 mtu {MTU} netns {{client}} type veth peer name p0 mtu {MTU}
link add s0 mtu {MTU} netns {{origin}} type veth peer name p1 mtu {MTU}
addr add 10.91.1.1/24 dev p0
addr add 10.91.2.1/24 dev p1
link set p0 up
link set p1 up
"""
_CLIENT = f"link set lo up\naddr add {CLIENT_ADDRESS}/24 dev c0\nlink set c0 up\nroute add default via 10.91.1.1\n"
_ORIGIN = f"link set lo up\naddr add {ORIGIN_ADDRESS}/24 dev s0\nlink set s0 up\nroute add default via 10.91.2.1\n"
_SYSCTLS = {
    "net/ipv4/ip_forward": 1,
    "net/ipv4/conf/all/rp_filter": 0,
    "net/ipv4/conf/default/rp_filter": 0,
    "net/ipv4/ip_local_port_range": "1024 65535",
    "net/core/somaxconn": 65_535,
    "net/ipv4/ping_group_range": "0 2147483647",
}


class BenchError(Exception):
    """A figure is not available here, for the reason in the message."""


def run_isolated(arguments: Sequence[str]) -> int:
    """The exit code of this bench, run again in new namespaces."""
    if not shutil.which("unshare"):
        raise BenchError("unshare (util-linux) is needed")
    user = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    command = ["unshare", *user, "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
    command += [sys.executable, "-m", "bench", *arguments]
    inside = subprocess.Popen(command, cwd=Path(__file__).parent.parent, env=os.environ | {INSIDE: "1"})
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    try:
        return inside.wait()
    finally:
        inside.kill()  # unshare ignores SIGTERM while it waits; killing it also kills everything inside


class Topology:
    """The namespaces by name, and the processes started in them."""

    def __init__(self, cpu: int, directory: Path, minutes: float = 10.0) -> None:
        """Everything is pinned to `cpu`; `directory` is for sockets, logs and configurations; `minutes`: for how long
        memory is watched under load."""
        self.cpu, self.directory, self.minutes = cpu, directory, minutes
        self._cores = {cpu}
        self._descriptors = {PROXY: current_network(), CLIENT: _new_network(), ORIGIN: _new_network()}
        self._tune()
        links = _LINKS.format(client=self.path(CLIENT), origin=self.path(ORIGIN))
        for namespace, batch in ((PROXY, links), (CLIENT, _CLIENT), (ORIGIN, _ORIGIN)):
            self.ip(namespace, batch)

    def path(self, namespace: str) -> str:
        """The path of the namespace for other programs, valid while the bench runs."""
        return f"/proc/{os.getpid()}/fd/{self._descriptors[namespace]}"

    def ip(self, namespace: str, batch: str, *, check: bool = True) -> None:
        """Run commands of ip(8), one per line."""
        command = ["ip", "-batch", "-"] if check else ["ip", "-force", "-batch", "-"]
        done = self._popen(namespace, command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        output, _ = done.communicate(batch)
        if check and done.returncode:
            raise BenchError(f"ip in {namespace}: {output.strip()}")

    def steer(self, device: str) -> None:
        """Route packets from the client into a device of the proxy's namespace; `unsteer` undoes it."""
        self.ip(PROXY, f"route replace default dev {device} table {STEER_TABLE}\n"
                       f"rule add iif p0 lookup {STEER_TABLE} pref 100\n")  # fmt: skip

    def unsteer(self) -> None:
        self.ip(PROXY, f"rule del pref 100\nroute flush table {STEER_TABLE}\n", check=False)

    def run(
        self, namespace: str, command: Sequence[str], *, timeout_s: float = 60, directory: Path | None = None
    ) -> str:
        """The standard output of a command. BenchError: it failed."""
        process = self._popen(namespace, command, cwd=directory, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        try:
            output, errors = process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            process.kill()
            output, errors = process.communicate()
            raise BenchError(f"{command[0]}: not done after {timeout_s:g} s {errors[-300:]}") from None
        if process.returncode:
            raise BenchError(f"{command[0]} exited with {process.returncode}: {(errors or output).strip()[-500:]}")
        return output

    @contextlib.contextmanager
    def running(self, namespace: str, command: Sequence[str], **options: object) -> Iterator[subprocess.Popen[str]]:
        """A process that is ended on exit; its output is in `NAME.log` of the directory. `options`: of Popen."""
        name = Path(command[0]).name
        with open(self.directory / f"{name}.log", "w") as log:
            process = self._popen(namespace, command, stdout=options.pop("stdout", log), stderr=log, **options)
            try:
                yield process
            finally:
                _end(process)

    @contextlib.contextmanager
    def on_cores(self, cpus: Iterable[int]) -> Iterator[None]:
        """Programs started inside this context run on these cores."""
        before, self._cores = self._cores, set(cpus)
        try:
            yield
        finally:
            self._cores = before

    def inside(self, namespace: str, function: Callable[[], object]) -> object:
        """The result of `function`, called by a thread inside the namespace."""
        found: list[object] = []

        def enter() -> None:
            setns(self._descriptors[namespace], CLONE_NEWNET)
            found.append(function())

        thread = threading.Thread(target=enter)
        thread.start()
        thread.join()
        if not found:
            raise BenchError(f"nothing came of {function} in {namespace}")
        return found[0]

    def _popen(
        self, namespace: str, command: Sequence[str], cwd: Path | None = None, **options: Any
    ) -> subprocess.Popen[str]:
        descriptor = self._descriptors[namespace]

        def enter() -> None:
            setns(descriptor, CLONE_NEWNET)
            os.sched_setaffinity(0, self._cores)
            with contextlib.suppress(PermissionError):
                os.setpriority(os.PRIO_PROCESS, 0, PRIORITY)

        try:
            return subprocess.Popen(command, text=True, preexec_fn=enter, cwd=cwd or self.directory, **options)
        except FileNotFoundError:
            raise BenchError(f"{command[0]} is not installed") from None

    def _tune(self) -> None:
        def apply() -> bool:
            for name, value in _SYSCTLS.items():
                set_sysctl(name, value)
            return True

        for namespace in self._descriptors:
            self.inside(namespace, apply)


def wait_for(what: str, condition: Callable[[], object], timeout_s: float = 20) -> None:
    """Return when `condition()` is true. BenchError, which names `what`: not within `timeout_s` seconds."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise BenchError(f"{what}: not ready after {timeout_s:g} s")
        time.sleep(0.02)


def _new_network() -> int:
    found: list[int] = []

    def make() -> None:
        unshare(CLONE_NEWNET)
        found.append(current_network())

    thread = threading.Thread(target=make)
    thread.start()
    thread.join()
    if not found:
        raise BenchError("cannot make a network namespace")
    return found[0]


def _end(process: subprocess.Popen[str]) -> None:
    for number, patience_s in ((signal.SIGTERM, 5), (signal.SIGKILL, 5)):
        if process.poll() is None:
            process.send_signal(number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(patience_s)
