"""A question to a running supervisor, from outside the lab."""

from __future__ import annotations

import socket

import msgspec

from oxyctl.errors import LabNotFound, OxyctlError
from oxyctl.lab.state import LabDirectory
from oxyctl.lab.status import LabStatus
from oxyctl.net.sockets import shortened

TIMEOUT_S = 10


def ask_status(lab: LabDirectory) -> LabStatus:
    """The status of `lab` as its supervisor sees it; OxyctlError when it does not answer."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock, shortened(lab.control) as path:
            sock.settimeout(TIMEOUT_S)
            sock.connect(path)
            with sock.makefile("rb") as answer:
                return msgspec.json.decode(answer.read(), type=LabStatus)
    except FileNotFoundError:
        raise OxyctlError(f"lab '{lab.name}' is still being built") from None
    except (OSError, msgspec.DecodeError) as error:
        if lab.live_state() is None:
            raise LabNotFound(f"lab '{lab.name}' has just ended") from None
        raise OxyctlError(f"the supervisor of lab '{lab.name}' does not answer: {error}") from None
