"""Driving the real `python -m oxyctl.services`: start it, wait for its report, look into its process, stop it."""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

_INTERFACES = Path("/proc/net/if_inet6")
FAMILIES = {"ipv4": "127.0.0.1"}
if _INTERFACES.exists() and "lo" in _INTERFACES.read_text().split():
    FAMILIES["ipv6"] = "::1"
ALL = ("http", "https", "ssh", "echo", "sink", "halfclose", "reset", "iperf3")
START_TIMEOUT_S = 30


def wait_until(condition: Callable[[], object], what: str, timeout_s: float = 10) -> None:
    """Come back as soon as `condition` holds; AssertionError naming `what` when it does not in time."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"not in {timeout_s} s: {what}"
        select.select([], [], [], 0.01)


def write_config(directory: Path, *nodes: dict[str, object]) -> Path:
    path = directory / "config.json"
    path.write_text(json.dumps({"nodes": list(nodes), "state": str(directory / "state")}))
    return path


def node(*services: str, name: str = "web", **more: object) -> dict[str, object]:
    """A node with these services, or all, each on any free port."""
    addresses = list(FAMILIES.values())
    return {"name": name, "services": dict.fromkeys(services or ALL, 0), "addresses": addresses, **more}


def needs(*programs: str) -> None:
    """Skip the test where one of these is not installed."""
    for program in programs:
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed (.ci/programs)")


def run(*arguments: object, **options: object) -> subprocess.CompletedProcess[str]:
    """A program's exit status and output, within a minute."""
    command = [str(argument) for argument in arguments]
    return subprocess.run(command, **{"capture_output": True, "text": True, "timeout": 60, "check": False, **options})


def measured(*command: object) -> subprocess.CompletedProcess[str]:
    """What an iperf3 client did, once the server has noticed that the client before is gone."""
    while "the server is busy" in (done := run(*command)).stdout + done.stderr:
        pass
    return done


def children(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except FileNotFoundError:
        return []


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


class Origin:
    """A running services process; `port` is by service, of its last node."""

    def __init__(
        self,
        directory: Path,
        *nodes: dict[str, object],
        prefix: Iterable[str] = (),
        environment: dict[str, str] | None = None,
    ) -> None:
        config = write_config(directory, *nodes)
        self.state, self.log = directory / "state", directory / "log"
        command = [*prefix, sys.executable, "-W", "default", "-m", "oxyctl.services", "--verbose", str(config)]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, env=environment
            )
        self.report = self._first_line()
        self.port = {entry["service"]: entry["port"] for entry in self.report["services"]}

    def _first_line(self) -> dict:
        assert self.process.stdout is not None
        ready, _, _ = select.select([self.process.stdout], [], [], START_TIMEOUT_S)
        line = self.process.stdout.readline() if ready else b""
        assert line, f"no report: {self.log.read_text()}"
        return json.loads(line)

    def url(self, path: str, address: str = "127.0.0.1", scheme: str = "http") -> str:
        host = f"[{address}]" if ":" in address else address
        return f"{scheme}://{host}:{self.port[scheme]}{path}"

    def descriptors(self) -> int:
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def programs(self) -> list[int]:
        return children(self.process.pid)

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Its exit status after a signal; what it left running is an error."""
        programs = self.programs()
        if self.process.poll() is None:
            self.process.send_signal(number)
        code = self.process.wait(10)
        assert self.process.stdout is not None
        self.process.stdout.close()
        wait_until(lambda: not any(map(is_running, programs)), "its programs have ended")
        return code
