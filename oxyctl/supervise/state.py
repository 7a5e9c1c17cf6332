"""The run directory: which labs there are, and where each keeps its files.

    $OXYCTL_RUN_DIR, or /run/oxyctl (root), $XDG_RUNTIME_DIR/oxyctl, /run/user/UID/oxyctl, /tmp/oxyctl-UID
        locks/NAME          held (flock) while a command builds the lab NAME or takes it down
        labs/NAME/          everything of the lab NAME; deleted with it
            state.json      which boot and process it is, and how far it came
            plan.json       the resolved topology
            supervisor.sock status
            log/NODE.log    what each node's program wrote (`output`)
            nodes/NODE/     files of one node: a proxy's settings, sockets and flow records

A lab is alive when its supervisor is: the process with this PID and this start time, in this boot. Nothing else counts,
so state that a crash or a reboot left behind never stands in anybody's way.
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
Phase = Literal["starting", "up", "stopping"]


class State(msgspec.Struct, kw_only=True, frozen=True):
    """Who supervises a lab. The PID is the one on the machine that `lab up` was typed on."""

    lab: str
    source: str
    phase: Phase
    boot_id: str
    pid: int
    start_ticks: int  # since boot: field 22 of /proc/PID/stat
    started: float  # Unix seconds
    schema: Literal["oxyctl.lab/1"] = "oxyctl.lab/1"


STATE = msgspec.json.Decoder(State)  # made once: see oxyctl/operate/ask.py


class LabDirectory:
    """The files of one lab; none of them needs to exist."""

    def __init__(self, path: Path) -> None:
        self.path, self.name = path, path.name

    @property
    def control(self) -> Path:
        """The supervisor's socket."""
        return self.path / "supervisor.sock"

    @property
    def namespaces(self) -> Path:
        """Where the lab's namespaces are, seen from inside; empty from outside."""
        return self.path / "ns"

    def log(self, process: str) -> Path:
        """What `process` wrote."""
        return self.path / "log" / f"{process}.log"

    def logs(self) -> dict[str, Path]:
        """What each process of the lab wrote that has written: nodes, and programs that serve many of them."""
        return {path.stem: path for path in sorted((self.path / "log").glob("*.log"))}

    def read_state(self) -> State | None:
        """What the supervisor wrote last; None when that is missing or no state of ours."""
        try:
            return STATE.decode((self.path / "state.json").read_bytes())
        except (OSError, msgspec.DecodeError):
            return None

    def write_state(self, state: State) -> None:
        """Replace the state, all of it or nothing."""
        write_atomically(self.path / "state.json", msgspec.json.encode(state))

    def read_plan(self) -> Plan | None:
        """The resolved topology; None when it is missing, or from another version."""
        try:
            return msgspec.json.decode((self.path / "plan.json").read_bytes(), type=Plan)
        except (OSError, msgspec.DecodeError):
            return None

    def live_state(self) -> State | None:
        """The state when its supervisor is running, else None."""
        state = self.read_state()
        return state if state is not None and is_alive(state) else None


def write_atomically(path: Path, content: bytes) -> None:
    """Readers of `path` see the old content or the new."""
    draft = path.with_name(path.name + ".new")
    draft.write_bytes(content)
    draft.replace(path)


def is_alive(state: State) -> bool:
    """Whether the very process that wrote `state` still runs."""
    return state.boot_id == boot_id() and start_ticks(state.pid) == state.start_ticks


def boot_id() -> str:
    """Another one after each reboot."""
    return BOOT_ID.read_text().strip()


def start_ticks(pid: int | Literal["self"]) -> int | None:
    """When the process started, in clock ticks since boot; None if there is no such process, or a zombie."""
    try:
        line = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = line.rpartition(")")[2].split()  # from field 3 on: the program's name may hold anything
    return None if fields[0] in "ZX" else int(fields[19])


def run_directory() -> Path:
    """The directory of all labs of this user, made if missing; OxyctlError when others could write there."""
    path = _run_directory()
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = path.stat()
    except OSError as error:
        raise OxyctlError(f"cannot use the run directory {path}: {error.strerror}") from None
    if found.st_uid != os.geteuid() or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise OxyctlError(f"the run directory {path} can be written by others; set OXYCTL_RUN_DIR to one that cannot")
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
    """Where the lab `name` keeps its files, whether or not it exists."""
    return LabDirectory(run_directory() / "labs" / name)


def all_labs() -> list[LabDirectory]:
    """Every lab that left something in the run directory, alive or not."""
    labs = run_directory() / "labs"
    return [LabDirectory(path) for path in sorted(labs.iterdir()) if path.is_dir()] if labs.is_dir() else []


def default_lab() -> str | None:
    """$OXYCTL_LAB, for commands that do not name a lab."""
    return os.environ.get("OXYCTL_LAB") or None


def _suggest(word: str, known: Iterable[str]) -> str:
    from proxy.settings import suggest  # and with it a YAML parser: only for who mistyped

    return suggest(word, known)


def find_remains(name: str | None = None) -> LabDirectory:
    """As `find_lab`; where no such lab is running, what is left of it, or of the only one that left anything."""
    try:
        return find_lab(name)
    except LabNotFound:
        name = name or default_lab()
        labs = [lab for lab in all_labs() if lab.name == name or name is None]
        if len(labs) != 1 or labs[0].live_state() is not None:
            raise
        return labs[0]


def find_lab(name: str | None = None) -> LabDirectory:
    """The running lab `name`, or that of $OXYCTL_LAB, or the only one; LabNotFound when there is none or several."""
    alive = [lab for lab in all_labs() if lab.live_state()]
    name = name or default_lab()
    if name is not None:
        for lab in alive:
            if lab.name == name:
                return lab
        raise LabNotFound(f"no lab '{name}' is running{_suggest(name, [lab.name for lab in alive])}")
    if not alive:
        raise LabNotFound("no lab is running; `oxyctl lab up quickstart` starts one")
    if len(alive) > 1:
        names = ", ".join(lab.name for lab in alive)
        raise LabNotFound(f"several labs are running: {names}; say which with --lab NAME")
    return alive[0]


def find_node(lab: LabDirectory, node: str) -> PlannedNode:
    """A node of a running lab; NothingMatched when it has no such node."""
    plan = lab.read_plan()
    nodes = {planned.name: planned for planned in plan.nodes} if plan else {}
    if node not in nodes:
        raise NothingMatched(f"lab '{lab.name}' has no node '{node}'{_suggest(node, nodes)}")
    return nodes[node]


def find_proxy(lab: LabDirectory, node: str | None = None) -> PlannedNode:
    """The proxy of `lab` that is called `node`, or the only one. NothingMatched, UsageError."""
    plan = lab.read_plan()
    candidates = [find_node(lab, node)] if node else (plan.nodes if plan else [])
    proxies = [planned for planned in candidates if planned.control is not None]
    if not proxies:
        raise NothingMatched(f"node '{node}' is no proxy" if node else f"lab '{lab.name}' has no proxy")
    if len(proxies) > 1:
        names = ", ".join(proxy.name for proxy in proxies)
        raise UsageError(f"lab '{lab.name}' has several proxies: {names}; say which with --node")
    return proxies[0]


def control_socket(lab_name: str | None = None, node: str | None = None) -> Path:
    """The control socket of a lab's proxy: of `node`, or of the only one. LabNotFound, NothingMatched, UsageError.

    The path is short enough to connect to; for a deep run directory it holds in this process only.
    """
    lab = find_lab(lab_name)
    try:
        return Path(short_path(str(find_proxy(lab, node).control)))
    except FileNotFoundError:
        raise OxyctlError(f"lab '{lab.name}' is still being built") from None


@contextlib.contextmanager
def locked(name: str, *, wait: bool = True) -> Iterator[int]:
    """Nobody else builds the lab `name` or takes it down until every copy of the descriptor is closed.

    BlockingIOError if another process holds it and `wait` is false.
    """
    fd = _lock(run_directory() / "locks" / name, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    try:
        yield fd
    finally:
        os.close(fd)


def _lock(path: Path, operation: int) -> int:
    """A descriptor that holds the lock. One that was deleted while we waited is no lock: nobody else will see it."""
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
