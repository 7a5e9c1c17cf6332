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
from oxyctl.supervise.requests import Apply, Failure, Impair, Nodes, Question, Status
from oxyctl.supervise.state import LabDirectory
from oxyctl.supervise.status import LabStatus, NodeStatus

TIMEOUT_S = 10
END_S = 2.0
CHANGE_S = 60  # in addition to the time limit for nodes
ERRORS = {ExitCode.USAGE: UsageError, ExitCode.NOTHING_MATCHED: NothingMatched}
T = TypeVar("T")
Tell = Callable[[dict[str, Any]], None]
# Created here, not on first use: msgspec then inspects the types, and two threads that do so at once crash.
STATUS = msgspec.json.Decoder(LabStatus)
CHANGES = msgspec.json.Decoder(list[Change])
NODES = msgspec.json.Decoder(list[NodeStatus])
FAILURE = msgspec.json.Decoder(Failure)


def ask_status(lab: LabDirectory) -> LabStatus:
    """The status of `lab` from its supervisor. OxyctlError: it does not answer."""
    return _ask(lab, Status(), STATUS, TIMEOUT_S)


def ask_impair(lab: LabDirectory, question: Impair) -> list[Change]:
    """Impair links of `lab`; return the changes. NothingMatched, UsageError, OxyctlError."""
    return _ask(lab, question, CHANGES, CHANGE_S)


def ask_apply(lab: LabDirectory, question: Apply) -> list[Change]:
    """Change `lab` to another plan; return the changes. UsageError, OxyctlError."""
    return _ask(lab, question, CHANGES, CHANGE_S + question.timeout_s)


def ask_nodes(lab: LabDirectory, question: Nodes, tell: Tell = lambda event: None) -> list[NodeStatus]:
    """Stop, start or kill nodes of `lab`; return their status. `tell` gets each event. NothingMatched, UsageError,
    OxyctlError."""
    return _ask(lab, question, NODES, 2 * (CHANGE_S + question.timeout_s), tell)  # another request may be running


def _ask(
    lab: LabDirectory,
    question: Question,
    answers: msgspec.json.Decoder[T],
    timeout_s: float,
    tell: Tell = lambda event: None,
) -> T:
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock, shortened(lab.control) as path:
            sock.settimeout(timeout_s)
            sock.connect(path)
            sock.sendall(msgspec.json.encode(question) + b"\n")
            with sock.makefile("rb") as file:
                answer = b""
                for answer in file:
                    if answer.startswith(b'{"event":'):
                        tell(msgspec.json.decode(answer))
        if answer.startswith(b'{"error":'):
            failure = FAILURE.decode(answer)
            raise ERRORS.get(failure.exit_code, OxyctlError)(failure.error)
        return answers.decode(answer)
    except FileNotFoundError:
        raise OxyctlError(f"lab '{lab.name}' is still being built") from None
    except (OSError, msgspec.DecodeError) as error:
        if not isinstance(error, TimeoutError):
            _await_end(lab)
        if lab.live_state() is None:
            raise LabNotFound(f"lab '{lab.name}' has just ended") from None
        raise OxyctlError(f"the supervisor of lab '{lab.name}' does not answer: {error}") from None


def _await_end(lab: LabDirectory) -> None:
    """Wait until the supervisor has ended: one that is killed closes its connections a moment before."""
    state = lab.live_state()
    with contextlib.suppress(OSError):
        if state is not None:
            pidfd = os.pidfd_open(state.pid)
            try:
                select.select([pidfd], [], [], END_S)
            finally:
                os.close(pidfd)
