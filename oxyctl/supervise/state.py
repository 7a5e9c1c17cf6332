"""The run directory: which labs exist, and where each keeps its files.

    $OXYCTL_RUN_DIR, or /run/oxyctl (root), $XDG_RUNTIME_DIR/oxyctl, /run/user/UID/oxyctl, /tmp/oxyctl-UID
        locks/NAME          held (flock) while a command builds the lab NAME or takes it down
        labs/NAME/          all files of the lab NAME; deleted with it
            state.json      the boot and process of its supervisor, and its phase
            plan.json       its plan
            supervisor.sock requests: status, changes
            log/NODE.log    the output of each node's program (`program_output`)
            nodes/NODE/     files of one node: a proxy's settings, sockets and flow records

A lab is alive if its supervisor is: the process with this PID and this start time, in this boot. Nothing else counts,
so state that a crash or a reboot has left behind never blocks anything.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal

import msgspec

from oxyctl.errors import LabNotFound, NothingMatched, OxyctlError, UsageError
from oxyctl.net.sockets import short_path
from oxyctl.plan.steps import Plan, PlannedNode

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
NO_LAB = "no lab is running; `oxyctl lab up quickstart` starts one"
Phase = Literal["starting", "up", "stopping"]


class State(msgspec.Struct, kw_only=True, frozen=True):
    """The supervisor of a lab. The PID is the one outside the lab, where `lab up` ran."""

    lab: str
    source: str
    phase: Phase
    boot_id: str
    pid: int
    start_ticks: int  # since boot: field 22 of /proc/PID/stat
    started: float  # Unix seconds
    schema: Literal["oxyctl.lab/1"] = "oxyctl.lab/1"


STATE = msgspec.json.Decoder(State)  # created once: see oxyctl/operate/ask.py


class LabDirectory:
    """The paths of one lab's files, which need not exist."""

    def __init__(self, path: Path) -> None:
        self.path, self.name = path, path.name

    @property
    def control(self) -> Path:
        """The supervisor's socket."""
        return self.path / "supervisor.sock"

    @property
    def namespaces(self) -> Path:
        """The directory of the lab's namespaces, seen from inside; empty from outside."""
        return self.path / "ns"

    def log(self, process: str) -> Path:
        """The log of `process`."""
        return self.path / "log" / f"{process}.log"

    def logs(self) -> dict[str, Path]:
        """The existing logs by process: nodes, and programs that serve many of them."""
        return {path.stem: path for path in sorted((self.path / "log").glob("*.log"))}

    def read_state(self) -> State | None:
        """The supervisor's last state; None: missing or invalid."""
        try:
            return STATE.decode((self.path / "state.json").read_bytes())
        except (OSError, msgspec.DecodeError):
            return None

    def write_state(self, state: State) -> None:
        """Replace the state atomically."""
        write_atomically(self.path / "state.json", msgspec.json.encode(state))

    def read_plan(self) -> Plan | None:
        """The lab's plan; None: missing, or from another version."""
        try:
            return msgspec.json.decode((self.path / "plan.json").read_bytes(), type=Plan)
        except (OSError, msgspec.DecodeError):
            return None

    def live_state(self) -> State | None:
        """The state if the supervisor is running, else None."""
        state = self.read_state()
        return state if state is not None and is_alive(state) else None


def write_atomically(path: Path, content: bytes) -> None:
    """Write `content` so that readers of `path` see either the old or the new content."""
    draft = path.with_name(path.name + ".new")
    draft.write_bytes(content)
    draft.replace(path)


def is_alive(state: State) -> bool:
    """Whether the process that wrote `state` is still running."""
    return state.boot_id == boot_id() and start_ticks(state.pid) == state.start_ticks


def boot_id() -> str:
    """The kernel's boot ID, different after each reboot."""
    return BOOT_ID.read_text().strip()


def start_ticks(pid: int | Literal["self"]) -> int | None:
    """The start time of a process, in clock ticks since boot; None: no such process, or a zombie."""
    try:
        line = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = line.rpartition(")")[2].split()  # from field 3 on: the program's name may contain anything
    return None if fields[0] in "ZX" else int(fields[19])


def run_directory() -> Path:
    """The directory of this user's labs, created if missing. OxyctlError: unusable, or writable by others."""
    path = _run_directory()
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = path.stat()
    except OSError as error:
        raise OxyctlError(f"cannot use the run directory {path}: {error.strerror}") from None
    if found.st_uid != os.geteuid() or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise OxyctlError(f"the run directory {path} is writable by others; set OXYCTL_RUN_DIR to one that is not")
    return path


def _run_directory() -> Path:
    if chosen := os.environ.get("OXYCTL_RUN_DIR"):
        return Path(chosen).absolute()
    uid = os.geteuid()
    if uid == 0:
        return Path("/run/oxyctl")
    for base in (os.environ.get("XDG_RUNTIME_DIR"), f"/run/user/{uid}"):
        if base and os.access(base, os.W_OK):
            return Path(base) / "oxyctl"
    return Path(f"/tmp/oxyctl-{uid}")


def lab_directory(name: str) -> LabDirectory:
    """The paths of the lab `name`, whether or not it exists."""
    return LabDirectory(run_directory() / "labs" / name)


def all_labs() -> list[LabDirectory]:
    """All labs with files in the run directory, alive or not."""
    labs = run_directory() / "labs"
    return [LabDirectory(path) for path in sorted(labs.iterdir()) if path.is_dir()] if labs.is_dir() else []


def default_lab() -> str | None:
    """$OXYCTL_LAB, for commands that do not name a lab."""
    return os.environ.get("OXYCTL_LAB") or None


def _suggest(word: str, known: Iterable[str]) -> str:
    from proxy.settings import suggest  # also imports a YAML parser: only for mistyped names

    return suggest(word, known)


def find_stopped(name: str | None = None) -> LabDirectory:
    """As `find_lab`, but also finds a lab that is not running and has files left, if it is named or the only one."""
    try:
        return find_lab(name)
    except LabNotFound:
        name = name or default_lab()
        labs = [lab for lab in all_labs() if lab.name == name or name is None]
        if len(labs) != 1 or labs[0].live_state() is not None:
            raise
        return labs[0]


def find_lab(name: str | None = None) -> LabDirectory:
    """The running lab `name`, or that of $OXYCTL_LAB, or the only one. LabNotFound: none or several."""
    alive = [lab for lab in all_labs() if lab.live_state()]
    name = name or default_lab()
    if name is not None:
        for lab in alive:
            if lab.name == name:
                return lab
        raise LabNotFound(f"no lab '{name}' is running{_suggest(name, [lab.name for lab in alive])}")
    if not alive:
        raise LabNotFound(NO_LAB)
    if len(alive) > 1:
        names = ", ".join(lab.name for lab in alive)
        raise LabNotFound(f"several labs are running: {names}; choose one with --lab NAME")
    return alive[0]


def find_node(lab: LabDirectory, node: str) -> PlannedNode:
    """The node of a lab. NothingMatched: it has no such node."""
    plan = lab.read_plan()
    nodes = {planned.name: planned for planned in plan.nodes} if plan else {}
    if node not in nodes:
        raise NothingMatched(f"lab '{lab.name}' has no node '{node}'{_suggest(node, nodes)}")
    return nodes[node]


def find_proxy(lab: LabDirectory, node: str | None = None) -> PlannedNode:
    """The proxy `node` of `lab`, or the only one. NothingMatched: no such proxy. UsageError: several."""
    plan = lab.read_plan()
    candidates = [find_node(lab, node)] if node else (plan.nodes if plan else [])
    proxies = [planned for planned in candidates if planned.control is not None]
    if not proxies:
        raise NothingMatched(f"node '{node}' is not a proxy" if node else f"lab '{lab.name}' has no proxy")
    if len(proxies) > 1:
        names = ", ".join(proxy.name for proxy in proxies)
        raise UsageError(f"lab '{lab.name}' has several proxies: {names}; choose one with --node")
    return proxies[0]


def control_socket(lab_name: str | None = None, node: str | None = None) -> Path:
    """The control socket of the proxy `node` of a lab, or of the only one. LabNotFound, NothingMatched, UsageError.

    The path is short enough to connect to; for a deep run directory it is only valid in this process.
    """
    lab = find_lab(lab_name)
    try:
        return Path(short_path(str(find_proxy(lab, node).control)))
    except FileNotFoundError:
        raise OxyctlError(f"lab '{lab.name}' is still being built") from None


@contextlib.contextmanager
def locked(name: str, *, wait: bool = True) -> Iterator[int]:
    """Lock the lab `name` against builds and removals by others until every copy of the descriptor is closed.

    BlockingIOError: another process holds the lock, and `wait` is false.
    """
    fd = _lock(run_directory() / "locks" / name, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    try:
        yield fd
    finally:
        os.close(fd)


def _lock(path: Path, operation: int) -> int:
    """A descriptor that holds the lock; not on a file deleted during the wait, which others can no longer see."""
    while True:
        fd = _open_lock(path)
        try:
            fcntl.flock(fd, operation)
        except BaseException:
            os.close(fd)
            raise
        if _is_at(fd, path):
            return fd
        os.close(fd)


def _open_lock(path: Path) -> int:
    try:
        path.parent.mkdir(mode=0o700, exist_ok=True)
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise OxyctlError(f"cannot use the run directory: {path}: {error.strerror}") from None


def _is_at(fd: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), path.stat())
    except OSError:
        return False
