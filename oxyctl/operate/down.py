"""`down`: ends a lab whatever its state, and deletes files that are provably its own."""

from __future__ import annotations

import os
import select
import signal

from oxyctl.errors import OxyctlError
from oxyctl.operate.leftovers import delete
from oxyctl.supervise.state import LabDirectory, State, is_alive, locked

GRACE_MS = 5_000
KILL_TIMEOUT_MS = 10_000


def take_down(lab: LabDirectory) -> bool:
    """End `lab`, even while it is being built, and delete its files. Returns whether it existed. OxyctlError."""
    state = lab.live_state()
    if state is not None:
        end(state)
    with locked(lab.name):
        state = lab.live_state()  # another command may have built it again
        if state is not None:
            end(state)
        return delete(lab)


def end(state: State) -> None:
    """End the supervisor by SIGTERM, then SIGKILL; return when all processes of its lab have ended. OxyctlError."""
    try:
        fd = os.pidfd_open(state.pid)
    except ProcessLookupError:
        return
    try:
        if not is_alive(state):  # another process got this PID before the descriptor was opened
            return
        if not _ends_after(fd, signal.SIGTERM, GRACE_MS) and not _ends_after(fd, signal.SIGKILL, KILL_TIMEOUT_MS):
            raise OxyctlError(f"the supervisor of lab '{state.lab}' (PID {state.pid}) does not end")
    finally:
        os.close(fd)


def _ends_after(pidfd: int, number: signal.Signals, timeout_ms: int) -> bool:
    """Signal the process; return whether it ends in time. A PID 1 ends after all processes of its namespace."""
    try:
        signal.pidfd_send_signal(pidfd, number)
    except ProcessLookupError:
        return True
    poller = select.poll()
    poller.register(pidfd, select.POLLIN)
    return bool(poller.poll(timeout_ms))
