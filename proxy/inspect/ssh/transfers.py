"""Recognises commands that transfer files by their own protocol: scp, rsync, or an sftp server started by name."""

from __future__ import annotations

import shlex
from typing import Literal

from proxy.inspect.ssh.scp import is_scp

Transfer = Literal["read", "write", "sftp"]
SFTP_SERVERS = frozenset({"sftp-server", "internal-sftp"})


def transfer_of(command: str) -> Transfer | None:
    """Whether a command fetches or stores files, or may do both (`sftp`); None for every other command.

    Only the command itself is considered: longer shell lines (`cat > file`, `sh -c ...`) are left to policies.
    """
    if (direction := is_scp(command)) is not None:
        return direction
    try:
        words = shlex.split(command)
    except ValueError:
        return None
    program = words[0].rpartition("/")[2] if words else ""
    if program in SFTP_SERVERS:
        return "sftp"
    if program == "rsync" and "--server" in words:
        return "read" if "--sender" in words else "write"
    return None
