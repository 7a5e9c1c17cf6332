"""`exec`: one more program inside a node of a running lab, with the caller's terminal, directory and environment."""

from __future__ import annotations

import contextlib
import os
import signal
import sys

from oxyctl.errors import LabNotFound, OxyctlError
from oxyctl.lab.state import LabDirectory, State, is_alive
from oxyctl.net.namespaces import Namespaces
from oxyctl.net.syscalls import die_with_parent
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


def run_in(lab: LabDirectory, node: str, command: list[str]) -> int:
    """Run `command` in `node` and return its exit code, 128 + N when signal N killed it. LabNotFound, OxyctlError."""
    state = lab.live_state()
    if state is None:
        raise LabNotFound(f"lab '{lab.name}' has just ended")
    directory = os.getcwd()
    enter_lab(state)
    signal.pthread_sigmask(signal.SIG_BLOCK, FORWARDED | {signal.SIGCHLD})
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        _become(lab, node, command, directory)
    return _accompany(pid)


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


def _become(lab: LabDirectory, node: str, command: list[str], directory: str) -> None:
    """The child: never returns."""
    try:
        die_with_parent(signal.SIGKILL)
        Namespaces(lab.namespaces).enter(node)
        try:
            os.chdir(directory)
        except OSError:
            os.chdir("/")
        os.environ.update(OXYCTL_LAB=lab.name, OXYCTL_NODE=node)
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        os.execvp(command[0], command)
    except OSError as error:
        print(f"error: cannot run {command[0]} in node '{node}': {error.strerror}", file=sys.stderr, flush=True)
        os._exit(NOT_FOUND if isinstance(error, FileNotFoundError) else NOT_EXECUTABLE)


def _accompany(pid: int) -> int:
    """Wait for the child and hand on signals meanwhile, but not those of the terminal: it has those already."""
    while True:
        received = signal.sigwaitinfo(FORWARDED | {signal.SIGCHLD})
        if received.si_signo != signal.SIGCHLD:
            if received.si_code != SI_KERNEL:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, received.si_signo)
            continue
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else 128 - code
