"""Which commands move files by a protocol of their own: scp, an sftp server that is started by name, rsync."""

from __future__ import annotations

import shlex
from typing import Literal

from proxy.inspect.ssh.scp import is_scp

Transfer = Literal["read", "write", "sftp"]
SFTP_SERVERS = frozenset({"sftp-server", "internal-sftp"})


def transfer_of(command: str) -> Transfer | None:
    """Whether files are fetched or stored, or both may be (`sftp`); None for every other command.

    It is the command alone that tells: what a shell makes of a longer line (`cat > file`, `sh -c ...`) is for policies.
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
