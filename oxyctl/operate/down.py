"""`down`: ends a lab whatever its state, and deletes what is provably its own."""

from __future__ import annotations

import os
import select
import signal

from oxyctl.errors import OxyctlError
from oxyctl.operate.leftovers import delete
from oxyctl.supervise.state import LabDirectory, State, is_alive, locked

GRACE_MS = 5_000
GONE_MS = 10_000


def take_down(lab: LabDirectory) -> bool:
    """End `lab` and delete its files; whether there was anything. A lab that is still being built is ended first."""
    state = lab.live_state()
    if state is not None:
        end(state)
    with locked(lab.name):
        state = lab.live_state()  # it may have been built again in the meantime
        if state is not None:
            end(state)
        return delete(lab)


def end(state: State) -> None:
    """Return when the supervisor, and with it every process of its lab, is gone: asked to (SIGTERM), else killed."""
    try:
        fd = os.pidfd_open(state.pid)
    except ProcessLookupError:
        return
    try:
        if not is_alive(state):  # the number was taken over before the descriptor was made
            return
        if not _signalled(fd, signal.SIGTERM, GRACE_MS) and not _signalled(fd, signal.SIGKILL, GONE_MS):
            raise OxyctlError(f"the supervisor of lab '{state.lab}' (PID {state.pid}) does not end")
    finally:
        os.close(fd)


def _signalled(pidfd: int, number: signal.Signals, timeout_ms: int) -> bool:
    """Whether the process is gone at last: a PID 1 only is when all of its namespace are."""
    try:
        signal.pidfd_send_signal(pidfd, number)
    except ProcessLookupError:
        return True
    poller = select.poll()
    poller.register(pidfd, select.POLLIN)
    return bool(poller.poll(timeout_ms))
