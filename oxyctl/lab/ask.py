"""A question to a running supervisor, from outside the lab."""

from __future__ import annotations

import socket
from typing import TypeVar

import msgspec

from oxyctl.errors import ExitCode, LabNotFound, NothingMatched, OxyctlError, UsageError
from oxyctl.lab.control import Apply, Failure, Impair, Question, Status
from oxyctl.lab.diff import Change
from oxyctl.lab.state import LabDirectory
from oxyctl.lab.status import LabStatus
from oxyctl.net.sockets import shortened

TIMEOUT_S = 10
CHANGE_S = 60  # beyond the time that nodes are given
ERRORS = {ExitCode.USAGE: UsageError, ExitCode.NOTHING_MATCHED: NothingMatched}
T = TypeVar("T")
# Made here, not on first use: msgspec then gathers what it knows of a type, and two threads that do so at once crash.
STATUS = msgspec.json.Decoder(LabStatus)
CHANGES = msgspec.json.Decoder(list[Change])
FAILURE = msgspec.json.Decoder(Failure)


def ask_status(lab: LabDirectory) -> LabStatus:
    """The status of `lab` as its supervisor sees it; OxyctlError when it does not answer."""
    return _ask(lab, Status(), STATUS, TIMEOUT_S)


def ask_impair(lab: LabDirectory, question: Impair) -> list[Change]:
    """Have links of `lab` impaired; what was changed. NothingMatched, UsageError, OxyctlError."""
    return _ask(lab, question, CHANGES, CHANGE_S)


def ask_apply(lab: LabDirectory, question: Apply) -> list[Change]:
    """Have `lab` become another; what was changed. UsageError, OxyctlError."""
    return _ask(lab, question, CHANGES, CHANGE_S + question.timeout_s)


def _ask(lab: LabDirectory, question: Question, answers: msgspec.json.Decoder[T], timeout_s: float) -> T:
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock, shortened(lab.control) as path:
            sock.settimeout(timeout_s)
            sock.connect(path)
            sock.sendall(msgspec.json.encode(question) + b"\n")
            with sock.makefile("rb") as file:
                answer = file.read()
        if answer.startswith(b'{"error":'):
            failure = FAILURE.decode(answer)
            raise ERRORS.get(failure.exit_code, OxyctlError)(failure.error)
        return answers.decode(answer)
    except FileNotFoundError:
        raise OxyctlError(f"lab '{lab.name}' is still being built") from None
    except (OSError, msgspec.DecodeError) as error:
        if lab.live_state() is None:
            raise LabNotFound(f"lab '{lab.name}' has just ended") from None
        raise OxyctlError(f"the supervisor of lab '{lab.name}' does not answer: {error}") from None
