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

NOT_EXECUTABLE, NOT_FOUND = 126, 127  # exit codes of shells
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
NAMESPACE_FLAGS = {
    "mnt": CLONE_NEWNS,
    "pid": CLONE_NEWPID,
    "net": CLONE_NEWNET,
    "uts": CLONE_NEWUTS,
    "ipc": CLONE_NEWIPC,
}


def _current_directory() -> str:
    try:
        return os.getcwd()
    except OSError:
        return "/"


@dataclass(frozen=True)
class Invocation:
    """A command, with `environment` added to the caller's. Create it before entering the lab, which changes to `/`.

    `directory` must exist; without it, the caller's directory is used if the node has it.
    """

    command: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)
    directory: Path | None = None
    current: str = field(default_factory=_current_directory)


def run_in(lab: LabDirectory, node: str, invocation: Invocation | Sequence[str]) -> int:
    """Run `invocation` in `node`; return its exit code, 128 + N if signal N killed it. LabNotFound, OxyctlError."""
    invocation = invocation if isinstance(invocation, Invocation) else Invocation(invocation)
    enter_lab(require_running(lab))
    signal.pthread_sigmask(signal.SIG_BLOCK, FORWARDED | {signal.SIGCHLD})
    sys.stdout.flush()
    is_foreground = _is_foreground()
    pid = os.fork()
    if pid == 0:
        if is_foreground:  # job control needs a process group that has an ID inside the lab; ours does not
            os.setpgid(0, 0)
            _give_terminal(os.getpgrp())
        exec_in_node(lab, node, invocation)
    try:
        return _wait_forwarding(pid)
    finally:
        if is_foreground:
            _give_terminal(os.getpgrp())


def _is_foreground() -> bool:
    """Whether this process is in the foreground of a terminal, which it may then hand over."""
    try:
        return os.tcgetpgrp(0) == os.getpgrp()
    except OSError:
        return False


def require_running(lab: LabDirectory) -> State:
    """The state of a running lab. LabNotFound: it is not running."""
    state = lab.live_state()
    if state is None:
        raise LabNotFound(f"lab '{lab.name}' has just ended")
    return state


def enter_lab(state: State) -> None:
    """Enter the supervisor's namespaces; the PID namespace applies to children. LabNotFound, OxyctlError."""
    flags = 0
    pidfd = os.pidfd_open(state.pid)
    try:
        if not is_alive(state):
            raise LabNotFound(f"lab '{state.lab}' has just ended")
        for kind, flag in NAMESPACE_FLAGS.items():
            flags |= flag if _differs(state.pid, kind) else 0
        flags |= CLONE_NEWUSER if _differs(state.pid, "user") else 0
        setns(pidfd, flags)
    except OSError as error:
        raise OxyctlError(f"cannot enter lab '{state.lab}': {error}") from None
    finally:
        os.close(pidfd)


def _differs(pid: int, kind: str) -> bool:
    """Whether the namespace is not already ours: entering one's own user namespace is an error (setns(2))."""
    return os.readlink(f"/proc/{pid}/ns/{kind}") != os.readlink(f"/proc/self/ns/{kind}")


def _environment(lab: LabDirectory, node: str) -> dict[str, str]:
    """The environment for programs in `node`."""
    plan = lab.read_plan()
    nodes = [] if plan is None else plan.nodes
    return next((each.environment for each in nodes if each.name == node), {})


def exec_in_node(lab: LabDirectory, node: str, invocation: Invocation) -> NoReturn:
    """Replace the calling process, a child inside the lab, by the program."""
    program = invocation.command[0]
    try:
        die_with_parent(signal.SIGKILL)
        namespaces = Namespaces(lab.namespaces)
        namespaces.enter(node)
        namespaces.enter_mounts(node)
        with contextlib.suppress(OSError):
            os.chdir(invocation.current)
        if invocation.directory is not None:
            program = f"in {invocation.directory}"
            os.chdir(invocation.directory)
            program = invocation.command[0]
        os.environ.update(
            {"OXYCTL_LAB": lab.name, "OXYCTL_NODE": node, **_environment(lab, node), **invocation.environment}
        )
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        os.execvp(program, list(invocation.command))
    except OSError as error:
        print(f"error: cannot run {program} in node '{node}': {error.strerror}", file=sys.stderr, flush=True)
        is_missing = isinstance(error, FileNotFoundError) and program == invocation.command[0]
        os._exit(NOT_FOUND if is_missing else NOT_EXECUTABLE)


def exit_code(wait_status: int) -> int:
    """The exit code of a shell: 128 + N if signal N killed the program."""
    code = os.waitstatus_to_exitcode(wait_status)
    return code if code >= 0 else 128 - code


def _give_terminal(group: int) -> None:
    with contextlib.suppress(OSError):
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTTOU})  # this process may be in the background by now
        os.tcsetpgrp(0, group)


def _wait_forwarding(pid: int) -> int:
    """Wait for the child and forward signals to it, except those of the terminal, which it gets itself."""
    while True:
        received = signal.sigwaitinfo(FORWARDED | {signal.SIGCHLD})
        if received.si_signo != signal.SIGCHLD:
            if received.si_code != SI_KERNEL:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, received.si_signo)
            continue
        changed, status = os.waitpid(pid, os.WNOHANG | os.WUNTRACED)
        if changed and os.WIFSTOPPED(status):
            _suspend(pid)
        elif changed:
            return exit_code(status)


def _suspend(pid: int) -> None:
    """Stop with the program, which Ctrl-Z has stopped; continue it when the user's shell continues us."""
    if not os.isatty(0):
        return
    _give_terminal(os.getpgrp())
    os.kill(os.getpid(), signal.SIGSTOP)
    with contextlib.suppress(ProcessLookupError):
        if _is_foreground():
            _give_terminal(os.getpgid(pid))
        os.killpg(os.getpgid(pid), signal.SIGCONT)
