"""Sends a request to a running supervisor, from outside the lab."""

from __future__ import annotations

import contextlib
import os
import select
import socket
from collections.abc import Callable
from typing import Any, TypeVar

import msgspec

from oxyctl.errors import ExitCode, LabNotFound, NothingMatched, OxyctlError, UsageError
from oxyctl.net.sockets import shortened
from oxyctl.plan.diff import Change
from oxyctl.supervise.requests import Apply, Failure, Impair, Nodes, Request, Status
from oxyctl.supervise.state import LabDirectory
from oxyctl.supervise.status import LabStatus, NodeStatus

TIMEOUT_S = 10
END_TIMEOUT_S = 2.0
CHANGE_TIMEOUT_S = 60  # in addition to the time limit for nodes
ERRORS = {ExitCode.USAGE: UsageError, ExitCode.NOTHING_MATCHED: NothingMatched}
T = TypeVar("T")
EventHandler = Callable[[dict[str, Any]], None]
# Created here, not on first use: msgspec then inspects the types, and two threads that do so at once crash.
STATUS = msgspec.json.Decoder(LabStatus)
CHANGES = msgspec.json.Decoder(list[Change])
NODES = msgspec.json.Decoder(list[NodeStatus])
FAILURE = msgspec.json.Decoder(Failure)


def ask_status(lab: LabDirectory) -> LabStatus:
    """The status of `lab` from its supervisor. OxyctlError: it does not answer."""
    return _ask(lab, Status(), STATUS, TIMEOUT_S)


def ask_impair(lab: LabDirectory, request: Impair) -> list[Change]:
    """Impair links of `lab`; return the changes. NothingMatched, UsageError, OxyctlError."""
    return _ask(lab, request, CHANGES, CHANGE_TIMEOUT_S)


def ask_apply(lab: LabDirectory, request: Apply) -> list[Change]:
    """Change `lab` to another plan; return the changes. UsageError, OxyctlError."""
    return _ask(lab, request, CHANGES, CHANGE_TIMEOUT_S + request.timeout_s)


def ask_nodes(lab: LabDirectory, request: Nodes, on_event: EventHandler = lambda event: None) -> list[NodeStatus]:
    """Stop, start or kill nodes of `lab`; return their status. `on_event` gets each event.

    NothingMatched, UsageError, OxyctlError.
    """
    return _ask(
        lab, request, NODES, 2 * (CHANGE_TIMEOUT_S + request.timeout_s), on_event
    )  # another request may be running


def _ask(
    lab: LabDirectory,
    request: Request,
    decoder: msgspec.json.Decoder[T],
    timeout_s: float,
    on_event: EventHandler = lambda event: None,
) -> T:
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock, shortened(lab.control) as path:
            sock.settimeout(timeout_s)
            sock.connect(path)
            sock.sendall(msgspec.json.encode(request) + b"\n")
            with sock.makefile("rb") as file:
                answer = b""
                for answer in file:
                    if answer.startswith(b'{"event":'):
                        on_event(msgspec.json.decode(answer))
        if answer.startswith(b'{"error":'):
            failure = FAILURE.decode(answer)
            raise ERRORS.get(failure.exit_code, OxyctlError)(failure.error)
        return decoder.decode(answer)
    except FileNotFoundError:
        raise OxyctlError(f"lab '{lab.name}' is still being built") from None
    except (OSError, msgspec.DecodeError) as error:
        if not isinstance(error, TimeoutError):
            _await_end(lab)
        if lab.live_state() is None:
            raise LabNotFound(f"lab '{lab.name}' has just ended") from None
        raise OxyctlError(f"the supervisor of lab '{lab.name}' does not answer: {error}") from None


def _await_end(lab: LabDirectory) -> None:
    """Wait until the supervisor has ended: when it is killed, its connections close a moment earlier."""
    state = lab.live_state()
    with contextlib.suppress(OSError):
        if state is not None:
            pidfd = os.pidfd_open(state.pid)
            try:
                select.select([pidfd], [], [], END_TIMEOUT_S)
            finally:
                os.close(pidfd)
