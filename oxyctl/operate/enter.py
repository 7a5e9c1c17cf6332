"""`exec`: runs a program inside a node of a running lab, with the caller's terminal, directory and environment."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from oxyctl.errors import LabNotFound, OxyctlError
from oxyctl.net.namespaces import Namespaces
from oxyctl.net.syscalls import die_with_parent
from oxyctl.supervise.state import LabDirectory, State, is_alive
from proxy.device.namespaces import (
    CLONE_NEWIPC,
    CLONE_NEWNET,
    CLONE_NEWNS,
    CLONE_NEWPID,
    CLONE_NEWUSER,
    CLONE_NEWUTS,
    setns,
)

NOT_EXECUTABLE, NOT_FOUND = 126, 127  # as shells say it
SI_KERNEL = 0x80
FORWARDED = {
    signal.SIGINT,
    signal.SIGTERM,
    signal.SIGHUP,
    signal.SIGQUIT,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGALRM,
}
KINDS = {"mnt": CLONE_NEWNS, "pid": CLONE_NEWPID, "net": CLONE_NEWNET, "uts": CLONE_NEWUTS, "ipc": CLONE_NEWIPC}


def _here() -> str:
    try:
        return os.getcwd()
    except OSError:
        return "/"


@dataclass(frozen=True)
class Start:
    """What to execute, with `environment` added to the caller's. Made before the lab is entered, which moves to `/`.

    `directory` must be there; without it, it is the caller's if the node has such a one.
    """

    command: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)
    directory: Path | None = None
    callers: str = field(default_factory=_here)


def run_in(lab: LabDirectory, node: str, start: Start | Sequence[str]) -> int:
    """Run `start` in `node` and return its exit code, 128 + N when signal N killed it. LabNotFound, OxyctlError."""
    start = start if isinstance(start, Start) else Start(start)
    enter_lab(live(lab))
    signal.pthread_sigmask(signal.SIG_BLOCK, FORWARDED | {signal.SIGCHLD})
    sys.stdout.flush()
    is_foreground = _is_foreground()
    pid = os.fork()
    if pid == 0:
        if is_foreground:  # a shell with job control wants to know its group, and ours has no number in the lab
            os.setpgid(0, 0)
            _give_terminal(os.getpgrp())
        become(lab, node, start)
    try:
        return _accompany(pid)
    finally:
        if is_foreground:
            _give_terminal(os.getpgrp())


def _is_foreground() -> bool:
    """Whether the terminal, if there is one, is ours to pass on."""
    try:
        return os.tcgetpgrp(0) == os.getpgrp()
    except OSError:
        return False


def live(lab: LabDirectory) -> State:
    """The state of a lab that lives; else LabNotFound."""
    state = lab.live_state()
    if state is None:
        raise LabNotFound(f"lab '{lab.name}' has just ended")
    return state


def enter_lab(state: State) -> None:
    """Into the namespaces of the supervisor, all at once; the PID namespace takes effect for children."""
    flags = 0
    pidfd = os.pidfd_open(state.pid)
    try:
        if not is_alive(state):
            raise LabNotFound(f"lab '{state.lab}' has just ended")
        for kind, flag in KINDS.items():
            flags |= flag if _differs(state.pid, kind) else 0
        flags |= CLONE_NEWUSER if _differs(state.pid, "user") else 0
        setns(pidfd, flags)
    except OSError as error:
        raise OxyctlError(f"cannot enter lab '{state.lab}': {error}") from None
    finally:
        os.close(pidfd)


def _differs(pid: int, kind: str) -> bool:
    """Whether the namespace is not ours already: entering one's own user namespace is an error (setns(2))."""
    return os.readlink(f"/proc/{pid}/ns/{kind}") != os.readlink(f"/proc/self/ns/{kind}")


def _environment(lab: LabDirectory, node: str) -> dict[str, str]:
    """What the lab file says of it."""
    plan = lab.read_plan()
    nodes = [] if plan is None else plan.nodes
    return next((each.environment for each in nodes if each.name == node), {})


def become(lab: LabDirectory, node: str, start: Start) -> NoReturn:
    """Turn the calling process, a child in the lab, into the program."""
    program = start.command[0]
    try:
        die_with_parent(signal.SIGKILL)
        namespaces = Namespaces(lab.namespaces)
        namespaces.enter(node)
        namespaces.enter_mounts(node)
        with contextlib.suppress(OSError):
            os.chdir(start.callers)
        if start.directory is not None:
            program = f"in {start.directory}"
            os.chdir(start.directory)
            program = start.command[0]
        os.environ.update({"OXYCTL_LAB": lab.name, "OXYCTL_NODE": node, **_environment(lab, node), **start.environment})
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        os.execvp(program, list(start.command))
    except OSError as error:
        print(f"error: cannot run {program} in node '{node}': {error.strerror}", file=sys.stderr, flush=True)
        is_missing = isinstance(error, FileNotFoundError) and program == start.command[0]
        os._exit(NOT_FOUND if is_missing else NOT_EXECUTABLE)


def exit_code(wait_status: int) -> int:
    """As a shell tells it: 128 + N when signal N killed the program."""
    code = os.waitstatus_to_exitcode(wait_status)
    return code if code >= 0 else 128 - code


def _give_terminal(group: int) -> None:
    with contextlib.suppress(OSError):
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTTOU})  # we may be in the background by then
        os.tcsetpgrp(0, group)


def _accompany(pid: int) -> int:
    """Wait for the child and hand on signals meanwhile, but not those of the terminal: it has those already."""
    while True:
        received = signal.sigwaitinfo(FORWARDED | {signal.SIGCHLD})
        if received.si_signo != signal.SIGCHLD:
            if received.si_code != SI_KERNEL:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, received.si_signo)
            continue
        changed, status = os.waitpid(pid, os.WNOHANG | os.WUNTRACED)
        if changed and os.WIFSTOPPED(status):
            _pause(pid)
        elif changed:
            return exit_code(status)


def _pause(pid: int) -> None:
    """Ctrl-Z stopped the program, so stop as well; when the user's shell lets us go on, so does the program."""
    if not os.isatty(0):
        return
    _give_terminal(os.getpgrp())
    os.kill(os.getpid(), signal.SIGSTOP)
    with contextlib.suppress(ProcessLookupError):
        if _is_foreground():
            _give_terminal(os.getpgid(pid))
        os.killpg(os.getpgid(pid), signal.SIGCONT)
