"""SSH sessions that the proxy terminates, compared with ssh-mitm, the plain relay and no proxy; all on one core.

Client and origin are asyncssh's. The proxy adds two more ends to each session, so half of `direct` is the most that it
could reach. Rates are per second of CPU time that client, proxy and origin use together, as if on their own core.
Each transfer is checked by size and SHA-256. Only the contestant being measured runs.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from bench import peers
from bench.contestants import START_S, Contestant, Proxy, steered
from bench.series import Figure, Sample, alternate
from bench.topology import CLIENT, ORIGIN, ORIGIN_ADDRESS, PROXY, BenchError, Topology, wait_for

DIRECT, RELAY, READ, MITM = "direct", "plain relay", "the proxy", "ssh-mitm"
PORT, MITM_ADDRESS, MITM_PORT = 2222, "10.91.1.1", 10_022
SIZE, QUICK_SIZE = 100_000_000, 20_000_000
SESSIONS, KEYSTROKES, IDLE = 60, 1_000, 200
MEMORY = f"KiB for each of {IDLE} idle"
BULK = ("exec down", "exec up", "sftp up", "sftp down", "scp up", "scp down")
PATIENCE_S = 900  # for all transfers together; each also has its own limit
SHORT_S = 90
ENDS = str(Path(__file__).with_name("ssh_ends.py"))


class SshProxy(Proxy):
    """The proxy; with `read`, it ends SSH sessions, and records what terminals show."""

    def __init__(self, *, read: bool) -> None:
        super().__init__()
        self.name = READ if read else RELAY
        self._read = read

    def command(self, topology: Topology) -> list[str]:
        ssh = {"trust": "tunnel", "known_hosts": str(topology.directory / "origin/known_hosts"), "record": True}
        tenant: dict[str, object] = {"limits": {"flows": 10**6, "new_flows_per_s": 10**6}, "level": "stream"}
        if self._read:
            tenant |= {"level": "ssh", "inspection": {"ssh": ssh}}
        self._settings = {"tenants": {"bench": tenant}, "inspectors": 1, "state": str(topology.directory / "state")}
        return super().command(topology)


class SshMitm(Contestant):
    """ssh-mitm, which forwards passwords; clients connect to it."""

    name = MITM

    def start(self, topology: Topology, stack: contextlib.ExitStack) -> None:
        command = [str(peers.ssh_mitm()), "server", "--listen-address", MITM_ADDRESS, "--listen-port", str(MITM_PORT),
                   "--remote-host", ORIGIN_ADDRESS, "--remote-port", str(PORT),
                   "--disable-remote-fingerprint-warning"]  # fmt: skip
        environment = {
            "HOME": str(topology.directory),
            "PATH": "/usr/bin:/bin",
            "XDG_STATE_HOME": str(topology.directory),
        }
        self.process = stack.enter_context(topology.running(PROXY, command, env=environment))
        wait_for(self.name, lambda: topology.inside(CLIENT, _mitm_answers), START_S)


def measure(topology: Topology, *, quick: bool) -> Figure:
    figure = Figure("ssh", "SSH through one core: MB and sessions for each second of it, keystrokes, memory", (DIRECT,))
    contestants: list[Contestant] = [_named(Contestant(), DIRECT), SshProxy(read=False), SshProxy(read=True), SshMitm()]
    incomplete: set[str] = set()
    with _origin(topology) as pid:
        turns = [(each.name, _turn(topology, each, pid, incomplete, quick=quick)) for each in contestants]
        try:
            peers.ssh_mitm()
        except BenchError as error:
            figure.skipped[MITM] = str(error)
            turns = turns[:-1]
        alternate(figure, 1 if quick else 3, turns)
    if incomplete:
        figure.notes.append(
            f"through ssh-mitm these were not whole, or not done in time: {', '.join(sorted(incomplete))}"
        )
    for metric in BULK:
        figure.aim(f"{metric}, of direct", figure.ratio(READ, DIRECT, metric), 0.4)
        if figure.median(MITM, metric):
            figure.aim(f"{metric}, times ssh-mitm", figure.ratio(READ, MITM, metric), 5)
    if MITM in figure.runs:
        figure.aim("sessions/s, times ssh-mitm", figure.ratio(READ, MITM, "sessions/s"), 1)
    for metric in ("echo p99 ms", "echo beside bulk p99 ms"):
        more = figure.median(READ, metric) - figure.median(DIRECT, metric)
        figure.aim(f"{metric.removesuffix(' ms')}, ms more than direct", more, 2, at_most=True)
    return figure


def _named(contestant: Contestant, name: str) -> Contestant:
    contestant.name = name
    return contestant


@contextlib.contextmanager
def _origin(topology: Topology) -> Iterator[int]:
    directory = topology.directory / "origin"
    directory.mkdir()
    command = [sys.executable, ENDS, "origin", str(PORT), str(directory)]
    with topology.running(ORIGIN, command, stdout=subprocess.PIPE) as process:
        if process.stdout is None or process.stdout.readline() != "ready\n":
            raise BenchError("the origin does not start")
        yield process.pid


def _turn(
    topology: Topology, contestant: Contestant, origin: int, incomplete: set[str], *, quick: bool
) -> Callable[[], Sample]:
    host, port = (MITM_ADDRESS, MITM_PORT) if contestant.name == MITM else (ORIGIN_ADDRESS, PORT)

    def client(task: str, number: int) -> Sample:
        pids = [origin] if contestant.process is None else [origin, contestant.process.pid]
        command = [sys.executable, ENDS, task, host, str(port), str(number), ",".join(map(str, pids))]
        try:
            found: Sample = json.loads(
                topology.run(CLIENT, command, timeout_s=PATIENCE_S if task == "bulk" else SHORT_S)
            )
        except BenchError as error:
            raise BenchError(f"{contestant.name}, {task}: {error}") from None
        return found

    def run() -> Sample:
        with contextlib.ExitStack() as stack:
            contestant.start(topology, stack)
            stack.enter_context(steered(topology, contestant))
            client("fresh", 4)  # warm up: starts what the first session needs
            sample = client("bulk", QUICK_SIZE if quick else SIZE)
            for task, number in (("fresh", SESSIONS), ("echo", KEYSTROKES), ("beside", KEYSTROKES)):
                with _forgiven(contestant, task, incomplete):
                    sample |= client(task, number)
            if contestant.process is not None:
                with _forgiven(contestant, "idle", incomplete):
                    sample |= _idle(topology, contestant.process.pid, host, port)
            if lost := [metric for metric in BULK if metric not in sample]:
                with _forgiven(contestant, ", ".join(lost), incomplete):
                    raise BenchError(f"{contestant.name}: not whole: {', '.join(lost)}")
            return sample

    return run


@contextlib.contextmanager
def _forgiven(contestant: Contestant, what: str, incomplete: set[str]) -> Iterator[None]:
    """For ssh-mitm, incomplete or late transfers are a remark of the figure; for others an error."""
    try:
        yield
    except BenchError:
        if contestant.name != MITM:
            raise
        incomplete.add(what)


def _idle(topology: Topology, pid: int, host: str, port: int) -> Sample:
    """Memory of idle sessions, in the process and all that it has started."""
    command = [sys.executable, ENDS, "idle", host, str(port), str(IDLE), ""]
    before = _memory_kib(pid)
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with topology.running(CLIENT, command, **pipes) as process:
        if process.stdout is None or process.stdout.readline() != "held\n":
            raise BenchError(f"{IDLE} sessions are not held")
        return {MEMORY: (_memory_kib(pid) - before) / IDLE}


def _memory_kib(pid: int) -> int:
    """The proportional set size of a process and of all its descendants."""
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    own = next(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:"))
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return own + sum(_memory_kib(int(child)) for child in children)


def _mitm_answers() -> bool:
    import socket

    try:
        with socket.create_connection((MITM_ADDRESS, MITM_PORT), 2) as sock:
            return sock.recv(4) == b"SSH-"
    except OSError:
        return False
